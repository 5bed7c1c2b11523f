"""Stem and stages of a feature network, in the order in which they run."""
from collections.abc import Iterator, Sequence

from timm.models._features import FeatureDictNet, FeatureGetterNet
from torch import nn

from ..backbone import Backbone
from ..hosts.mobilenet import GatedMobileNetV2
from ..hosts.resnet import GatedResNet
from ..utils.errors import ZooError

Part = list[nn.Module]


def stages_of(net: nn.Module) -> list[Part]:
    """The modules of the stem, then those of each stage; a stage ends with a feature map.

    Exact for the zoo's models, and for models of timm that run their children one after the other
    (``FeatureListNet``). Norms of the returned maps belong to no stage.

    Args:
        net: The result of ``timm.create_model(..., features_only=True)``.

    Raises:
        ZooError: A model of timm whose parts do not run in a known order.
    """
    if isinstance(net, FeatureGetterNet):
        model = net.model
        if isinstance(model, Backbone):
            return [[model.stem], *([stage] for stage in model.stages)]
        if isinstance(model, (GatedResNet, GatedMobileNetV2)):
            return _group(model, [info['module'] for info in net.feature_info.info])
    elif isinstance(net, FeatureDictNet):
        return _group(net, [info['module'].replace('.', '_') for info in net.feature_info.info])
    raise ZooError(
        f'frozen_stages: {type(getattr(net, "model", net)).__name__} of timm has no stages that are known to run one '
        f'after the other; use frozen_stages=-1, or freeze its parameters by their names')


def _group(module: nn.Module, ends: Sequence[str]) -> list[Part]:
    """Cut the submodules of ``module`` behind each one that is named in ``ends``.

    A first end without parameters (the activation of a ResNet's stem) belongs to the stem. What comes behind the last
    end makes no map and belongs to nothing.
    """
    stem, stages, part = [], [], []
    for path, unit in _units(module, ends):
        part.append(unit)
        if path not in ends:
            continue
        if stages:
            stages.append(part)
        elif not any(True for _ in unit.parameters()):
            continue
        else:
            stem, stages = part[:-1], [part[-1:]]
        part = []
    return [stem, *stages]


def _units(module: nn.Module, ends: Sequence[str], prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Submodules by path, in order: those in ``ends``, and the largest ones that contain none of them."""
    for name, child in module.named_children():
        path = prefix + name
        if any(end.startswith(f'{path}.') for end in ends):
            yield from _units(child, ends, f'{path}.')
        else:
            yield path, child
