"""LookupViT: the number of compressed tokens changes with the same weights; both directions share their scores."""
import pytest
import timm
import torch

import zoo  # noqa: F401  # registers the models
from tests.models.weights import scatter

SMALL = dict(depth=2, embed_dim=48, num_heads=3, num_classes=5)


def create(**kwargs):
    torch.manual_seed(0)
    return scatter(timm.create_model('lookupvit_small', **SMALL, **kwargs))


@pytest.mark.parametrize('mixer', ['softmax', 'network_in_network', 'window'])
@torch.no_grad()
def test_number_of_compressed_tokens(mixer):
    """By the method it is what it is by the argument; tables of mixers are resampled, and come back exactly."""
    model, x = create(mixer=mixer), torch.randn(2, 3, 64, 96)
    before, y = {key: value.clone() for key, value in model.state_dict().items()}, model(x)
    model.set_compressed_size((3, 4))
    assert model.num_prefix_tokens == 12 and model.forward_features(x).shape == (2, 12 + 24, 48)
    built = timm.create_model(
        'lookupvit_small', **SMALL, mixer=mixer, compressed_size=(3, 4), pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=before, num_classes=5)).eval()
    torch.testing.assert_close(built(x), model(x))
    assert not torch.allclose(model(x), y, rtol=1e-3)
    model.set_compressed_size(7)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(x), y, rtol=0, atol=0)


@torch.no_grad()
def test_scores_are_transposed():
    block = scatter(create().stages[0].blocks[0].double())
    x, found = torch.randn(1, 6 + 20, 48, dtype=torch.float64), {}
    block.back_proj.register_forward_hook(lambda module, args, y: found.update(back=args[0]))
    block.norm_back.register_forward_hook(lambda module, args, y: found.update(few=y))
    block(x, (4, 5), (2, 3))
    q, k = block.q(block.norm_query(x[:, :6])), block.kv(block.norm_key(x[:, 6:])).chunk(2, -1)[0]
    scores = torch.einsum('bqhd,bkhd->bhqk', q.unflatten(-1, (3, 16)), k.unflatten(-1, (3, 16))) / 4
    want = torch.einsum('bhqk,bqhd->bkhd', scores.softmax(2), block.back_value(found['few']).unflatten(-1, (3, 16)))
    torch.testing.assert_close(found['back'], want.flatten(2))


@torch.no_grad()
def test_pooling():
    model, x = create(), torch.randn(2, 3, 64, 64)
    tokens = model.forward_features(x)
    few = tokens[:, :49].mean(1)
    torch.testing.assert_close(model(x), model.head.fc(few + tokens[:, 49:].mean(1)))
    model.reset_classifier(3, 'token')
    torch.testing.assert_close(model(x), model.head.fc(few))


def test_bad_sizes():
    with pytest.raises(ValueError, match='compressed_size=0: use 1 or more'):
        create(compressed_size=0)
