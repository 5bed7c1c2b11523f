"""The backbone for dense prediction that torchvision's and OpenMMLab's detectors share."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.layers import Format, LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.errors import ZooError, format_error
from ..weights import read_checkpoint, state_dict_of, without_prefix
from ..weights.convert import check_kinds
from .build import build_features, load_features, norms_of_its_own, plain
from .stages import stages_of


class DenseBackbone(nn.Module):
    """A zoo or timm model that maps images ``[B, 3, H, W]`` to several ``[B, C, H / stride, W / stride]``, fine first.

    >>> backbone = zoo.dense.DenseBackbone('flatten_pvt_v2_b0', out_indices=(2, 3), frozen_stages=1)
    >>> backbone.channels, backbone.strides
    ([160, 256], [16, 32])
    >>> [tuple(x.shape) for x in backbone(torch.randn(1, 3, 64, 96))]
    [(1, 160, 4, 6), (1, 256, 2, 3)]

    Zoo models take any height and width from 32 pixels, and so do convolutional models of timm; ViT and Swin of timm
    are built to do so too.

    Args:
        model: Name of the model.
        pretrained: True for the published weights, or the path of a file: weights of a classifier, a backbone or a
            whole detector, with our key names or those of the authors' code.
        out_indices: Indices of the maps to return, ascending. By default the last map of each stride from 4 on, or
            four evenly spaced maps of a model with a single stride (ViT).
        out_norms: Normalise every returned map: with the norms that the authors' code has for dense prediction
            (``feature_norms`` of the model), or else with a LayerNorm over channels.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages: no gradients for their
            parameters, and always evaluation mode. Norms of ``out_norms`` are never frozen.
        norm_eval: Keep all batch norms in evaluation mode during training.
        with_cp: Recompute blocks in the backward pass instead of storing their activations.
        drop_path_rate: Stochastic depth; None for the model's default.
        model_kwargs: Further arguments of the model (``mixer_kwargs``, ``img_size``, ``window_size``, ...).
        **base: Arguments of a further base class.

    Attributes:
        channels: Number of channels of each map.
        strides: Pixels per token of each map.

    Raises:
        ZooError: Something does not exist or does not fit the model.
    """

    def __init__(
            self, model: str, pretrained: bool | str | Path = False, out_indices: Sequence[int] | None = None,
            out_norms: bool = False, frozen_stages: int = -1, norm_eval: bool = False, with_cp: bool = False,
            drop_path_rate: float | None = None, model_kwargs: dict[str, Any] | None = None, **base: Any):
        super().__init__(**base)
        own_norms = bool(out_norms) and norms_of_its_own(model)
        self.recipe = dict(plain(model_kwargs or {}))
        if own_norms:
            self.recipe['feature_norms'] = True
        if drop_path_rate is not None:
            self.recipe['drop_path_rate'] = drop_path_rate
        self.model_name = model
        self.net = build_features(model, out_indices, pretrained=pretrained is True, **self.recipe)
        info = self.net.feature_info
        self.out_indices = tuple(info.out_indices)
        self.channels, self.strides = info.channels(), info.reduction()
        self.nhwc = getattr(self.net, 'output_fmt', Format.NCHW) == Format.NHWC
        self.norms = nn.ModuleList(
            LayerNorm2d(dim, eps=1e-5) for dim in self.channels) if out_norms and not own_norms else None
        self._drop_unused_norms()
        if with_cp:
            self._checkpoint_activations()
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        if frozen_stages >= 0 and frozen_stages >= len(stages_of(self.net)):
            raise ZooError(
                f'frozen_stages {frozen_stages}: {model} with out_indices {self.out_indices} has '
                f'{len(stages_of(self.net)) - 1} stages')
        self.register_load_state_dict_pre_hook(_translate)
        if pretrained and pretrained is not True:
            self.load(pretrained)
        self.train(self.training)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.net(x)
        if self.nhwc:
            maps = [y.permute(0, 3, 1, 2) for y in maps]
        if self.norms is not None:
            maps = [norm(y) for norm, y in zip(self.norms, maps)]
        return tuple(maps)

    def train(self, mode: bool = True) -> 'DenseBackbone':
        """Set the mode of every module that is neither frozen nor kept in evaluation mode."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for part in stages_of(self.net)[:self.frozen_stages + 1]:
                for module in part:
                    module.eval().requires_grad_(False)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def load(self, path: str | Path, prefix: str = '') -> None:
        """Load the weights of a classifier, a backbone or a whole detector, with our key names or the authors'.

        Args:
            path: Path of the file.
            prefix: Load only weights whose names start with it, such as ``student.backbone.``; by default those that
                start with ``backbone.``, or all if there are none.

        Raises:
            ZooError: The weights are of another model, or the file cannot be read safely.
        """
        try:
            state = state_dict_of(read_checkpoint(path))
            if not prefix:  # of Lightning and the like, around a detector or a backbone
                state = without_prefix(state, ['backbone.', *self.state_dict()])
            wanted = f'{(prefix or "backbone").removesuffix(".")}.'
            inside = {key.removeprefix(wanted): value for key, value in state.items() if key.startswith(wanted)}
            if prefix and not inside:
                first = sorted({key.partition('.')[0] for key in state})
                raise ZooError(f'no name begins with the prefix {prefix!r}, they begin with {", ".join(first[:5])}')
            state = inside or state
            check_kinds(state, self)
            self.load_state_dict(state)
        except RuntimeError as e:
            raise ZooError(
                f'{path} does not fit {self.model_name}: {format_error(e)[:200]}; give the weights of the model and '
                f'the options that they were saved with') from None
        except ValueError as e:
            text = format_error(e)
            raise ZooError(text if str(path) in text else f'{path}: {text}') from None

    def _drop_unused_norms(self) -> None:
        """Maps that are not handed out are not normed: a norm without a gradient would stop distributed training."""
        model = getattr(self.net, 'model', None)
        for i in range(len(getattr(model, 'feature_norms', None) or ())):
            if i not in self.out_indices and i not in model.inner_norms:
                model.feature_norms[i] = nn.Identity()

    def _checkpoint_activations(self) -> None:
        owner = self.net if hasattr(self.net, 'set_grad_checkpointing') else getattr(self.net, 'model', self.net)
        try:
            owner.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):
            raise ZooError(f'with_cp: {self.model_name} cannot recompute its activations; use with_cp=False') from None
        for part in self.net.children():  # older timm recomputes these alone, from what they have overwritten
            if getattr(part, 'inplace', False):
                part.inplace = False


def _translate(module: DenseBackbone, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before weights are loaded: those in other names than ours are fitted to the model, as timm's builder does it."""
    theirs = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not theirs or any(key.startswith('net.') for key in theirs):
        return
    net = load_features(module.model_name, theirs, module.out_indices, **module.recipe)
    for key in theirs:
        del state[prefix + key]
    fitted = {f'net.{key}': value for key, value in net.state_dict().items()}
    for key, value in module.state_dict().items():  # norms of the adapter alone keep their values
        state[prefix + key] = fitted.get(key, value)
