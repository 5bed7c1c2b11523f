"""``python -m zoo benchmark``: times and memory of ops, models, gates and the input pipeline."""
from ..bench.main import main

__all__ = ['main']
