"""Large-kernel attention."""
import pytest
import torch
import torch.nn.functional as F

from zoo.blocks.mixers import LargeKernelAttention


@pytest.mark.parametrize('size', [(1, 1), (2, 9), (13, 10)])
@pytest.mark.parametrize('grad', [False, True])
def test_attention_is_the_formula(size, grad):
    torch.manual_seed(0)
    mixer = LargeKernelAttention(6).double()
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    u = F.gelu(mixer.proj1(x))
    y = F.conv2d(u.permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=2, groups=6)
    y = F.conv2d(y, mixer.dilated.weight, mixer.dilated.bias, padding=9, dilation=3, groups=6)
    want = mixer.proj2(mixer.fc(y.permute(0, 2, 3, 1)) * u) + x
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(mixer(x), want, rtol=1e-12, atol=1e-12)
