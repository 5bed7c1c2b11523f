"""Training in several processes: DDP or FSDP2 around a task, synchronised batch norm, gathered and sharded states.

A checkpoint holds whole tensors in any case: under FSDP2 they are gathered when it is written and sharded when it is
read. So one process, DDP and FSDP2 write and read the same plain file, which any program can open. The sharded folders
of ``torch.distributed.checkpoint`` would save the primary process the memory of one whole copy, which matters for much
larger models, but would have to be converted before anything else could read them.
"""
import argparse
import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.errors import ZooError, format_error
from .build import DeviceContext


def all_gather_objects(value: Any, ctx: DeviceContext) -> list[Any]:
    """The values of all processes, by rank."""
    if not ctx.distributed:
        return [value]
    values = [None] * ctx.world_size
    distributed.all_gather_object(values, value)
    return values


def all_reduce_sum(sums: Tensor, ctx: DeviceContext) -> Tensor:
    """The sum over all processes."""
    sums = sums.clone()
    if ctx.distributed:
        distributed.all_reduce(sums)
    return sums


def check(args: argparse.Namespace, ctx: DeviceContext) -> None:
    """Refuse options that FSDP2 does not support.

    Raises:
        ZooError: The message names the option to leave out.
    """
    if not args.fsdp:
        return
    if not ctx.distributed:
        raise ZooError('--fsdp shards over processes: start two or more with torchrun, or leave it out')
    if args.torchcompile:
        raise ZooError('--fsdp and --torchcompile do not work together; leave one out')
    if args.clip_mode == 'agc' and args.clip_grad is not None:
        raise ZooError('--clip-mode agc needs whole gradients: not with --fsdp; use --clip-mode norm')


def broadcast_parameters(model: nn.Module) -> None:
    """Copy the weights of the first process to all others; DDP does that by itself."""
    for value in [*model.parameters(), *model.buffers()]:
        distributed.broadcast(value.detach(), 0)


def wrap(args: argparse.Namespace, task: TrainingTask, ctx: DeviceContext, unused: bool) -> None:
    """Wrap a task for training in all processes; the optimizer must be created afterwards.

    Args:
        args: Options (``fsdp``).
        task: Task, with its averaged weights if it has any.
        ctx: Device and rank of this process.
        unused: Whether some parameters get no gradient.

    Raises:
        ZooError: FSDP2 cannot shard a parameter of the model.
    """
    if args.fsdp:
        _shard(task.get_trainable_module(), unwrap_model(task.get_eval_model()), ctx)
        if task.has_ema():
            averaged = task.get_trainable_module(ema=True)
            _shard(averaged.module, unwrap_model(task.get_eval_model(ema=True)), ctx)
            averaged.foreach = False  # torch does not mix shards and plain buffers in one call
    elif ctx.distributed:
        task.prepare_distributed(
            device_ids=None if ctx.device.type == 'cpu' else [ctx.device], find_unused_parameters=unused)


def _shard(trained: nn.Module, model: nn.Module, ctx: DeviceContext) -> None:
    """Shard what is trained: the model, or a module around it that calls its ``forward_features`` and ``forward_head``.

    Such a model is sharded on its own too, since evaluation calls it alone.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(ctx.device.type, (ctx.world_size,))
    inner = [] if model is trained else [model]
    try:
        for module in [*_units(model), *inner, trained]:
            fully_shard(module, mesh=mesh)
        for module, method in itertools.product(inner, ('forward_features', 'forward_head')):
            register_fsdp_forward_method(module, method)
    except (NotImplementedError, ValueError) as e:
        raise ZooError(f'--fsdp cannot shard this model ({format_error(e)[:200]}); leave it out: DDP can') from e


def _units(model: nn.Module) -> list[nn.Module]:
    """What is gathered at a time, inner ones first: the members of lists of like modules, as blocks and stages are."""
    units = {}
    for module in model.modules():
        members = list(module) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
        if len(members) > 1 and len({type(member) for member in members}) == 1 and any(members[0].children()):
            units |= {id(member): member for member in members if any(True for _ in member.parameters())}
    return list(units.values())[::-1]


def full_state_dict(state: Any, keep: bool = True) -> Any:
    """Replace shards in a state by whole tensors on the CPU; every process must call it.

    Args:
        state: Nested dicts, lists and tuples.
        keep: False for processes that only contribute their shards.
    """
    if isinstance(state, Mapping):
        return {key: full_state_dict(value, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(full_state_dict(value, keep) for value in state)
    if not is_shard(state):
        return state
    whole = state.full_tensor()
    return whole.cpu() if keep else None


def shard_like(target: Any, value: Any) -> Any:
    """A whole tensor, sharded like ``target`` if that is a shard of a tensor of its shape."""
    if not is_shard(target) or not isinstance(value, Tensor) or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def is_shard(value: Any) -> bool:
    """Whether this is a tensor of which each process has a part."""
    if not isinstance(value, Tensor) or not distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def sync_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Make batch norms use the statistics of the global batch: torch's class on GPUs, ours on CPUs."""
    if device.type != 'cpu':
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = _SyncedAct if isinstance(module, BatchNormAct2d) else _Synced
    return model


class _Total(torch.autograd.Function):
    """The sum over all processes; so is its gradient, because each of their losses depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class _Synced(_BatchNorm):
    """What torch's does on GPUs. Equal batches in all processes; ``[B, C, ...]`` to the same."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0., self.eps)
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        values = x.float()
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _Total.apply(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = _Total.apply(centred.square().sum(axes)) / count
        scale = (variance + self.eps).rsqrt()
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        if self.affine:
            return (centred * (scale * self.weight).view(shape) + self.bias.view(shape)).to(x.dtype)
        return (centred * scale.view(shape)).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _SyncedAct(_Synced):
    """With the activation that timm's batch norms carry."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))
