"""The state of a run as plain types and tensors, which a checkpoint holds and a resumed run starts from.

At the end of an epoch these are weights, averages, optimizer, scaler and the number of updates. In the middle of an
epoch they are also the number of batches done, the sums of loss and accuracy so far, and each process's random
generators and batch-norm statistics. With these a resumed run equals an uninterrupted one bit by bit, as long as torch,
the device and the number of processes are the same.
"""
import argparse
import os
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.utils import unwrap_model

from ..utils.errors import ZooError, format_error
from . import build, checkpoint, distributed
from .content import taking
from .data import sampling
from .engine import TrainState

HYPERPARAMETERS = ('lr', 'initial_lr', 'weight_decay', 'betas', 'eps', 'momentum')
GENERATOR = '_sr_generator'  # of timm's averaged weights: rounds bfloat16


def capture(run: TrainState, epoch: int, description: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint, loadable with ``weights_only=True``; every process must call this.

    Args:
        run: The run.
        epoch: The last finished epoch.
        description: Entries from which model and preprocessing can be rebuilt.

    Returns:
        The state; in processes other than the first it may lack tensors.
    """
    task, ctx = run.task, run.feed.ctx
    state = dict(
        description, epoch=epoch, updates=run.updates, points=run.points, optimizer=run.optimizer.state_dict(),
        **task.get_checkpoint_state())
    if run.args.sched == 'plateau':  # the others follow from the number of updates
        state['scheduler'] = run.schedule.state_dict()
    if task.has_ema():
        state.update(task.get_checkpoint_state(ema=True))
        generator = getattr(task.get_trainable_module(ema=True), GENERATOR, None)
        if generator is not None:
            state['ema_generator'] = generator.get_state()
    if run.scaler is not None:
        state[run.scaler.state_dict_key] = run.scaler.state_dict()
    if run.guard is not None:
        state['skipped'] = run.guard.skipped
    state = distributed.full_state_dict(state, keep=ctx.primary)
    if run.batch and _order(run) is not None:
        state['middle'] = dict(
            batch=run.batch, **_place(run), ranks=distributed.all_gather_objects(_of_process(run), ctx))
    return state


def restore(run: TrainState, content: dict[str, Any], source: str) -> tuple[int, dict[str, Any] | None, str]:
    """Restore what :func:`capture` returned, except the weights, which are in the model already.

    Args:
        run: A new run.
        content: Content of the checkpoint.
        source: Name of the file, for messages.

    Returns:
        The epoch to start with; if that starts in the middle, the state of the random generators, for
        :func:`zoo.train.data.sampling.restore_random` right before its first batch; and a line to print, or ''.

    Raises:
        ZooError: Averaged weights or optimizer do not fit.
    """
    args, task = run.args, run.task
    if task.has_ema() and 'state_dict_ema' in content:
        averaged = task.get_trainable_module(ema=True)
        weights = checkpoint.weights_of(content, source)
        checkpoint.load_exactly(unwrap_model(task.get_eval_model(ema=True)), weights, source)
        with taking('task_state_ema', source):
            task.load_task_state(content.get('task_state_ema'), ema=True)
        if 'ema_generator' in content and hasattr(averaged, GENERATOR):
            with taking('ema_generator', source):
                getattr(averaged, GENERATOR).set_state(content['ema_generator'])
    with taking('task_state', source):
        task.load_task_state(content.get('task_state'))
    if not args.no_resume_opt:
        _restore_optimizer(run.optimizer, content['optimizer'], source, keep_lr=args.sched == 'plateau')
        if run.scaler is not None and run.scaler.state_dict_key in content:
            with taking(run.scaler.state_dict_key, source):
                run.scaler.load_state_dict(content[run.scaler.state_dict_key])
        if args.sched == 'plateau' and 'scheduler' in content:
            with taking('scheduler', source):
                run.schedule.load_state_dict(content['scheduler'])
    if run.guard is not None:
        run.guard.skipped = content.get('skipped', 0)
    start = content['epoch'] + 1 if args.start_epoch is None else args.start_epoch
    with taking('middle', source):
        middle, note = _usable_middle(run, content)
    if middle is None:
        run.points = [point for point in content['points'] if point[0] <= start]
        place_schedule(run, start)
        return start, None, note
    run.points, run.batch = content['points'], middle['batch']
    place_schedule(run, start, content['updates'])
    with taking('middle', source), sampling.preserve_rng_state(run.feed.ctx.device):
        random = _take_place(run, middle['ranks'][run.feed.ctx.rank])
        sampling.restore_random(random, run.feed.ctx.device)  # to see that it can be
    return start, random, note


def explained(error: Exception, args: argparse.Namespace) -> ZooError | None:
    """What to say about an error in the first update of a resumed run: if it comes from the optimizer, the state that
    it has taken over is that of another one; None for any other error."""
    folders = [os.path.dirname(module.__file__) for module in (torch.optim, timm.optim)]
    if not any(os.path.dirname(frame.f_code.co_filename) in folders
               for frame, _ in traceback.walk_tb(error.__traceback__)):
        return None
    return ZooError(f'{args.resume}: the state of the optimizer does not fit --opt {args.opt} as it is asked for now '
                    f'({type(error).__name__}: {format_error(error)[:120]}); give its options as they were, or '
                    f'--no-resume-opt to go on from the weights alone')


def place_schedule(run: TrainState, start: int, updates: int | None = None) -> None:
    """Advance the schedule to the beginning of epoch ``start``, or to an update within it."""
    run.updates = start * run.updates_per_epoch if updates is None else updates
    if run.schedule is None or not run.updates:
        return
    if run.args.sched_on_updates:
        run.schedule.step_update(run.updates)
    elif run.args.sched != 'plateau' and start:
        run.schedule.step(start)


def _order(run: TrainState) -> sampling.ResumableBatchSampler | None:
    """The sampler of the training images; None for streams, which cannot be started in the middle."""
    order = getattr(run.train_batches, 'sampler', None)
    return order if isinstance(order, sampling.ResumableBatchSampler) else None


def _place(run: TrainState) -> dict[str, Any]:
    """The facts that must be equal for a batch number to mean the same images."""
    args, order = run.args, _order(run)
    return dict(world_size=order.world_size, batch_size=order.batch_size, images=order.count, seed=order.seed,
                aug_repeats=float(order.repeats), grad_accum_steps=args.grad_accum_steps)


def _of_process(run: TrainState) -> dict[str, Any]:
    """The part of the state that differs between processes."""
    sums = [average.sums.cpu() for average in (run.whole, run.recent)]
    state = dict(random=sampling.random_state(run.feed.ctx.device), sums=sums)
    if run.feed.ctx.distributed:
        state['buffers'] = [buffer.cpu() for buffer in _buffers(run)]
    return state


def _take_place(run: TrainState, state: dict[str, Any]) -> dict[str, Any]:
    for average, sums in zip((run.whole, run.recent), state['sums']):
        average.sums = sums.to(average.sums)
    for buffer, value in zip(_buffers(run), state.get('buffers', ())):
        buffer.copy_(value)
    return state['random']


def _buffers(run: TrainState) -> list[torch.Tensor]:
    """Of the model and its average, those that a state dict holds: statistics that differ between processes."""
    modules = [run.task.get_trainable_module(), run.task.get_trainable_module(ema=True)]
    names = [dict(module.named_buffers()) for module in modules if module is not None]
    kept = [module.state_dict() for module in modules if module is not None]
    return [buffer for buffers, keys in zip(names, kept) for name, buffer in buffers.items() if name in keys]


def _usable_middle(run: TrainState, content: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Where in its epoch the checkpoint is, if this run can go on there; else a line that says why not, or ''."""
    args, middle = run.args, content.get('middle')
    if middle is None or args.start_epoch is not None or args.no_resume_opt or _order(run) is None:
        return None, ''
    now = _place(run)
    changed = [f'{key} is {now[key]}, was {middle[key]}' for key in now if now[key] != middle[key]]
    epoch = content['epoch'] + 2
    if not 0 < middle['batch'] < len(run.train_batches) and not changed:
        raise ValueError(f'batch {middle["batch"]} of {len(run.train_batches)}')
    if changed:
        return None, (f'the checkpoint is in the middle of epoch {epoch}, but {"; ".join(changed)}: starting that '
                      f'epoch again')
    return middle, f'going on in epoch {epoch} after {middle["batch"]} of {len(run.train_batches)} batches'


def _check_moments(
        parameters: Sequence[torch.Tensor], states: Mapping[int, Mapping[str, Any]], source: str) -> None:
    """Check the numbers that an optimizer keeps of parameters: plain and finite, and of the parameter's shape or one
    number only wherever most of their kind are."""
    kinds: dict[str, list[tuple[int, Any]]] = {}
    for index, values in states.items():
        for key, value in values.items():
            kinds.setdefault(key, []).append((index, value))
    tensors = {}
    for key, found in kinds.items():
        numbers = {index: value for index, value in found if isinstance(value, torch.Tensor)}
        if numbers and len(numbers) < len(found):
            raise ValueError(f'{key} is a tensor for some parameters only')
        forms = {index: (value.shape == parameters[index].shape, value.ndim == 0,
                         value.is_floating_point() or value.dtype == torch.uint8)  # of 8-bit optimizers
                 for index, value in numbers.items()}
        usual, count = Counter(forms.values()).most_common(1)[0] if forms else (None, 0)
        odd = [index for index, form in forms.items() if form != usual and parameters[index].ndim]
        if odd and count > len(forms) / 2 and any(usual[:2]):
            value = numbers[odd[0]]
            raise ValueError(f'{key} of parameter {odd[0]} is {list(value.shape)} of {value.dtype}')
        tensors |= {f'{key} of parameter {index}': value for index, value in numbers.items()}
    if tensors:
        checkpoint.weights_of(tensors, source)


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: str, keep_lr: bool) -> None:
    """Load an optimizer's state except its hyper-parameters, which the present options determine.

    ``keep_lr`` restores the learning rates too, for schedules that are not a function of the epoch.

    Raises:
        ZooError: It belongs to other parameters, or its numbers are not finite.
    """
    asked = HYPERPARAMETERS[2:] if keep_lr else HYPERPARAMETERS
    fresh = [{key: group[key] for key in asked if key in group} for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    try:
        _check_moments(parameters, state['state'], f'{source}: optimizer')
        moments = {
            index: {key: distributed.shard_like(parameters[index], value) for key, value in values.items()}
            for index, values in state['state'].items()}
        optimizer.load_state_dict(dict(state, state=moments))
    except ZooError as e:
        raise ZooError(f'{e}, or give --no-resume-opt') from None
    except build.MISFITS as e:
        raise ZooError(f'{source}: the state of the optimizer does not fit ({type(e).__name__}: '
                       f'{format_error(e)[:200]}); give its options as they were, or --no-resume-opt') from e
    for group, values in zip(optimizer.param_groups, fresh):
        group.update(values)
