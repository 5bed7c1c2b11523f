"""Windows, with and without a table of biases, and stripes."""
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import StripeAttention, WindowAttention


def test_windows_without_bias():
    """Zeros behind the map take part; a shift without a bias is a shift with a table of zeros."""
    torch.manual_seed(0)
    mixer = WindowAttention(16, 2, 3, rel_pos=False).double()
    x = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, 2, 0, 1))
    want = torch.empty_like(padded)
    for top in (0, 3):
        for left in (0, 3):
            window = padded[:, top:top + 3, left:left + 3].flatten(1, 2)
            q, k, v = mixer.qkv(window).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(2, 3) * 8 ** -0.5).softmax(-1) @ v
            want[:, top:top + 3, left:left + 3] = mixer.proj(y.transpose(1, 2).flatten(2)).view(2, 3, 3, 16)
    torch.testing.assert_close(mixer(x), want[:, :5, :4])
    shifted = WindowAttention(16, 2, 3, shift=True, rel_pos=False).double()
    biased = WindowAttention(16, 2, 3, shift=True).double()
    biased.load_state_dict({**shifted.state_dict(), 'rel_pos.table': torch.zeros(25, 2)})
    torch.testing.assert_close(shifted(x), biased(x))


def test_stripes_see_stripes_only():
    """A change of one token reaches its row and column stripes, not the others."""
    mixer = scatter(StripeAttention(16, 2, stripe=2).double())
    x = torch.randn(1, 8, 8, 16, dtype=torch.float64)
    y = x.clone()
    y[0, 3, 5] += 1
    with torch.no_grad():
        changed = (mixer(x) - mixer(y)).abs().amax(-1)[0] > 1e-12
    rows, columns = torch.arange(8)[:, None].expand(8, 8), torch.arange(8).expand(8, 8)
    assert torch.equal(changed, (rows // 2 == 3 // 2) | (columns // 2 == 5 // 2))


def test_windows_of_a_padded_map_match_swin_on_the_padded_map():
    """Zero padding after the norm takes part in the attention, as in Swin's dense-prediction code."""
    mixer = scatter(WindowAttention(16, 2, window=4, shift=True).double())
    x = torch.randn(1, 9, 6, 16, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 3))
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), mixer(padded)[:, :9, :6])
