"""Agent Attention: agents of other numbers than the tables', and files of it."""
import pytest
import timm
import torch

from tests import goldens
from tests.models.weights import loaded
from zoo.blocks.mixers import AgentAttention


@pytest.mark.parametrize('name, agents, sides', [
    ('agent_pvt_tiny', [12, 16, 28, 28], [(3, 12), (4, 16), (7, 28), (7, 28)]),
    ('agent_swin_tiny', (9, 12, 14, 7), [(3, 9), (4, 12), (7, 14)]), ('agent_deit_base', 14, [(9, 14)] * 4)])
def test_numbers_of_agents(name, agents, sides):
    model = timm.create_model(name, device='meta', mixer_kwargs=dict(agents=agents))
    mixers = [stage.blocks[0].mixer for stage in model.stages]
    assert [(m.agent_bias.stored, m.agents) for m in mixers if isinstance(m, AgentAttention)] == sides


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


def test_tables_of_another_number_are_refused():
    state = goldens.reference_state(goldens.load('agent_pvt_tiny@224'), torch.float32)
    with pytest.raises(ValueError, match=r'square is \[1, 9, 7, 7\], expected \[1, 25, 7, 7\]'):
        loaded('agent_pvt_tiny', state, mixer_kwargs=dict(stored=(5, 4, 7, 7)))
