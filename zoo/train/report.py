"""Shows the progress of a run and writes summary.csv, curves.png and the closing table."""
import csv
import io
import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..utils.errors import ZooError, format_error
from ..utils.figures import new_figure, write_figure
from ..utils.files import write_atomically
from .logs import Logs

COLUMNS = ('epoch', 'train_loss', 'train_top1', 'eval_loss', 'eval_top1', 'eval_top5', 'raw_top1', 'lr', 'seconds')
MAX_POINTS = 2000  # of the curves; more are thinned out


class Progress:
    """A progress bar on a terminal, occasional lines elsewhere, nothing on other ranks.

    Args:
        total: Number of steps.
        title: Shown before the bar.
        shown: False to show nothing.
        interval: Steps between lines if there is no terminal.
        before: For the time left: seconds that the run has taken so far, and the share of its steps done in them.
        share: Share of all steps of the run that this bar covers.
        device: Device whose memory is shown, if it is a GPU.
        logs: Services that :meth:`note` writes to as well.
    """

    def __init__(
            self, total: int, title: str, shown: bool = True, interval: int = 50,
            before: tuple[float, float] = (0., 0.), share: float = 1., device: torch.device | None = None,
            logs: Logs | None = None):
        from tqdm import tqdm

        self.total, self.title, self.interval = total, title, interval
        self.before, self.share = before, share
        self.device, self.logs = device, logs
        self.lines = shown and not sys.stderr.isatty()
        self.bar = tqdm(
            total=total, desc=title, disable=not shown or self.lines, leave=False, dynamic_ncols=True,
            bar_format='{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}')
        self.start = time.monotonic()
        self.images = 0
        self.steps = 0
        self.waited: float | None = None

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the same batches; the time until each of them arrives counts as waiting for data."""
        self.waited, begin = 0., time.monotonic()
        for batch in batches:
            self.waited += time.monotonic() - begin
            yield batch
            begin = time.monotonic()

    def step(self, images: int, **values: str) -> None:
        """Advance by one step with so many images, and show these strings by name."""
        self.images += images
        self.steps += 1
        due = self.lines and (self.steps % self.interval == 0 or self.steps == self.total)
        if not (due or not self.bar.disable):
            return
        words = [f'{name} {value}' for name, value in values.items()]
        words += [f'{self.speed():.0f} img/s', f'ETA {duration(self.left())}']
        if self.waited is not None:
            words.append(f'data wait {100 * self.data_wait():.0f}%')
        if self.gpu_memory() is not None:
            words.append(f'GPU {self.gpu_memory() / 1e9:.1f} GB')
        if due:
            print(f'{self.title} {self.steps}/{self.total}  {"  ".join(words)}', file=sys.stderr, flush=True)
        self.bar.set_postfix_str('  '.join(words), refresh=False)
        self.bar.update()

    def note(self, updates: int, loss: float, top1: float, lr: float) -> None:
        """Write a point of the curves to the logs, with the speed so far."""
        if self.logs is None:
            return
        values = {'train/loss': loss, 'train/top1': top1, 'train/lr': lr, 'speed/images_per_second': self.speed(),
                  'speed/data_wait_percent': 100 * self.data_wait()}
        if self.gpu_memory() is not None:
            values['speed/gpu_memory_gb'] = self.gpu_memory() / 1e9
        self.logs.write(values, updates)

    def speed(self) -> float:
        """Images per second."""
        return self.images / self._seconds()

    def data_wait(self) -> float:
        """Share of the time spent waiting for the loader.

        On a GPU this is an upper bound: earlier steps may still be running there while this process waits.
        """
        return (self.waited or 0.) / self._seconds()

    def gpu_memory(self) -> int | None:
        """Peak memory of this process's tensors on the GPU in bytes; None without a GPU."""
        on_gpu = self.device is not None and self.device.type == 'cuda'
        return torch.cuda.max_memory_allocated(self.device) if on_gpu else None

    def _seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-9)

    def left(self) -> float:
        """Seconds to the end of the run at the present speed."""
        spent, done = self.before
        done += self.share * self.steps / self.total
        return (spent + time.monotonic() - self.start) * (1 - done) / max(done, 1e-9)

    def close(self) -> None:
        self.bar.close()


def duration(seconds: float) -> str:
    """0:42, 3:07, 12:05:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def parameters(count: int) -> str:
    """12.30 M; few are counted: 650."""
    return f'{count / 1e6:.2f} M' if count >= 10_000 else str(count)


def read_summary(path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of an earlier run's summary before the epoch ``before``, with numbers as numbers.

    Raises:
        ZooError: The file is not one that :func:`write_summary` writes.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = [{key: float(row[key]) if row[key] else None for key in COLUMNS} for row in csv.DictReader(file)]
        return [dict(row, epoch=int(row['epoch'])) for row in rows if row['epoch'] < before]
    except (KeyError, TypeError, ValueError, csv.Error) as e:
        raise ZooError(f'{path} is damaged ({format_error(e)[:100]}); remove it to go on without the figures of the '
                       f'earlier epochs') from None


def write_summary(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one line per epoch, rewriting the file each time, so that an interrupted run leaves a whole one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval='', extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _short(value) for key, value in row.items()})
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def thin(points: list) -> list:
    """Keep every second point if there are too many."""
    return points[::2] if len(points) > MAX_POINTS else points


def draw_curves(path: Path, points: Sequence[Sequence[float]], rows: Sequence[dict[str, Any]], title: str) -> None:
    """Draw loss, accuracy and learning rate over epochs.

    Args:
        path: Path of the PNG file.
        points: [epochs done, loss, accuracy in percent, learning rate] during the training epochs.
        rows: Rows of the summary.
        title: Title of the picture.
    """
    figure = new_figure(13, 3.6)
    figure.suptitle(title).set_parse_math(False)  # a $ in a folder's name is a $
    panels = figure.subplots(1, 3)
    x = [point[0] for point in points]
    for panel, name, column, key in zip(
            panels, ('loss', 'top-1 accuracy (%)', 'learning rate'), (1, 2, 3), ('eval_loss', 'eval_top1', None)):
        panel.plot(x, [point[column] for point in points], color='tab:gray', linewidth=1, label='training batches')
        seen = [(row['epoch'] + 1, row[key]) for row in rows if key and row.get(key) is not None]
        if seen:
            panel.plot(*zip(*seen), color='tab:red', marker='o', markersize=3, label='validation')
            panel.legend()
        panel.set_xlabel('epoch')
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_title(name)
        panel.grid(alpha=0.3)
    write_figure(path, figure)


def write_results(path: Path, results: dict[str, Any] | list[dict[str, Any]], kind: str) -> None:
    """Write the figures of one or several models, by column, as CSV with a header or as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline='')
    if kind == 'json':
        json.dump(results, text, indent=2)
    else:
        rows = results if isinstance(results, list) else [results]
        writer = csv.DictWriter(text, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def command(*words: str) -> str:
    """A ``python -m zoo`` command line for copying."""
    return shlex.join([_python(), '-m', 'zoo', *words])


def _python() -> str:
    """The interpreter as one would type it here: its path if it is below this folder, else ``python``."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else 'python'


def _short(value: Any) -> Any:
    return '' if value is None else f'{value:.6g}' if isinstance(value, float) else value
