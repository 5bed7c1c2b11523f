"""One family a file; importing a file registers its models."""
from . import agent, care, flatten, hybrid, inline, l2vit, mavit, nalaformer, ravlt

__all__ = ['agent', 'care', 'flatten', 'hybrid', 'inline', 'l2vit', 'mavit', 'nalaformer', 'ravlt']
