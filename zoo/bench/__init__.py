"""Measuring ops and models: ``python -m zoo benchmark``."""
