"""The tools that models are tried with, each with random weights on one small image.

A target returns the largest difference of its logits from the model's, over the largest logit, or None if there is
nothing to compare. It raises the error of the tool if that refuses the model.
"""
import copy
import functools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from .. import dense
from ..analysis.cam import class_activation_map
from ..export.export import recorded
from ..export.formats import FORMATS, Facts, Options, Recording
from ..utils.errors import ZooError, printable, require_packages

CLASSES = 10


class Target(NamedTuple):
    """A tool that models are tried with.

    Args:
        title: Name for people.
        packages: Modules that it needs.
        attempt: Called with a model in eval mode, images ``[B, C, H, W]`` and the model's name.
        tolerance: Largest deviation that counts as equal.
        executed: False if models are only converted.
    """

    title: str
    packages: tuple[str, ...]
    attempt: Callable[[nn.Module, Tensor, str], float | None]
    tolerance: float = 1e-3
    executed: bool = True


def build(name: str, size: int) -> tuple[nn.Module, Tensor]:
    """A model with random weights, always the same, and an image for it."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES).eval(), torch.randn(1, 3, size, size)


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@functools.lru_cache(maxsize=1)
def _recorded(name: str, size: int) -> Recording:
    """Once for all formats."""
    return recorded(*build(name, size))


def _export(key: str, model: nn.Module, images: Tensor, name: str) -> float | None:
    form, recording = FORMATS[key], _recorded(name, images.shape[-1])
    facts = Facts(name, tuple(images.shape[1:]), (0.5,) * 3, (0.5,) * 3, 'bicubic', 0.9, 'center', None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'model' + form.suffix)
        form.write(recording, Options(), facts, path)
        if form.run is None:
            return None
        with torch.no_grad():
            return deviation(form.run(path, images), model(images))


def _compile(model: nn.Module, images: Tensor, name: str) -> float:
    """Compiled without graph breaks, for other sizes too, but without torch's code generator."""
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        return deviation(compiled(images), model(images))


def _lora(model: nn.Module, images: Tensor, name: str) -> float:
    """Adapters on all linear layers and ungrouped convolutions change the outputs, learn, and can be merged."""
    import peft

    names = [key for key, layer in model.named_modules() if isinstance(layer, nn.Linear)
             or type(layer) is nn.Conv2d and layer.groups == 1 and layer.dilation == (1, 1)]
    before = model(images).detach()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names))
    for key, p in adapted.named_parameters():
        if 'lora_B' in key:
            nn.init.normal_(p, std=0.05)
    with torch.no_grad():
        if deviation(adapted(images), before) < 1e-4:
            raise RuntimeError('the adapters change nothing')
    adapted.train()(images.expand(2, -1, -1, -1)).square().sum().backward()  # with heads for training alone
    blind = [key for key, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    if blind:
        raise RuntimeError(f'{len(blind)} adapters have no gradient, as {blind[0]}')
    with torch.no_grad():
        logits = adapted.eval()(images)
        return deviation(adapted.merge_and_unload()(images), logits)


def _int8(model: nn.Module, images: Tensor, name: str) -> float:
    """8-bit weights by torchao, against the same layers with the weights dequantized."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantized = copy.deepcopy(model)
    quantize_(quantized, Int8WeightOnlyConfig())
    for key, layer in model.named_modules():
        if type(layer) is nn.Linear:
            layer.weight.data = quantized.get_submodule(key).weight.dequantize()
    with torch.no_grad():
        return deviation(quantized(images), model(images))


def _cam(model: nn.Module, images: Tensor, name: str) -> None:
    found = class_activation_map(model, images, [0])
    if not found.isfinite().all() or found.shape != (1, *images.shape[2:]):
        raise RuntimeError('the map is not finite, or has another size')


def _fx(model: nn.Module, images: Tensor, name: str) -> float:
    with torch.no_grad():
        return deviation(torch.fx.symbolic_trace(model)(images), model(images))


def _smp(model: nn.Module, images: Tensor, name: str) -> None:
    """FPN on the encoder, forward and backward."""
    import segmentation_models_pytorch as smp

    _check_gradients(smp.FPN(f'tu-{name}', encoder_weights=None, classes=3), lambda net: net(
        images.expand(2, -1, -1, -1)).square().mean())


def _torchvision(model: nn.Module, images: Tensor, name: str) -> None:
    """Faster R-CNN on a pyramid, one training step and one image in eval mode."""
    from torchvision.models.detection import FasterRCNN

    side = images.shape[-1]
    detector = FasterRCNN(dense.fpn(name), num_classes=3, min_size=side, max_size=side)
    target = dict(boxes=torch.tensor([[4., 4., 30., 30.]]), labels=torch.tensor([1]))
    _check_gradients(detector, lambda net: sum(net([images[0]] * 2, [target] * 2).values()))
    with torch.no_grad():
        detector.eval()([images[0]])


def _mmdet(model: nn.Module, images: Tensor, name: str) -> None:
    """The registered backbone, built from a config of mmdet, with a neck of mmdet behind it."""
    from ..dense import mm_compat

    mm_compat.install()
    from mmdet.registry import MODELS

    from ..dense import mm  # noqa: F401  registers ZooBackbone

    backbone = MODELS.build(dict(type='ZooBackbone', model=name, pretrained=False))
    backbone.init_weights()
    neck = MODELS.build(dict(
        type='FPN', in_channels=list(dense.DenseBackbone(name).channels), out_channels=16, num_outs=5))
    net = nn.Sequential(backbone, neck)
    _check_gradients(net, lambda net: sum(y.square().mean() for y in net(images.expand(2, -1, -1, -1))))


def _transformers(model: nn.Module, images: Tensor, name: str) -> float:
    """A wrapper around the architecture, with the same weights."""
    import transformers

    config = transformers.TimmWrapperConfig(architecture=name, num_labels=CLASSES)
    wrapper = transformers.TimmWrapperForImageClassification(config).eval()
    wrapper.timm_model.load_state_dict(model.state_dict())
    with torch.no_grad():
        return deviation(wrapper(images).logits, model(images))


def _check_gradients(net: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
    """Run a backward pass and check that some gradient arrives."""
    loss(net.train()).backward()
    if not any(p.grad is not None and p.grad.any() for p in net.parameters()):
        raise RuntimeError('no gradient arrives')


def _of_format(key: str) -> Target:
    form = FORMATS[key]
    return Target(form.title, form.packages, partial(_export, key), executed=form.run is not None)


TARGETS: dict[str, Target] = {
    **{key: _of_format(key) for key in FORMATS},
    'compile': Target('torch.compile', (), _compile),
    'lora': Target('LoRA (peft)', ('peft',), _lora),
    'int8': Target('int8 (torchao)', ('torchao',), _int8),
    'cam': Target('Grad-CAM', ('pytorch_grad_cam',), _cam),
    'fx': Target('torch.fx', (), _fx),
    'smp': Target('segmentation_models_pytorch', ('segmentation_models_pytorch',), _smp),
    'torchvision': Target('torchvision detector', (), _torchvision),
    'mmdet': Target('mmdet', ('mmdet',), _mmdet),
    'transformers': Target('transformers', ('transformers',), _transformers),
}


def attempt(target: Target, name: str, size: int) -> dict[str, Any]:
    """Try a target with a model: ``result`` ('runs', 'converts', 'differs', 'fails' or 'not installed'), with
    ``deviation`` and ``reason`` where there is one."""
    try:
        require_packages(*target.packages)
    except ZooError:
        return dict(result='not installed')
    try:
        found = target.attempt(*build(name, size), name)
    except Exception as e:  # of many packages, each of its own kind
        return dict(result='fails', reason=printable(str(e))[:200] or type(e).__name__)
    if found is not None and not found <= target.tolerance:
        return dict(result='differs', deviation=found)
    result = dict(result='runs' if target.executed else 'converts')
    return result if found is None else dict(result, deviation=found)
