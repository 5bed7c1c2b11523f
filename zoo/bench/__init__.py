"""Benchmarks of ops, models, gates and the input pipeline: ``python -m zoo benchmark``."""
