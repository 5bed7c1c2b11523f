"""One family a file; importing a file registers its models."""
from . import (
    agent,
    care,
    cbam,
    ecanet,
    emca,
    fcanet,
    flatten,
    hybrid,
    inline,
    l2vit,
    mavit,
    nalaformer,
    ravlt,
    resnest_fast,
    triplet,
    unplaced,
)

__all__ = [
    'agent', 'care', 'cbam', 'ecanet', 'emca', 'fcanet', 'flatten', 'hybrid', 'inline', 'l2vit', 'mavit', 'nalaformer',
    'ravlt', 'resnest_fast', 'triplet', 'unplaced',
]
