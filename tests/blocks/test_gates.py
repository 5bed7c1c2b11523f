"""Gates: formulas against plain code, initial values, places in timm's models, errors."""
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import ResNet

import zoo
from zoo.blocks import gates
from zoo.blocks.gates.eca import adaptive_size
from zoo.blocks.gates.fca import FREQUENCIES

NAMES = sorted(gates.GATES)


def make(name, channels=64):
    return gates.GATES[name](channels)


@pytest.mark.parametrize('name', NAMES)
def test_keeps_shape_and_layout(name):
    torch.manual_seed(0)
    gate = make(name).eval()
    x = torch.randn(2, 64, 9, 14)
    y = gate(x)
    assert y.shape == x.shape and torch.isfinite(y).all()
    torch.testing.assert_close(gate(x.contiguous(memory_format=torch.channels_last)), y)


@pytest.mark.parametrize('name', NAMES)
def test_is_an_attention_layer_of_timm(name):
    """``attn_layer`` of timm's blocks is called with the channels."""
    model = timm.create_model('resnet18', block_args=dict(attn_layer=gates.GATES[name]), num_classes=5)
    assert isinstance(model, ResNet) and isinstance(model.layer3[1].se, gates.GATES[name])
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize('name', ['cbam', 'triplet'])
def test_spatial_norms(name):
    """The released models begin with all places at 1 / 2: the norm's weight is zero, its momentum 0.01."""
    gate = make(name)
    norm = gate.norm if name == 'cbam' else gate.places.norm
    assert norm.momentum == 0.01 and norm.weight.item() == 0
    if name == 'triplet':
        assert [plane.norm.weight.item() for plane in (gate.columns, gate.rows)] == [1, 1]


def test_initial_weights_and_momenta():
    torch.manual_seed(0)
    cbam = gates.CBAM(512)
    assert not cbam.fc1.bias.any() and not cbam.fc2.bias.any()
    assert float(cbam.fc1.weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * 512), rel=0.05)  # torch's default
    bam = gates.BAM(512)
    assert [norm.momentum for norm in (bam.fc_norm, *bam.norms)] == [0.1] * 4
    assert all(norm.weight.eq(1).all() for norm in (bam.fc_norm, *bam.norms))
    assert float(bam.reduce.weight.detach().std()) == pytest.approx(math.sqrt(2 / 32), rel=0.05)  # fan out
    assert not any(layer.bias.any() for layer in (bam.fc1, bam.fc2, bam.reduce, *bam.convs, bam.final))
    ulsam = gates.ULSAM(64)
    assert ulsam.scale_norm.momentum == ulsam.point_norm.momentum == 0.9
    gaussian = gates.GaussianAttention(num_heads=200, num_gaussians=50)
    assert not gaussian.offset.any()
    logs = gaussian.spread.detach().log()
    assert float(logs.mean()) == pytest.approx(0, abs=0.05) and float(logs.std()) == pytest.approx(1, rel=0.05)


def test_adaptive_sizes_of_eca():
    assert [adaptive_size(c) for c in (64, 128, 256, 512, 1024, 2048)] == [3, 5, 5, 5, 5, 7]
    assert gates.ECA(256).conv.kernel_size == (5,) and gates.ECA(256, 3).conv.kernel_size == (3,)


@pytest.mark.parametrize('size', [(14, 14), (28, 20), (9, 31), (5, 3)])
def test_cosines_of_other_sizes(size):
    """Maps are pooled to the side that the cosines span, whatever their size."""
    torch.manual_seed(0)
    gate = gates.FCA(32, 14).double()
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    pooled = F.adaptive_avg_pool2d(x, 14)
    place = (torch.arange(14, dtype=torch.float64) + 0.5) / 14 * math.pi
    parts = []
    for part, (y, x_) in zip(pooled.split(2, dim=1), FREQUENCIES):
        rows, columns = (torch.cos(2 * f * place) * math.sqrt((2 if f else 1) / 14) for f in (y, x_))
        parts.append(torch.einsum('h,bchw,w->bc', rows, part, columns))
    z = torch.cat(parts, dim=1)
    want = x * gate.fc2(F.relu(gate.fc1(z))).sigmoid()[:, :, None, None]
    torch.testing.assert_close(gate(x), want, rtol=1e-5, atol=1e-6)  # the table is rounded to float32


def test_gaussians_are_a_product():
    torch.manual_seed(0)
    gate = gates.GaussianAttention(num_gaussians=4, dim=-1).double()
    torch.nn.init.normal_(gate.offset)
    x = torch.randn(3, 5, 40, dtype=torch.float64)
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True) + 1e-8
    weight = 1
    for offset, spread in zip(gate.offset[0], gate.spread[0]):
        y = (x - mean - offset) / var.sqrt()
        weight = weight * torch.exp(-y ** 2 / (2 * spread ** 2)) / (2 * math.pi * spread ** 2).sqrt()
    torch.testing.assert_close(gate(x), x * weight / weight.sum(-1, keepdim=True))


def test_emca_alone():
    torch.manual_seed(0)
    x, earlier = torch.randn(2, 8, 5, 5), [torch.randn(2, 4), torch.randn(2, 8)]
    gate = gates.EMCA(8, 2)
    y = gate(x, earlier=earlier)
    assert y.shape == x.shape
    torch.testing.assert_close(gate(x, x.mean((2, 3)), earlier), y)
    with pytest.raises(ValueError, match='1 earlier maps, but this gate was built for 2'):
        gate(x, earlier=earlier[:1])


def places(model):
    return [name for name, module in model.named_modules() if isinstance(module, gates.ECA)]


def test_add_gates():
    model = timm.create_model('resnet50', num_classes=7).eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert zoo.add_gates(model, 'eca', where=(0, 3), kernel_size=3) is model
    assert places(model) == [f'layer{s}.{b}.se' for s in (1, 4) for b in range(3)]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert not model.layer1[0].se.training and model.layer1[0].se.conv.kernel_size == (3,)
    last = zoo.add_gates(timm.create_model('resnet18'), 'eca', where=lambda ctx: ctx.index == ctx.blocks - 1)
    assert places(last) == [f'layer{s}.1.se' for s in (1, 2, 3, 4)]


def test_add_gates_to_mobilenets():
    model = zoo.add_gates(timm.create_model('mobilenetv2_100', num_classes=7), 'eca')
    assert len(places(model)) == sum(len(stage) for stage in model.blocks) == 17
    assert model.blocks[2][0].bn3.gate.conv.kernel_size == (3,)  # 32 channels
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_add_gates_refuses():
    with pytest.raises(ValueError, match="gate 'ecaa': use one of bam, cbam, eca, .*; did you mean eca"):
        zoo.add_gates(timm.create_model('resnet18'), 'ecaa')
    with pytest.raises(ValueError, match='VisionTransformer is not a ResNet or MobileNet'):
        zoo.add_gates(timm.create_model('vit_tiny_patch16_224'), 'eca')
    with pytest.raises(ValueError, match='already has a SEModule'):
        zoo.add_gates(timm.create_model('seresnet50'), 'eca')
    gated = zoo.add_gates(timm.create_model('mobilenetv2_100'), 'eca')
    with pytest.raises(ValueError, match='already has a gate'):
        zoo.add_gates(gated, 'eca')
    with pytest.raises(ValueError, match=r'where=\(4,\) selects no block'):
        zoo.add_gates(timm.create_model('resnet18'), 'eca', where=(4,))


@pytest.mark.parametrize('build, message', [
    (lambda: gates.FCA(40), '40 channels, side 7'),
    (lambda: gates.ELA(40), "40 channels: ELA 'large' needs a multiple of 16"),
    (lambda: gates.ELA(64, 'huge'), "variant 'huge': use one of tiny"),
    (lambda: gates.ULSAM(10, 4), 'groups=4 does not divide 10 channels'),
    (lambda: gates.EfficientAttention(10, 10, 4), 'num_heads=4 must divide both 10 key channels and 10 value channels'),
])
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
