"""Others' counters of multiplications and summaries: torchinfo, fvcore, thop, ptflops see what a model does."""
import copy
import importlib
import math
import warnings
from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from tests.modules.module_calls import recorded, tensors

SIZE = 64
NORMS = nn.LayerNorm, nn.GroupNorm, _NormBase


@pytest.fixture
def image():
    return torch.randn(1, 3, SIZE, SIZE)


@torch.no_grad()
def sum_over_layers(model: nn.Module, x: Tensor, biases: bool = False) -> int:
    """Multiplications of all convolutions and linear layers by our own hooks; an addition of a bias is one if asked."""
    with recorded(model, lambda module: isinstance(module, (nn.Linear, _ConvNd))) as calls:
        model(x)
    return sum(
        call.output.numel() * (call.module.weight[0].numel() + (biases and call.module.bias is not None))
        for call in calls)


def test_torchinfo(model, image):
    """Parameters of each layer and of the model, and the shapes that layers give."""
    torchinfo = pytest.importorskip('torchinfo')
    summary = torchinfo.summary(model, input_data=image, depth=99, verbose=0)
    assert summary.total_params == sum(p.numel() for p in model.parameters())
    with torch.no_grad(), recorded(model) as calls:
        model(image)
    shapes = defaultdict(list)
    for call in calls:
        shapes[id(call.module)] += [list(y.shape) for y in tensors(call.output)]
    listed = {id(info.module): info for info in summary.summary_list}
    assert len(shapes) > 20 and shapes.keys() <= listed.keys()
    for module, expected in shapes.items():
        assert listed[module].output_size in expected
        assert listed[module].num_params == sum(p.numel() for p in listed[module].module.parameters())


@torch.no_grad()
def test_fvcore(model, image, monkeypatch):
    """Within 4 % of torch's counter, told of two operators and of broadcast matrices, if both count products alone.

    It counts a trace, which may have other products, of small neighborhoods and of gated linear attention.
    """
    fvcore = pytest.importorskip('fvcore.nn')

    def attention(inputs: list, outputs: list) -> int:
        q, k, v = (value.type().sizes() for value in inputs[:3])
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

    def added_product(inputs: list, outputs: list) -> int:
        return math.prod(inputs[1].type().sizes()) * inputs[2].type().sizes()[-1]

    def product(inputs: list, outputs: list) -> int:
        return math.prod(outputs[0].type().sizes()) * inputs[0].type().sizes()[-1]

    norms = dict.fromkeys(('aten::batch_norm', 'aten::layer_norm', 'aten::group_norm'), lambda inputs, outputs: 0)
    analysis = fvcore.FlopCountAnalysis(model, image).set_op_handle(
        **{'aten::scaled_dot_product_attention': attention, 'aten::baddbmm': added_product, 'aten::matmul': product},
        **norms)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    counted = analysis.total()
    monkeypatch.setattr(torch.jit, 'is_tracing', lambda: True)  # so that both count the same products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # on CPUs it knows no other
        model(image)
    assert counted == pytest.approx(counter.get_total_flops() / 2, rel=0.04)


@torch.no_grad()
def test_thop(model, image):
    """Every convolution and linear layer, found by its exact class; norms, activations and pooling aside."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # distutils
        thop = pytest.importorskip('thop')
    known = importlib.import_module('thop.profile').register_hooks  # by class
    others = dict.fromkeys(known.keys() - {nn.Linear, nn.Conv1d, nn.Conv2d}, known[nn.Dropout])
    total, _ = thop.profile(copy.deepcopy(model), (image,), custom_ops=others, verbose=False)
    assert total == pytest.approx(sum_over_layers(model, image), rel=0.001)


@torch.no_grad()
def test_ptflops(model, image):
    """As thop; it counts biases too, and its example image is memory that nobody has written to."""
    ptflops = pytest.importorskip('ptflops')
    norms = {type(module): lambda *call: None for module in model.modules() if isinstance(module, NORMS)}
    total, _ = ptflops.get_model_complexity_info(
        copy.deepcopy(model), (3, SIZE, SIZE), as_strings=False, print_per_layer_stat=False, verbose=False,
        input_constructor=lambda size: image, custom_modules_hooks=norms,
        backend_specific_config=dict(count_functional=False))
    assert total == pytest.approx(sum_over_layers(model, image, biases=True), rel=0.01)
