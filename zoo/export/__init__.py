"""Exports models to files for other runtimes: ``python -m zoo export``."""
