"""Checkpoints of the papers' own code load: for other classes, channels and sizes, as feature networks, never by half.

The state dicts are those behind the goldens of the smallest models, in the names and shapes of the reference; that the
weights arrive where they belong is what ``tests/test_goldens.py`` proves.
"""
import inspect
import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests import goldens
from tests.models import families
from tests.models.weights import loaded
from zoo.registry import family_table
from zoo.weights.convert import classifier_names

SIZE = 96, 160
NORMED_IMAGES = 'vidat_'  # prefix of models with a norm before the first convolution, which becomes part of it


class Case(NamedTuple):
    """The model of a golden, the reference's state dict, and the model with these weights."""

    name: str
    state: dict[str, Tensor]
    whole: nn.Module

    def load(self, state: dict[str, Tensor] | None = None, **kwargs: Any) -> nn.Module:
        """A model with these weights, or other ones."""
        return load(self.name, self.state if state is None else state, **kwargs)

    def takes(self, argument: str) -> bool:
        """Whether the host has an argument of this name."""
        return argument in inspect.signature(family_table(self.name).host).parameters


def load(name, state, **kwargs):
    """In eval mode; what a checkpoint overwrites is not initialised first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('zoo.backbone.init_layer', lambda *args: None)
        return loaded(name, state, **kwargs)


@pytest.fixture(scope='module', params=filter(None, map(families.smallest_golden, families.NAMES)))
def case(request):
    """Each family once."""
    golden = goldens.load(request.param)
    state = goldens.reference_state(golden, torch.float32)
    return Case(golden['name'], state, load(golden['name'], state))


def check_kept(model, whole, new):
    """That a model has the weights of another, but for new ones and tables of another size."""
    own, kept = model.state_dict(), whole.state_dict()
    assert set(own) <= {*kept, *new}
    for key in own.keys() - new:
        assert own[key].shape != kept[key].shape or torch.equal(own[key], kept[key]), key


@torch.no_grad()
def test_other_classes_channels_and_size(case):
    """The classifier is new, the first convolutions summed over their channels; all else is the checkpoint's."""
    sized = dict(img_size=SIZE) if case.takes('img_size') else {}
    model = case.load(num_classes=10, in_chans=1, **sized)
    convs = model.pretrained_cfg['first_conv']
    convs = [convs] if isinstance(convs, str) else convs
    classifiers = {f'{name}.{kind}' for name in classifier_names(model) for kind in ('weight', 'bias')}
    normed = case.name.startswith(NORMED_IMAGES)
    first = {f'{name}.{kind}' for name in convs for kind in (('weight', 'bias') if normed else ('weight',))}
    for key in () if normed else first:
        torch.testing.assert_close(model.get_parameter(key), case.whole.get_parameter(key).sum(1, keepdim=True))
    check_kept(model, case.whole, first | classifiers)
    assert all(model.get_parameter(name).shape[0] == 10 for name in classifiers)
    x = torch.randn(1, 1, *SIZE)
    want = case.whole.forward_features(x.expand(-1, 3, -1, -1))  # which resamples its tables on the fly
    torch.testing.assert_close(model.forward_features(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@torch.no_grad()
def test_feature_maps(case):
    x = torch.randn(1, 3, *SIZE)
    maps = case.load(features_only=True)(x)
    plain = case.whole.forward_intermediates(x, indices=len(maps), intermediates_only=True)
    assert all(map(torch.equal, maps, plain))
    if not case.takes('feature_norms'):
        return
    model = case.load(features_only=True, feature_norms=True).model  # for dense prediction: norms start anew
    check_kept(model, case.whole, {key for key in model.state_dict() if key.startswith('feature_norms.')})
    for norm in model.feature_norms.modules():
        if isinstance(norm, (nn.LayerNorm, nn.BatchNorm2d)):
            assert (norm.weight == 1).all() and (norm.bias == 0).all()
    if not model.inner_norms:
        normed = model.forward_intermediates(x, indices=len(plain), intermediates_only=True)
        for norm, raw, y in zip(list(model.feature_norms)[-len(plain):], plain, normed):
            torch.testing.assert_close(y, norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    state = model.state_dict()
    del state['feature_norms.2.norm.bias' if 'feature_norms.2.norm.bias' in state else 'feature_norms.2.bias']
    with pytest.raises(ValueError, match=r'feature_norms\.2\.\S*bias is missing'):
        case.load(features_only=True, feature_norms=True, state=state)


def test_checkpoints_that_lack_a_weight_are_refused(case):
    """By our name for it, or that of the reference where ours is made of several."""
    weights = [key for key, value in case.state.items() if value.ndim > 1]
    lost = weights[len(weights) // 2]
    with pytest.raises(ValueError, match=rf'does not fit {case.name}: (\S+) is missing') as caught:
        case.load(state={key: value for key, value in case.state.items() if key != lost})
    named = re.search(r': (\S+) is missing', str(caught.value))[1]
    assert named in case.whole.state_dict() or named == lost
