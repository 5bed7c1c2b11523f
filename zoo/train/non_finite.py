"""What goes wrong while a run is under way: losses that are not numbers, loading processes that die."""
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import NotFinite, ZooError
from .build import DeviceContext
from .data import workers

REMEDY = 'lower --lr, clip with --clip-grad, or leave --amp out'


class Guard:
    """Leaves out updates whose loss or gradient is not finite in any process, and counts them.

    Batch norms have seen what made the loss so; their statistics are put back.

    Args:
        limit: So many updates may be left out in a run.
        ctx: Of this process.
    """

    def __init__(self, limit: int, ctx: DeviceContext):
        self.limit, self.ctx = limit, ctx
        self.skipped = 0
        self.losses: list[Tensor] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, module: nn.Module) -> None:
        """The first batch of an update is about to come."""
        self.losses = []
        self.buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def allows(self, parameters: Iterable[nn.Parameter] | None) -> bool:
        """Whether to update; the same in all processes.

        Args:
            parameters: With their gradients; None where a loss scaler looks at them.
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
        """Undo what the batches of an update have left behind, and count it.

        Raises:
            NotFinite: too many.
        """
        for buffer, before in self.buffers:
            buffer.copy_(before)
        self.skipped += 1
        if self.skipped > self.limit:
            raise NotFinite(f'more than --skip-nonfinite {self.limit} updates had a loss or gradient that is no '
                            f'number, the last one after {updates} updates; {REMEDY}')


def check_weights(state: Mapping[str, Any]) -> None:
    """Refuse to keep weights or averages of them that are not numbers: the last checkpoint stays the last good one.

    Raises:
        NotFinite: naming the first such tensor.
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
    """What to say about an error that stopped a run, None if it is not one of those that are known.

    Args:
        error: The error.
        advice: How to go on.
    """
    told = error if isinstance(error, NotFinite) else workers.explained(error)
    return told and type(told)(f'{told}; {advice}')
