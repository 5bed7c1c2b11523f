"""Handles what goes wrong during a run: losses that are not finite, loading processes that die."""
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import NotFinite, ZooError
from .build import DeviceContext
from .data import workers

REMEDY = 'lower --lr, clip with --clip-grad, or leave --amp out'


class Guard:
    """Skips updates whose loss or gradient is not finite in some process, and counts them.

    The statistics of batch norms, which have seen the faulty batch, are restored.

    Args:
        limit: Number of updates that a run may skip.
        ctx: Device and rank of this process.
    """

    def __init__(self, limit: int, ctx: DeviceContext):
        self.limit, self.ctx = limit, ctx
        self.skipped = 0
        self.losses: list[Tensor] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, module: nn.Module) -> None:
        """Prepare for the first batch of an update."""
        self.losses = []
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def allows(self, parameters: Iterable[nn.Parameter] | None) -> bool:
        """Whether to make the update; the answer is the same in all processes.

        Args:
            parameters: Parameters with gradients; None if a loss scaler checks them.
        """
        finite = torch.isfinite(torch.stack(self.losses)).all()
        gradients = [p.grad for p in parameters or () if p.grad is not None]
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            finite = finite & torch.isfinite(norm.full_tensor() if hasattr(norm, 'full_tensor') else norm)
        if self.ctx.distributed:
            torch.distributed.all_reduce(finite := finite.to(torch.int32), torch.distributed.ReduceOp.MIN)
        return bool(finite)

    def skip(self, updates: int) -> None:
        """Undo the side effects of an update's batches, and count the update as skipped.

        Raises:
            NotFinite: Too many updates were skipped.
        """
        for buffer, before in self.buffers:
            buffer.copy_(before)
        self.skipped += 1
        if self.skipped > self.limit:
            raise NotFinite(f'more than --skip-nonfinite {self.limit} updates had a loss or gradient that is '
                            f'not finite, the last one after {updates} updates; {REMEDY}')


def check_weights(state: Mapping[str, Any]) -> None:
    """Refuse to save weights, or averages of them, that are not finite, so that the last checkpoint is a good one.

    Raises:
        NotFinite: The message names the first such tensor.
    """
    for entry, what in (('state_dict', 'weights'), ('state_dict_ema', 'averaged weights')):
        floats = {key: value for key, value in state.get(entry, {}).items() if value.is_floating_point()}
        if not floats:
            continue
        finite = torch.stack([value.isfinite().all() for value in floats.values()]).tolist()
        bad = [key for key, fine in zip(floats, finite) if not fine]
        if bad:
            raise NotFinite(f'the {what} are no longer finite after {state["updates"]} updates ({bad[0]}, {len(bad)} '
                            f'of {len(floats)} tensors); {REMEDY}')


def explained(error: Exception, advice: str) -> ZooError | None:
    """Explain an error that stopped a run; None if it is not a known one.

    Args:
        error: The error.
        advice: What to do next.
    """
    told = error if isinstance(error, NotFinite) else workers.explained(error)
    return told and type(told)(f'{told}; {advice}')
