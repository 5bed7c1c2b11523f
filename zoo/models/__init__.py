"""One family a file; importing a file registers its models."""
from . import agent, care, cbam, ecanet, fcanet, flatten, hybrid, inline, l2vit, mavit, nalaformer, ravlt, triplet

__all__ = [
    'agent', 'care', 'cbam', 'ecanet', 'fcanet', 'flatten', 'hybrid', 'inline', 'l2vit', 'mavit', 'nalaformer',
    'ravlt', 'triplet']
