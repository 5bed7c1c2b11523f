"""Ops for efficient attention, one folder per op, each with a reference in plain torch that is also its CPU path.

This package depends on torch only, not on ``zoo``.
"""
from .agent_attention import agent_attention
from .cpu import set_gemm
from .depthwise_conv import depthwise_conv, focal_level
from .dispatch import Choice, explain, record, set_mode
from .focal_modulation import focal_modulation
from .gated_linear_attention import gated_linear_attention
from .linear import linear
from .linear_attention import linear_attention
from .neighborhood_attention import neighborhood_attention, neighborhood_sum
from .routed_attention import route, routed_attention
from .selective_scan import selective_scan

__all__ = [
    'Choice',
    'agent_attention',
    'depthwise_conv',
    'explain',
    'focal_level',
    'focal_modulation',
    'gated_linear_attention',
    'linear',
    'linear_attention',
    'neighborhood_attention',
    'neighborhood_sum',
    'record',
    'route',
    'routed_attention',
    'selective_scan',
    'set_gemm',
    'set_mode',
]
