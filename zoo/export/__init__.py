"""Models as files for other runtimes: ``python -m zoo export``."""
