"""Training tasks: classification, with an auxiliary classifier, with a teacher, and with losses of the model's layers.

A teacher is a trained model that sees the same images (Hinton et al., "Distilling the Knowledge in a Neural Network",
arXiv 1503.02531; Touvron et al., "Training data-efficient image transformers & distillation through attention",
arXiv 2012.12877). The losses are those of ``timm.task``; the teacher is built here, as every model is.
"""
import argparse
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from timm.task import (
    ClassificationTask,
    FeatureDistillationTask,
    LogitDistillationTask,
    TokenDistillationTask,
    TrainingTask,
)
from torch import Tensor, nn

from ..blocks.extra_loss import loss_names, return_losses
from ..utils.errors import ZooError, did_you_mean, format_error
from . import build, checkpoint
from .sequence_distillation import SequenceDistillationTask

T = TypeVar('T')
TASKS = dict(
    logit=LogitDistillationTask, feature=FeatureDistillationTask, token=TokenDistillationTask,
    sequence=SequenceDistillationTask)
PREPROCESSING = ('input_size', 'img_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


class AuxiliaryTask(ClassificationTask):
    """Classification by a model that returns two logits in training: ``loss(main) + weight * loss(auxiliary)``.

    Args:
        model: Returns a tuple of logits ``[B, classes]`` in training, the main ones first.
        weight: Weight of the second loss.
        **task: Arguments of timm's task: criterion, device, verbose.
    """

    def __init__(self, model: nn.Module, weight: float, **task: Any):
        super().__init__(model, **task)
        self.weight = weight

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Images ``[B, C, H, W]`` and targets to loss, main logits (output) and both parts of the loss."""
        output, auxiliary = self.trainable_module(input)
        parts = dict(task_loss=self.criterion(output, target), aux_loss=self.criterion(auxiliary, target))
        return dict(parts, loss=parts['task_loss'] + self.weight * parts['aux_loss'], output=output)


class ExtraLosses(TrainingTask):
    """Part of a task: adds the weighted losses of the model's own layers, ``sum(weight * loss)``, to what it minimises.

    It comes before the task's own class among the bases. Call :meth:`take_losses` before the model is compiled or
    wrapped.
    """

    trainable_module: nn.Module
    extra_weights: Mapping[str, float] = {}

    def take_losses(self, weights: Mapping[str, float]) -> None:
        """Set the weights of the losses, by name; others are not computed.

        Raises:
            ZooError: The model has no such loss.
        """
        return_losses(self.trainable_module, weights)
        self.extra_weights = weights

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What the task returns, with the weighted losses in its loss and each of them as ``NAME_loss``."""
        losses = {}

        def split(module: nn.Module, args: Any, output: Any) -> Any:
            output, given = output
            losses.update(given)
            return output

        handle = self.trainable_module.register_forward_hook(split)  # of what is outermost by now: compiled, wrapped
        try:
            result = super().forward(input, target)
        finally:
            handle.remove()
        total = result['loss'] + sum(weight * losses[name] for name, weight in self.extra_weights.items())
        return dict(result, loss=total, **{f'{name}_loss': value for name, value in losses.items()})


def make_task(
        args: argparse.Namespace, model: nn.Module, loss: nn.Module, ctx: build.DeviceContext,
        config: Mapping[str, Any]) -> ClassificationTask:
    """Build the task of the options around a model on its device.

    Args:
        args: Options.
        model: The model to train, whose second classifier is switched on if the task needs it.
        loss: The loss on the labels.
        ctx: Device and rank.
        config: ``input_size``, ``mean`` and ``std`` of the images.

    Raises:
        ZooError: The model or the teacher does not support the task.
    """
    weights = _extra_weights(args, model)
    task = _plain_task(args, model, ctx, config, dict(criterion=loss, device=ctx.device, verbose=False), bool(weights))
    if isinstance(task, ExtraLosses):
        task.take_losses(weights)
    return task


def _extra_weights(args: argparse.Namespace, model: nn.Module) -> dict[str, float]:
    """Weights other than 0 of the losses of the model's own layers."""
    known = loss_names(model) if args.extra_loss_weights else []
    for name in args.extra_loss_weights:
        if name not in known:
            raise ZooError(f'--extra-loss-weights {name}: {args.model} has no such loss of its own; ' + (
                f'it has {", ".join(known)}{did_you_mean(name, known)}' if known else 'leave the option out'))
    return {name: float(weight) for name, weight in args.extra_loss_weights.items() if weight}


def _kind(kind: type[T], extra: bool) -> type[T]:
    return type(kind.__name__, (ExtraLosses, kind), {}) if extra else kind


def _plain_task(
        args: argparse.Namespace, model: nn.Module, ctx: build.DeviceContext, config: Mapping[str, Any],
        shared: dict[str, Any], extra: bool) -> ClassificationTask:
    if args.kd_model_name:
        return _distillation(args, model, ctx, config, shared, extra)
    if args.aux_loss_weight:
        if not hasattr(model, 'set_auxiliary_training'):
            raise ZooError(f'{args.model} has no auxiliary classifier; leave --aux-loss-weight out')
        model.set_auxiliary_training(True)
        return _kind(AuxiliaryTask, extra)(model, args.aux_loss_weight, **shared)
    return _kind(ClassificationTask, extra)(model, **shared)


def check(args: argparse.Namespace) -> None:
    """Check the options of the teacher and of the model's own losses before anything is built.

    Raises:
        ZooError: The teacher is unknown, or a file or an option does not go with it, or a weight is not a number.
    """
    for name, weight in args.extra_loss_weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ZooError(f'--extra-loss-weights {name}: must be a number of at least 0, got {weight!r}')
    if not args.kd_model_name:
        if args.kd_teacher_checkpoint:
            raise ZooError('--kd-teacher-checkpoint needs the name of its model: give --kd-model-name')
        return
    build.check_model_name(args.kd_model_name)
    if args.aux_loss_weight:
        raise ZooError('--kd-model-name and --aux-loss-weight exclude each other; give one')
    if args.kd_teacher_checkpoint:
        _teacher_content(args.kd_teacher_checkpoint, args.kd_model_name)


def make_teacher(
        args: argparse.Namespace, classes: int, ctx: build.DeviceContext,
        config: Mapping[str, Any]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Build the frozen teacher of the options, with published weights or those of ``kd_teacher_checkpoint``.

    Args:
        args: Options.
        classes: Number of classes of the model that it teaches.
        ctx: Device and rank.
        config: ``input_size`` of the images.

    Returns:
        The teacher, and its data config, whose ``mean`` and ``std`` it needs.

    Raises:
        ZooError: There are no such weights, they have other classes, or the teacher refuses images of this size.
    """
    asked = dict.fromkeys(PREPROCESSING) | dict(
        model=args.kd_model_name, model_kwargs=args.kd_model_kwargs, num_classes=None, gp=None, pretrained=True,
        in_chans=config['input_size'][0], kd_weights=args.kd_teacher_checkpoint)
    asked, state = argparse.Namespace(**asked), None
    if args.kd_teacher_checkpoint:
        state = _read_teacher(asked, classes)
    try:
        teacher = build.create_model(asked, state)
    except (ZooError, OSError) as e:  # the latter while downloading
        hint = '' if state else '; its weights may be given with --kd-teacher-checkpoint'
        raise ZooError(f'the teacher {args.kd_model_name} cannot be built: {format_error(e)}{hint}') from e
    dtype = build.dtype_of(args)
    layout = torch.channels_last if args.channels_last else torch.preserve_format
    teacher.to(ctx.device, dtype, memory_format=layout).requires_grad_(False)
    count = getattr(teacher, 'num_classes', classes)
    if args.kd_distill_type != 'feature' and count != classes:
        raise ZooError(f'the teacher {args.kd_model_name} has {count} classes, the model {classes}; give one of the '
                       f'same classes (--kd-model-name, --kd-teacher-checkpoint), or --kd-distill-type feature')
    try:
        build.check_forward(teacher, config, build.DeviceContext(ctx.device), dtype)
    except ZooError as e:
        raise ZooError(f'the teacher {args.kd_model_name}: {e}; --kd-model-kwargs may build it for them') from e
    return teacher, build.data_config_of(asked, teacher)


def _read_teacher(asked: argparse.Namespace, classes: int) -> dict[str, Tensor]:
    """Weights of the teacher; what a checkpoint of :mod:`zoo.train` says of its model goes into ``asked``."""
    content, ours = _teacher_content(asked.kd_weights, asked.model)
    if ours:
        asked.model_kwargs = {**content['model_kwargs'], **asked.model_kwargs}
        if content['data_config']['input_size'][0] == asked.in_chans:
            asked.mean, asked.std = content['data_config']['mean'], content['data_config']['std']
    state = build.own_names(asked.model, checkpoint.weights_of(content, asked.kd_weights), asked.model_kwargs)
    asked.num_classes = content.get('num_classes') or build.classes_in(asked.model, state) or classes
    return state


def _teacher_content(source: str, name: str) -> tuple[dict[str, Any], bool]:
    """Content of a file with weights of the model ``name``, and whether :mod:`zoo.train` wrote it."""
    content, ours = checkpoint.read(source)
    if 'probe' in content:
        raise ZooError(f'{source} holds a probe, not a model; give another --kd-teacher-checkpoint')
    if ours and content['arch'] != name:
        raise ZooError(f'{source} is a checkpoint of {content["arch"]}, not of {name}; give --kd-model-name '
                       f'{content["arch"]}')
    return content, ours


def _distillation(
        args: argparse.Namespace, model: nn.Module, ctx: build.DeviceContext, config: Mapping[str, Any],
        shared: dict[str, Any], extra: bool) -> ClassificationTask:
    kind = args.kd_distill_type
    if kind == 'token' and not hasattr(model, 'set_distilled_training'):
        raise ZooError(f'{args.model} has no second classifier to learn from a teacher; give --kd-distill-type logit '
                       f'or feature')
    teacher, expected = make_teacher(args, model.num_classes, ctx, config)
    options = {} if kind == 'feature' else dict(temperature=args.kd_temperature)
    if kind == 'token':
        options['distill_type'] = args.kd_token_distill_type
    task = _kind(TASKS[kind], extra)(
        model, teacher, distill_loss_weight=args.distill_loss_weight, task_loss_weight=args.task_loss_weight,
        dtype=build.dtype_of(args), **options, **shared)
    _set_statistics(task, config, expected)
    return task


def _set_statistics(task: nn.Module, config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Make the teacher see images with its own normalisation, whatever the model's is."""
    if all(tuple(config[key]) == tuple(expected[key]) for key in ('mean', 'std')):
        task.student_mean = task.student_std = None  # timm then hands the images on as they are
        return
    for owner, suffix, source in ((task, 'student_{}', config), (task.teacher, '{}_kd', expected)):
        for key in ('mean', 'std'):
            name = suffix.format(key)
            value = torch.tensor(source[key], device=getattr(owner, name).device, dtype=getattr(owner, name).dtype)
            setattr(owner, name, value.view(1, -1, 1, 1))
