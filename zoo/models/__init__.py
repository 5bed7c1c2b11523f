"""One family a file; importing a file registers its models."""
from . import agent, flatten

__all__ = ['agent', 'flatten']
