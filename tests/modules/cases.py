"""The smallest models of all families and hosts, and hybrids of all mixers, for tests of what every module must do."""
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import zoo
from tests.zoo_models import every_smallest_model, narrow, small
from zoo.blocks.mixers import list_mixers

HYBRIDS = [
    *(('pvt_v2_b0', mixer) for mixer in list_mixers()),
    *(('vit_tiny', mixer) for mixer in list_mixers(class_token=True)),
]
ONE = 'pvt_v2_b0', 'agent'  # attention with a table of biases, convolutions, batch norms: small
TRAINING_ONLY = 'aux_head.'  # parameters that have no part in eval mode


def every_case(few: bool = False) -> list:
    """pytest parameters for :func:`create`.

    Args:
        few: Have only the hybrids of one host in `make test`, and all else under the mark ``slow``.
    """
    cases = [*every_smallest_model(), *(pytest.param(pair, id='-'.join(pair)) for pair in HYBRIDS)]
    if not few:
        return cases
    quick = [pair for pair in HYBRIDS if pair[0] == HYBRIDS[0][0]]
    return [
        case if case.values[0] in quick else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
        for case in cases]


def one_case_or_all() -> list:
    """pytest parameters for :func:`create`: one hybrid in `make test`, all smallest models as ``full``."""
    names = [pytest.param(*case.values, marks=pytest.mark.full) for case in every_smallest_model()]
    return [pytest.param(ONE, id='-'.join(ONE)), *names]


def create(case: str | tuple[str, str], **kwargs: Any) -> nn.Module:
    """In eval mode with 10 classes and a block or two per stage: a model by name, or a hybrid by host and mixer."""
    torch.manual_seed(0)
    if isinstance(case, str):
        return timm.create_model(case, num_classes=10, **small(case), **kwargs).eval()
    host, mixer = case
    return zoo.create_hybrid(host, mixer, num_classes=10, **narrow(host), **kwargs).eval()


@torch.no_grad()
def alive(model: nn.Module) -> nn.Module:
    """A float64 model in eval mode of which every layer has its say in the output.

    Parameters get noise, since some start at zero, which hides what comes before them; batch norms the statistics of a
    batch, without which a narrow ReLU may let nothing through. The mean of the tokens is classified, since what the
    last block makes of other tokens does not reach a class token.
    """
    if model.global_pool == 'token':
        model.reset_classifier(model.num_classes, 'avg')
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
    """:func:`create` in float64, :func:`alive`."""
    return alive(create(case).double())


def images(count: int, size: int = 64) -> Tensor:
    """Random images ``[count, 3, size, size]``, float64; from 64 pixels the last maps have several places."""
    return torch.randn(count, 3, size, size, dtype=torch.float64)
