"""Checkpoints that are whole or absent: written beside their place, flushed, then moved in."""
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ZooError
from ..utils.files import atomic_write, write_atomically
from . import distributed

LAST, BEST = 'last.pth.tar', 'model_best.pth.tar'
VERSION = 2  # timm's: 'epoch' is the last one that is finished


class CheckpointManager:
    """The files of one run: ``last``, ``model_best``, the best ``checkpoint-N`` and the newest ``recovery-N-M``.

    Args:
        folder: Of the run.
        keep: How many ``checkpoint-N`` files stay, the best by metric.
        smaller_is_better: For a loss.
        recoveries: How many ``recovery-N-M`` files stay.
    """

    def __init__(self, folder: Path, keep: int, smaller_is_better: bool = False, recoveries: int = 1):
        self.folder = folder
        self.keep = keep
        self.recoveries = recoveries
        self.sign = -1 if smaller_is_better else 1
        self.best: tuple[int, float] | None = None  # epoch, metric
        self.kept: dict[int, float | None] = {}  # epoch -> metric

    def restore(self, metrics: Mapping[int, float | None], best: tuple[int, float] | None) -> None:
        """Take over the files of the earlier epochs of this run."""
        self.kept = {epoch: metric for epoch, metric in metrics.items() if self._file(epoch).exists()}
        self.best = best

    def save(self, state: dict[str, Any], epoch: int, metric: float | None) -> None:
        """Write the checkpoint of a finished epoch; ``metric`` is None if it was not validated."""
        improved = metric is not None and (self.best is None or self.sign * (metric - self.best[1]) > 0)
        if improved:
            self.best = (epoch, metric)
        path = self._file(epoch)
        write_atomically(path, lambda file: torch.save(dict(state, metric=metric, best=self.best), file))
        _link(path, self.folder / LAST)
        if improved:
            _link(path, self.folder / BEST)
        self.kept[epoch] = metric
        self._prune()

    def save_recovery(self, state: dict[str, Any], epoch: int, batch: int) -> None:
        """Write the state in the middle of ``epoch``, after ``batch`` of its batches."""
        path = self.folder / f'recovery-{epoch}-{batch}.pth.tar'
        write_atomically(path, lambda file: torch.save(dict(state, metric=None, best=self.best), file))
        self._drop_recoveries(self.recoveries)

    def newest(self) -> Path | None:
        """The file to resume from."""
        return newest_in(self.folder)

    def tidy(self) -> None:
        """Remove the drafts of a process that was killed while it wrote."""
        for draft in self.folder.glob('.*'):
            if draft.is_file() and draft.suffix[1:].isdigit():
                draft.unlink(missing_ok=True)

    def _file(self, epoch: int) -> Path:
        return self.folder / f'checkpoint-{epoch}.pth.tar'

    def _prune(self) -> None:
        worst = float('-inf')
        ranked = sorted(self.kept, key=lambda e: (
            worst if self.kept[e] is None else self.sign * self.kept[e], e), reverse=True)
        for epoch in ranked[self.keep:]:
            self._file(epoch).unlink(missing_ok=True)
            del self.kept[epoch]
        self._drop_recoveries()

    def _drop_recoveries(self, but: int = 0) -> None:
        for file in recoveries_in(self.folder)[:-but or None]:
            file.unlink(missing_ok=True)


def recoveries_in(folder: Path) -> list[Path]:
    """The ``recovery-EPOCH-BATCH`` files of a run, the newest last."""
    numbers = {}
    for file in folder.glob('recovery-*-*.pth.tar'):
        words = file.name.removesuffix('.pth.tar').split('-')[1:]
        if len(words) == 2 and all(word.isdigit() for word in words):
            numbers[file] = [int(word) for word in words]
    return sorted(numbers, key=numbers.get)


def newest_in(folder: Path) -> Path | None:
    """The checkpoint of a run to go on from: recovery files are younger than ``last``, which replaces them."""
    files = [*recoveries_in(folder)[::-1], folder / LAST]
    return next((file for file in files if file.exists()), None)


def newest_run(output: Path) -> Path | None:
    """The checkpoint to go on from of the run in a folder of runs that was written to last."""
    files = [newest_in(folder) for folder in output.glob('*/')]
    return max((file for file in files if file is not None), key=lambda file: file.stat().st_mtime, default=None)


def read(path: str) -> tuple[dict[str, Any], bool]:
    """Read a checkpoint file safely.

    Returns:
        Its content, and whether :mod:`zoo.train` wrote it (it then brings model and data config along).

    Raises:
        ZooError: no such file, damaged, or not weights only; one line with the fix.
    """
    from ..weights import read_checkpoint

    content = read_checkpoint(path)
    ours = isinstance(content.get('data_config'), dict) and isinstance(content.get('args'), dict)
    return content, ours


def weights_of(content: dict[str, Any], use_ema: bool = True) -> dict[str, Tensor]:
    """The weights in a checkpoint, averaged ones first."""
    from ..weights import state_dict_of

    return state_dict_of(content, use_ema=use_ema)


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit name by name and shape by shape.

    Raises:
        ZooError: naming the first differences.
    """
    target = model.state_dict()
    problems = [f'{key} is missing' for key in target if key not in state]
    problems += [f'{key} is not in the model' for key in state if key not in target]
    problems += [f'{key} is {list(state[key].shape)}, the model has {list(target[key].shape)}'
                 for key in target if key in state and state[key].shape != target[key].shape]
    if problems:
        more = f' and {len(problems) - 2} more' if len(problems) > 2 else ''
        raise ZooError(f'{source} does not fit the model: {"; ".join(problems[:2])}{more}; build the model as it was '
                       f'saved (--model, --num-classes, --model-kwargs)')
    model.load_state_dict({key: distributed.shard_like(value, state[key]) for key, value in target.items()})


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, replacing what had it; a copy where the file system has no hard links."""
    try:
        with atomic_write(target) as draft:
            draft.unlink(missing_ok=True)
            os.link(source, draft)
    except OSError:
        with open(source, 'rb') as content:
            write_atomically(target, lambda file: shutil.copyfileobj(content, file))
