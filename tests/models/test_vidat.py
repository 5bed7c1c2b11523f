"""What goldens and the data of the family do not see of ViDAT: where symbols come from, and what is pooled."""
import pytest
import timm
import torch

import zoo  # noqa: F401  # registers the models

SMALL = dict(depth=2, embed_dim=96, num_classes=5)


def create(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(f'vidat_{name}', **SMALL, **kwargs).eval()


@pytest.mark.parametrize('name, calls', [
    ('small_patch16_symattn', 2), ('small_patch16_relpos', 1), ('cifar_possym', 1)])
@torch.no_grad()
def test_symbols_of_inputs_are_retrieved_before_every_block(name, calls):
    model, asked, given = create(name), [], []
    model.symbols.register_forward_hook(lambda module, args, y: asked.append((args, y)))
    for stage in model.stages:
        stage.blocks[0].register_forward_hook(lambda module, args, y: given.append(args))
    model(torch.randn(2, 3, 64, 64))
    assert len(asked) == calls and all(
        symbols is asked[i % calls][1] for i, (_, _, symbols) in enumerate(given)) and len(given) == 2
    if calls == 2:
        assert all(args[0] is x for (args, _), (x, *_) in zip(asked, given))


@torch.no_grad()
def test_mean_of_all_tokens_is_normed_and_a_new_classifier_keeps_the_norm():
    model = create('small_patch16_symattn')
    torch.nn.init.normal_(model.head.norm.weight)
    norm, x = model.head.norm, torch.randn(2, 5, 96)
    torch.testing.assert_close(model.forward_head(x), model.head.fc(norm(x.mean(1))))
    model.reset_classifier(3, 'token')
    assert model.head.norm is norm
    torch.testing.assert_close(model.forward_head(x), model.head.fc(norm(x[:, 0])))
    assert model.forward_head(x, pre_logits=True).shape == (2, 96)
    model.reset_classifier(3, 'ep')
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)


@torch.no_grad()
def test_position_symbols_follow_the_input_size():
    model, x = create('cifar_possym'), torch.randn(1, 3, 48, 40)
    y = model(x)
    model.set_input_size((48, 40))
    assert model.symbols.places.weight.shape == model.stem.pos_embed.weight.shape == (1, 12, 10, 96)
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)
    assert [size.shape[2:] for size in create('cifar_possym').forward_intermediates(x, intermediates_only=True)] == [
        (12, 10)] * 2


def test_unknown_symbols():
    with pytest.raises(ValueError, match="symbols 'sign': use one of attention, position, relative"):
        create('small_patch16_symattn', symbols='sign')
