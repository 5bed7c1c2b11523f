"""The smallest models of all families and hosts, and hybrids of all mixers, for tests of what every module must do."""
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from tests.modules.module_calls import tensors
from tests.zoo_models import every_smallest_model, narrow, small
from zoo.blocks.mixers import QuadrangleAttention, list_mixers

HYBRIDS = [
    *(('pvt_v2_b0', mixer) for mixer in list_mixers()),
    *(('vit_tiny', mixer) for mixer in list_mixers(class_token=True)),
]
ONE = 'pvt_v2_b0', 'agent'  # attention with a table of biases, convolutions, batch norms: small
TRAINING_ONLY = 'aux_head.'  # parameters that have no part in eval mode
CHOOSING = '.predictor.'  # parameters whose part is a choice, which has no gradient (Sparsifiner)


def every_case(turn: int | None = None) -> list:
    """pytest parameters for :func:`create`.

    Args:
        turn: 0 or 1: `make test` has every second hybrid of one host, from this one on; all else is marked ``slow``.
    """
    cases = [*every_smallest_model(), *(pytest.param(pair, id='-'.join(pair)) for pair in HYBRIDS)]
    if turn is None:
        return cases
    quick = [pair for pair in HYBRIDS if pair[0] == HYBRIDS[0][0]][turn::2]
    return [
        case if case.values[0] in quick else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
        for case in cases]


def one_case_or_all() -> list:
    """pytest parameters for :func:`create`: one hybrid in `make test`, all smallest models as ``full``."""
    names = [pytest.param(*case.values, marks=pytest.mark.full) for case in every_smallest_model()]
    return [pytest.param(ONE, id='-'.join(ONE)), *names]


def create(case: str | tuple[str, str], seed: int = 0, **kwargs: Any) -> nn.Module:
    """In eval mode with 10 classes and a block or two per stage: a model by name, or a hybrid by host and mixer."""
    torch.manual_seed(seed)
    if isinstance(case, str):
        return decided(timm.create_model(case, num_classes=10, **small(case), **kwargs).eval())
    host, mixer = case
    return decided(zoo.create_hybrid(host, mixer, num_classes=10, **narrow(host), **kwargs).eval())


def decided(model: nn.Module) -> nn.Module:
    """With clear choices: an untrained predictor's are toss-ups, which another order of summation turns."""
    for name, p in model.named_parameters():
        if CHOOSING in name and p.ndim > 1:
            nn.init.normal_(p, std=0.03 if '.basis.' in name else 0.3)
    return model


def moved(t: Tensor, counts: tuple[int, int]) -> Tensor:
    """In place of what leaves a window alone that covers the map."""
    return t


@torch.no_grad()
def alive(model: nn.Module) -> nn.Module:
    """A float64 model in eval mode of which every layer has its say in the output.

    Parameters get noise, since some start at zero, which hides what comes before them; batch norms the statistics of a
    batch, without which a narrow ReLU may let nothing through. Windows that cover the map are moved, too. The mean of
    the tokens is classified, since what the last block makes of other tokens does not reach a class token.
    """
    if model.global_pool == 'token':
        model.reset_classifier(model.num_classes, 'avg')
    for module in model.modules():
        if isinstance(module, QuadrangleAttention):
            module._unless_alone = moved
    for p in model.parameters():
        p += 0.02 * torch.randn_like(p)
    norms = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
    if norms:
        for norm in norms:
            norm.momentum = 1.
        model.train()(images(4))
        for norm, momentum in norms.items():
            norm.momentum = momentum
    return model.eval()


def exact(case: str | tuple[str, str]) -> nn.Module:
    """:func:`create` in float64, :func:`alive`, by the first seed for which no narrow ReLU stops all gradients.

    Random numbers of a seed are not the same on all processors.
    """
    for seed in range(10):
        model = alive(create(case, seed).double())
        if not any(without_gradient(model, images(1)) for _ in range(4)):
            break
    model.zero_grad()
    return model


def without_gradient(model: nn.Module, x: Tensor, pattern: str = '') -> set[str]:
    """Names with ``pattern`` of parameters that a backward pass does not reach; gradients are cleared first.

    An auxiliary classifier is reached in training alone, and its gradients are 0 as long as its loss is not asked for.
    So are those of what chooses.
    """
    model.zero_grad()
    sum(y.square().sum() for y in tensors(model(x))).backward()
    return {
        name for name, p in model.named_parameters() if pattern in name and (p.grad is None or not p.grad.any())
        and not (TRAINING_ONLY in name and (p.grad is not None or not model.training))
        and not (CHOOSING in name and p.grad is not None)}


def images(count: int, size: int = 64) -> Tensor:
    """Random images ``[count, 3, size, size]``, float64; from 64 pixels the last maps have several places."""
    return torch.randn(count, 3, size, size, dtype=torch.float64)
