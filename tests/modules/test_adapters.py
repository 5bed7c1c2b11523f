"""What others put on or in place of layers works: parametrizations, pruning, quantised layers, LoRA adapters."""
import copy
import functools
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.modules.cases import ONE, TRAINING_ONLY, every_case, exact, images, without_gradient
from tests.modules.module_calls import tensors
from tests.turns import turn

EXACT = dict(rtol=1e-8, atol=1e-10)


@pytest.fixture(scope='module', params=every_case(turn=0))
def original(request):
    """Each model once, in eval mode and float64; tests work on copies."""
    return exact(request.param)


@pytest.fixture
def model(original):
    """A copy that a test may change."""
    return copy.deepcopy(original)


def layers_of(model: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Layers of some kinds, subclasses included, by name; without those that only training has."""
    return {
        name: module for name, module in model.named_modules()
        if isinstance(module, kinds) and not name.startswith(TRAINING_ONLY)}


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """What plain inference gives."""
    return model(x)


def step(model: nn.Module, pattern: str) -> None:
    """Move all parameters with ``pattern`` in their names, as an optimizer would."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if pattern in name:
                p += 0.1 * p.abs().mean() * torch.randn_like(p)


def close(y: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether y differs from what is expected by no more than a part of its norm."""
    return bool((y - expected).norm() <= tolerance * expected.norm())


@pytest.mark.slow
def test_weight_norm(original, model, request):
    """Of every layer: the same logits, and gradients of magnitudes and directions, which then count."""
    kind = ('parametrization', 'pre_hook')[turn(request, 'original') % 2]
    x, layers = images(2), layers_of(model, nn.Linear, nn.Conv2d)
    for layer in layers.values():
        if kind == 'parametrization':
            parametrizations.weight_norm(layer)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', FutureWarning)  # deprecated, and in use
                nn.utils.weight_norm(layer)
    parts = ('original0', 'original1') if kind == 'parametrization' else ('weight_g', 'weight_v')
    assert sum(parts[0] in name for name, _ in model.named_parameters()) == len(layers)
    torch.testing.assert_close(logits_of(model, x), logits_of(original, x), **EXACT)
    for part in parts:
        assert without_gradient(model, x, part) == set()
    step(model, parts[0])
    y = logits_of(model, x)
    assert not close(y, logits_of(original, x), 1e-3)
    torch.testing.assert_close(model(x).detach(), y, **EXACT)


def test_pruning(original, model):
    """As of a copy whose weights are masked by hand, also after the weights have moved; backward passes repeat."""
    x, layers = images(2), layers_of(model, nn.Linear, nn.Conv2d)
    for layer in layers.values():
        prune.l1_unstructured(layer, 'weight', amount=0.3)
    for _ in range(2):
        torch.testing.assert_close(logits_of(model, x), logits_of(masked(original, layers), x), **EXACT)
        assert without_gradient(model, x, 'weight_orig') == set()
        step(model, 'weight_orig')


def masked(original: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """A copy of the original with the masked weights of pruned layers."""
    expected = copy.deepcopy(original)
    for name, layer in layers.items():
        expected.get_submodule(name).weight.data = layer.weight_orig.detach() * layer.weight_mask
    return expected


def check_dynamic_quantization(original: nn.Module) -> None:
    """Of all linear layers by torch: they are replaced, and the logits are near."""
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import quantize_dynamic

    x = images(2).float()
    quantized = quantize_dynamic(copy.deepcopy(original).float(), {nn.Linear}, dtype=torch.qint8)
    exactly = [name for name, layer in layers_of(original, nn.Linear).items() if type(layer) is nn.Linear]
    assert exactly and all(isinstance(quantized.get_submodule(name), Linear) for name in exactly)
    y, expected = logits_of(quantized, x), logits_of(original, x.double()).float()
    assert close(y, expected, 0.5) and not close(y, expected, 1e-4)


def check_torchao(original: nn.Module) -> None:
    """8-bit weights: as of a copy that has the dequantized ones."""
    quantization = pytest.importorskip('torchao.quantization')
    from torchao.utils import TorchAOBaseTensor

    x, model = images(2).float(), copy.deepcopy(original).float()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    expected = copy.deepcopy(original).float()
    for name, layer in layers_of(model, nn.Linear).items():
        assert isinstance(layer.weight, TorchAOBaseTensor), name
        expected.get_submodule(name).weight.data = layer.weight.dequantize()
    y = logits_of(model, x)
    assert close(y, logits_of(expected, x), 1e-3)
    assert not close(y, logits_of(original, x.double()).float(), 1e-4)


def check_lora(original: nn.Module, kind: type[nn.Module] = nn.Linear) -> None:
    """Adapters on all layers of a kind: they count in training and in eval mode, learn, and can be merged."""
    peft = pytest.importorskip('peft')
    x, model = images(2), copy.deepcopy(original)
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, kind)
        and (kind is nn.Linear or layer.groups == 1 and layer.dilation == (1, 1))]  # peft knows no dilation
    assert names
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names))
    for name, p in adapted.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(p, std=0.02)
    assert sum('lora_B' in name for name, _ in adapted.named_parameters()) == len(names)
    plain = copy.deepcopy(original)
    for training in (False, True):  # in this order: then running statistics are the same in eval mode
        outputs = [tensors(net.train(training)(x))[0] for net in (adapted, plain)]
        assert not close(*outputs, 1e-3)
        assert without_gradient(adapted, x, 'lora_') == set()
    y = logits_of(adapted.eval(), x)
    torch.testing.assert_close(adapted(x).detach(), y, **EXACT)
    torch.testing.assert_close(logits_of(adapted.merge_and_unload(), x), y, **EXACT)


CHECKS = dict(
    quantize_dynamic=check_dynamic_quantization, torchao=check_torchao, lora_linear=check_lora,
    lora_conv=functools.partial(check_lora, kind=nn.Conv2d))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_tools_of_others(original, request):
    """One of them, by turns."""
    list(CHECKS.values())[turn(request, 'original') % len(CHECKS)](original)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('tool', CHECKS)
def test_tools_of_others_on_one_model(tool):
    """What `make test` tries of them."""
    CHECKS[tool](exact(ONE))
