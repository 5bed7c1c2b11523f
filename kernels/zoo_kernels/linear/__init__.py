"""Linear layer by torch or, for large float32 products on CPUs, by the faster library."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..cpu import gemm, onednn_linear
from ..dispatch import Choice, mode, record_choice, register_chooser, transforming

ROWS, PRODUCT = 4, 2 ** 20  # rows and multiply-adds from which oneDNN is faster, although its call costs 10 us
PLAIN = Tensor, nn.Parameter


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, with the faster library for large float32 products in inference on CPUs.

    >>> zoo_kernels.linear(torch.randn(8, 16), torch.randn(32, 16)).shape
    torch.Size([8, 32])

    The libraries agree up to rounding in float32. All other cases are ``F.linear`` itself: other dtypes and devices,
    gradients, autocast, compilation, export, transforms, and modes that intercept operators (FLOP counters recognise
    ``F.linear`` only).

    Args:
        x: ``[..., K]``, any strides.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.

    Returns:
        ``[..., N]``.
    """
    if _choose(x, weight, bias).backend == 'torch' or _watched():
        return F.linear(x, weight, bias)
    return onednn_linear(x, weight, bias)


def _watched() -> bool:
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._len_torch_function_stack() > 0


def _choose(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Choice:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return Choice('torch', 'a graph is being recorded')
    if x.device.type != 'cpu':
        return Choice('torch', f'the input is on {x.device.type}, which has a single library')
    limit = _limit(x, weight, bias)
    if limit:
        return record_choice('linear', Choice('torch', limit))
    library, reason = gemm()
    return record_choice('linear', Choice('onednn' if library == 'onednn' else 'torch', reason))


def _limit(x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if mode() == 'off':
        return 'ZOO_KERNELS=off'
    if any(t.dtype != torch.float32 for t in tensors):
        return 'not all tensors are float32'
    if weight.dim() != 2 or x.dim() < 2 or x.shape[-1] != weight.shape[1]:
        return 'the shapes are not those of a linear layer with several rows'
    if x.numel() < ROWS * x.shape[-1] or x.numel() * weight.shape[0] < PRODUCT:
        return f'fewer than {ROWS} rows or 2 ** 20 multiply-adds'
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return 'gradients are required'
    if torch.is_autocast_enabled('cpu'):
        return 'autocast is on'
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):
        return 'the bias is not contiguous'  # oneDNN would read other values
    if any(type(t) not in PLAIN and not isinstance(t, FakeTensor) for t in tensors):
        return 'a tensor is of a subclass of torch.Tensor'
    return 'a transform of torch.func runs' if transforming() else ''


register_chooser(linear, _choose)

__all__ = ['linear']
