"""LITv2: rates of the offsets, windows for dense prediction."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests import goldens
from tests.models.weights import loaded, scatter
from zoo.train import build, options
from zoo.train.option_schema import TRAIN


def test_rates_of_the_offsets():
    """As the reference's schedule, which starts and ends everywhere at the same rates: a hundredth at most."""
    model = timm.create_model('litv2_s', device='meta')
    args = options.merge(TRAIN, options.read_config(options.config_path('litv2_s'), TRAIN))
    rates = build.learning_rates(args, world_size=8)
    optimizer = build.make_optimizer(args, model, rates['lr'])
    schedule, _ = build.make_schedule(args, optimizer, 10, rates)
    for epoch, fast, slow in ((0, 1e-6, 1e-6), (10, 5.005e-4, 5.5e-6), (150, 5.05e-4, 1e-5), (300, 1e-5, 1e-5)):
        schedule.step_update(10 * epoch)
        found = [group['lr'] for group in optimizer.param_groups]
        assert (max(found), min(found)) == pytest.approx((fast, slow)), epoch


@torch.no_grad()
def test_classifier_weights_start_a_backbone_for_dense_prediction():
    """Norms of maps 2 to 4 start anew, the first map has none; windows are arguments and have no weights."""
    torch.manual_seed(1)
    source = scatter(timm.create_model('litv2_s_alpha05', depths=(1, 1, 2, 1)))
    x = torch.randn(1, 3, 97, 70)

    def load(**kwargs):
        state = source.state_dict()
        return loaded('litv2_s_alpha05', state, features_only=True, depths=(1, 1, 2, 1), **kwargs)

    plain, dense = load()(x), load(feature_norms=True)(x)
    assert [tuple(t.shape[2:]) for t in dense] == source.grids((97, 70)) == [(25, 18), (12, 9), (6, 4), (3, 2)]
    torch.testing.assert_close(dense[0], plain[0])
    for want, got in zip(plain[1:], dense[1:]):
        want = F.layer_norm(want.permute(0, 2, 3, 1), want.shape[1:2])
        torch.testing.assert_close(got, want.permute(0, 3, 1, 2))
    wide = load(window_sizes=(None, None, 4, 1)).model
    assert {block.mixer.window for block in wide.stages[2].blocks} == {4}
    assert not torch.allclose(wide.forward_features(x), source.forward_features(x))


def test_checkpoint_of_another_share_is_refused():
    state = goldens.reference_state(goldens.load('litv2_s_alpha05@224'), torch.float32)
    with pytest.raises(ValueError, match=r'stages\.2\.blocks\.0\.mixer\.low_q\.weight is \[192, 384\]'):
        loaded('litv2_s', state)
