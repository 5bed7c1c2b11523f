"""Linear attention: O(N) token mixing through a [d, d] summary of keys and values."""
from .reference import focused_linear_attention

__all__ = ['focused_linear_attention']
