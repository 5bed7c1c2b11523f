"""``python -m zoo probe``: measures frozen features by a small classifier on top of them.

``logits = linear(batch_norm(pool(patch tokens)))``: the pool is the mean of the tokens (``linear``) or efficient
probing (``ep``, :class:`zoo.blocks.pooling.EfficientProbing`), the batch norm has no weights of its own (eps 1e-6).
The recipe: LARS without weight decay, 0.1 per 256 images, 10 of 90 epochs of warm-up from 0, cosine to 0, random crops
and flips, a global batch of 4096.

Source: Psomas et al., "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency", arXiv
2506.10178; billpsomas/efficient-probing @ b8f4fb8, probe_heads.py and main_linprobe.py. Where this one differs: images
are normalised, resized and cropped as the model's own config says, not as ImageNet's; class and register tokens are
never pooled, so that both probes see the same (theirs takes the class token for a linear probe where there is one);
classifiers start as torch's linear layers do; timm's cosine counts the warm-up, so it goes on at 97 % of the peak;
the batch is 1024 by default.
"""
import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import random_seed
from torch import Tensor, nn

from ..blocks.layout import prefix_tokens
from ..blocks.pooling import EfficientProbing
from ..train import build, checkpoint, options
from ..train.data import datasets
from ..train.option_schema import TRAIN
from ..train.run import carried, quickstart_data, read_request, run
from ..train.session import Trainer
from ..utils.errors import ZooError
from .option_schema import PROBE

ABOUT = ('Train a linear or an efficient-probing (EP) classifier on the frozen features of any model of the zoo or of '
         'timm. Data and flags are those of "train"; the checkpoints hold the probe alone.')
PREPROCESSING = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


class Frozen:
    """A model in eval mode, hidden from ``parameters()``, ``state_dict()`` and ``train()``, and shared by copies."""

    def __init__(self, model: nn.Module):
        self.model = model.eval().requires_grad_(False)
        self.num_prefix_tokens = prefix_tokens(model)

    def __deepcopy__(self, memo: dict) -> 'Frozen':
        return self  # it never changes, and may be large

    def tokens(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to patch tokens ``[B, N, width]``, without gradients.

        Raises:
            ZooError: The model's features are neither a map nor a sequence of patch tokens.
        """
        with torch.no_grad():
            features = self.model.forward_features(images)
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if isinstance(features, Tensor) and features.ndim == 4:
            return features.flatten(1, 2) if getattr(self.model, 'output_fmt', None) == 'NHWC' else (
                features.flatten(2).transpose(1, 2))
        if not isinstance(features, Tensor) or features.ndim != 3 or features.shape[1] <= self.num_prefix_tokens:
            raise ZooError(f'{type(self.model).__name__} cannot be probed: its features are neither a map nor a '
                           f'sequence of patch tokens but {shape}; choose another --model')
        return features[:, self.num_prefix_tokens:]


class Probe(nn.Module):
    """A classifier on the patch tokens of a frozen model: pooling, a batch norm without weights, a linear layer.

    Parameters, state dict and ``train()`` are those of the probe only; :meth:`to` moves the frozen model too.

    Args:
        backbone: A model with timm's ``forward_features``, which is frozen for good.
        width: Number of channels of its tokens.
        num_classes: Number of outputs.
        pool: 'linear' (the mean) or 'ep'.
        queries: Number of queries of efficient probing.

    Raises:
        ZooError: ``queries`` does not divide ``width``.
    """

    def __init__(self, backbone: nn.Module, width: int, num_classes: int, pool: str = 'linear', queries: int = 32):
        super().__init__()
        if pool == 'ep' and width % queries:
            usable = ', '.join(str(q) for q in range(1, width + 1) if width % q == 0)
            raise ZooError(f'--queries {queries} does not divide the {width} channels of the model; use one of '
                           f'{usable}')
        self.frozen = Frozen(backbone)
        self.num_classes = num_classes
        self.pretrained_cfg = getattr(backbone, 'pretrained_cfg', None)  # timm's data config comes from it
        self.pool = EfficientProbing(width, queries) if pool == 'ep' else None
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, num_classes]``."""
        tokens = self.frozen.tokens(images)
        return self.classifier(self.norm(tokens.mean(1) if self.pool is None else self.pool(tokens)))

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        self.frozen.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


class ProbeSession(Trainer):
    """The run of a probe: that of a model, but for what is built and what a checkpoint says."""

    command, table = 'probe', PROBE

    @staticmethod
    def check_resumed(content: dict[str, Any], path: str) -> None:
        if 'probe' not in content:
            raise ZooError(f'{path} is not a checkpoint of a probe; --checkpoint probes the features in it')

    def _build_model(self) -> tuple[nn.Module, dict[str, Any]]:
        args, ctx = self.args, self.ctx
        random_seed(args.seed)  # untrained weights are the same in every process
        backbone = load_backbone(args)
        self.mark = fingerprint(backbone)
        if self.content:
            check_mark(self.content, self.mark, args.resume)
        elif not (args.pretrained or args.checkpoint):
            self.say('these are features of random weights: --pretrained or --checkpoint probes trained ones')
        layout = torch.channels_last if args.channels_last else torch.preserve_format
        kind = dict(device=ctx.device, dtype=build.dtype_of(args), memory_format=layout)
        backbone.to(**kind)
        config = build.data_config_of(args, backbone)
        build.check_forward(backbone, config, build.DeviceContext(ctx.device), build.dtype_of(args))
        image = torch.zeros(1, *config['input_size'], device=ctx.device, dtype=build.dtype_of(args))
        width = Frozen(backbone).tokens(image).shape[-1]
        self.sets = super()._open_sets(config['input_size'][0])  # before the probe, which is as wide as they say
        self.classes = args.num_classes or (len(self.names) if self.names else None)
        if self.classes is None:
            raise ZooError(f'{args.dataset} does not say how many classes it has; give --num-classes')
        model = Probe(backbone, width, self.classes, args.pool, args.queries)
        if self.content:
            weights = checkpoint.weights_of(self.content, args.resume, use_ema=False)
            checkpoint.load_exactly(model, weights, args.resume)
        model.to(**kind)
        self.unused = build.check_forward(model, config, ctx, build.dtype_of(args))
        return model, config

    def _open_sets(self, channels: int) -> tuple[Any, Any]:
        return self.sets

    def _make_optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Rates adapt and weights decay in matrices only, as in the LARS of the source."""
        adapt = [{'always_adapt': adapts} if 'lars' in self.args.opt.lower() else {} for adapts in (True, False)]
        parameters = list(self.model.parameters())
        return build.make_optimizer(self.args, [
            dict(adapt[0], params=[p for p in parameters if p.ndim > 1]),
            dict(adapt[1], params=[p for p in parameters if p.ndim < 2], weight_decay=0.)], lr)

    def _name(self) -> str:
        args = self.args
        return f'{args.model}, ' + (f'EP with {args.queries} queries' if args.pool == 'ep' else 'linear probe')

    def _description(self) -> dict[str, Any]:
        return dict(super()._description(), probe=self.args.pool, backbone=self.mark)


def parser() -> options.Parser:
    """The command line's parser."""
    return options.table_parser(PROBE, 'zoo probe', ABOUT)


def probe(argv: Sequence[str]) -> None:
    """Probe as the command line says.

    Raises:
        ZooError: An option, the config file, the data or the checkpoint is invalid.
        Interrupted: Ctrl-C was pressed; the last complete checkpoint is kept.
    """
    request = read_request(ProbeSession, argv, parser())
    given = request.given
    if given.get('checkpoint') and given.get('pretrained'):
        raise ZooError('--checkpoint and --pretrained exclude each other; give one')
    brought = _brought(given) if given.get('checkpoint') and not request.resume else {}
    args = options.merge(
        TRAIN, {option.dest: option.default for option in PROBE}, brought, request.config, request.flags,
        dict(resume=request.resume))
    _settle(args)
    run(ProbeSession, args, request, _with_quickstart)


def _with_quickstart(args: argparse.Namespace, ctx: build.DeviceContext) -> argparse.Namespace:
    """Settle the data; the digits need no options of their own here."""
    if args.dataset == datasets.QUICKSTART:
        vars(args).update(quickstart_data(args, ctx))
    return args


def rebuild(content: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> Probe:
    """A probe, and the model under it, from a checkpoint.

    Args:
        content: Content of the file.
        weights: Weights of the probe.
        source: Name of the file, for messages.

    Raises:
        ZooError: The model's weights cannot be found, or are not those that the probe was trained on.
    """
    args = options.merge(
        TRAIN, {option.dest: option.default for option in PROBE}, carried(content, PROBE, source))
    random_seed(args.seed)
    backbone = load_backbone(args)
    check_mark(content, fingerprint(backbone), source)
    classifier = weights.get('classifier.weight')
    if classifier is None or classifier.ndim != 2:
        raise ZooError(f'{source} is not a whole checkpoint of a probe: its weights lack the matrix classifier.weight')
    classes, width = classifier.shape
    model = Probe(backbone, width, classes, content['probe'], args.queries)
    checkpoint.load_exactly(model, weights, source)
    return model


def load_backbone(args: argparse.Namespace) -> nn.Module:
    """Build the model of the options without a classifier, with published weights, those of a file, or random ones.

    Raises:
        ZooError: The file does not exist, or lacks weights of the model.
    """
    headless = argparse.Namespace(**{**vars(args), 'num_classes': 0})
    if not args.checkpoint:
        return build.create_model(headless)
    content, _ = checkpoint.read(args.checkpoint)
    state = build.own_names(args.model, checkpoint.weights_of(content, args.checkpoint), args.model_kwargs)
    model = build.create_model(headless)
    own = model.state_dict()
    if all(name in state for name in own):
        if any(state[name].shape != value.shape for name, value in own.items()):  # another image size or channel count
            return build.create_model(headless, state, adapt=True)
        checkpoint.load_exactly(model, {name: state[name] for name in own}, args.checkpoint)
        return model
    whole = argparse.Namespace(**{**vars(args), 'num_classes': None})
    return build.create_model(whole, state)  # in the names of the paper's own code, and then all of it


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of names and weights, which identifies the features."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_mark(content: Mapping[str, Any], mark: str, source: str) -> None:
    """Refuse to use a probe with features other than its own.

    Raises:
        ZooError: The fingerprints differ.
    """
    if content['backbone'] != mark:
        args = content['args']
        random = f'random, --seed {args.get("seed")}'
        own = args.get('checkpoint') or ('the published ones' if args.get('pretrained') else random)
        raise ZooError(f'{source} is a probe of other weights of {content["arch"]} than these; its own are {own}')


def _brought(given: Mapping[str, Any]) -> dict[str, Any]:
    """Model and preprocessing of a checkpoint that ``train`` wrote; sizes and channels that are asked for win."""
    content, ours = checkpoint.read(given['checkpoint'])
    if 'probe' in content:
        raise ZooError(f'{given["checkpoint"]} holds a probe, not a model; --resume goes on with it')
    if not ours:
        if 'model' not in given:
            raise ZooError(f'{given["checkpoint"]} does not say what model it is of; give --model')
        return {}
    if given.get('model', content['arch']) != content['arch']:
        raise ZooError(f'{given["checkpoint"]} is a checkpoint of {content["arch"]}, not of {given["model"]}; leave '
                       f'--model out')
    brought = {key: content['data_config'][key] for key in PREPROCESSING if key in content['data_config']}
    channels, *size = brought['input_size']
    if given.get('in_chans', channels) != channels:
        del brought['mean'], brought['std']
    size = [given['img_size']] * 2 if given.get('img_size') else size
    brought['input_size'] = [given.get('in_chans', channels), *size]
    return dict(brought, model=content['arch'], model_kwargs=content['model_kwargs'])


def _settle(args: argparse.Namespace) -> None:
    """Defaults that follow from other options, and what can be refused at once."""
    args.lr_base, args.lr_base_scale = args.blr, 'linear'
    if args.warmup_epochs is None:
        args.warmup_epochs = args.epochs / 9
    if args.checkpoint:
        args.checkpoint = str(Path(args.checkpoint).resolve())  # a resumed run may start elsewhere
    if args.batch_size < 2:
        raise ZooError('--batch-size must be at least 2: the probe has a batch norm')
