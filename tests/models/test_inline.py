"""InLine: weights of other sizes, and what is none."""
import pytest
import timm
import torch
import torch.nn.functional as F

from tests import goldens
from tests.models.weights import loaded


@pytest.fixture(scope='module')
def state():
    """A DeiT's, in the reference's names."""
    return goldens.reference_state(goldens.load('inline_deit_tiny@224'), torch.float32)


def test_a_checkpoint_of_another_size_has_its_positions_resampled(state):
    """Bicubic, the class token's row kept: utils.py, load_pretrained."""
    model = loaded('inline_deit_tiny', state, img_size=160)
    grid = state['pos_embed'][:, 1:].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    want = F.interpolate(grid, size=(10, 10), mode='bicubic').permute(0, 2, 3, 1)
    torch.testing.assert_close(model.stem.pos_embed.weight.data, want)
    assert torch.equal(model.stem.cls_pos, state['pos_embed'][:, :1])
    assert torch.equal(model.stem.cls_token, state['cls_token'])


def test_a_checkpoint_without_positions_is_refused(state):
    with pytest.raises(ValueError, match='does not fit inline_deit_tiny: .*pos_embed is missing'):
        loaded('inline_deit_tiny', {key: value for key, value in state.items() if key != 'pos_embed'})


def test_windows_of_a_checkpoint_are_resampled():
    small = dict(depths=(1, 1, 1, 1), embed_dim=24)
    source = timm.create_model('inline_swin_tiny', **small)
    model = loaded('inline_swin_tiny', source.state_dict(), img_size=288, **small)
    table = source.stages[3].blocks[0].mixer.rel_pos.table.T.view(1, 24, 13, 13)
    want = F.interpolate(table, size=(17, 17), mode='bicubic').view(24, 289).T
    torch.testing.assert_close(model.stages[3].blocks[0].mixer.rel_pos.table, want)


def test_a_cswin_checkpoint_fits_every_size():
    """Nothing in it depends on the image."""
    small = dict(depths=(1, 1, 1, 1), embed_dim=32)
    shapes = [{k: v.shape for k, v in timm.create_model(
        'inline_cswin_tiny', img_size=size, device='meta', **small).state_dict().items()} for size in (224, 384)]
    assert shapes[0] == shapes[1]
