"""Class activation maps are the gradient formula written out, whatever the layout of the maps."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import zoo
from tests.zoo_models import every_smallest_model
from zoo.analysis import cam
from zoo.backbone import Backbone
from zoo.utils.errors import ZooError
from zoo_cli import main

pytest.importorskip('pytorch_grad_cam')
TARGET = 3
ROWS, COLUMNS = 64, 96
# Of timm: maps of both layouts, a class token, none, and register tokens
OTHERS = ('resnet18', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224', 'vit_relpos_small_patch16_224',
          'vit_small_patch16_dinov3')
QUICK = {'agent_deit_tiny', 'flatten_pvt_tiny', 'ecanet_resnet18'}


def every_model() -> list:
    names = [case.values[0] for case in every_smallest_model()] + list(OTHERS)
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


def create(name: str) -> nn.Module:
    """In eval mode, and such that every channel has its say."""
    torch.manual_seed(0)
    kwargs = dict(dynamic_img_size=True) if name in ('vit_tiny_patch16_224',) else {}
    kwargs |= dict(img_size=(ROWS, COLUMNS)) if name.startswith(('swin', 'vit_relpos')) else {}
    model = timm.create_model(name, num_classes=10, **kwargs).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)
    return model


def by_hand(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a layer and its gradient of the target's logit, both ``[B, C, h, w]``: the layout is told by the kind
    of model, and the grid by the stride."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, y: kept.append(y))
    logits = model(images)
    handle.remove()
    output, = kept
    gradient, = torch.autograd.grad(logits[:, TARGET].sum(), output)
    stride = model.feature_info[-1]['reduction']
    grid = -(-ROWS // stride), -(-COLUMNS // stride)

    def to_map(x: Tensor) -> Tensor:
        if x.ndim == 3:
            return x[:, x.shape[1] - grid[0] * grid[1]:].transpose(1, 2).unflatten(2, grid)
        return x.permute(0, 3, 1, 2) if isinstance(model, Backbone) or 'swin' in type(model).__name__.lower() else x

    return to_map(output.detach()), to_map(gradient)


def scaled(x: Tensor) -> Tensor:
    """Each map of ``[B, 1, H, W]`` to the range from 0 to 1."""
    x = x - x.amin((2, 3), keepdim=True)
    return x / (1e-7 + x.amax((2, 3), keepdim=True))


@pytest.mark.parametrize('name', every_model())
def test_maps_are_the_gradient_formula(name):
    model, images = create(name), torch.randn(2, 3, ROWS, COLUMNS)
    layer, _ = zoo.cam_target(model)
    output, gradient = by_hand(model, layer, images)
    assert gradient.abs().sum() > 0
    formulas = dict(
        gradcam=(gradient.mean((2, 3), keepdim=True) * output).sum(1, keepdim=True),
        layercam=(gradient.relu() * output).sum(1, keepdim=True))
    for method, heat in formulas.items():
        expected = scaled(F.interpolate(scaled(heat.relu()), (ROWS, COLUMNS), mode='bilinear', align_corners=False))
        found = cam.class_activation_map(model, images, [TARGET] * 2, method)
        assert found.shape == (2, ROWS, COLUMNS)
        torch.testing.assert_close(found, expected[:, 0], rtol=1e-3, atol=1e-3)


def test_an_unguided_stage_is_another_map():
    """What users get who hand a stage of ours to pytorch-grad-cam as it is: this test would see it."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = create('flatten_pvt_tiny'), torch.randn(1, 3, ROWS, COLUMNS)
    with GradCAM(model=model, target_layers=[model.stages[-1]]) as explain:
        wrong = explain(images, targets=[ClassifierOutputTarget(TARGET)])
    right = cam.class_activation_map(model, images, [TARGET]).numpy()
    assert np.abs(wrong - right).max() > 0.1


def test_eigencam_is_the_first_principal_component():
    model, images = create('ecanet_resnet18'), torch.randn(1, 3, ROWS, COLUMNS)
    output, _ = by_hand(model, zoo.cam_target(model).layer, images)
    tokens = output[0].flatten(1).T
    tokens = tokens - tokens.mean(0)
    heat = (tokens @ torch.linalg.svd(tokens, full_matrices=True).Vh[0]).view(1, 1, *output.shape[2:])
    found = cam.class_activation_map(model, images, method='eigencam')[None]
    both = [scaled(F.interpolate(scaled((sign * heat).relu()), (ROWS, COLUMNS), mode='bilinear'))
            for sign in (1, -1)]  # a component has no sign
    assert min((found - expected).abs().max() for expected in both) < 1e-3


def test_predicted_class_is_the_default():
    model, images = create('ecanet_resnet18'), torch.randn(3, 3, 64, 64)
    classes = model(images).argmax(1).tolist()
    assert torch.equal(cam.class_activation_map(model, images), cam.class_activation_map(model, images, classes))


def test_sequences_of_another_size():
    model = timm.create_model('agent_deit_tiny', num_classes=10).eval()
    layer, to_map = zoo.cam_target(model)
    assert to_map(torch.randn(1, 197, 8)).shape == (1, 8, 14, 14)  # the model's own size
    assert to_map(torch.randn(1, 17, 8)).shape == (1, 8, 4, 4)  # square
    with pytest.raises(ZooError, match='24 tokens are not a map of 14 x 14; say the height and width .* `img_size`'):
        to_map(torch.randn(1, 25, 8))
    tokens = torch.randn(1, 25, 8)
    y = zoo.cam_target(model, img_size=(64, 96)).reshape_transform(tokens)
    assert torch.equal(y[0, :, 1, 2], tokens[0, 1 + 6 + 2])
    with pytest.raises(ZooError, match='16 tokens are not a map of 4 x 6'):
        zoo.cam_target(model, img_size=(64, 96)).reshape_transform(torch.randn(1, 17, 8))


@pytest.mark.parametrize('call, words', [
    (dict(method='scorecam'), '`method` scorecam: use one of gradcam, layercam, eigencam'),
    (dict(classes=[10]), '`class` 10: the model has 10, from 0 to 9'),
    (dict(stage=4), '`stage` 4: the model has 4, from 0 to 3'),
])
def test_mistakes(call, words):
    model = timm.create_model('flatten_pvt_v2_b0', num_classes=10).eval()
    with pytest.raises(ZooError, match=words):
        cam.class_activation_map(model, torch.randn(1, 3, 64, 64), **call)
    model.reset_classifier(0, '')
    with pytest.raises(ZooError, match='gives no logits; a class activation map needs a classifier'):
        cam.class_activation_map(model, torch.randn(1, 3, 64, 64))


# --- the program

@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures of ants & bees'
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (80, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'<b>{i}$x_1$.png')
    return folder


def test_program(pictures, tmp_path, capsys):
    path = tmp_path / 'cam.svg'
    words = ['attention', 'agent_deit_tiny', str(pictures), '--what', 'cam', '--class', '207', '--method', 'layercam',
             '--img-size', '64', '--stage', '-2', '--output', str(path), '--device', 'cpu']
    code = main(words)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert 'LayerCAM at stage -2' in printed.out and '<b>1$x_1$.png: golden retriever' in printed.out
    found = np.load(path.with_suffix('.npy'))
    assert found.shape == (2, 64, 64) and found.min() == 0 and found.max() > 0.9
    assert b'<svg' in path.read_bytes()


@pytest.mark.parametrize('words, message', [
    (['--what', 'cam', '--noise', '1'], '--noise, --block and --query are not for --what cam'),
    (['--what', 'cam', 'PICTURES', '--query', '1', '1'], '--noise, --block and --query are not for --what cam'),
    (['PICTURES', '--class', '1'], '--class and --method are for --what cam'),
    (['--what', 'cam', 'PICTURES', '--class', '1000', '--img-size', '64'], '--class 1000: the model has 1000'),
    (['--what', 'cam', 'PICTURES', '--img-size', '16'], 'images must be at least 32 x 32'),
    (['--what', 'cam', '--img-size', '32', *['PICTURES'] * 13], '26 pictures are too many for a figure; give up to 24'),
])
def test_program_names_mistakes(words, message, pictures, capsys):
    words = [str(pictures) if word == 'PICTURES' else word for word in words]
    assert main(['attention', 'flatten_pvt_v2_b0', *words, '--device', 'cpu']) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_influence_says_that_there_is_no_mixer(pictures, tmp_path, capsys):
    assert main(['attention', 'resnet18', str(pictures), '--what', 'influence', '--stage', '1', '--img-size', '32',
                 '--output', str(tmp_path / 'map.png'), '--device', 'cpu']) == 0
    assert 'note: BasicBlock has no token mixer' in capsys.readouterr().err
