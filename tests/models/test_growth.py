"""How the work grows with the number of pixels: what the registry says of each model, by a counter."""
import math

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.memory import Peak
from tests.zoo_models import every_backbone, shallow
from zoo.blocks.mixers import BlockContext, mixer_class
from zoo.registry import variant

RECURRENT = {  # mixers
    'gated_linear': {}, 'selective_scan': {}, 'bidirectional_scan': {}, 'additive_recurrence': {},
    'mega': dict(chunk_size=49)}
SCANNING = 'vig_tiny', 'vig_h_tiny', 'plainmamba_l1', 'dino_vim_tiny_patch16', 'dino_mambar_tiny_patch16'


def flops(model, size):
    """Floating-point operations of matrix products, convolutions and attention in a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device='meta'))
    return counter.get_total_flops()


@pytest.mark.parametrize('name', every_backbone())
def test_linear_models_are_linear(name):
    args = shallow(name)
    if 'depth' in args:
        args['depth'] = 6  # agent_deit_base has softmax attention from the fifth block on
    model = timm.create_model(name, **args, device='meta').eval()
    exponent = math.log(flops(model, 3584) / flops(model, 896)) / math.log(16)
    assert (exponent <= 1.05) == variant(name).linear, exponent


def exponents(function, small, large):
    """Powers of the tokens with which grow the memory that a function holds at a time, and what it writes."""
    peaks = []
    for x in (small, large):
        with Peak() as peak:
            function(x)
        peaks.append(peak)
    growth = math.log(large.numel() / small.numel())
    return [math.log(getattr(peaks[1], name) / getattr(peaks[0], name)) / growth for name in ('bytes', 'written')]


@pytest.mark.parametrize('training', [False, True], ids=['inference', 'training'])
@pytest.mark.parametrize('name', RECURRENT)
def test_recurrences_are_linear_in_memory_and_work(name, training):
    mixer = mixer_class(name).from_context(BlockContext(0, 0, 32, 2, (28, 28)), **RECURRENT[name])

    def run(x):
        with torch.set_grad_enabled(training):
            y = mixer(x)
            if training:
                y.sum().backward()

    memory, work = exponents(run, torch.randn(1, 28, 28, 32), torch.randn(1, 56, 56, 32))
    assert memory <= 1.05 and 0.9 < work <= 1.05


def test_attention_is_not_linear():
    """So that the measure can tell."""
    mixer = mixer_class('mega').from_context(BlockContext(0, 0, 32, 2, (28, 28)))
    with torch.no_grad():
        assert all(power > 1.5 for power in exponents(mixer, torch.randn(1, 28, 28, 32), torch.randn(1, 56, 56, 32)))


@pytest.mark.slow
@pytest.mark.parametrize('name', SCANNING)
def test_models_that_scan_are_linear_in_memory_and_work(name):
    model = timm.create_model(name, **shallow(name)).eval()
    with torch.no_grad():
        found = exponents(model, torch.randn(1, 3, 448, 448), torch.randn(1, 3, 896, 896))
    assert max(found) <= 1.05, found
