"""Agent attention: its biases as in the dense-prediction code, its pooling, tables of other sizes."""
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from tests import goldens
from tests.models.weights import loaded
from zoo.blocks.mixers import agent


def reference_bias(square, ah, aw, grid, stored, agents):
    """The bias of the dense-prediction code: over the map first, then over the grid of agents; rows plus columns."""
    heads = square.shape[0]

    def resize(table):
        table = F.interpolate(table, size=grid, mode='bilinear')
        table = table.reshape(heads, stored, stored, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(agents, agents), mode='bilinear')
        return table.flatten(2).permute(0, 2, 1)

    return resize(square) + resize((ah + aw).squeeze(0))


@pytest.mark.parametrize('grid', [(14, 14), (9, 21), (1, 1)])
@pytest.mark.parametrize('agents', [3, 5])
@torch.no_grad()
def test_biases_are_resized_as_in_dense_prediction(grid, agents):
    bias = agent.AgentBias(2, 3, (14, 14), num_prefix_tokens=1).double()
    rows, columns = bias.rows.weight[None, :, :, :, None], bias.columns.weight[None, :, :, None, :]
    want = reference_bias(bias.square, rows, columns, grid, 3, agents)
    got = bias(grid, agents)
    torch.testing.assert_close(got[:, :, 1:], want, rtol=1e-12, atol=1e-14)
    token = F.interpolate(bias.prefix.view(2, 1, 3, 3), size=(agents, agents), mode='bilinear').view(2, -1)
    torch.testing.assert_close(got[:, :, 0], token, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('grid', [(14, 14), (9, 20), (5, 1)])
@pytest.mark.parametrize('side', [1, 3, 7])
def test_pooling_that_is_recorded_for_all_sizes(grid, side):
    """Divided, overlapping and repeated cells."""
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    want = agent.pool_to_grid(x, side)
    with mock.patch.object(agent, 'exporting', return_value=True):
        torch.testing.assert_close(agent.pool_to_grid(x, side), want, rtol=1e-12, atol=1e-14)
    assert want.shape == (2, side ** 2, 6)


def linear(table, length):
    return F.interpolate(table, size=length, mode='linear')


@pytest.mark.parametrize('name, size, block, ours, grid', [
    ('agent_pvt_tiny', (160, 288), 'block1.1.attn.', 'stages.0.blocks.1', (40, 72)),
    ('agent_deit_tiny', (160, 288), 'blocks.7.attn.', 'stages.7.blocks.0', (10, 18)),
    ('agent_swin_tiny', 288, 'layers.2.blocks.5.attn.', 'stages.2.blocks.5', (18, 18)),
    ('agent_cswin_tiny', 288, 'stage2.3.attns.0.', 'stages.1.blocks.3', (36, 36)),
])
def test_tables_of_a_checkpoint_are_resampled(name, size, block, ours, grid):
    """Rows and columns are resampled linearly, the 7 x 7 maps stay (utils.py, load_pretrained)."""
    state = goldens.reference_state(goldens.load(f'{name}@224'), torch.float32)
    model = loaded(name, state, img_size=size)
    mixer = model.get_submodule(ours).mixer
    at, aq = mixer.agent_bias, mixer.query_bias
    assert torch.equal(at.square, state[block + 'an_bias']) and torch.equal(aq.square, state[block + 'na_bias'])
    torch.testing.assert_close(at.rows.weight, linear(state[block + 'ah_bias'][0, ..., 0], grid[0]))
    torch.testing.assert_close(at.columns.weight, linear(state[block + 'aw_bias'][0, ..., 0, :], grid[1]))
    torch.testing.assert_close(aq.rows.weight, linear(state[block + 'ha_bias'][0, :, :, 0].mT, grid[0]))
    torch.testing.assert_close(aq.columns.weight, linear(state[block + 'wa_bias'][0, :, 0].mT, grid[1]))
    if 'deit' in name:
        assert torch.equal(at.prefix, state[block + 'ac_bias'][0]) and torch.equal(
            aq.prefix, state[block + 'ca_bias'][0].mT)
        position = state['pos_embed']
        assert torch.equal(model.stem.cls_pos, position[:, :1])
        square = position[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
        want = F.interpolate(square, size=grid, mode='bicubic').permute(0, 2, 3, 1)
        torch.testing.assert_close(model.stem.pos_embed.weight, want)
    resized = loaded(name, state)
    resized.set_input_size(size)
    again = resized.get_submodule(ours).mixer
    torch.testing.assert_close(again.agent_bias.rows.weight, at.rows.weight)
    torch.testing.assert_close(again.query_bias.columns.weight, aq.columns.weight)
