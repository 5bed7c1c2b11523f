"""Agent Attention: initialisation, decay, where the agents are, and their biases as in the reference @ 207ce3e."""
import math
import re
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F

import zoo
from tests import goldens
from tests.models.rules import check_initial, decay_groups
from zoo.blocks.mixers import AgentAttention, SoftmaxAttention, StripeAttention, WindowAttention, agent

HOSTS = ['agent_deit_tiny', 'agent_pvt_tiny', 'agent_swin_tiny', 'agent_cswin_tiny']


@pytest.mark.parametrize('name', HOSTS)
def test_initialisation(name):
    torch.manual_seed(0)
    model = timm.create_model(name)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|reduction|head\.fc)\.weight$', 0.02)  # trunc_normal_(std=.02)
    check_initial(model, r'(qkv|mixer\.proj|fc1|fc2|head\.fc)\.bias$', 0)
    check_initial(model, r'norm\d?\.weight$', 0, mean=1)
    check_initial(model, r'norm\d?\.bias$', 0)
    for part in ('square', r'rows\.weight', r'columns\.weight'):
        check_initial(model, rf'agent_bias\.{part}$', 0.02)
        check_initial(model, rf'query_bias\.{part}$', 0.02)
    if 'deit' in name:
        check_initial(model, r'(agent|query)_bias\.prefix$', 0.02)
        check_initial(model, r'stem\.(cls_token|cls_pos|pos_embed\.weight)$', 0.02)
    if '_pvt_' in name:
        check_initial(model, r'pos_embed\.weight$', 0.02)
    if '_swin_' in name:
        check_initial(model, r'rel_pos\.table$', 0.02)
    check_initial(model, r'(dwc|lepe)\.weight$', 1 / math.sqrt(3 * 9))  # torch's default, uniform
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1:
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.08), key


@pytest.mark.parametrize('name', HOSTS)
def test_weight_decay_groups(name):
    """No decay: 1-d parameters, biases of layers, Swin's tables, DeiT's tokens and positions. Agents' are decayed."""
    model = timm.create_model(name, device='meta')
    free, decayed = decay_groups(model)
    kept = ('.bias', 'rel_pos.table', 'cls_token', 'cls_pos', 'stem.pos_embed.weight')
    assert free == {n for n, p in model.named_parameters() if p.ndim == 1 or n.endswith(kept)}
    biases = {n for n, _ in model.named_parameters() if re.search('(agent|query)_bias', n)}
    assert biases and biases <= decayed
    if '_pvt_' in name:
        assert 'stages.0.pos_embed.weight' in decayed


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models."""
    millions = {
        'agent_deit_tiny': 6.016, 'agent_deit_small': 22.647, 'agent_deit_base': 87.205, 'agent_pvt_tiny': 11.570,
        'agent_pvt_small': 20.635, 'agent_pvt_medium': 35.922, 'agent_pvt_large': 48.738, 'agent_swin_tiny': 28.903,
        'agent_swin_small': 49.667, 'agent_swin_base': 88.095, 'agent_cswin_tiny': 20.459,
        'agent_cswin_small': 32.814, 'agent_cswin_base': 73.250, 'agent_deit_small.in1k_448': 23.070,
        'agent_pvt_medium.in1k_256': 36.084, 'agent_swin_small.in1k_288': 49.708, 'agent_swin_base.in1k_384': 88.305,
        'agent_cswin_base.in1k_384': 73.328}
    assert {name for name in millions if '.' not in name} == set(zoo.list_models('agent_*'))
    for name, want in millions.items():
        params = sum(p.numel() for p in timm.create_model(name, device='meta').parameters())
        assert params / 1e6 == pytest.approx(want, abs=0.0006), name


def test_where_the_agents_are():
    letters = {AgentAttention: 'A', WindowAttention: 'B', StripeAttention: 'B', SoftmaxAttention: 'B'}

    def layout(name):
        model = timm.create_model(name, device='meta')
        return [''.join(letters[type(block.mixer)] for block in stage.blocks) for stage in model.stages]

    assert layout('agent_swin_tiny') == ['AA', 'AA', 'A' * 6, 'BB']
    assert layout('agent_swin_small') == ['AA', 'AA', 'B' * 18, 'BB']
    assert layout('agent_swin_base') == ['AA', 'AA', 'AA' + 'B' * 16, 'BB']
    assert layout('agent_cswin_small') == ['AAA', 'A' * 6, 'B' * 29, 'BB']
    assert layout('agent_deit_small') == ['A'] * 12
    assert layout('agent_deit_base') == ['A'] * 4 + ['B'] * 8


def test_numbers_of_agents():
    def sides(name, **kwargs):
        model = timm.create_model(name, device='meta', **kwargs)
        mixers = [stage.blocks[0].mixer for stage in model.stages]
        return [(m.agent_bias.stored, m.agents) for m in mixers if isinstance(m, AgentAttention)]

    assert sides('agent_pvt_tiny') == [(3, 3), (4, 4), (7, 7), (7, 7)]
    assert sides('agent_deit_tiny') == [(7, 7)] * 12
    assert sides('agent_deit_base') == [(9, 9)] * 4
    assert sides('agent_pvt_tiny', mixer_kwargs=dict(agents=[12, 16, 28, 28])) == [(3, 12), (4, 16), (7, 28), (7, 28)]
    assert sides('agent_swin_tiny', mixer_kwargs=dict(agents=(9, 12, 14, 7))) == [(3, 9), (4, 12), (7, 14)]
    assert sides('agent_deit_base', mixer_kwargs=dict(agents=14)) == [(9, 14)] * 4


@pytest.mark.parametrize('img_size, window', [(96, 7), (224, 7), (288, 9), (384, 12), ((256, 384), 12)])
def test_windows_follow_the_image_size(img_size, window):
    model = timm.create_model('agent_swin_base', device='meta', img_size=img_size)
    mixers = [block.mixer for block in model.stages[2].blocks[2:]]
    assert {m.window for m in mixers} == {window}
    assert [m.shift for m in mixers] == [False, True] * 8  # parity counts from the first block of the stage


def test_size_bound_weights_have_their_own_tag():
    model = timm.create_model('agent_swin_small.in1k_288', device='meta')
    assert model.pretrained_cfg['input_size'] == (3, 288, 288) and model.pretrained_cfg['fixed_input_size']
    assert model.pretrained_cfg['crop_pct'] == 1.0 and model.pretrained_cfg['crop_mode'] == 'squash'
    assert model.stages[0].blocks[0].mixer.agent_bias.rows.weight.shape == (3, 9, 72)
    assert timm.create_model('agent_deit_small.in1k_448', device='meta').pretrained_cfg['crop_pct'] == 0.875


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


def load_at(name, golden, path, **kwargs):
    state = goldens.reference_state(goldens.load(golden), torch.float32)
    torch.save({'model': state}, path)
    return state, timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


def linear(table, length):
    return F.interpolate(table, size=length, mode='linear')


@pytest.mark.parametrize('name, size, block, ours, grid', [
    ('agent_pvt_tiny', (160, 288), 'block1.1.attn.', 'stages.0.blocks.1', (40, 72)),
    ('agent_deit_tiny', (160, 288), 'blocks.7.attn.', 'stages.7.blocks.0', (10, 18)),
    ('agent_swin_tiny', 288, 'layers.2.blocks.5.attn.', 'stages.2.blocks.5', (18, 18)),
    ('agent_cswin_tiny', 288, 'stage2.3.attns.0.', 'stages.1.blocks.3', (36, 36)),
])
def test_checkpoint_of_another_size(name, size, block, ours, grid, tmp_path):
    """Rows and columns are resampled linearly, the 7 x 7 maps stay (utils.py, load_pretrained)."""
    state, model = load_at(name, f'{name}@224', tmp_path / 'a.pth', img_size=size)
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
    resized = load_at(name, f'{name}@224', tmp_path / 'a.pth')[1]
    resized.set_input_size(size)
    again = resized.get_submodule(ours).mixer
    torch.testing.assert_close(again.agent_bias.rows.weight, at.rows.weight)
    torch.testing.assert_close(again.query_bias.columns.weight, aq.columns.weight)


def test_files_with_averaged_weights_and_computed_tables(tmp_path):
    """What a released file holds: averaged weights are preferred, index and mask tables left out."""
    state = goldens.reference_state(goldens.load('agent_swin_tiny@224'), torch.float32)
    tables = {'layers.3.blocks.0.attn.relative_position_index': torch.zeros(49, 49),
              'layers.2.blocks.1.attn_mask': torch.zeros(4, 49, 49)}
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({'model': zeros, 'state_dict_ema': {**state, **tables}}, tmp_path / 'a.pth')
    model = timm.create_model(
        'agent_swin_tiny', pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'a.pth')))
    assert torch.equal(model.head.fc.weight, state['head.weight'])
    assert torch.equal(
        model.stages[3].blocks[1].mixer.rel_pos.table, state['layers.3.blocks.1.attn.relative_position_bias_table'])


def test_agents_of_another_number_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'square is \[1, 9, 7, 7\], expected \[1, 25, 7, 7\]'):
        load_at('agent_pvt_tiny', 'agent_pvt_tiny@224', tmp_path / 'a.pth', mixer_kwargs=dict(stored=(5, 4, 7, 7)))
