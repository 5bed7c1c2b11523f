"""One family a file; importing a file registers its models."""
from . import agent, flatten, inline, l2vit, mavit, nalaformer, ravlt

__all__ = ['agent', 'flatten', 'inline', 'l2vit', 'mavit', 'nalaformer', 'ravlt']
