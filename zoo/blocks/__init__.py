"""Shared building blocks: layers on token maps, mixers, gates."""
