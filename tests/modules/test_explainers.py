"""What explains a prediction by hooks and gradients: attributions of captum and heat maps of pytorch-grad-cam."""
import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.blocks.layout import prefix_tokens

TARGET = 3
ROWS, COLUMNS = 64, 96


@pytest.fixture
def images():
    return torch.randn(2, 3, ROWS, COLUMNS)


def inner_stage(model: nn.Module) -> nn.Module:
    """The last stage but one: behind the last one, a classifier of the class token sees no other token."""
    return model.get_submodule(model.feature_info[-2]['module'])


def to_map(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What brings the output of a stage to ``[B, C, H, W]``: the one line that docs/explain.md gives."""
    if not isinstance(model, Backbone):
        return lambda y: y
    grid, first = model.grids((ROWS, COLUMNS))[-2], prefix_tokens(model)
    return lambda y: y.permute(0, 3, 1, 2) if y.ndim == 4 else y[:, first:].transpose(1, 2).unflatten(2, grid)


def by_hand(model: nn.Module, images: Tensor, target: int = TARGET) -> tuple[Tensor, Tensor, Tensor]:
    """The images' gradient, the stage's output and its gradient, all of the target's logit."""
    kept = []
    handle = inner_stage(model).register_forward_hook(lambda module, args, y: kept.append(y))
    images = images.clone().requires_grad_()
    logits = model(images)
    handle.remove()
    output, = kept
    return *torch.autograd.grad(logits[:, target].sum(), (images, output)), output.detach()


def rescale(x: Tensor) -> Tensor:
    """Each map of ``[B, 1, H, W]`` to the range from 0 to 1."""
    x = x - x.amin((2, 3), keepdim=True)
    return x / (1e-7 + x.amax((2, 3), keepdim=True))


def test_captum_attributes_to_the_image(model, images):
    attr = pytest.importorskip('captum.attr')
    gradient, _, _ = by_hand(model, images)
    y = attr.InputXGradient(model).attribute(images.clone().requires_grad_(), target=TARGET)
    torch.testing.assert_close(y.detach(), images * gradient)
    assert y.abs().sum() > 0


def test_captum_attributes_to_a_stage(model, images):
    attr = pytest.importorskip('captum.attr')
    _, gradient, output = by_hand(model, images)
    y = attr.LayerGradientXActivation(model, inner_stage(model)).attribute(images, target=TARGET)
    torch.testing.assert_close(y.detach(), output * gradient)
    assert y.abs().sum() > 0


def test_integrated_gradients_add_up(model, images):
    """Along a short way from a baseline they sum up to the difference of the logits."""
    attr = pytest.importorskip('captum.attr')
    model, images = copy.deepcopy(model).double(), images[:1].double()
    for module in model.modules():
        if hasattr(module, 'keep_rate'):
            module.keep_rate = 1.  # from one choice of keys to another the output jumps
    baseline = images + 1e-3 * torch.randn_like(images)
    y = attr.IntegratedGradients(model).attribute(images, baseline, target=TARGET, n_steps=8)
    with torch.no_grad():
        difference = (model(images) - model(baseline))[0, TARGET]
    assert abs(float(y.sum() - difference)) <= 0.01 * float(y.abs().sum())
    assert abs(float(difference)) > 0


def test_grad_cam(model, images):
    """The heat map by hand: channels weighed by their mean gradients, positive, scaled, enlarged, scaled again."""
    cam = pytest.importorskip('pytorch_grad_cam')
    targets = pytest.importorskip('pytorch_grad_cam.utils.model_targets')
    reshape = to_map(model)
    for target in range(model.num_classes):  # for some classes of random weights nothing speaks
        gradient, output = (reshape(t) for t in by_hand(model, images, target)[1:])
        heat = (gradient.mean((2, 3), keepdim=True) * output).sum(1, keepdim=True).relu()
        if heat.any():
            break
    with cam.GradCAM(model=model, target_layers=[inner_stage(model)], reshape_transform=reshape) as explain:
        y = explain(images, targets=[targets.ClassifierOutputTarget(target)] * len(images))
    heat = rescale(F.interpolate(rescale(heat), (ROWS, COLUMNS), mode='bilinear', align_corners=False))[:, 0]
    torch.testing.assert_close(torch.from_numpy(y), heat, rtol=1e-4, atol=1e-4)
    assert heat.max() > 0.5
