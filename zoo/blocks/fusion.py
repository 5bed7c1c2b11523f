"""Conditions under which layers may be fused, run in chunks or computed in place without a visible difference.

Hooks, parametrizations, pruning, adapters and quantised replacements rely on a module being called once per forward
pass, with the whole batch, and on its result not being overwritten. The faster paths read the weights of layers
instead of calling them, or call them with slices of the batch. That is equivalent only for plain layers without hooks.
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
CHUNK_BYTES = 2 ** 22  # of hidden activations, so that they stay in the caches of a CPU core
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
PLAIN = Tensor, nn.Parameter, FakeTensor
KNOWN = 'zoo.', 'torch.nn.modules.', 'timm.'  # packages whose modules treat the images of a batch independently
FUSIBLE: set[type[nn.Module]] = {
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GELU, nn.Sequential}


def fusible(cls: M) -> M:
    """Class decorator: let :func:`can_fuse` accept layers of this class."""
    FUSIBLE.add(cls)
    return cls


def can_fuse(*layers: nn.Module) -> bool:
    """Whether the results of layers may be computed from their weights, without calling the layers.

    This requires that the exact class of every layer is in ``FUSIBLE`` (no adapters, parametrizations, quantised or
    sharded replacements), that all weights are plain tensors, and that neither hooks (of the layers or global) nor a
    transform of ``torch.func`` are active.
    """
    return not _listening() and all(type(layer) in FUSIBLE and _is_plain(layer) for layer in layers)


def can_chunk(module: nn.Module) -> bool:
    """Whether a module may be called with slices of a batch, one after the other.

    The conditions of :func:`can_fuse` hold for all its submodules, of any class of torch, timm and the zoo, and none
    of them computes statistics over the batch.
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
    """Apply a layer to ``x``; for inference on a CPU in slices of the first dimension, one after the other.

    The hidden activations of a slice stay in cache and in memory that the process already uses. In the first stage of
    PVTv2-b1 (batch size 4, 224 pixels) that halves the time of the layer.

    Args:
        owner: The module whose submodules ``layer`` calls; see :func:`can_chunk`.
        layer: Function that treats the entries of the first dimension of ``x`` independently.
        x: Input.
        hidden: Number of hidden activations per entry of the first dimension.
        chunk_bytes: Bytes of hidden activations per slice, ``CHUNK_BYTES`` by default. Inputs that need at most twice
            as many are not split.
        beside: A second input of the layer, split in the same way.
    """
    inputs = (x,) if beside is None else (x, beside)
    if x.device.type != 'cpu' or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return layer(*inputs)
    pieces = ceil_div(x.shape[0] * hidden * x.element_size(), chunk_bytes or CHUNK_BYTES)
    if pieces <= 2 or not can_chunk(owner):
        return layer(*inputs)
    cut = zip(*(t.split(ceil_div(x.shape[0], pieces)) for t in inputs))
    return torch.cat([layer(*piece) for piece in cut])
