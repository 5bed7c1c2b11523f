"""One family a file; importing a file registers its models."""
from . import flatten

__all__ = ['flatten']
