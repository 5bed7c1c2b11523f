"""Softmax attention with heads wider than their share."""
import torch

from zoo.blocks.mixers import SoftmaxAttention


def test_attention_of_heads_wider_than_their_share():
    torch.manual_seed(0)
    mixer = SoftmaxAttention(12, 2, qkv_bias=False, head_dim=10).double()
    assert mixer.qkv.weight.shape == (60, 12) and mixer.proj.weight.shape == (12, 20) and mixer.qkv.bias is None
    x = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    q, k, v = mixer.qkv(x.flatten(1, 2)).view(2, 15, 3, 2, 10).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(2, 3)) * 10 ** -0.5).softmax(-1) @ v
    torch.testing.assert_close(mixer(x), mixer.proj(y.transpose(1, 2).reshape(2, 3, 5, 20)))
