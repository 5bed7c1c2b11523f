"""timm's ways to feature maps give the same ones; torch.fx and TorchScript record a model rightly or say what does."""
import pytest
import torch
from torch import Tensor, nn

from tests.modules.cases import create, one_case_or_all
from zoo.backbone import Backbone
from zoo.blocks.gates import GATES, GateContext
from zoo.utils.errors import ZooError

INSTEAD = 'use torch.export for a graph, features_only=True of timm.create_model for feature maps'


@pytest.fixture(scope='module', params=one_case_or_all())
def case(request):
    """What :func:`create` makes a model of."""
    return request.param


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 96)


def check(record, module: nn.Module, x: Tensor, recorder: str, must_fail: bool) -> None:
    """That a recorder gives a module of the same output, or our error."""
    try:
        recorded = record(module)
    except ZooError as error:
        assert str(error).startswith(recorder) and str(error).endswith(INSTEAD) and '\n' not in str(error)
    else:
        assert not must_fail
        torch.testing.assert_close(recorded(x), module(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('feature_cls', ['getter', 'hook', 'list', 'dict'])
def test_feature_maps(case, images, feature_cls):
    """Equal bits, by index in a dict."""
    plain = create(case, features_only=True)
    torch.manual_seed(0)
    model = create(case, features_only=True, feature_cls=feature_cls)
    maps, expected = model(images), plain(images)
    if feature_cls == 'dict':
        assert list(maps) == [str(i) for i in plain.feature_info.out_indices]
        maps = list(maps.values())
    assert len(maps) == len(expected) and all(map(torch.equal, maps, expected))
    assert [y.shape[1] for y in maps] == model.feature_info.channels() == plain.feature_info.channels()
    last = tuple(plain.feature_info.out_indices[-2:])
    model = create(case, features_only=True, feature_cls=feature_cls, out_indices=last)
    maps = model(images)
    assert list(maps) == list(map(str, last)) if feature_cls == 'dict' else len(maps) == 2


@torch.no_grad()
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_whole_models(case, images):
    model = create(case)
    ours = isinstance(model, Backbone)
    check(torch.fx.symbolic_trace, model, images, 'torch.fx cannot trace ', ours)
    check(torch.jit.script, model, images, 'TorchScript cannot compile ', ours)
    check(torch.jit.script, nn.Sequential(model), images, 'TorchScript cannot compile ', ours)
    check(lambda module: create(case, scriptable=True), model, images, 'TorchScript cannot compile ', ours)
    if ours:
        with pytest.raises(ZooError, match=r'^torch\.fx cannot trace .* features_only=True'):
            create(case, features_only=True, feature_cls='fx')
    traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('name', GATES)
def test_gates(name):
    gate = GATES[name].from_context(GateContext(0, 0, 64, 2)).eval()
    x = torch.randn(2, 64, 8, 9)
    check(torch.fx.symbolic_trace, gate, x, 'torch.fx cannot trace ', False)
    check(torch.jit.script, gate, x, 'TorchScript cannot compile ', False)
