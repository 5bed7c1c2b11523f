"""Depthwise convolution of a token map."""
from .reference import depthwise_conv

__all__ = ['depthwise_conv']
