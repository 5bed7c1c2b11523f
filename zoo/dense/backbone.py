"""One backbone for dense prediction, whatever the detector is made with."""
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
    """A zoo or timm model that maps images ``[B, 3, H, W]`` to ``[B, C, H / stride, W / stride]`` each, fine first.

    A zoo model takes any height and width from 32 pixels; so does every convolutional model of timm's, and its ViT and
    Swin, which are built for that.

    Args:
        model: Name of the model.
        pretrained: True for the published weights, or a file: of a classifier, a backbone or a whole detector, in our
            names or in those of the paper's code.
        out_indices: Maps to hand out, ascending. None: the last one of each stride from 4 on; of a model with one
            stride (ViT), four evenly spaced.
        out_norms: Norm every map as it is handed out: with the norms of the paper's code for dense prediction
            (``feature_norms`` of the model) where it has them, with a LayerNorm over channels where not.
        frozen_stages: -1 for none, 0 for the stem, n for stem and n stages: their parameters get no gradient and they
            stay in evaluation mode. Norms of ``out_norms`` learn on.
        norm_eval: Keep the statistics of all batch norms in training.
        with_cp: Recompute blocks in the backward pass instead of keeping their activations.
        drop_path_rate: Stochastic depth; None for the model's own default.
        model_kwargs: Further arguments of the model (``mixer_kwargs``, ``img_size``, ``window_size``, ...).
        **base: Of a further base class.

    Attributes:
        channels: Channels of the maps.
        strides: Pixels per token of the maps.

    Raises:
        ZooError: (a ValueError) what does not exist or does not fit, in one line.
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
        """Set the mode of all that is neither frozen nor kept in evaluation mode."""
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
        """Load a file: weights of a classifier, of a backbone, or of a whole detector; any names that are known.

        Args:
            path: The file.
            prefix: Take the weights alone whose names begin so, such as ``student.backbone.``; by default those under
                ``backbone.`` if there are any, else all.

        Raises:
            ZooError: weights of another model, or a file that cannot be read safely; one line.
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
