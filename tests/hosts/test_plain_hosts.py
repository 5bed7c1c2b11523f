"""The hosts with their own mixers are the ordinary Swin and PVTv2: compared with timm's under a key map.

timm has no PVT and no CSwin: those hosts are proven by the goldens of the families that use them.
"""
import re

import pytest
import timm
import torch

from zoo.hosts import PVT, PVTv2, Swin
from zoo.weights.convert import rename

SWIN = ((r'^patch_embed\.', 'stem.'), (r'^layers\.', 'stages.'), (r'\.attn\.', '.mixer.'),
        (r'relative_position_bias_table$', 'rel_pos.table'))
PVT_V2 = ((r'^patch_embed\.', 'stem.'), (r'\.attn\.', '.mixer.'), (r'^head\.', 'head.fc.'))


@torch.no_grad()
def randomise(model):
    """Weights that leave nothing hidden behind zeros and ones."""
    for p in model.parameters():
        p.copy_(torch.randn_like(p) * (0.5 if p.ndim < 2 else p[0].numel() ** -0.5) + (p.ndim < 2))
    return model.double().eval()


def agree(ours, theirs, rules, size, drop=None):
    theirs = randomise(theirs)
    ours = ours.double().eval()
    ours.load_state_dict(rename(theirs.state_dict(), rules, drop))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_swin_is_swin():
    theirs = timm.create_model('swin_tiny_patch4_window7_224', depths=(2, 2, 2, 2))
    agree(Swin(depths=(2, 2, 2, 2)), theirs, SWIN, (224, 224), drop='relative_position_index|attn_mask')


@pytest.mark.slow
def test_swin_is_swin_at_384():
    theirs = timm.create_model('swin_base_patch4_window12_384', depths=(2, 2, 2, 2))
    ours = Swin(img_size=384, depths=(2, 2, 2, 2), embed_dim=128, num_heads=(4, 8, 16, 32))
    agree(ours, theirs, SWIN, (384, 384), drop='relative_position_index|attn_mask')


def test_pvt_v2_is_pvt_v2():
    for size in ((224, 224), (96, 160)):
        agree(PVTv2(), timm.create_model('pvt_v2_b1'), PVT_V2, size)


def test_pvt_v1_has_the_published_size():
    """PVT-Tiny: 13.2M parameters (Wang et al., arXiv 2102.12122, table 1), without its class token and final norm."""
    params = sum(p.numel() for p in PVT(device='meta').parameters())
    assert round(params / 1e6, 1) == 13.2


def test_names_of_parameters_are_stable():
    """State dicts are saved by users: a rename needs a checkpoint map."""
    keys = {re.sub(r'\d+', '#', key) for key in Swin(device='meta').state_dict()}
    assert {'stem.proj.weight', 'stages.#.blocks.#.mixer.rel_pos.table', 'stages.#.downsample.reduction.weight',
            'head.fc.weight', 'norm.weight'} <= keys


@pytest.mark.parametrize('img_size, window', [(96, 7), (224, 7), (288, 9), (384, 12), ((256, 384), 12)])
def test_windows_of_the_families_swins_follow_the_image_size(img_size, window):
    """Shifts are counted from the stage's first block, whatever its mixer."""
    model = timm.create_model('agent_swin_base', device='meta', img_size=img_size, depths=(1, 1, 6, 1))
    mixers = [block.mixer for block in model.stages[2].blocks[2:]]
    assert {m.window for m in mixers} == {window}
    assert [m.shift for m in mixers] == [False, True] * 2


def test_windows_follow_a_new_size():
    model = timm.create_model('flatten_swin_tiny', depths=(1, 1, 2, 1))
    model.set_input_size(384)
    assert {block.mixer.rel_pos.table.shape for block in model.stages[2].blocks} == {(23 ** 2, 12)}
    assert model.stages[0].blocks[0].mixer.positional_encoding.weight.shape == (1, 96, 96, 96)


@pytest.mark.parametrize('name, sizes, counts', [
    ('agent_pvt_tiny', dict(depths=(1, 1)), '2 depths, 4 widths'),
    ('agent_pvt_tiny', dict(depths=(1, 1, 1, 1, 1)), '5 depths, 4 widths'),
    ('agent_swin_tiny', dict(num_heads=(3, 6)), '4 depths, 4 widths, 2 num_heads')])
def test_sizes_of_other_numbers_of_stages_are_refused(name, sizes, counts):
    with pytest.raises(ValueError, match=f'one entry per stage is needed, got {counts}'):
        timm.create_model(name, **sizes)


@pytest.mark.parametrize('name', ['plainmamba_l1', 'dino_vim_tiny_patch16'])
@pytest.mark.parametrize('dim', [16, 200])
@torch.no_grad()
def test_heads_divide_any_width(name, dim):
    """Hosts that derive the number of heads from the width: one narrower than a head, one that is no multiple."""
    for mixers in (('softmax',), ('bidirectional_scan',)):
        model = timm.create_model(name, embed_dim=dim, depth=1, mixers=mixers, num_classes=3).eval()
        assert model(torch.randn(1, 3, 32, 48)).shape == (1, 3)
