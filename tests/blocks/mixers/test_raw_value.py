"""CARE's mixers: linear attention with its input as values, crosses of convolutions."""
import pytest
import torch
import torch.nn.functional as F

from zoo.models.care import CrossConv, RawValueAttention


@pytest.mark.parametrize('num_prefix_tokens', [0, 2])
def test_raw_value_attention_is_the_formula(num_prefix_tokens):
    torch.manual_seed(0)
    mixer = RawValueAttention(12, 3).double()
    x = torch.randn(2, num_prefix_tokens + 20, 12, dtype=torch.float64)
    q, k = (F.elu(t) + 1 for t in mixer.qk(x).view(2, -1, 2, 3, 4).permute(2, 0, 3, 1, 4))
    weights = q @ k.transpose(2, 3) / k.shape[2]
    y = weights / (weights.sum(-1, keepdim=True) + 1e-6) @ x.view(2, -1, 3, 4).transpose(1, 2)
    torch.testing.assert_close(mixer.forward_tokens(x, (4, 5), num_prefix_tokens), y.transpose(1, 2).flatten(2))


def test_cross_of_convolutions():
    """A column and a row of 11 tokens are an 11x11 kernel that is zero elsewhere."""
    torch.manual_seed(0)
    mixer = CrossConv(4).double()
    weight = torch.zeros(4, 1, 11, 11, dtype=torch.float64)
    weight[..., 5] += mixer.column.weight[..., 0]
    weight[..., 5, :] += mixer.row.weight[..., 0, :]
    x = torch.randn(2, 9, 7, 4, dtype=torch.float64)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, mixer.column.bias + mixer.row.bias, padding=5, groups=4)
    torch.testing.assert_close(mixer(x), y.permute(0, 2, 3, 1))
