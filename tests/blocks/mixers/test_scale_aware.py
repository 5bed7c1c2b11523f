"""Scale-aware modulation."""
import pytest
import torch
import torch.nn.functional as F

from tests.models.weights import scatter
from zoo.blocks.mixers import BlockContext, ScaleAwareModulation


@pytest.mark.parametrize('train', [False, True])
def test_modulation_is_the_formula(train):
    """Channel g of the heads to 8 channels by the grouped convolution of the paper's code, in its order of channels."""
    torch.manual_seed(0)
    mixer = scatter(ScaleAwareModulation(16).double()).train(train)
    x = torch.randn(2, 5, 6, 16, dtype=torch.float64)
    s = mixer.s(x).permute(0, 3, 1, 2).split(4, dim=1)
    heads = [F.conv2d(t, c.weight, c.bias, padding=c.weight.shape[-1] // 2, groups=4) for t, c in zip(s, mixer.convs)]
    weight, bias = mixer.aggregate.weight.view(4, 8, 4), mixer.aggregate.bias.view(8, 4)
    y = torch.stack([  # run r, group g
        sum(weight[h, r, g] * heads[h][:, g] for h in range(4)) + bias[r, g] for r in range(8) for g in range(4)], 1)
    norm = mixer.aggregate.norm
    mean, var = (y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)) if train else (norm.running_mean, norm.running_var)
    y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * norm.weight[:, None, None]
    y = F.gelu(y + norm.bias[:, None, None]).permute(0, 2, 3, 1)
    want = mixer.proj(mixer.fc(y) * mixer.v(x))
    torch.testing.assert_close(mixer(x), want)
    with torch.no_grad():  # overwrites its own results
        torch.testing.assert_close(mixer(x), want)


def test_modulation_refuses_widths_that_four_heads_do_not_divide():
    with pytest.raises(ValueError, match='30 channels.*a multiple of 4'):
        ScaleAwareModulation.from_context(BlockContext(0, 0, 30, 2, (7, 7)))
