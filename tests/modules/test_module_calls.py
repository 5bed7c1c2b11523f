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

from tests.modules.cases import CHOOSING, alive, create, every_case, images
from tests.modules.module_calls import faults_of, is_layer, modules_with_parameters, recorded
from tests.turns import turn
from zoo.blocks.continuous_bias import ContinuousBias
from zoo.blocks.gates import ELA
from zoo.blocks.symbols import SymbolicAttention
from zoo.models.care import TwoHeads
from zoo.models.ninformer import SharedNormBlock
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
    Exempt(SymbolicAttention, '(query)?', 'the blocks of ViDAT share it', calls=4),
    Exempt(SharedNormBlock, 'norm', 'both halves of a block share it', calls=2),
    Exempt(OverLoCK, r'aux_head(\..*)?', 'only training has an auxiliary loss', calls=0, eval_only=True),
    Exempt(TwoHeads, '', 'gives the logits of two classifiers', fault='output'),
    Exempt(ResNet, r'bn1|conv1\.\d+', "timm's ReLU behind the stem's norms is in place", fault='overwritten'),
    Exempt(BasicBlock, 'bn1|bn2|se', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(Bottleneck, 'bn1|bn2|bn3|se', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(ResNestBottleneck, 'bn1|bn3', "timm's ReLU and addition of the shortcut are in place", fault='overwritten'),
    Exempt(ContinuousBias, 'fc1|fc2', 'distances between tokens are those of every image', fault='batch'),
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


@pytest.fixture(scope='module', params=every_case())
def model(request):
    """Each model once, in eval mode with 10 classes."""
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
    x = images(BATCH, size).float()
    model.train(mode.training)
    try:
        with mode.grad(), recorded(model, mode.hooked, mode.everywhere) as calls:
            model(x)
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


def test_every_module_is_called_once_with_the_whole_batch(model):
    check(model, MODES['no_grad'])


@pytest.mark.slow
@pytest.mark.parametrize('half', range(2))
def test_in_two_of_the_other_modes(model, half, request):
    modes = list(MODES)[1:]
    check(model, MODES[modes[(turn(request) + 3 * half) % len(modes)]])


@pytest.mark.slow
def test_at_a_size_that_pays_to_cut(model, request):
    """At 224 pixels hidden activations outgrow a core's caches: slices, in-place and fused passes pay off."""
    mode = ('no_grad', 'hooks_on_layers', 'hooks_above_layers')[turn(request) % 3]
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


@pytest.mark.slow
def test_what_hooks_return_is_what_the_model_goes_on_with(model):
    """Of every layer with parameters, without gradients as with them."""
    model, x = alive(copy.deepcopy(model).double()), images(2)
    with torch.no_grad():
        plain = model(x)
        with recorded(model):
            torch.testing.assert_close(model(x), plain, rtol=1e-9, atol=1e-12)
    layers = {name: module for name, module in modules_with_parameters(model).items() if is_layer(module)}
    altered = {}

    def hook(module: nn.Module, args: tuple, output: Tensor, name: str, seed: int) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=output.dtype)
        altered[name] = output + 0.1 * noise
        return altered[name]

    for seed, (name, module) in enumerate(layers.items()):
        module.register_forward_hook(functools.partial(hook, name=name, seed=seed))
    features = model.forward_features(x)  # the class token alone sees no convolution of the last block
    logits = model.forward_head(features)
    ignored = {name for name in layers if name not in altered and exempt(model, name, calls=0) is None}
    assert ignored == set()
    learning = {name: y for name, y in altered.items() if CHOOSING not in name}
    gradients = torch.autograd.grad(
        [(t * torch.randn_like(t)).sum() for t in (features, logits)], list(learning.values()), allow_unused=True)
    assert {name for name, g in zip(learning, gradients) if g is None or not g.any()} == set()
    assert not torch.allclose(logits, plain, rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), logits.detach(), rtol=1e-9, atol=1e-12)


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
