"""Checkpoints of a run, each written atomically.

Each holds the random id of its run (``run_id``) and the number of times that the run has been started (``starts``). Of
two files of a run, the one of the later start is newer, and within a start the one after more updates, whatever epoch
and batch their names say. So a resumed run that had to begin its epoch again continues from its own files.
"""
import argparse
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import ZooError
from ..utils.files import link, write_atomically
from . import build, distributed
from . import content as contents

LAST, BEST = 'last.pth.tar', 'model_best.pth.tar'
VERSION = 2  # timm's: 'epoch' is the last one that is finished


class CheckpointManager:
    """The files of one run: ``last``, ``model_best``, the best ``checkpoint-N`` and the newest ``recovery-N-M``.

    Args:
        folder: Folder of the run.
        keep: Number of ``checkpoint-N`` files to keep, the best by metric.
        smaller_is_better: Whether the metric is a loss.
        recoveries: Number of ``recovery-N-M`` files to keep.
    """

    def __init__(self, folder: Path, keep: int, smaller_is_better: bool = False, recoveries: int = 1):
        self.folder = folder
        self.keep = keep
        self.recoveries = recoveries
        self.sign = -1 if smaller_is_better else 1
        self.best: tuple[int, float] | None = None  # epoch, metric
        self.kept: dict[int, float | None] = {}  # epoch -> metric
        self.run_id, self.starts = secrets.token_hex(8), 1

    def restore(
            self, metrics: Mapping[int, float | None], best: tuple[int, float] | None, run_id: str | None = None,
    ) -> None:
        """Adopt the files of earlier epochs of this run, whose checkpoints have ``run_id``."""
        self.kept = {epoch: _number(metric) for epoch, metric in metrics.items() if self._file(epoch).exists()}
        self.best = best if best and _number(best[1]) is not None else None
        self.run_id = run_id or self.run_id
        self.starts = 1 + max((_place(file)[1] for file in _files(self.folder)), default=0)

    def save(self, state: dict[str, Any], epoch: int, metric: float | None) -> None:
        """Write the checkpoint of a finished epoch; ``metric`` is None if it was not validated, and never the best if
        it is not finite."""
        metric = _number(metric)
        improved = metric is not None and (self.best is None or self.sign * (metric - self.best[1]) > 0)
        if improved:
            self.best = (epoch, metric)
        path = self._file(epoch)
        self._write(path, state, metric)
        link(path, self.folder / LAST)
        if improved:
            link(path, self.folder / BEST)
        self.kept[epoch] = metric
        self._prune()

    def save_recovery(self, state: dict[str, Any], epoch: int, batch: int) -> None:
        """Write the state in the middle of ``epoch``, after ``batch`` batches."""
        self._write(self.folder / f'recovery-{epoch}-{batch}.pth.tar', state, None)
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

    def _write(self, path: Path, state: dict[str, Any], metric: float | None) -> None:
        whole = dict(state, metric=metric, best=self.best, run_id=self.run_id, starts=self.starts)
        write_atomically(path, lambda file: torch.save(whole, file))

    def _prune(self) -> None:
        worst = float('-inf')
        ranked = sorted(self.kept, key=lambda e: (
            worst if self.kept[e] is None else self.sign * self.kept[e], e), reverse=True)
        for epoch in ranked[self.keep:]:
            self._file(epoch).unlink(missing_ok=True)
            del self.kept[epoch]
        self._drop_recoveries()

    def _drop_recoveries(self, but: int = 0) -> None:
        own = [file for file in recoveries_in(self.folder) if _place(file)[0] in (self.run_id, None)]
        for file in own[:-but or None]:
            file.unlink(missing_ok=True)


def recoveries_in(folder: Path) -> list[Path]:
    """The ``recovery-EPOCH-BATCH`` files of a run, the newest last."""
    return sorted((file for file in _files(folder) if file.name != LAST), key=lambda file: _place(file)[1:])


def newest_in(folder: Path) -> Path | None:
    """The checkpoint to resume from, of the run that wrote to a folder last."""
    files = _files(folder)
    if len(files) < 2:
        return files[0] if files else None
    places = {file: _place(file) for file in files}
    run_id = places[max(files, key=_written)][0]
    return max((file for file in files if places[file][0] == run_id), key=lambda file: places[file][1:])


def check_folder(folder: Path, resumed: str | None) -> None:
    """Check that a folder holds no run other than the one that is resumed.

    Raises:
        ZooError: It holds another one; the message names the checkpoint to resume that from.
    """
    newest = newest_in(folder)
    if newest is not None and not (resumed and Path(resumed).parent.resolve() == folder.resolve()):
        raise ZooError(f'{folder} holds a run already: go on with --resume {newest}, or choose another --experiment')


def newest_run(output: Path) -> Path | None:
    """The checkpoint to resume from, of the run in a folder of runs that was written to last."""
    files = [file for folder in output.glob('*/') for file in _files(folder)]
    return newest_in(max(files, key=_written).parent) if files else None


def _files(folder: Path) -> list[Path]:
    """The files that a run can be resumed from."""
    files = [file for file in folder.glob('recovery-*-*.pth.tar') if _numbers(file)]
    return files + [folder / LAST] if (folder / LAST).exists() else files


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns


def _numbers(file: Path) -> list[int]:
    """Epoch and batch in the name of a recovery file, [] if there are none."""
    words = file.name.removesuffix('.pth.tar').split('-')[1:]
    return [int(word) for word in words] if len(words) == 2 and all(word.isdecimal() for word in words) else []


def _place(file: Path) -> tuple[str | None, int, int, list[int]]:
    """Id of the run that wrote a file, its starts and updates until then, and the numbers in its name."""
    try:
        content = torch.load(file, map_location='cpu', weights_only=True, mmap=True)  # weights stay on the disk
        run_id, starts, updates = content.get('run_id'), content.get('starts', 0), content.get('updates', 0)
        found = (run_id if isinstance(run_id, str) else None, int(starts), int(updates))
    except Exception:  # torch raises a dozen types for damaged files: they come first, and reading one tells
        found = (None, 0, 0)
    return (*found, _numbers(file))


def _number(metric: float | None) -> float | None:
    return metric if metric is not None and math.isfinite(metric) else None


def read(path: str) -> tuple[dict[str, Any], bool]:
    """Read a checkpoint file safely.

    Returns:
        Its content, and whether :mod:`zoo.train` wrote it, in which case it describes model and preprocessing.

    Raises:
        ZooError: The file does not exist, is damaged, holds more than plain data, or is ours but lacks an entry.
    """
    from ..weights import read_checkpoint

    content = read_checkpoint(path)
    ours = contents.is_ours(content)
    if ours:
        contents.check_model(content, path)
    return content, ours


def weights_of(content: Mapping[str, Any], source: str, use_ema: bool = True) -> dict[str, Tensor]:
    """The weights in a checkpoint, preferably averaged ones.

    Raises:
        ZooError: A tensor cannot be a weight; the message names the file ``source`` and the first such tensor.
    """
    from ..weights import state_dict_of

    try:
        return state_dict_of(content, use_ema=use_ema)
    except ZooError as e:  # NotFinite stays what it is
        raise type(e)(f'{source}: {e}') from None


def starting_weights(args: argparse.Namespace) -> dict[str, Tensor]:
    """The weights of ``initial_checkpoint`` or ``pretrained_path``.

    Raises:
        ZooError: The file cannot be read, or ``initial_checkpoint`` has different classes from the model.
    """
    source = args.initial_checkpoint or args.pretrained_path
    content, _ = read(source)
    weights = build.own_names(args.model, weights_of(content, source), args.model_kwargs)
    heads = build.classifiers(args.model, weights) if args.initial_checkpoint and args.num_classes else ()
    classes = {len(weights[f'{head}.weight']) for head in heads}
    if classes - {args.num_classes}:
        raise ZooError(f'{source} has {min(classes)} classes, {args.model} is to have {args.num_classes}: '
                       f'--pretrained-path takes all but the classifier; or give --num-classes {min(classes)}')
    return weights


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights whose names and shapes must be exactly the model's.

    Raises:
        ZooError: They are not; the message names the first differences.
    """
    target = model.state_dict()
    problems = [f'{key} is missing' for key in target if key not in state]
    problems += [f'{key} is not in the model' for key in state if key not in target]
    problems += [f'{key} is {list(state[key].shape)}, the model has {list(target[key].shape)}'
                 for key in target if key in state and state[key].shape != target[key].shape]
    problems += [f'{key} is of {str(state[key].dtype).removeprefix("torch.")}, not of floating-point numbers'
                 for key in target if key in state and target[key].is_floating_point() > state[key].is_floating_point()]
    if problems:
        more = f' and {len(problems) - 2} more' if len(problems) > 2 else ''
        raise ZooError(f'{source} does not fit the model: {"; ".join(problems[:2])}{more}; build the model as it was '
                       f'saved (--model, --num-classes, --model-kwargs)')
    model.load_state_dict({key: distributed.shard_like(value, state[key]) for key, value in target.items()})
