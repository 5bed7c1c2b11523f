"""The network around TiC's convolution: what its blocks compute, and where it halves the map."""
import pytest
import timm
import torch

import zoo  # noqa: F401  # registers the models
from tests.models.weights import scatter
from zoo.blocks.gates import MSAConv


@torch.no_grad()
def test_blocks_are_convolutions_behind_a_norm():
    model = scatter(timm.create_model('tic_small', num_classes=5, depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32)))
    x = torch.randn(2, 9, 7, 16)
    [block], narrow = model.stages[1].blocks, model.stages[2].downsample
    conv = MSAConv(16, 16).eval()
    conv.load_state_dict(block.conv.state_dict())
    torch.testing.assert_close(block(x), x + conv(block.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    assert narrow(x).shape == (2, 5, 4, 24) and narrow(x).min() == 0
    assert [m.conv.conv.stride for m in model.modules() if hasattr(m, 'conv') and isinstance(m.conv, MSAConv)] == [
        (1, 1), *[(2, 2), (1, 1)] * 3]


@pytest.mark.parametrize('size', [(64, 64), (97, 131)])
@torch.no_grad()
def test_maps_halve_rounding_up(size):
    model = timm.create_model('tic_small', features_only=True, depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32))
    sides = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)]
    assert [tuple(x.shape[2:]) for x in model(torch.randn(1, 3, *size))] == sides
