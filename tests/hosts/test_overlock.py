"""OverLoCK as a whole: both forms, maps, layers' learning rates."""
import pytest
import timm
import torch

from tests.models.weights import scatter
from tests.zoo_models import shallow
from zoo.models.overlock.family import Overview


def small(name='overlock_xt', **kwargs):
    return timm.create_model(name, **shallow(name), **kwargs)


@torch.no_grad()
def test_reparameterize():
    model = scatter(small(num_classes=10).double())
    single = small('overlock_xt_reparam', num_classes=10).double().eval()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    want = model(x)
    model.reparameterize()
    torch.testing.assert_close(model(x), want, rtol=1e-12, atol=1e-12 * float(want.abs().max()))
    single.load_state_dict(model.state_dict())
    assert torch.equal(single(x), model(x))


@torch.no_grad()
def test_maps_for_dense_prediction():
    """The base net goes on with the normed map of stage 2; the overview is added to the last map."""
    model = scatter(small(feature_norms=True).double())
    maps = model.forward_intermediates(
        torch.randn(1, 3, 96, 64, dtype=torch.float64), intermediates_only=True, output_fmt='NHWC')
    found = Overview()
    x = model.stages[2](maps[1], found)
    norms = model.feature_norms
    torch.testing.assert_close(maps[2], norms[2](x))
    last = norms[3]
    overview = last.scale.weight * last.proj(last.overview_norm(found.overview)) + last.scale.bias
    torch.testing.assert_close(maps[3], last.norm(model.stages[3](x, found)) + overview)
    assert model.aux_head is None


def test_weights_of_a_classifier_start_a_dense_model():
    """Norms of maps start anew; so do other classes of both heads."""
    def load(**kwargs):
        return small(pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()), **kwargs)

    torch.manual_seed(0)
    source = small()
    torch.nn.init.normal_(source.aux_head.norm.weight)
    dense = load(features_only=True, feature_norms=True).model
    for model in (dense, load(feature_norms=True, num_classes=0), load(num_classes=0)):
        assert model.aux_head is None
        assert torch.equal(model.stages[3].blocks[0].proj.weight, source.stages[3].blocks[0].proj.weight)
    other = load(num_classes=5)
    assert other.aux_head.fc.weight.shape == (5, 336) and other.head.fc.weight.shape == (5, 1024)
    assert torch.equal(other.aux_head.norm.weight, source.aux_head.norm.weight)
    with pytest.raises(ValueError, match=r'does not fit overlock_xt_reparam: .*Load it into the model that it was'):
        small('overlock_xt_reparam', pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()))


def test_learning_rates_by_layer_go_from_base_to_overview_to_focus():
    from timm.models._manipulate import group_parameters

    model = timm.create_model('overlock_xt', device='meta')
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    order = [groups[f'stages.2.{name}.weight'] for name in (
        'blocks.2.conv', 'overview_downsample.conv', 'blocks.3.conv', 'blocks.4.conv', 'context', 'blocks.5.conv1')]
    first = order[0]
    assert [layer - first for layer in order] == [0, 1, 1, 2, 3, 3]  # ways down and projection with their first block
