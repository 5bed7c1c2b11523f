"""NaLaFormer: what differs from RAVLT, as in ZacharyMeng/NaLaFormer @ 1f1c10a."""
import pytest
import timm
import torch

from zoo.blocks.mixers import NormAwareLinearAttention, RotaryAttention


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, widths, mixers and positions."""
    for name, millions, ratio, top1 in (
            ('nalaformer_xt', 6.142, 3.5, 79.1), ('nalaformer_t', 15.908, 4, 82.6), ('nalaformer_s', 25.654, 3.5, 84.3),
            ('nalaformer_b', 52.003, 4, 85.2), ('nalaformer_l', 95.427, 3.5, 85.7)):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        for s, stage in enumerate(model.stages):
            for block in stage.blocks:
                assert type(block.mixer) is (NormAwareLinearAttention if s < 2 else RotaryAttention)
                assert block.mixer.norm.eps == 1e-5 and block.norm1.eps == block.norm2.eps == 1e-6
                assert block.pos2 is not None
                assert block.mlp.fc1.out_features == int(ratio * block.mlp.fc1.in_features)
        assert f'{top1} (in1k)' in timm.model_entrypoint(name).__doc__


def test_initialisation():
    """Convolutions, among them the classifier, are trunc_normal_(std=.02); linear layers keep torch's default."""
    torch.manual_seed(0)
    model = timm.create_model('nalaformer_xt')
    linear = 0
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            continue
        plain = isinstance(module, torch.nn.Linear) and name != 'head.fc'
        linear += plain
        std = (3 * module.in_features) ** -0.5 if plain else 0.02
        if module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=0.07), name
        if plain:
            bias = module.bias.detach()
            assert 0.5 < float(bias.abs().max()) * module.in_features ** 0.5 <= 1, name
        else:
            assert module.bias.abs().max() == 0, name
    assert linear == 8 * 4 + 1  # qkvg, proj, fc1, fc2 of the blocks and the projection
    for stage in model.stages:
        for block in stage.blocks:
            assert (block.gamma1 == 1).all() and (block.gamma2 == 1).all()


@pytest.mark.parametrize('scales', [(1, 1, 1e-6, 1e-6), (1e-6,) * 4])
def test_layer_scales(scales):
    model = timm.create_model(f'nalaformer_{"b" if scales[0] == 1 else "l"}', depths=(1, 1, 1, 1))
    assert [float(stage.blocks[0].gamma2.detach().mean()) for stage in model.stages] == pytest.approx(scales)


def test_zero_queries_have_gradients():
    """The reference divides by the norm: a query of zeros is not a number there."""
    torch.manual_seed(0)
    mixer = NormAwareLinearAttention(16, 2)
    with torch.no_grad():
        mixer.qkvg.weight[:8] = 0
        mixer.qkvg.bias[:8] = 0
    x = torch.randn(1, 4, 4, 16, requires_grad=True)
    y = mixer(x)
    y.square().sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters())
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), y)
