"""The loops: one training epoch, one evaluation."""
import argparse
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import Mixup
from timm.task import ClassificationTask
from timm.utils import NativeScaler, dispatch_clip_grad
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..utils.errors import NotFinite
from . import build, distributed, report
from .non_finite import REMEDY, Guard


@dataclass(frozen=True)
class BatchMover:
    """Moves batches to the model's device, precision and memory layout, and knows the contexts to compute in."""

    ctx: build.DeviceContext
    dtype: torch.dtype
    channels_last: bool
    autocast: Callable[[], Any]
    products: Callable[[], Any]

    @classmethod
    def of(cls, args: argparse.Namespace, ctx: build.DeviceContext) -> 'BatchMover':
        return cls(ctx, build.dtype_of(args), args.channels_last, build.autocast_of(args, ctx.device),
                   build.products_of(args, ctx.device))

    def __call__(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Move images ``[B, C, H, W]`` and targets to the device, unless a prefetcher already did."""
        images = images.to(self.ctx.device, self.dtype, non_blocking=True)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, target.to(self.ctx.device, non_blocking=True)


class Average:
    """Mean loss and accuracy over images; sums stay on the device until they are read."""

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(3, device=device)

    def add(self, loss: Tensor, output: Tensor, target: Tensor) -> None:
        """Batch loss, logits ``[B, classes]``, targets ``[B]`` or mixed ``[B, classes]`` (the larger label counts)."""
        labels = target.argmax(dim=1) if target.ndim > 1 else target
        correct = (output.argmax(dim=1) == labels).sum()
        self.sums += torch.stack([loss * len(output), correct, torch.full_like(correct, len(output))]).to(self.sums)

    def read(self, ctx: build.DeviceContext | None = None) -> tuple[float, float]:
        """Mean loss, and accuracy in percent; with ``ctx`` those of all processes, which must all call it."""
        loss, correct, count = (self.sums if ctx is None else distributed.all_reduce_sum(self.sums, ctx)).tolist()
        return loss / max(count, 1), 100 * correct / max(count, 1)


@dataclass
class TrainState:
    """A training run: its parts, and how far it is."""

    args: argparse.Namespace
    feed: BatchMover
    task: ClassificationTask
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: NativeScaler | None
    train_batches: Any
    val_batches: Any
    mixup: Mixup | None
    epochs: int
    updates: int = 0
    batch: int = 0  # of the epoch that is under way, so many are done
    points: list[list[float]] = field(default_factory=list)  # of the curves, see report.draw_curves

    def __post_init__(self) -> None:
        self.whole, self.recent = (Average(self.feed.ctx.device) for _ in range(2))  # of the epoch, of a point
        self.guard = Guard(self.args.skip_nonfinite, self.feed.ctx) if self.args.skip_nonfinite else None

    @property
    def updates_per_epoch(self) -> int:
        return math.ceil(len(self.train_batches) / self.args.grad_accum_steps)

    @property
    def lr(self) -> float:
        """The largest learning rate of all parameter groups."""
        return max(group['lr'] for group in self.optimizer.param_groups)


def train_epoch(
        run: TrainState, epoch: int, progress: report.Progress, after: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Train one epoch, or what is left of it after ``run.batch`` batches.

    Args:
        run: The run, whose ``updates``, ``batch`` and ``points`` are updated.
        epoch: Number of the epoch, from 0.
        progress: Advanced by one per batch.
        after: Called after every batch except the last, with the number of batches done.

    Returns:
        Loss and top-1 accuracy over the batches of the epoch in all processes.

    Raises:
        NotFinite: The loss is not finite.
    """
    args, ctx = run.args, run.feed.ctx
    _begin_epoch(run, epoch)
    batches = len(run.train_batches)
    every = 1 if ctx.device.type == 'cpu' else args.log_interval  # reading a sum makes a GPU wait
    shown = {}
    for images, target in progress.waiting(run.train_batches):
        images, target = run.feed(images, target)
        if run.mixup is not None and args.no_prefetcher:
            images, target = run.mixup(images, target)
        loss, output = _step(run, run.batch, batches, images, target)
        run.batch += 1
        done, last = run.batch, run.batch == batches
        if run.guard is None or bool(torch.isfinite(loss)):
            for average in (run.whole, run.recent):
                average.add(loss, output, target)
        if done % every == 0 or last:
            values = run.whole.read()
            _check_finite(values[0], epoch, run.updates)
            shown = dict(loss=f'{values[0]:.3f}', acc=f'{values[1]:.1f}%')
        progress.step(len(images) * ctx.world_size, **shown)
        if done % (args.log_interval * args.grad_accum_steps) == 0 or last:
            run.points.append([epoch + done / batches, *run.recent.read(ctx), run.lr])
            progress.note(run.updates, *run.points[-1][1:])
            run.recent = Average(ctx.device)
        if after is not None and not last:
            after(done)
    run.points = report.thin(run.points)
    loss, top1 = run.whole.read(ctx)
    run.batch, run.whole, run.recent = 0, Average(ctx.device), Average(ctx.device)
    return dict(loss=loss, top1=top1)


@torch.no_grad()
def evaluate(
        model: nn.Module, batches: Any, feed: BatchMover, limit: int | None = None,
        after: Callable[[int], None] | None = None, head: Callable[[Tensor], Tensor] | None = None,
        record: Callable[[Tensor, Tensor], None] | None = None) -> dict[str, float]:
    """Evaluate a model on all images, exactly once each, in one or several processes.

    Args:
        model: Model, which is set to eval mode.
        batches: A loader that does not shuffle.
        feed: Moves batches to the device.
        limit: Number of images of this process that count; beyond them the sampler pads.
        after: Called after every batch with its images.
        head: Applied to the float32 logits ``[B, classes]`` first.
        record: Called then with the logits and the labels ``[B]`` of images that count.

    Returns:
        loss, top1 and top5 in percent, and count.
    """
    model.eval()
    device = feed.ctx.device
    sums = torch.zeros(4, device=device, dtype=torch.float32 if device.type == 'mps' else torch.float64)
    seen = 0
    for images, target in batches:
        images, target = feed(images, target)
        with feed.products(), feed.autocast():
            output = model(images)
        count = len(target) if limit is None else min(len(target), limit - seen)
        seen += count
        output, target = output[:count].float(), target[:count]
        if head is not None:
            output = head(output)
        if record is not None:
            record(output, target)
        loss = nn.functional.cross_entropy(output, target, reduction='sum')
        hits = output.topk(min(5, output.shape[1]), dim=1).indices == target[:, None]
        sums += torch.stack([loss, hits[:, 0].sum(), hits.sum(), torch.full_like(loss, count)]).to(sums)
        if after is not None:
            after(count)
    if feed.ctx.distributed:
        torch.distributed.all_reduce(sums)
    loss, top1, top5, count = sums.tolist()
    whole = max(count, 1)
    return dict(loss=loss / whole, top1=100 * top1 / whole, top5=100 * top5 / whole, count=int(count))


def eval_model(task: ClassificationTask, ema: bool = False) -> nn.Module:
    """The compiled, averaged or bare model for evaluation, without DDP, so that ranks need not run in step."""
    model = task.get_eval_model(ema=ema)
    return model.module if isinstance(model, DistributedDataParallel) else model


def _begin_epoch(run: TrainState, epoch: int) -> None:
    args, batches = run.args, run.train_batches
    run.task.get_trainable_module().train()
    run.optimizer.zero_grad()
    if hasattr(getattr(batches, 'sampler', None), 'seek'):
        batches.sampler.seek(epoch, run.batch)
    elif hasattr(batches.dataset, 'set_epoch'):  # streamed data
        batches.dataset.set_epoch(epoch)
    if run.mixup is not None and args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
        run.mixup.mixup_enabled = False


def _step(run: TrainState, index: int, batches: int, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward of one batch, and the update after the last one of a group; its loss and logits."""
    args, task, guard = run.args, run.task, run.guard
    accumulate = args.grad_accum_steps
    update = (index + 1) % accumulate == 0 or index + 1 == batches
    rest = batches % accumulate
    group = rest if rest and index >= batches - rest else accumulate  # the last group may be smaller
    if guard is not None and index % accumulate == 0:
        guard.begin(task.get_trainable_module())
    with run.feed.products(), contextlib.nullcontext() if update else task.no_sync():
        with run.feed.autocast():
            result = task(images, target)
        if guard is not None:
            guard.losses.append(result['loss'].detach())
        updated = _backward(run, result['loss'] / group, update)
    if update:
        run.optimizer.zero_grad()
        run.updates += 1
        if updated:
            task.update_ema(step=run.updates)
        else:
            guard.skip(run.updates)
        if run.schedule is not None:
            run.schedule.step_update(run.updates)
    return result['loss'].detach(), result['output'].detach()


def _backward(run: TrainState, loss: Tensor, update: bool) -> bool:
    """Backward, and the optimizer's step if it is due and nothing speaks against it; whether it was made."""
    args, optimizer, guard = run.args, run.optimizer, run.guard
    second_order = getattr(optimizer, 'is_second_order', False)
    clipped = run.task.get_clip_parameters(exclude_head=args.clip_mode == 'agc')
    if run.scaler is not None:
        update = update and (guard is None or guard.allows(None))
        run.scaler(
            loss, optimizer, clip_grad=args.clip_grad, clip_mode=args.clip_mode, parameters=clipped,
            create_graph=second_order, need_update=update)
        return update
    loss.backward(create_graph=second_order)
    if not update or guard is not None and not guard.allows(run.task.get_trainable_module().parameters()):
        return False
    if args.clip_grad is not None:
        dispatch_clip_grad(clipped, args.clip_grad, mode=args.clip_mode)
    optimizer.step()
    return True


def _check_finite(loss: float, epoch: int, updates: int) -> None:
    if not math.isfinite(loss):
        raise NotFinite(f'the loss is {loss} in epoch {epoch} after {updates} updates; {REMEDY}')
