"""When layers may be computed together, in pieces or in place: only where nobody can see the difference.

A module is called once per forward pass, with the whole batch, and its result is overwritten by nobody: hooks,
parametrizations, pruning, adapters and quantised replacements rely on that. What is faster reads the weights of layers
instead, or calls them with slices. That is right as long as the layers are plain and nobody listens.
"""
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import _has_any_global_hook

from zoo_kernels.dispatch import transforming

from .layout import ceil_div

M = TypeVar('M', bound=type[nn.Module])
CHUNK_BYTES = 2 ** 22  # of hidden activations: what stays in the caches of a CPU core
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
PLAIN = Tensor, nn.Parameter, FakeTensor
KNOWN = 'zoo.', 'torch.nn.modules.', 'timm.'  # whose modules compute each image of a batch by itself
FUSIBLE: set[type[nn.Module]] = {
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GELU, nn.Sequential}


def fusible(cls: M) -> M:
    """Let :func:`can_fuse` take layers of a class of ours."""
    FUSIBLE.add(cls)
    return cls


def can_fuse(*layers: nn.Module) -> bool:
    """Whether what layers compute may be computed from their weights, without calling them.

    Each is exactly of a class in ``FUSIBLE`` (not an adapter, a parametrization, a quantised or sharded replacement);
    its weights are plain tensors; there are no hooks, own or global; no transform of ``torch.func`` runs.
    """
    return not _listening() and all(type(layer) in FUSIBLE and _is_plain(layer) for layer in layers)


def can_chunk(module: nn.Module) -> bool:
    """Whether a module and all parts of it may be called with slices of a batch, one after the other.

    As :func:`can_fuse`, but for any classes of torch, timm and ours; and no part takes statistics from the batch.
    """
    return not _listening() and _is_plain_tree(module)


def _listening() -> bool:
    return not torch.compiler.is_compiling() and bool(_has_any_global_hook() or transforming())


def _is_plain_tree(module: nn.Module) -> bool:
    children = module._modules.values()
    if not _is_plain(module) or (module.training and isinstance(module, nn.modules.batchnorm._NormBase)):
        return False
    return all(child is None or _is_plain_tree(child) for child in children)


def _is_plain(module: nn.Module) -> bool:
    own = module.__dict__
    if 'forward' in own or any(own[hooks] for hooks in HOOKS):
        return False
    if torch.compiler.is_compiling():
        return type(module).__module__.startswith(KNOWN)
    tensors = *own['_parameters'].values(), *own['_buffers'].values()
    return _is_known(type(module)) and all(x is None or type(x) in PLAIN for x in tensors)


@functools.cache
def _is_known(cls: type[nn.Module]) -> bool:
    return cls.__module__.startswith(KNOWN)


def in_chunks(
        owner: nn.Module, layer: Callable[..., Tensor], x: Tensor, hidden: int, chunk_bytes: int | None = None,
        beside: Tensor | None = None) -> Tensor:
    """Apply a layer to ``x``; for inference on a CPU to slices of the first dimension, one after the other.

    A slice's hidden activations stay in cache and in memory that the process has touched already. At the first stage
    of PVTv2-b1 (batch 4, 224 pixels) that halves the time of the layer.

    Args:
        owner: The module whose parts ``layer`` calls; see :func:`can_chunk`.
        layer: Maps slices of ``x`` independently.
        x: Input.
        hidden: Hidden activations for one entry of the first dimension.
        chunk_bytes: Of hidden activations in a slice, ``CHUNK_BYTES`` by default; up to twice as many are not cut.
        beside: A second input of the layer, cut likewise.
    """
    inputs = (x,) if beside is None else (x, beside)
    if x.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return layer(*inputs)
    pieces = ceil_div(x.shape[0] * hidden * x.element_size(), chunk_bytes or CHUNK_BYTES)
    if pieces <= 2 or not can_chunk(owner):
        return layer(*inputs)
    cut = zip(*(t.split(ceil_div(x.shape[0], pieces)) for t in inputs))
    return torch.cat([layer(*piece) for piece in cut])
