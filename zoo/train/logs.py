"""Where the figures of a run go besides its folder's own files: TensorBoard, Weights & Biases, each if it is asked for.

Both get the same names and count in optimizer steps: ``train/...`` and ``speed/...`` with every point of the curves,
``epoch/...`` with every row of ``summary.csv``.
"""
import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.errors import ZooError, format_error, require_packages

SERVICES = ('tensorboard', 'wandb')  # packages, and extras of ours with the same names


def check(args: argparse.Namespace) -> None:
    """Check that what the options ask for is installed.

    Raises:
        ZooError: it is not; with the command that installs it.
    """
    for name in SERVICES:
        if getattr(args, f'log_{name}'):
            require_packages(name, extra=f'pip install "backbone-zoo[{name}]"')


class Logs:
    """The services that a run writes to, as a context: they are closed at its end, also at a bad one.

    Args:
        args: Options: which services.
        folder: Of the run; it exists.
        config: What the run was asked for, plain values.
        updates: Optimizer steps of the run before; what an interrupted run wrote after them is hidden.
        primary: False for a process that writes nothing.
    """

    def __init__(
            self, args: argparse.Namespace, folder: Path, config: Mapping[str, Any], updates: int = 0,
            primary: bool = True):
        self.services: list[TensorBoard | Wandb] = []
        if primary and args.log_tensorboard:
            self.services.append(TensorBoard(folder, updates))
        if primary and args.log_wandb:
            self.services.append(Wandb(args, folder, config))

    def __enter__(self) -> 'Logs':
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for service in self.services:
            service.close(failed=kind is not None)

    def write(self, values: Mapping[str, float], updates: int) -> None:
        """Write figures by name, at an optimizer step."""
        for service in self.services:
            service.write(values, updates)

    def epoch(self, row: Mapping[str, Any], updates: int) -> None:
        """Write a row of the summary; from here on it can be seen."""
        self.write({f'epoch/{key}': value for key, value in row.items() if value is not None}, updates)
        for service in self.services:
            service.flush()


class TensorBoard:
    """Event files in ``tensorboard/`` of a run's folder."""

    def __init__(self, folder: Path, updates: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / 'tensorboard'), purge_step=updates + 1 if updates else None)

    def write(self, values: Mapping[str, float], updates: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, updates)

    def flush(self) -> None:
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


class Wandb:
    """A run of wandb, whose x axis is ``update``: its own count of steps would refuse what a resumed run repeats.

    Raises:
        ZooError: wandb does not open it: nobody is logged in, or there is no run of that id.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, config: Mapping[str, Any]):
        import wandb

        try:
            self.run = wandb.init(
                project=args.wandb_project, name=folder.name, dir=str(folder), config=dict(config),
                tags=args.wandb_tags or None, id=args.wandb_resume_id or None,
                resume='must' if args.wandb_resume_id else None)
        except wandb.Error as e:
            raise ZooError(f'--log-wandb: {format_error(e)[:300]}; wandb login, or set WANDB_MODE=offline') from e
        self.run.define_metric('update')
        self.run.define_metric('*', step_metric='update')

    def write(self, values: Mapping[str, float], updates: int) -> None:
        self.run.log(dict(values, update=updates))

    def flush(self) -> None:
        """It sends by itself."""

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
