"""16-bit models: finite where the paper's code is not, and no less exact than plain torch in that dtype."""
from importlib import import_module

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tests.turns import in_turn
from tests.zoo_models import CNNS, shallow
from zoo.registry import smallest_models

SEEDS = 5
LINEAR_ATTENTION = import_module('zoo_kernels.linear_attention.reference')  # the function hides the module

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward}


class AccumulateInFloat32(TorchDispatchMode):
    """Computes 16-bit products in float32 and rounds them, as hardware does.

    On CPUs without 16-bit instructions torch's own code for them takes 20 times as long.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        dtypes = {x.dtype for x in args if isinstance(x, torch.Tensor)}
        if func.overloadpacket not in PRODUCTS or dtypes.isdisjoint((torch.float16, torch.bfloat16)):
            return func(*args, **(kwargs or {}))
        dtype, = dtypes
        outputs = func(*tree_map_only(torch.Tensor, torch.Tensor.float, args), **(kwargs or {}))
        return tree_map_only(torch.Tensor, lambda y: y.to(dtype), outputs)


@pytest.fixture(autouse=True)
def accumulate_in_float32():
    with AccumulateInFloat32():
        yield


def run(model, x, probe):
    """Logits and the gradient of the image, as one float64 vector."""
    x = x.clone().requires_grad_()
    y = model(x)
    (y * probe.to(y.dtype)).sum().backward()
    return torch.cat([y.detach().double().flatten(), x.grad.double().flatten() / x.grad.double().norm()])


def errors(name, dtype, size, seed):
    """Relative errors of logits and gradient in a 16-bit dtype, ours and with statistics in that dtype too."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10, **shallow(name)).eval().to(dtype)
    x, probe = torch.randn(1, 3, size, size, dtype=dtype), torch.randn(1, 10, dtype=dtype)
    ours = run(model, x, probe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LINEAR_ATTENTION, 'statistics_dtype', lambda dtype: dtype)
        plain = run(model, x, probe)
    exact = run(model.double(), x.double(), probe.double())

    def error(y, part):
        value = float((y[part] - exact[part]).norm() / exact[part].norm())
        return value if value == value else float('inf')

    parts = slice(0, 10), slice(10, None)
    return [error(ours, part) for part in parts], [error(plain, part) for part in parts]


@pytest.mark.full
@pytest.mark.parametrize('name, dtype', in_turn(  # CNNs are plain torch
    [name for name in smallest_models() if name not in CNNS], [torch.bfloat16, torch.float16]))
def test_as_exact_as_plain_torch(name, dtype):
    ours, plain = zip(*(errors(name, dtype, 224, seed) for seed in range(SEEDS)))
    worst, allowed = (torch.tensor(values).amax(0) for values in (ours, plain))
    assert torch.isfinite(worst).all()
    assert (worst <= 2 * allowed).all(), (worst, allowed)


@pytest.mark.full
@pytest.mark.parametrize('name, dtype', in_turn(
    [name for name in smallest_models() if 'resnest' not in name], [torch.float16, torch.bfloat16]))  # timm's blocks
def test_finite_at_1024_pixels(name, dtype):
    """Few blocks, all tokens: 65,536 in the first stage."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **shallow(name)).to(dtype).train()
    vectors = name.startswith(('bam_', 'patnet_'))  # are normed, one per image
    y = model(torch.randn(2 if vectors else 1, 3, 1024, 1024, dtype=dtype))
    y = torch.cat(y) if isinstance(y, tuple) else y
    y.float().square().sum().backward()
    assert torch.isfinite(y).all()
    assert {name for name, p in model.named_parameters() if not torch.isfinite(p.grad).all()} == set()
