"""The ops as the models call them: time by graph replay, host time, bytes, and who else computes the same."""
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bench.operators import moved_bytes

from . import cases, measure, oracle
from .cases import KERNELS, Case
from .part import Part

PASSES = ('forward', 'forward+backward')
MASK = 2 ** 27  # elements of an attention mask up to which it is tried
Function = Callable[..., Tensor]


def main() -> None:
    part = Part('ops')
    for shape in cases.shapes(part.dry):
        for case in cases.at(shape):
            part.check(str(case), rows, part, case, providers(case), least=2)
    part.close()


def providers(case: Case) -> dict[str, str]:
    """Who takes part: names, and the mode of zoo_kernels in which they run."""
    found = {'triton': case.mode} if case.op in KERNELS else {}
    found['eager'] = 'off'
    if case.softmax:
        found['sdpa'] = 'off'
        mask = case.shape.batch * case.shape.tokens ** 2
        if case.op == 'routed' and mask <= MASK:
            found['sdpa mask'] = 'off'
    if case.conv:
        found['cudnn'] = 'off'
    return found


def function(case: Case, provider: str, inputs: dict[str, Tensor]) -> Function:
    """What a provider computes: the op, softmax attention of q, k and v, or the bare convolution."""
    if provider in ('sdpa', 'sdpa mask'):
        return partial(attend, mask=allowed(inputs['routes'], case.shape) if provider == 'sdpa mask' else None)
    if provider == 'cudnn':
        return convolve
    return case.function


def attend(q: Tensor, k: Tensor, v: Tensor, *_, mask: Tensor | None = None, **__) -> Tensor:
    shape = v.shape
    q, k, v = (x.flatten(1, -3).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(shape)


def allowed(routes: Tensor, shape: cases.Shape) -> Tensor:
    """``[B, 1, N, N]``: whether a token's region is routed to that of another."""
    rows, columns = (torch.arange(side, device=routes.device) * count // side
                     for side, count in zip((shape.height, shape.width), cases.REGIONS))
    region = (rows[:, None] * cases.REGIONS[1] + columns).flatten()
    regions = torch.zeros(len(routes), routes.shape[1], routes.shape[1], dtype=torch.bool, device=routes.device)
    regions.scatter_(2, routes, True)
    return regions[:, region][:, :, region][:, None]


def convolve(x: Tensor, weight: Tensor, bias: Tensor, dilation: int = 1, **_) -> Tensor:
    """The convolution alone, channels last, without what the op does to its result."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation,
                 groups=len(weight))
    return y.permute(0, 2, 3, 1)


def rows(part: Part, case: Case, taking_part: dict[str, str], compiled: bool = False) -> None:
    """One line per pass and provider."""
    inputs = cases.make_inputs(case, part.dtype, part.device)
    out = oracle.run(case, inputs, None, 'off')['out']
    grad = oracle.cotangent(out)
    common = dict(op=case.op, shape=str(case.shape), batch=case.shape.batch, tokens=case.shape.tokens,
                  channels=out.shape[-1] if out.dim() == 4 and 'q' not in inputs else out.shape[-1] * out.shape[-2])
    for title in PASSES:
        given = grad if title != PASSES[0] else None
        calls = {}
        for name, mode in taking_part.items():
            used = {key: x for key, x in inputs.items() if name not in ('sdpa', 'sdpa mask') or key in 'qkv'}
            if name == 'cudnn':
                used = {key: inputs[key] for key in ('x', 'weight', 'bias')}
            how = function(case, name, inputs)
            if compiled:
                how = torch.compile(how, dynamic=False, fullgraph=True, backend='eager' if part.dry else 'inductor')
            calls[name] = partial(oracle.run, case, used, given, mode, how)
        moved = moved_bytes(inputs, out, given is not None)
        for name, found in measure.times(calls, part.device).items():
            if name == 'triton' and title == PASSES[1] and 'reason' not in found and (
                    not part.dry or case.op == 'focus'):
                found['kernels'] = measure.kernels(calls[name], part.device)
            part.line(str(case), **common, **{'pass': title}, provider='compile' if compiled else name, bytes=moved,
                      **found)
        del calls
        measure.free()


if __name__ == '__main__':
    main()
