"""``zoo benchmark models``: throughput, memory and FLOPs of whole models, and their growth with the image size."""
import copy
import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo_kernels

from ..registry import list_models
from ..utils.errors import ZooError, did_you_mean, format_error
from . import runtimes, timing

PASSES = ('forward', 'forward+backward')
LOW = 'bfloat16', 'autocast'  # eager too: the whole model, or its products alone
COMPILED = {'compile': None, 'frozen': {'freezing': True}}  # options of torch.compile
PROVIDERS = ('eager', *LOW, *COMPILED, *runtimes.RUNTIMES)
PRODUCTS = 1, 3  # for each of the forward pass, in a pass: backward there are two
ALIKE = 'model', 'provider', 'kernels', 'threads', 'pass'  # of rows that differ in size alone
CHECKED = 2  # images whose logits are compared with float64


class Setting(NamedTuple):
    """How a model is run: by a provider of ``PROVIDERS``, with or without the kernels."""

    provider: str
    kernels: str


def select(globs: Sequence[str]) -> list[str]:
    """The models that match names (of any timm model) or globs (of zoo models, or of timm's where none of ours match).

    Raises:
        ZooError: A name or glob matches nothing.
    """
    chosen: dict[str, None] = {}
    for glob in globs:
        if timm.is_model(glob):
            fitting = [glob]
        else:
            fitting = list_models(glob) or fnmatch.filter(timm.list_models(), glob)
        if not fitting:
            raise ZooError(f'unknown model {glob!r}{did_you_mean(glob, timm.list_models())}')
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``224`` or ``800x1333`` to height and width.

    >>> parse_size('224'), parse_size('800x1333')
    ((224, 224), (800, 1333))

    Raises:
        ZooError: The text is neither.
    """
    words = text.lower().split('x')
    if len(words) > 2 or not all(re.fullmatch('0*[1-9][0-9]{0,4}', word) for word in words):
        raise ZooError(f'--sizes: {text!r} is not a size; write 224, or 800x1333 for height x width')
    return int(words[0]), int(words[-1])


def settings(providers: Sequence[str], kernels: Sequence[str]) -> list[Setting]:
    """Every provider (names, or several with commas between them) with and without kernels.

    Other runtimes have no kernels, so they come once.

    Raises:
        ZooError: An unknown provider.
    """
    names = dict.fromkeys(name for entry in providers for name in entry.split(','))
    for name in names:
        if name not in PROVIDERS:
            raise ZooError(
                f'unknown provider {name!r}{did_you_mean(name, PROVIDERS)} (known: {", ".join(PROVIDERS)})')
    kernels = dict.fromkeys(kernels)
    return [Setting(name, each) for name in names for each in (['off'] if name in runtimes.RUNTIMES else kernels)]


def measure(
        name: str, size: tuple[int, int], batch: int, variants: Sequence[Setting], dtype: torch.dtype,
        device: torch.device, repeats: int, passes: Sequence[str] = PASSES,
        model_kwargs: Mapping[str, Any] | None = None, rate: float | None = None) -> list[dict[str, Any]]:
    """Measure a model at one size: one row per pass and variant, with a ``reason`` instead of figures if it fails.

    Throughput is that of calls in a row: on CUDA of the longer of ``ms`` and ``host_ms``. ``deviation`` of a forward
    pass is the largest error of a logit against the model in float64, over the largest logit. ``model_kwargs`` are more
    arguments of the model; ``rate`` is what :func:`zoo.bench.timing.product_rate` gives, for ``floor_ms``.
    """
    height, width = size
    row = {'model': name, 'height': height, 'width': width, 'batch': batch, 'threads': torch.get_num_threads()}
    try:
        model = _build(name, size, dtype, device, model_kwargs or {})
        row.update(parameters=sum(p.numel() for p in model.parameters()), flops=flops(model, size, dtype))
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        exact = _in_float64(model, images[:CHECKED])
    except Exception as e:  # a size that the model does not take, or memory
        reason = f'{type(e).__name__}: {format_error(e)}'[:200]
        return [{**row, **v._asdict(), 'pass': title, 'reason': reason} for title in passes for v in variants]
    rows = []
    for title in passes:
        backward = title != 'forward'
        model.train(backward)
        calls, found = {}, {}
        for variant in variants:
            found[variant] = {**row, **variant._asdict(), 'pass': title}
            if rate and variant.provider not in LOW:
                found[variant]['floor_ms'] = 1e3 * PRODUCTS[backward] * batch * row['flops'] / rate
            try:
                call = _prepare(model, variant, images, backward)
                out = call()
            except Exception as e:
                found[variant]['reason'] = f'{type(e).__name__}: {format_error(e)}'[:200]
            else:
                calls[variant] = call
                if not backward:
                    found[variant]['deviation'] = _deviation(out, exact)
        for variant, times in timing.interleaved(calls, device, repeats, warmup=1).items():
            model.zero_grad(set_to_none=True)  # what a call frees would be taken off its peak
            found[variant].update(
                **times.columns(), throughput=1e3 * batch / times.period,
                peak_bytes=None if variant.provider in runtimes.RUNTIMES else timing.peak_bytes(calls[variant], device))
        rows += found.values()
    return rows


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every model, variant and pass that was measured at several sizes: exponents of time and memory over pixels.

    The slope of the logarithms by least squares, per image, over all sizes: 1 is linear, 2 quadratic. ``time_range`` is
    what it could be as well with each time anywhere between its quartiles.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if 'ms' in row:
            groups.setdefault(tuple(row.get(key) for key in ALIKE), []).append(row)
    found = []
    for key, group in groups.items():
        pixels = [row['height'] * row['width'] for row in group]
        if len(set(pixels)) < 2:
            continue
        smallest, largest = (pick(group, key=lambda r: r['height'] * r['width']) for pick in (min, max))
        found.append({
            **dict(zip(ALIKE, key)),
            'time': slope(pixels, [row['ms']['median'] / row['batch'] for row in group]),
            'time_range': slope_range(pixels, *([row['ms'][key] / row['batch'] for row in group]
                                                for key in ('low', 'high'))),
            'memory': None if group[0]['peak_bytes'] is None else slope(
                pixels, [row['peak_bytes'] / row['batch'] for row in group]),
            'smallest': f'{smallest["height"]}x{smallest["width"]}',
            'largest': f'{largest["height"]}x{largest["width"]}'})
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of a power law through points, by least squares of the logarithms."""
    x, y = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def slope_range(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[float]:
    """Smallest and largest :func:`slope` through points between ``low`` and ``high``."""
    middle = sum(map(math.log, x)) / len(x)
    right = [math.log(value) > middle for value in x]
    return [slope(x, [b if up is rises else a for a, b, rises in zip(low, high, right)]) for up in (False, True)]


def _build(
        name: str, size: tuple[int, int], dtype: torch.dtype, device: torch.device,
        model_kwargs: Mapping[str, Any]) -> nn.Module:
    """A model with random weights that takes images of a size, by itself or built for it."""
    torch.manual_seed(0)
    model = timm.create_model(name, **model_kwargs).to(device, dtype).eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *size, device=device, dtype=dtype))
    except (AssertionError, RuntimeError):
        model = timm.create_model(name, **{**model_kwargs, 'img_size': size}).to(device, dtype).eval()
    return model


class _TotalFlops(FlopCounterMode):
    """Counts all calls, not those of each module: the hooks for that would stop layers from being computed together."""

    def __init__(self, **options: Any):
        super().__init__(display=False, **options)
        self.mod_tracker = nullcontext()
        self.mod_tracker.parents = {'Global'}


@torch.no_grad()
def flops(model: nn.Module, size: tuple[int, int], dtype: torch.dtype, channels: int = 3) -> int:
    """Of matrix products, convolutions and softmax attention for one image; a multiplication and addition are two.

    Counted on the meta device: on a CPU torch's counter does not know its fused attention, and neighborhoods are
    multiplied in tiles, with more than the formula has.
    """
    known = {torch.ops.torchvision.deform_conv2d: _of_deformable}
    tensors = {name: x.to('meta') for name, x in (*model.named_parameters(), *model.named_buffers())}
    image = torch.zeros(1, channels, *size, device='meta', dtype=dtype)
    # it cannot look into our kernels
    with zoo_kernels.set_mode('off'), _TotalFlops(custom_mapping=known) as counter:
        torch.func.functional_call(model, tensors, (image,))
    return counter.get_total_flops()


def _of_deformable(image: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Of a deformable convolution, without those of finding its taps."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _in_float64(model: nn.Module, images: Tensor) -> list[Tensor]:
    with zoo_kernels.set_mode('off'), torch.no_grad():
        return _logits(copy.deepcopy(model).double()(images.double()))


def _logits(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _deviation(out: Any, exact: Sequence[Tensor]) -> float:
    errors = [((y[:len(want)].double() - want).abs().max() / want.abs().max()).item()
              for y, want in zip(_logits(out), exact)]
    return max(errors)


def _prepare(model: nn.Module, variant: Setting, images: Tensor, backward: bool) -> Callable[[], Any]:
    if variant.provider in runtimes.RUNTIMES:
        function = runtimes.prepare(variant.provider, model, images, backward)
        return partial(function, images)
    if variant.provider == 'bfloat16':
        model, images = copy.deepcopy(model).bfloat16(), images.bfloat16()
    function = torch.autocast(images.device.type, torch.bfloat16)(model) if variant.provider == 'autocast' else model
    if variant.provider in COMPILED:
        if variant.provider == 'frozen' and backward:
            raise ZooError('it runs forward passes only')
        # a function of its own for each variant: one cache of compiled code would be guarded, and limited, for both
        def function(images: Tensor) -> Any:
            return model(images)
        function = torch.compile(function, dynamic=False, options=COMPILED[variant.provider])
    return partial(_call, function, model, variant.kernels, images, backward)


def _call(
        function: Callable[[Tensor], Any], model: nn.Module, kernels: str, images: Tensor, backward: bool) -> Any:
    with zoo_kernels.set_mode(kernels), torch.set_grad_enabled(backward):
        if backward:
            model.zero_grad(set_to_none=True)
        out = function(images)
        if backward:
            torch.autograd.backward(_logits(out), [x.detach() for x in _logits(out)])
    return out
