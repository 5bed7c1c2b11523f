"""Builds device context, model, loss, optimizer and schedule from options, with timm's parts."""
import argparse
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import NativeScaler, init_distributed_device
from torch import Tensor, nn

from zoo_kernels.cpu import fast_products, products_library

from ..utils.errors import ZooError, did_you_mean, format_error
from ..weights import without_prefix
from ..weights.convert import check_kinds
from . import checks
from .data.sampling import preserve_rng_state

# What timm and torch raise about a name, an argument, a key or a shape that does not fit
MISFITS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class DeviceContext:
    """The device of a process and its rank among the processes that torchrun started."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    @property
    def primary(self) -> bool:
        return self.rank == 0


def init_distributed(device: str) -> DeviceContext:
    """Choose the device and join the other processes, if there are any (gloo on CPUs, NCCL on CUDA).

    Raises:
        ZooError: There is no such device here.
    """
    found = argparse.Namespace(device=str(checks.device(device)))
    init_distributed_device(found)
    return DeviceContext(torch.device(found.device), found.rank, found.world_size)


@contextlib.contextmanager
def distributed_context(device: str) -> Iterator[DeviceContext]:
    """:func:`init_distributed` for a block, at the end of which the process leaves the others."""
    try:
        yield init_distributed(device)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def check_model_name(name: str) -> None:
    """Refuse an unknown model before anything is built.

    Raises:
        ZooError: The model is unknown; the message suggests similar names.
    """
    if name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) or timm.is_model(name):
        return
    raise ZooError(f'unknown model {name!r}{did_you_mean(name.partition(".")[0], timm.list_models())}')


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """Precision of weights and images."""
    return getattr(torch, args.model_dtype) if args.model_dtype else torch.float32


def channels_of(args: argparse.Namespace) -> int | None:
    """Image channels that the options ask for."""
    return args.input_size[0] if args.input_size else args.in_chans


def check_sizes(args: argparse.Namespace) -> None:
    """Refuse sizes that contradict each other.

    Raises:
        ZooError: ``input_size`` is given beside different channels or a different image size.
    """
    if args.input_size is None:
        return
    for name, value, own in (('in_chans', args.in_chans, args.input_size[:1]),
                             ('img_size', args.img_size, args.input_size[1:])):
        if value is not None and any(value != number for number in own):
            raise ZooError(f'{name} {value} contradicts input_size {args.input_size}; give --input-size alone')


def create_model(
        args: argparse.Namespace, state: Mapping[str, Tensor] | None = None, adapt: bool = False,
        **more: Any) -> nn.Module:
    """Build the model that the options describe, with weights if they are given.

    Args:
        args: Options.
        state: Weights, with the model's own key names or those of the authors' code.
        adapt: Allow weights of a model with different classes, sizes and channels.
        **more: Further arguments of the model, such as drop rates.

    Raises:
        ZooError: The model refuses an argument or the weights.
    """
    check_model_name(args.model)
    if state is not None:
        classes = (classes_in(args.model, state) or -1) if adapt else args.num_classes or classes_in(args.model, state)
        if adapt and getattr(args, 'pretrained_rows', ''):
            state, classes = choose_rows(args, state)
        overlay = dict(state_dict=dict(state)) | ({} if classes is None else {'num_classes': classes})
        more = dict(more, pretrained_cfg_overlay=overlay)
    more = dict(more, num_classes=args.num_classes, in_chans=channels_of(args), global_pool=args.gp) | args.model_kwargs
    try:
        model = timm.create_model(args.model, pretrained=args.pretrained or state is not None, **more)
    except MISFITS as e:
        raise ZooError(f'{args.model}: {format_error(e)[:300]}') from e
    if state is not None:
        check_kinds(state, model)
    if getattr(model, 'pretrained_cfg', None):
        model.pretrained_cfg.pop('state_dict', None)  # timm keeps what was loaded; it is a copy of the weights
    return model


def data_config_of(args: argparse.Namespace, model: nn.Module, test_size: bool = False) -> dict[str, Any]:
    """timm's data config: input_size, mean, std, interpolation, crop_pct and crop_mode.

    Raises:
        ZooError: ``mean`` or ``std`` do not have as many channels as the images.
    """
    chosen = {key: getattr(args, key) for key in (
        'input_size', 'img_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')}
    declared = (getattr(model, 'pretrained_cfg', None) or {}).get('input_size', (3,))[0]
    chosen['in_chans'] = channels_of(args) or getattr(model, 'in_chans', declared)
    try:
        config = resolve_data_config(chosen, model=model, use_test_size=test_size)
    except AssertionError:
        raise ZooError(f'--mean and --std need 1 or {chosen["in_chans"]} numbers') from None
    channels = chosen['in_chans']
    config['input_size'] = (channels, *config['input_size'][1:])
    for key in ('mean', 'std'):
        if len(config[key]) != channels:  # those of the pretrained config are for its own channels
            config[key] = (sum(config[key]) / len(config[key]),) * channels
    return config


def check_forward(model: nn.Module, config: Mapping[str, Any], ctx: DeviceContext, dtype: torch.dtype) -> bool:
    """Run the model on one black image, so that a size that it cannot take is reported before the data is read.

    Returns:
        Whether some parameters get no gradient, which DistributedDataParallel must know.

    Raises:
        ZooError: The model refuses the image, or returns something other than logits.
    """
    model.eval()
    try:
        image = torch.zeros(1, *config['input_size'], device=ctx.device, dtype=dtype)
        with torch.set_grad_enabled(ctx.distributed):
            output = model(image)
    except MISFITS as e:
        raise ZooError(f'{list(config["input_size"])} images do not fit the model: {format_error(e)[:300]}') from e
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = list(output.shape) if isinstance(output, Tensor) else f'a {type(output).__name__}'
        raise ZooError(f'the model gives {found} instead of logits [1, classes]; it needs a classifier behind global '
                       f'pooling: see `gp` and `model_kwargs`')
    if not ctx.distributed:
        return False
    output.float().sum().backward()
    unused = any(p.requires_grad and p.grad is None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    return unused


def autocast_of(args: argparse.Namespace, device: torch.device) -> Any:
    """Factory of the mixed-precision context that the options ask for."""
    if not args.amp:
        return contextlib.nullcontext
    dtype = args.amp_dtype or ('float16' if device.type == 'cuda' else 'bfloat16')
    return lambda: torch.autocast(device.type, dtype=getattr(torch, dtype))


def products_of(args: argparse.Namespace, device: torch.device) -> Any:
    """Factory of the context in which float32 products are computed by the faster library; for CPUs, not compiled."""
    return contextlib.nullcontext if device.type != 'cpu' or args.torchcompile else fast_products


def products_library_of(args: argparse.Namespace, device: torch.device) -> str:
    """The library that computes float32 products of a step: resumed with another one, a run is not the same."""
    return products_library() if products_of(args, device) is fast_products else args.torchcompile or device.type


def scaler_of(args: argparse.Namespace, device: torch.device) -> NativeScaler | None:
    """timm's loss scaler, for float16 mixed precision only."""
    half = args.amp_dtype == 'float16' or (not args.amp_dtype and device.type == 'cuda')
    return NativeScaler(device=device.type) if args.amp and half else None


def make_loss(args: argparse.Namespace, mixed: bool) -> nn.Module:
    """The training loss. Targets from mixup are smoothed already."""
    if args.bce_loss:
        return BinaryCrossEntropy(smoothing=0. if mixed else args.smoothing, target_threshold=args.bce_target_thresh)
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else nn.CrossEntropyLoss()


def learning_rates(args: argparse.Namespace, world_size: int) -> dict[str, float]:
    """``lr``, ``warmup_lr`` and ``min_lr`` for the global batch (batch_size x processes x grad_accum_steps).

    Without ``lr``, ``lr_base`` is scaled by global batch / ``lr_base_size``, linearly or by the square root (timm's
    rule: the root for Adam, LAMB and their kin). ``lr_scale_ends`` scales the other two by the same factor.
    """
    ends = dict(warmup_lr=args.warmup_lr, min_lr=args.min_lr)
    if args.lr is not None:
        return dict(ends, lr=args.lr)
    ratio = args.batch_size * world_size * args.grad_accum_steps / args.lr_base_size
    root = any(kin in args.opt.lower() for kin in ('ada', 'lamb'))
    if (args.lr_base_scale or ('sqrt' if root else 'linear')) == 'sqrt':
        ratio **= 0.5
    if args.lr_scale_ends:
        ends = {key: value * ratio for key, value in ends.items()}
    return dict(ends, lr=args.lr_base * ratio)


def make_optimizer(args: argparse.Namespace, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """timm's optimizer with its parameter groups: no decay for biases, norms, and what the model names.

    ``lr_mult`` puts parameters into groups with a learning rate of their own: schedules go from ``warmup_lr`` to the
    group's rate and then to ``min_lr``.

    Raises:
        ZooError: An unknown optimizer, arguments that it does not take, or an ``lr_mult`` that matches no parameter.
    """
    checks.optimizer(args)
    extra = dict(args.opt_kwargs)
    if args.opt_eps is not None:
        extra['eps'] = args.opt_eps
    if args.opt_betas is not None:
        extra['betas'] = tuple(args.opt_betas)
    shared = dict(extra, opt=args.opt, lr=lr, weight_decay=args.weight_decay, momentum=args.momentum)
    try:
        _try_step(shared)
        optimizer = create_optimizer_v2(model, layer_decay=args.layer_decay, **shared)
    except (*MISFITS, ArithmeticError, LookupError) as e:
        raise ZooError(f'--opt {args.opt}: {format_error(e)[:300]}') from e
    for ending, factor in args.lr_mult.items():
        _multiply_rates(optimizer, model, ending, factor)
    return optimizer


def _try_step(settings: Mapping[str, Any]) -> None:
    """Take a step with a small layer: some optimizers notice invalid numbers only then."""
    layer = nn.Linear(4, 4, device='meta').to_empty(device='cpu')  # on meta nothing is drawn
    for parameter in layer.parameters():
        parameter.data.fill_(1.)
        parameter.grad = torch.ones_like(parameter)
    with preserve_rng_state():
        create_optimizer_v2(layer, **settings).step()


def _multiply_rates(optimizer: torch.optim.Optimizer, model: nn.Module, ending: str, factor: Any) -> None:
    """Move parameters whose names end with the given words (between dots) to groups with ``factor`` times the rate."""
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor < 0:
        raise ZooError(f'--lr-mult {ending}: expected a number from 0 on, got {factor!r}')
    chosen = {id(p) for name, p in model.named_parameters() if f'.{name}'.endswith(f'.{ending}')}
    if not chosen:
        raise ZooError(f'--lr-mult {ending}: no parameter of the model has a name that ends so')
    for group in list(optimizer.param_groups):
        parts = [[p for p in group['params'] if (id(p) in chosen) is moved] for moved in (False, True)]
        group['params'] = parts[0]
        if parts[1]:
            optimizer.add_param_group(dict(group, params=parts[1], lr=factor * group['lr']))


def make_schedule(
        args: argparse.Namespace, optimizer: torch.optim.Optimizer, updates_per_epoch: int,
        rates: Mapping[str, float]) -> tuple[Any, int]:
    """timm's schedule (None for 'none') and the number of epochs, including cool-down and a separate warm-up.

    Raises:
        ZooError: This timm does not have the schedule, or refuses its numbers.
    """
    decay = {} if args.decay_epochs is None else {'decay_epochs': args.decay_epochs}
    try:
        schedule, epochs = create_scheduler_v2(
            optimizer, sched=args.sched, num_epochs=args.epochs, decay_milestones=args.decay_milestones,
            cooldown_epochs=args.cooldown_epochs, patience_epochs=args.patience_epochs, decay_rate=args.decay_rate,
            min_lr=rates['min_lr'], warmup_lr=rates['warmup_lr'], warmup_epochs=args.warmup_epochs,
            warmup_prefix=args.warmup_prefix, plateau_mode='min' if args.eval_metric == 'loss' else 'max',
            step_on_epochs=not args.sched_on_updates, updates_per_epoch=updates_per_epoch, **decay)
    except MISFITS as e:
        raise ZooError(f'--sched {args.sched}: {format_error(e)}') from e
    if schedule is None and args.sched != 'none':
        raise ZooError(f'--sched {args.sched}: timm {timm.__version__} does not have it; a newer one does')
    return schedule, int(epochs)  # timm adds a warm-up, which need not be whole epochs


def classes_in(name: str, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes of the classifier in ``state``, under the model's own names; None if that is unclear."""
    weights = [state[f'{head}.weight'] for head in _classifiers_of(name) if f'{head}.weight' in state]
    return len(weights[0]) if weights and weights[0].ndim else None  # two heads have the same classes


def own_names(name: str, state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Remove a prefix that all names of the weights have in common, if they are then exactly the model's names.

    Other names are left to the model's loader, which also reports what does not fit.
    """
    if len({key.partition('.')[0] for key in state}) > 1 or not timm.is_model(name):
        return dict(state)
    names = set()
    for device in ('meta', 'cpu'):  # not all of timm's can be built without memory
        try:
            with torch.device(device):
                names = set(timm.create_model(name, **kwargs).state_dict())
            break
        except MISFITS:
            continue
    bare = without_prefix(state, names, tell=False)
    heads = {f'{head}.{kind}' for head in _classifiers_of(name) for kind in ('weight', 'bias')}
    return without_prefix(state, names) if names and names - heads <= set(bare) else dict(state)


def choose_rows(args: argparse.Namespace, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Keep only the rows of the classifier that ``pretrained_rows`` lists, in that order.

    The file has one number per line: for each class the row that it starts from. Authors publish such files for the
    1000 classes among the 21841 of ImageNet-22k.

    Returns:
        The weights, and how many classes they have now.

    Raises:
        ZooError: The file does not exist, holds no numbers or a row that does not exist, or does not have as many lines
            as the model has classes.
    """
    source = args.pretrained_rows
    rows = checks.class_numbers(source, '--pretrained-rows')
    heads = classifiers(args.model, state)
    count = len(state[f'{heads[0]}.weight']) if heads else 0
    if max(rows) >= count:
        raise ZooError(f'--pretrained-rows {source}: the rows of the classifier are 0 to {count - 1}, the file has '
                       f'{min(rows)} to {max(rows)}')
    if args.num_classes not in (None, len(rows)):
        raise ZooError(f'--pretrained-rows {source} has {len(rows)} lines, the model {args.num_classes} classes')
    chosen = {f'{head}.{kind}': state[f'{head}.{kind}'][rows] for head in heads for kind in ('weight', 'bias')}
    return {**state, **chosen}, len(rows)


def classifiers(name: str, state: Mapping[str, Tensor]) -> list[str]:
    """The final linear layers in ``state``, under the model's own names or as ``head`` or ``fc``, as authors do."""
    usual = ('head', 'fc', 'classifier', 'head_dist', 'dist_head')
    for names in (_classifiers_of(name), usual):
        found = [head for head in names if all(
            f'{head}.{kind}' in state and state[f'{head}.{kind}'].ndim for kind in ('weight', 'bias'))]
        if found:
            return found
    return []


def _classifiers_of(name: str) -> tuple[str, ...]:
    """The names of a model's final linear layers; () if they are unknown."""
    names = (timm.models.get_pretrained_cfg_value(name, 'classifier') if timm.is_model(name) else None) or ()
    return (names,) if isinstance(names, str) else tuple(names)
