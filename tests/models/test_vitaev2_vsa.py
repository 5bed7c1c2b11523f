"""ViTAEv2-VSA: stochastic depth as the authors' code hands it out, and cells of maps with odd sides."""
import pytest
import timm
import torch
import torch.nn.functional as F

from zoo.models.vitaev2_vsa import NormalCell, ReductionCell


@pytest.mark.parametrize(('name', 'depths', 'last'), [
    ('vitaev2_vsa_small', (2, 2, 8, 2), 0.1), ('vitaev2_vsa_48m', (2, 2, 11, 2), 0.25)])
def test_stochastic_depth_begins_anew_in_each_stage(name, depths, last):
    """At the place in the sequence of all rates that is the depth of the stage before."""
    model = timm.create_model(name, drop_path_rate=last, device='meta')
    rates = torch.linspace(0, last, sum(depths)).tolist()
    found = [[cell.drop_path1.drop_prob for cell in stage.blocks] for stage in model.stages]
    starts = 0, *depths[:-1]
    assert found == [pytest.approx(rates[start:start + depth]) for start, depth in zip(starts, depths)]
    cells = [cell for cell in model.modules() if isinstance(cell, NormalCell)]
    assert all(cell.drop_path1.drop_prob == cell.drop_path2.drop_prob == cell.drop_path3.drop_prob for cell in cells)


@pytest.mark.parametrize(('stage', 'stride'), [(0, 4), (1, 2)])
def test_maps_are_padded_to_the_stride(stage, stride):
    cell = ReductionCell(stage, 16, 32, 16, 2, 16).eval()
    x = torch.randn(2, 13, 9, 16)
    y = cell(x)
    assert y.shape == (2, -(-13 // stride), -(-9 // stride), 32)
    torch.testing.assert_close(y, cell(F.pad(x, (0, 0, 0, -9 % stride, 0, -13 % stride))))
