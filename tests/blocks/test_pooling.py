"""Learned pooling as the head of a model; the modules themselves are compared in test_module_goldens.py."""
import pytest
import timm
import torch

import zoo  # noqa: F401  registers the models
from zoo.blocks.pooling import EfficientProbing, GGeM


def pooled(pool, tokens):
    """By the formulas, in loops."""
    if isinstance(pool, GGeM):
        size = tokens.shape[-1] // len(pool.power)
        groups = [tokens[..., i * size:(i + 1) * size].clamp(min=1e-6) for i in range(len(pool.power))]
        return torch.cat([(g ** p).mean(1) ** (1 / p) for g, p in zip(groups, pool.power)], dim=-1)
    v, width = pool.v(tokens), tokens.shape[-1]
    weights = [(tokens @ q / width ** 0.5).softmax(1) for q in pool.queries]
    size = v.shape[-1] // len(weights)
    return torch.cat([(w[..., None] * v[..., i * size:(i + 1) * size]).sum(1) for i, w in enumerate(weights)], dim=-1)


@pytest.mark.parametrize('global_pool', ['ggem', 'ep'])
@pytest.mark.parametrize('name', ['flatten_pvt_v2_b0', 'agent_deit_tiny'])
@torch.no_grad()
def test_heads(name, global_pool):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, global_pool=global_pool).eval()
    pool = model.head.global_pool
    assert type(pool) is dict(ggem=GGeM, ep=EfficientProbing)[global_pool]
    for p in pool.parameters():
        p.add_(torch.rand_like(p))
    x = torch.randn(2, 3, 64, 96)
    features = model.forward_features(x)
    tokens = features[:, 1:] if features.ndim == 3 else features.flatten(2).transpose(1, 2)
    want = pooled(pool, tokens)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), model.get_classifier()(want), rtol=1e-4, atol=1e-5)


def test_a_pooling_can_be_changed():
    model = timm.create_model('flatten_pvt_v2_b0', num_classes=5)
    model.reset_classifier(7, 'ep')
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    assert model.head.global_pool.queries.shape == (32, 256)
    model.reset_classifier(3)
    assert isinstance(model.head.global_pool, EfficientProbing)
    model.reset_classifier(3, 'avg')
    assert 'head.global_pool.queries' not in model.state_dict()


@pytest.mark.parametrize(
    'pool, args', [(GGeM, (100, 16)), (EfficientProbing, (96, 64)), (EfficientProbing, (96, 32, 2))])
def test_widths_that_do_not_divide(pool, args):
    with pytest.raises(ValueError, match='divi'):
        pool(*args)
