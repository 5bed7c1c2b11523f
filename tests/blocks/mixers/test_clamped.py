"""Linear attention whose sum of weights is clamped."""
import pytest
import torch
import torch.nn.functional as F

from zoo.blocks.mixers import ClampedLinearAttention


@pytest.mark.parametrize('scale', [0.5, 12.])
def test_clamped_attention_is_the_formula(scale):
    """Where the sum of the weights is below 100, as at the first scale, and where it is above."""
    torch.manual_seed(0)
    mixer = ClampedLinearAttention(24, 3).double()
    torch.nn.init.normal_(mixer.qkv.weight, std=0.2)
    torch.nn.init.uniform_(mixer.temperature, 0.1, 1)
    x = scale * torch.randn(2, 5, 6, 24, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(1, 2)).view(2, 30, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = F.relu(q) @ F.relu(k).transpose(2, 3)
    total = weights.sum(-1, keepdim=True)
    assert (total < 100).all() if scale < 1 else (total > 100).float().mean() > 0.8
    y = mixer.temperature * (weights / total.clamp(min=100)) @ v
    torch.testing.assert_close(mixer(x), mixer.proj(y.transpose(1, 2).reshape(2, 5, 6, 24)))
    tokens = mixer.forward_tokens(
        x.flatten(1, 2), (4, 7), num_prefix_tokens=2)  # tokens that are not pixels are like any other
    torch.testing.assert_close(tokens.view(x.shape), mixer(x))
