"""Writes the figures of a run to TensorBoard and Weights & Biases, if that is asked for.

Both get the same names and count in optimizer steps: ``train/...`` and ``speed/...`` for every point of the curves,
``epoch/...`` for every row of ``summary.csv``.
"""
import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.errors import ZooError, format_error, require_packages

SERVICES = ('tensorboard', 'wandb')  # packages, and extras of ours with the same names


def check(args: argparse.Namespace) -> None:
    """Check that the packages for the options are installed.

    Raises:
        ZooError: One is not; the message has the command that installs it.
    """
    for name in SERVICES:
        if getattr(args, f'log_{name}'):
            require_packages(name, extra=f'pip install "backbone-zoo[{name}]"')


class Logs:
    """The services that a run writes to, as a context that closes them even after an error.

    Args:
        args: Options, which name the services.
        folder: Existing folder of the run.
        config: Options of the run as plain values.
        updates: Optimizer steps of the run so far; what an interrupted run wrote after them is hidden.
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
        """Write a row of the summary, and make everything visible that was written so far."""
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
    """A run of wandb with ``update`` as its x axis, because its own step count refuses what a resumed run repeats.

    Raises:
        ZooError: wandb does not open the run: nobody is logged in, or there is no run with that id.
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
        """Do nothing: wandb sends by itself."""

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
