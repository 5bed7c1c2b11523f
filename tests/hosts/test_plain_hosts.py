"""The hosts with their own mixers are the ordinary Swin and PVTv2: compared with timm's under a key map.

timm has no PVT and no CSwin: those hosts are proven by the goldens of the families that use them.
"""
import re

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


def test_stripes_see_stripes_only():
    """A change of one token reaches its row and column stripes, not the others."""
    from zoo.blocks.mixers import StripeAttention

    mixer = randomise(StripeAttention(16, 2, stripe=2))
    x = torch.randn(1, 8, 8, 16, dtype=torch.float64)
    y = x.clone()
    y[0, 3, 5] += 1
    with torch.no_grad():
        changed = (mixer(x) - mixer(y)).abs().amax(-1)[0] > 1e-12
    rows, columns = torch.arange(8)[:, None].expand(8, 8), torch.arange(8).expand(8, 8)
    assert torch.equal(changed, (rows // 2 == 3 // 2) | (columns // 2 == 5 // 2))


def test_windows_of_a_padded_map_match_swin_on_the_padded_map():
    """Zero padding after the norm takes part in the attention, as in Swin's dense-prediction code."""
    from zoo.blocks.mixers import WindowAttention

    mixer = randomise(WindowAttention(16, 2, window=4, shift=True))
    x = torch.randn(1, 9, 6, 16, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 3))
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mixer(padded)[:, :9, :6])


def test_names_of_parameters_are_stable():
    """State dicts are saved by users: a rename needs a checkpoint map."""
    keys = {re.sub(r'\d+', '#', key) for key in Swin(device='meta').state_dict()}
    assert {'stem.proj.weight', 'stages.#.blocks.#.mixer.rel_pos.table', 'stages.#.downsample.reduction.weight',
            'head.fc.weight', 'norm.weight'} <= keys
