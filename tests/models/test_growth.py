"""How the work grows with the number of pixels: what the registry says of each model, by a counter."""
import math

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.zoo_models import every_backbone, shallow
from zoo.registry import variant


def flops(model, size):
    """Floating-point operations of matrix products, convolutions and attention in a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device='meta'))
    return counter.get_total_flops()


@pytest.mark.parametrize('name', every_backbone())
def test_linear_models_are_linear(name):
    args = shallow(name)
    args.pop('depth', None)  # agent_deit_base has softmax attention from the fifth block on
    model = timm.create_model(name, **args, device='meta').eval()
    exponent = math.log(flops(model, 3584) / flops(model, 896)) / math.log(16)
    assert (exponent <= 1.05) == variant(name).linear, exponent
