"""Linear layers that inference on a CPU may compute from their weights: not where anybody looks or has changed them."""
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import zoo_kernels
from zoo.blocks.linear import linear, linear_gelu
from zoo_kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.has_onednn(), reason='this build of torch has no linear layer of oneDNN')


@pytest.fixture(autouse=True)
def onednn():
    with zoo_kernels.set_gemm('onednn'):
        yield


def calls(layer, x):
    """How many products take the op, and that the result is the layer's."""
    with zoo_kernels.record() as record, torch.no_grad():
        y = linear(layer, x)
        torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear_gelu(layer, x), nn.functional.gelu(y), rtol=1e-5, atol=1e-5)
    return [choice.backend for op, choice in record if op == 'linear']


class LowRank(nn.Linear):
    """What an adapter is: a linear layer and something beside it."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features)
        self.load_state_dict(base.state_dict())
        self.beside = nn.Parameter(torch.ones(base.out_features))

    def forward(self, x):
        return super().forward(x) + self.beside


def test_who_computes():
    x, layer = torch.randn(2, 100, 64), nn.Linear(64, 128)
    assert calls(layer, x) == ['onednn', 'onednn']
    assert calls(LowRank(layer), x) == []
    assert calls(nn.Sequential(layer), x) == []
    assert calls(weight_norm(nn.Linear(64, 128)), x) == []
    assert calls(prune.l1_unstructured(nn.Linear(64, 128), 'weight', 0.5), x) == []
    assert calls(torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0], x) == []
    handle = layer.register_forward_hook(lambda module, args, y: y + 1)
    assert calls(layer, x) == []
    handle.remove()
    assert calls(layer, x) == ['onednn', 'onednn']
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(module))
    assert calls(layer, x) == [] and seen == [layer] * 3
    handle.remove()


def test_training_and_other_dtypes_call_the_layer():
    x, layer = torch.randn(2, 100, 64), nn.Linear(64, 128)
    with zoo_kernels.record() as record:
        linear(layer, x).sum().backward()
    assert record == [] and layer.weight.grad is not None
    assert calls(layer.double(), x.double()) == ['torch', 'torch']
    with zoo_kernels.set_gemm('mkl'):
        assert calls(layer.float(), x) == []


def test_what_is_loaded_counts_at_once():
    """Nothing of a layer's weights is kept."""
    x, layer = torch.randn(2, 100, 64), nn.Linear(64, 128)
    calls(layer, x)
    layer.load_state_dict({key: value.mul(2) for key, value in layer.state_dict().items()})
    assert calls(layer, x) == ['onednn', 'onednn']
    layer.weight = nn.Parameter(torch.randn(128, 64))
    assert calls(layer, x) == ['onednn', 'onednn']
