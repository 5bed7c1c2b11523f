"""BiFormer: regions for dense prediction, and its two forms."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests import goldens
from zoo.blocks.mixers import RoutedAttention


@torch.no_grad()
def test_dense_models_have_norms_and_regions_of_their_own():
    torch.manual_seed(0)
    options = dict(depths=(1, 1, 1, 1), mixer_kwargs=dict(n_win=16))
    model = timm.create_model('biformer_tiny', feature_norms=True, **options).eval()
    assert isinstance(model.norm, torch.nn.Identity)
    assert {m.n_win for m in model.modules() if isinstance(m, RoutedAttention)} == {16}
    for norm in model.feature_norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x = torch.randn(1, 3, 100, 132)
    plain = timm.create_model('biformer_tiny', **options).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if 'feature_norms' not in k}, strict=False)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [tuple(y.shape) for y in maps] == [(1, 64, 25, 33), (1, 128, 13, 17), (1, 256, 7, 9), (1, 512, 4, 5)]
    for norm, y, raw in zip(model.feature_norms, maps, plain.forward_intermediates(x, intermediates_only=True)):
        want = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2], norm.weight, norm.bias, eps=1e-6)
        torch.testing.assert_close(y, want.permute(0, 3, 1, 2))


def test_checkpoints_of_the_other_form_are_refused():
    state = goldens.reference_state(goldens.load('biformer_stl@224'), torch.float32)
    with pytest.raises(ValueError, match='does not fit biformer_tiny'):
        timm.create_model('biformer_tiny', pretrained=True, pretrained_cfg_overlay=dict(state_dict=state))
