"""Feature maps of the families' own hosts."""
import timm
import torch

from tests.zoo_models import shallow


@torch.no_grad()
def test_maps_are_normed():
    """The LayerNorm behind each stage is part of the stage, in the maps handed out as in the path to the next."""
    model = timm.create_model('van_b0', depths=(1, 1, 1, 1)).eval()
    for x in model.forward_intermediates(torch.randn(1, 3, 64, 96), intermediates_only=True):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_maps_for_dense_prediction_are_normed():
    """The reference's detection backbone hands out the maps behind the norms of the stages."""
    model = timm.create_model('smt_tiny', features_only=True, depths=(1, 1, 2, 1)).eval()
    for x in model(torch.randn(1, 3, 64, 96)):
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_maps_for_dense_prediction_are_not_normed():
    torch.manual_seed(0)
    model = timm.create_model('efficientmod_xxs', **shallow('efficientmod_xxs')).eval()
    model.norm.bias.fill_(5.)
    last, maps = model.forward_intermediates(torch.randn(1, 3, 64, 96))
    torch.testing.assert_close(last, model.norm(maps[3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert abs(float(last.mean()) - 5) < 1e-3 and abs(float(maps[3].mean())) < 0.5
    assert [m.shape[1:] for m in maps] == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
