"""Inputs without elements: every mode returns what plain torch does, forward and backward."""
import pytest
import torch

import zoo_kernels
from zoo_kernels import (
    depthwise_conv,
    focal_modulation,
    gated_linear_attention,
    linear_attention,
    neighborhood_attention,
    neighborhood_sum,
    routed_attention,
    selective_scan,
    set_mode,
)


def linear(batch=2, tokens=5, keys=5, heads=2, dim=8, value_dim=8, **options):
    shapes = dict(q=(batch, tokens, heads, dim), k=(batch, keys, heads, dim), v=(batch, keys, heads, value_dim))
    if options.get('feature') == 'focus':
        shapes['focus_scale'] = heads * dim,
    if options.pop('weighted', False):
        shapes['key_weight'] = batch, keys, heads
    return lambda **x: linear_attention(**x, **options), shapes


def gated(batch=2, tokens=5, heads=2, dim=8, value_dim=8):
    shapes = dict.fromkeys(('q', 'k', 'forward_gate', 'backward_gate'), (batch, tokens, heads, dim))
    return gated_linear_attention, dict(shapes, v=(batch, tokens, heads, value_dim))


def scanned(*shape, dim=None):
    last, sequence = () if dim is None else (dim,), (*shape[:2], 4)
    rates = shape[2:] if last else (*shape[2:], 4)
    return lambda **x: selective_scan(**x, orders=('forward', 'reverse')), dict(
        x=(*shape, *last), delta=shape, A=rates, B=sequence, C=sequence, D=shape[2:], z=(*shape, *last))


def routed(batch=0, side=4, heads=2, dim=8):
    shapes = dict.fromkeys('qkv', (batch, side, side, heads, dim))
    routes = torch.zeros(batch, 4, 2, dtype=torch.int64)
    return lambda q, k, v: routed_attention(q, k, v, routes, (2, 2)), shapes


def neighborhood(batch=0, side=6, heads=2, dim=8):
    shapes = dict.fromkeys('qkv', (batch, side, side, heads, dim)) | dict(bias=(heads, 5, 5))
    return lambda **x: neighborhood_attention(**x, kernel_size=3), shapes


def summed(batch=0, side=6, heads=2, dim=8):
    shapes = dict(weights=(batch, heads, side, side, 9), v=(batch, heads, side, side, dim))
    return lambda **x: neighborhood_sum(**x, kernel_size=3), shapes


def depthwise(*shape, **options):
    return lambda **x: depthwise_conv(**x, **options), dict(
        x=shape, weight=(shape[-1], 1, 3, 3), bias=shape[-1:], residual=shape, gate=(*shape[:-1], 1))


def focal(*shape):
    return lambda x, gates, first, second: focal_modulation(x, gates, [first, second]), dict(
        x=shape, gates=(*shape[:-1], 3), first=(shape[-1], 1, 3, 3), second=(shape[-1], 1, 5, 5))


CASES = {
    'linear, no samples': linear(batch=0),
    'linear, no samples, focus': linear(batch=0, feature='focus'),
    'linear, no samples, norm-aware': linear(batch=0, feature='norm_aware'),
    'linear, no samples, weighted': linear(batch=0, feature='elu', weighted=True),
    'linear, no queries': linear(tokens=0, feature='focus'),
    'linear, no value channels': linear(value_dim=0, feature='elu'),
    'gated, no samples': gated(batch=0),
    'gated, no tokens': gated(tokens=0),
    'gated, no value channels': gated(value_dim=0),
    'scan, no samples': scanned(0, 5, 3),
    'scan, no tokens': scanned(2, 0, 3),
    'scan, no channels': scanned(2, 5, 0),
    'scan, heads, no tokens': scanned(2, 0, 3, dim=4),
    'scan, heads of no channels': scanned(2, 5, 3, dim=0),
    'routed, no samples': routed(),
    'neighborhood, no samples': neighborhood(),
    'neighborhood sum, no samples': summed(),
    'depthwise, no images': depthwise(0, 6, 6, 4, activation='gelu'),
    'focal, no images': focal(0, 6, 6, 4),
}
NO_KEYS = {name: linear(keys=0, **options) for name, options in {
    'identity': {}, 'elu': dict(feature='elu', weighted=True), 'focus': dict(feature='focus'),
    'norm-aware': dict(feature='norm_aware'), 'magnitude': dict(feature='elu', output='magnitude'),
    'inline': dict(output='inline')}.items()}


def run(case, mode):
    """The output and the gradients of all inputs."""
    call, shapes = case
    inputs = {name: torch.ones(shape, dtype=torch.bfloat16, requires_grad=True) for name, shape in shapes.items()}
    with set_mode(mode):
        out = call(**inputs)
        grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    return out.detach(), dict(zip(inputs, grads)), inputs


@pytest.mark.parametrize('mode', ['off', 'auto', 'force'])
@pytest.mark.parametrize('name', CASES)
def test_nothing_in_nothing_out(name, mode):
    out, grads, inputs = run(CASES[name], mode)
    values = inputs.get('v', inputs.get('x'))
    queries = inputs.get('q', values)
    assert out.shape == (*queries.shape[:-1], values.shape[-1]) and not out.numel() and out.dtype == torch.bfloat16
    for key, grad in grads.items():
        assert grad.shape == inputs[key].shape and not grad.any(), key


@pytest.mark.parametrize('mode', ['off', 'auto', 'force'])
@pytest.mark.parametrize('name', NO_KEYS)
def test_a_mean_over_no_keys_is_nan(name, mode):
    out, grads, inputs = run(NO_KEYS[name], mode)
    assert out.shape == inputs['q'].shape and out.isnan().all()
    assert grads['q'].shape == out.shape and grads['q'].isnan().all()
    assert grads['k'].shape == inputs['k'].shape and grads['v'].shape == inputs['v'].shape


def test_explained():
    q = torch.ones(0, 4, 2, 8)
    for mode in zoo_kernels.dispatch.MODES:
        with set_mode(mode):
            assert zoo_kernels.explain(linear_attention, q, q, q) == ('torch', 'an input is empty')
