"""Others' counters of multiplications and summaries: torchinfo, fvcore, thop, ptflops see what a model does."""
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from tests.models.cases import TRAINING_ONLY, create, one_case_or_all
from tests.models.module_calls import recorded, tensors

SIZE = 64
NORMS = nn.LayerNorm, nn.GroupNorm, _NormBase


@pytest.fixture(scope='module', params=one_case_or_all())
def model(request):
    """In eval mode; nothing that these tools leave behind changes what the next one counts."""
    return create(request.param)


@pytest.fixture
def image():
    return torch.randn(1, 3, SIZE, SIZE)


def multiplications(layer: nn.Module, output: Tensor) -> int:
    """Of a convolution or a linear layer, biases aside."""
    return output.numel() * layer.weight[0].numel()


@torch.no_grad()
def sum_over_layers(model: nn.Module, x: Tensor) -> int:
    """Multiplications of all convolutions and linear layers, by our own hooks."""
    with recorded(model, lambda module: isinstance(module, (nn.Linear, _ConvNd))) as calls:
        model(x)
    return sum(multiplications(call.module, call.output) for call in calls)


def classes(model: nn.Module, *kinds: type[nn.Module]) -> set[type[nn.Module]]:
    """The classes of a model's modules that are or derive from some kinds."""
    return {type(module) for module in model.modules() if isinstance(module, kinds)}


def test_torchinfo(model, image):
    """Parameters of each layer and of the model, and the shapes that layers give."""
    torchinfo = pytest.importorskip('torchinfo')
    summary = torchinfo.summary(model, input_data=image, depth=99, verbose=0)
    assert summary.total_params == sum(p.numel() for p in model.parameters())
    shapes = {}
    with torch.no_grad(), recorded(model) as calls:
        model(image)
    for call in calls:
        shapes.setdefault(id(call.module), []).append([list(y.shape) for y in tensors(call.output)])
    seen = 0
    for info in summary.summary_list:
        if id(info.module) in shapes and len(shapes[id(info.module)][0]) == 1:
            assert [info.output_size] in shapes[id(info.module)]
            seen += 1
    assert seen >= len(shapes) > 20


@torch.no_grad()
def test_fvcore(model, image):
    """Within 3 % of torch's counter, once it knows two operators more and both count products alone."""
    fvcore = pytest.importorskip('fvcore.nn')

    def attention(inputs: list, outputs: list) -> int:
        q, k, v = (value.type().sizes() for value in inputs[:3])
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

    def added_product(inputs: list, outputs: list) -> int:
        return math.prod(inputs[1].type().sizes()) * inputs[2].type().sizes()[-1]

    handles = {
        'aten::scaled_dot_product_attention': attention, 'aten::baddbmm': added_product,
        **dict.fromkeys(f'aten::{name}' for name in (
            'batch_norm', 'layer_norm', 'group_norm', 'adaptive_avg_pool2d', 'upsample_bilinear2d', 'upsample_bicubic2d')),
    }
    analysis = fvcore.FlopCountAnalysis(model, image).set_op_handle(**handles)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # on CPUs it knows no other
        model(image)
    assert analysis.total() == pytest.approx(counter.get_total_flops() / 2, rel=0.03)
