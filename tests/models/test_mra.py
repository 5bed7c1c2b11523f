"""What goldens and the data of the family do not see of MRA: its dropout, and the head of two layers."""
import timm
import torch
import torch.nn.functional as F

import zoo  # noqa: F401  # registers the models

SMALL = dict(depth=1, embed_dim=32, num_classes=5)


@torch.no_grad()
def test_dropout_is_of_training_alone():
    model = timm.create_model('mra_imagenet_tiny', proj_drop_rate=0.25, **SMALL)
    dropped, x = [], torch.randn(2, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module is not model.head.drop:
            module.register_forward_hook(lambda module, args, y: dropped.append((y == 0).float().mean().item()))
    model(x)
    assert len(dropped) == 4 and all(0.2 < share < 0.3 for share in dropped)
    dropped.clear()
    torch.testing.assert_close(model.eval()(x), timm.create_model(
        'mra_imagenet_tiny', pretrained=True, pretrained_cfg_overlay=dict(state_dict=model.state_dict(), num_classes=5),
        **SMALL).eval()(x))
    assert max(dropped) < 0.01


@torch.no_grad()
def test_a_new_classifier_keeps_the_layer_before_it():
    model, x = timm.create_model('mra_imagenet_tiny', **SMALL).eval(), torch.randn(2, 3, 64, 64)
    proj = model.head.proj
    model.reset_classifier(3)
    assert model.head.proj is proj and model.head_hidden_size == 128
    hidden = F.relu(proj(model.forward_features(x).mean((2, 3))))
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), hidden)
    torch.testing.assert_close(model(x), model.head.fc(hidden))
    model.reset_classifier(3, 'ep')
    assert model(x).shape == (2, 3)
