"""Token mixers, one mechanism per file. A mixer keeps the shape ``[B, H, W, C]`` and includes its projections.

A host calls a ``MixerFactory`` with the ``BlockContext`` of each block; ``from_context`` of a mixer is such a factory.
:class:`TokenMixer` defines the interface, ``@register_mixer`` gives a mixer a name, :func:`list_mixers` lists them.

>>> mixer = zoo.blocks.mixers.WindowAttention(dim=32, num_heads=2, window=4)
>>> mixer(torch.randn(1, 8, 8, 32)).shape
torch.Size([1, 8, 8, 32])
"""
from importlib import import_module
from pkgutil import iter_modules

from .additive_recurrence import AdditiveRecurrence
from .agent import AgentAttention
from .aggregated import AggregatedAttention, LengthScaledAttention, LengthScaledMixtureOfHeads, MixtureOfHeads
from .bidirectional_scan import BidirectionalScan
from .block_context import BlockContext, MixerFactory
from .clamped import ClampedLinearAttention
from .context_mixing import ContextMixing
from .dual_attention import DualAttention
from .flow import FlowAttention
from .focused import FocusedLinearAttention
from .gated_linear import GatedLinearAttention
from .grouped_query import GroupedQueryAttention, KeyDrivenGroupedQueryAttention
from .hilo import HiLoAttention
from .inline import InLineAttention
from .large_kernel import LargeKernelAttention
from .linear import LinearAttention
from .lkca import LargeKernelConvolutionalAttention
from .mala import MagnitudeAwareLinearAttention
from .mega import MovingAverageGatedAttention
from .modulation import EfficientModulation
from .multi_resolution import MultiResolutionAttention
from .neighborhood import NeighborhoodAttention
from .network_in_network import NetworkInNetwork
from .norm_aware import NormAwareLinearAttention
from .partial import PartialChannelAttention, PartialSelfAttention
from .pooling import AveragePooling
from .predicted_mask import KeptTokens, PredictedMaskAttention
from .rala import RankAugmentedLinearAttention
from .reduction import SpatialReductionAttention
from .registry import list_mixers, mixer_class, register_mixer
from .rotary import GatedMixer, RotaryAttention
from .routing import EnhancedAttention, RoutedAttention
from .scale_aware import ScaleAwareModulation
from .selective_scan import SelectiveScan
from .sequence import QKVMixer
from .softmax import SoftmaxAttention
from .spectral import SpectralFilter
from .stripes import StripeAttention
from .table import Mixers, MixerTable, mixer_factory
from .token_mixer import TokenMixer
from .varied_window import QuadrangleAttention, VariedWindowAttention
from .window import WindowAttention

__all__ = [
    'AdditiveRecurrence', 'AgentAttention', 'AggregatedAttention', 'AveragePooling', 'BidirectionalScan',
    'BlockContext', 'ClampedLinearAttention', 'ContextMixing', 'DualAttention', 'EfficientModulation',
    'EnhancedAttention', 'FlowAttention', 'FocusedLinearAttention', 'GatedLinearAttention', 'GatedMixer',
    'GroupedQueryAttention', 'HiLoAttention', 'InLineAttention', 'KeptTokens', 'KeyDrivenGroupedQueryAttention',
    'LargeKernelAttention', 'LargeKernelConvolutionalAttention', 'LengthScaledAttention', 'LengthScaledMixtureOfHeads',
    'LinearAttention', 'MagnitudeAwareLinearAttention', 'MixerFactory', 'MixerTable', 'Mixers', 'MixtureOfHeads',
    'MovingAverageGatedAttention', 'MultiResolutionAttention', 'NeighborhoodAttention', 'NetworkInNetwork',
    'NormAwareLinearAttention', 'PartialChannelAttention', 'PartialSelfAttention', 'PredictedMaskAttention', 'QKVMixer',
    'QuadrangleAttention', 'RankAugmentedLinearAttention', 'RotaryAttention', 'RoutedAttention', 'ScaleAwareModulation',
    'SelectiveScan', 'SoftmaxAttention', 'SpatialReductionAttention', 'SpectralFilter', 'StripeAttention', 'TokenMixer',
    'VariedWindowAttention', 'WindowAttention', 'list_mixers', 'mixer_class', 'mixer_factory', 'register_mixer',
]

for _module in iter_modules(__path__):  # so that all mixers are registered
    import_module(f'{__name__}.{_module.name}')
