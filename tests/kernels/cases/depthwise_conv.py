"""Depthwise convolutions: sizes of kernels, edges of tiles, strides, and all that follows the convolution."""
import torch

from tests.kernels.harness import Case
from zoo_kernels import depthwise_conv, focal_level, focal_modulation

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def conv_case(
        name, size, shape, bias=True, activation=None, residual=False, gate=0, strided=False, dtypes=DTYPES, scale=1.):
    """``gate`` is its number of channels; ``strided`` makes x and gate slices of a packed projection."""
    batch, height, width, channels = shape

    def leaves(make):
        found = dict(x=make(batch, height, width, (3 if strided else 1) * channels) * scale)
        found['weight'] = make(channels, 1, size, size) / size
        if bias:
            found['bias'] = make(channels)
        if residual:
            found['residual'] = make(*shape)
        if gate and not strided:
            found['gate'] = make(batch, height, width, gate)
        return found

    def arguments(leaves):
        found = dict(leaves, activation=activation)
        if strided:
            found['x'] = leaves['x'][..., channels:2 * channels]
            if gate:
                found['gate'] = leaves['x'][..., -gate:]
        return found

    return Case(f'depthwise-{name}', depthwise_conv, leaves, arguments, dtypes)


def level_case(name, size, shape, total=True, both=True):
    """``both`` results of the level are used; else the sum alone, as of the last one."""
    batch, height, width, channels = shape

    def leaves(make):
        found = dict(packed=make(batch, height, width, 2 * channels + 3), weight=make(channels, 1, size, size) / size)
        return found | (dict(total=make(*shape)) if total else {})

    def arguments(leaves):
        packed = leaves['packed']
        found = dict(
            x=packed[..., channels:2 * channels], gate=packed[..., 2 * channels + 1:2 * channels + 2],
            weight=leaves['weight'])
        return found | (dict(total=leaves['total']) if total else {})

    def op(**arguments):
        y, result = focal_level(**arguments)
        return torch.cat([y, result], -1) if both else result

    return Case(f'level-{name}', op, leaves, arguments, DTYPES)


def _modulation_leaves(make):
    return dict(packed=make(1, 3, 9, 16 + 3), first=make(16, 1, 3, 3) / 3, second=make(16, 1, 5, 5) / 5)


def _modulation_arguments(leaves):
    packed = leaves['packed']
    return dict(ctx=packed[..., :16], gates=packed[..., 16:], weights=[leaves['first'], leaves['second']])


CASES = [
    conv_case('3', 3, (1, 3, 9, 72), bias=False),
    conv_case('3-gelu', 3, (1, 5, 9, 33), activation='gelu'),
    conv_case('3-residual', 3, (2, 3, 5, 24), residual=True),
    conv_case('3-gelu-residual', 3, (1, 4, 9, 16), activation='gelu', residual=True, dtypes=(torch.float16,)),
    conv_case('3-all', 3, (1, 5, 6, 20), activation='gelu', residual=True, gate=20, dtypes=(torch.bfloat16,)),
    conv_case('3-pixel-gate', 3, (1, 3, 9, 40), gate=1, dtypes=(torch.bfloat16, torch.float32)),
    conv_case('3-large', 3, (1, 5, 6, 16), activation='gelu', scale=20.),
    conv_case('3-one-pixel', 3, (1, 1, 1, 8), residual=True, dtypes=(torch.float16,)),
    conv_case('3-one-channel', 3, (1, 3, 5, 1), gate=1, dtypes=(torch.float32,)),
    conv_case('5', 5, (1, 3, 9, 34)),
    conv_case('5-rala', 5, (1, 4, 6, 16), residual=True, gate=16, strided=True),
    conv_case('5-gelu', 5, (1, 3, 9, 8), bias=False, activation='gelu', dtypes=(torch.bfloat16,)),
    level_case('3', 3, (2, 5, 6, 16)),
    level_case('5-first', 5, (1, 3, 9, 40), total=False),
    level_case('3-last', 3, (1, 5, 6, 72), both=False),
    Case('modulation', focal_modulation, _modulation_leaves, _modulation_arguments),
]
