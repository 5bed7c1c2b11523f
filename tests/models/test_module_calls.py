"""Modules behave like modules: each is called, with the whole batch, and nobody overwrites what it got and gave.

So forward hooks, parametrizations, pruning, adapters and quantised layers see what they expect.
"""
import copy
import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
import timm
import torch
from timm.layers import SplitAttn
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

import zoo
from tests.models.module_calls import faults_of, is_layer, modules_with_parameters, recorded
from tests.models.test_hybrid import SMALL
from tests.zoo_models import every_smallest_model
from zoo.blocks.gates import ELA
from zoo.blocks.mixers import GLOBAL_MIXERS, MAP_MIXERS
from zoo.models.care import TwoHeads
from zoo.models.overlock.family import OverLoCK
from zoo.registry import smallest_models

BATCH = 5  # divides no number of windows, rows, heads or channels that folds into the batch


class Exempt(NamedTuple):
    """What modules at ``path`` below one of class ``owner`` may do: be called ``calls`` times, have a ``fault``."""

    owner: type[nn.Module]
    path: str  # a regular expression
    reason: str
    calls: int | None = None
    fault: str | None = None
    eval_only: bool = False


EXEMPT = (
    Exempt(ELA, 'conv|norm', 'rows and columns share them', calls=2),
    Exempt(OverLoCK, r'aux_head(\..*)?', 'only training has an auxiliary loss', calls=0, eval_only=True),
    Exempt(TwoHeads, '', 'gives the logits of two classifiers', fault='output'),
    Exempt(ResNet, r'bn1|conv1\.\d+', "timm's ReLU behind the stem's norms is in place", fault='overwritten'),
    Exempt(BasicBlock, 'bn1|bn2|se', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(Bottleneck, 'bn1|bn2|bn3|se', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(ResNestBottleneck, 'bn1|bn3', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(SplitAttn, 'bn0|bn1', "timm's ReLU is in place", fault='overwritten'),
)


class Mode(NamedTuple):
    """How a model is run and watched."""

    grad: Callable = torch.no_grad
    training: bool = False
    everywhere: bool = False  # by global hooks
    hooked: Callable[[nn.Module], bool] = lambda module: True


MODES = dict(
    no_grad=Mode(),
    training=Mode(torch.enable_grad, training=True),
    gradients=Mode(torch.enable_grad),
    inference_mode=Mode(torch.inference_mode),
    global_hooks=Mode(everywhere=True),
    hooks_on_layers=Mode(hooked=is_layer),
    hooks_above_layers=Mode(hooked=lambda module: not is_layer(module)),
)
QUICK_MODES = ('no_grad', 'training')

HYBRIDS = [
    *(('pvt_v2_b0', mixer) for mixer in (*GLOBAL_MIXERS, *MAP_MIXERS)),
    *(('vit_tiny', mixer) for mixer in GLOBAL_MIXERS),
]
MODELS = [*every_smallest_model(), *(pytest.param(pair, id='-'.join(pair)) for pair in HYBRIDS)]


def create(case: str | tuple[str, str]) -> nn.Module:
    """A model by name, or a hybrid by host and mixer with a block or two per stage."""
    if isinstance(case, str):
        return timm.create_model(case, num_classes=10).eval()
    host, mixer = case
    return zoo.create_hybrid(host, mixer, num_classes=10, **SMALL[host]).eval()


@pytest.fixture(scope='module', params=MODELS)
def model(request):
    """Each model once, in eval mode with 10 classes."""
    torch.manual_seed(0)
    return create(request.param)


def exempt(model: nn.Module, name: str, **wanted: object) -> Exempt | None:
    """The entry of the table for a module's number of calls (``calls=``) or a ``fault=``."""
    parts = name.split('.')
    above = [model, *(model.get_submodule('.'.join(parts[:i])) for i in range(1, len(parts) + 1))]
    return next((
        entry for entry in EXEMPT for i, owner in enumerate(above)
        if isinstance(owner, entry.owner) and re.fullmatch(entry.path, '.'.join(parts[i:]))
        and not (entry.eval_only and model.training)
        and all(getattr(entry, key) == value for key, value in wanted.items())), None)


def faults(model: nn.Module, mode: Mode, size: int = 64) -> tuple[list[str], set[Exempt]]:
    """Whatever one pass did that modules must not do, and the exceptions it made use of."""
    names = {id(module): name for name, module in modules_with_parameters(model).items() if mode.hooked(module)}
    found, used = [], set()
    images = torch.randn(BATCH, 3, size, size)
    model.train(mode.training)
    try:
        with mode.grad(), recorded(model, mode.hooked, mode.everywhere) as calls:
            model(images)
        counts = Counter(id(call.module) for call in calls)
        seen = [(id_, 'calls', f'was called {counts[id_]} times, not once') for id_ in names if counts[id_] != 1]
        seen += [(id(call.module), *fault) for call in calls for fault in faults_of(call, BATCH)]
        for id_, kind, text in seen:
            name = names[id_]
            entry = exempt(model, name, **({'calls': counts[id_]} if kind == 'calls' else {'fault': kind}))
            if entry is None:
                found.append(f'{name} ({type(model.get_submodule(name)).__name__}) {text}')
            else:
                used.add(entry)
    finally:
        model.eval()
    return found, used


def check(model: nn.Module, mode: Mode, size: int = 64) -> None:
    """Fail with the first faults of one pass, and their number."""
    found, _ = faults(model, mode, size)
    if found:
        pytest.fail('\n'.join([f'{len(found)} faults, such as', *found[:20]]), pytrace=False)


@pytest.mark.parametrize('mode', [
    pytest.param(mode, marks=[] if mode in QUICK_MODES else pytest.mark.slow) for mode in MODES])
def test_every_module_is_called_once_with_the_whole_batch(model, mode):
    check(model, MODES[mode])


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['no_grad', 'hooks_on_layers', 'hooks_above_layers'])
def test_at_a_size_that_pays_to_cut(model, mode):
    """At 224 pixels hidden activations outgrow a core's caches: slices, in-place and fused passes pay off."""
    check(model, MODES[mode], size=224)


@pytest.mark.slow
def test_a_hook_on_one_module(model):
    """Nobody may take a shortcut past a module because the modules beside it are not watched."""
    kinds = {}
    for name, module in modules_with_parameters(model).items():
        parent = model.get_submodule(name.rpartition('.')[0])
        kinds.setdefault((type(parent), re.sub(r'\d+', '', name.rpartition('.')[2]), type(module)), module)
    found = []
    for module in kinds.values():
        found += faults(model, Mode(hooked=lambda other, module=module: other is module))[0]
    assert found == []


def alter(module: nn.Module, args: tuple, output: Tensor, index: int) -> Tensor:
    """A forward hook that changes the output, in its own way for each index."""
    generator = torch.Generator().manual_seed(index)
    return output + 0.1 * torch.randn(output.shape, generator=generator, dtype=output.dtype)


@pytest.mark.slow
def test_what_hooks_return_is_what_the_model_goes_on_with(model):
    """Of every layer with parameters, without gradients as with them."""
    model = copy.deepcopy(model).double()
    for p in model.parameters():  # some start at zero, which hides what comes before
        p.data += 0.02 * torch.randn_like(p)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        plain = model(images)
        with recorded(model):
            torch.testing.assert_close(model(images), plain, rtol=1e-9, atol=1e-12)
    layers = {name: module for name, module in modules_with_parameters(model).items() if is_layer(module)}
    altered = {}

    def hook(module: nn.Module, args: tuple, output: Tensor, name: str, index: int) -> Tensor:
        altered[name] = alter(module, args, output, index)
        return altered[name]

    for index, (name, module) in enumerate(layers.items()):
        module.register_forward_hook(functools.partial(hook, name=name, index=index))
    logits = model(images)
    ignored = {name for name in layers if name not in altered and exempt(model, name, calls=0) is None}
    assert ignored == set()
    gradients = torch.autograd.grad(
        (logits * torch.randn_like(logits)).sum(), list(altered.values()), allow_unused=True)
    assert {name for name, g in zip(altered, gradients) if g is None or not g.any()} == set()
    assert not torch.allclose(logits, plain, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits.detach(), rtol=1e-9, atol=1e-12)


@functools.cache
def classes_in(name: str) -> set[type[nn.Module]]:
    """Classes of all modules of a model, and those that they derive from."""
    model = timm.create_model(name, device='meta')
    return {cls for module in model.modules() for cls in type(module).__mro__}


@pytest.mark.slow
@pytest.mark.parametrize('entry', EXEMPT, ids=lambda entry: f'{entry.owner.__name__}-{entry.path or "itself"}')
def test_no_exception_is_unused(entry):
    name = next(name for name in smallest_models() if entry.owner in classes_in(name))
    assert entry in faults(create(name), MODES['no_grad'])[1]
