"""The confusion matrix of a validation, as tables and as a picture."""
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.figures import new_figure, write_figure
from ..utils.files import write_atomically

FILES = ('classes.csv', 'confusion.csv', 'confusion.png')
MOST_NAMES = 50  # classes that can be named beside a picture
MOST_NUMBERS = 20  # classes whose counts fit into its cells


class Confusion:
    """Counts images by class and prediction.

    Args:
        classes: Number of classes.
        device: Device of the logits.
    """

    def __init__(self, classes: int, device: torch.device):
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)  # [label, prediction]

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Count logits ``[B, classes]`` and labels ``[B]``; images without a label (-1) do not count."""
        known = labels >= 0
        places = labels[known] * len(self.counts) + logits[known].argmax(1)
        self.counts += torch.bincount(places, minlength=self.counts.numel()).view_as(self.counts)

    def write(self, folder: Path, names: Sequence[str], title: str) -> None:
        """Write :data:`FILES` into a folder.

        Args:
            folder: Folder, which is created if it does not exist; files of the same names are replaced.
            names: Names of the classes.
            title: Title of the picture.

        Raises:
            ZooError: The files cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        counts = self.counts.cpu()
        _write_csv(folder / FILES[0], [
            ('class', 'name', 'images', 'correct', 'accuracy', 'precision', 'taken_for', 'times'),
            *_per_class(counts, names)])
        _write_csv(folder / FILES[1], [
            ('class', *names), *([name, *row] for name, row in zip(names, counts.tolist()))])
        write_figure(folder / FILES[2], _picture(counts, names, title))


def _per_class(counts: Tensor, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Accuracy (of a class's images, how many are found), precision (of what is called so, how much is so), in per
    cent, and the class that a class is most often mistaken for."""
    right, images, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    wrong = counts - torch.diag(right)
    rows = []
    for i, name in enumerate(names):
        times, other = (int(value) for value in wrong[i].max(0))
        rows.append((
            i, name, int(images[i]), int(right[i]), _percent(right[i], images[i]), _percent(right[i], predicted[i]),
            names[other] if times else '', times))
    return rows


def _percent(part: Tensor, whole: Tensor) -> str:
    return f'{100 * int(part) / int(whole):.2f}' if whole else ''


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline='')
    csv.writer(text, lineterminator='\n').writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode('utf-8', 'replace')))


def _picture(counts: Tensor, names: Sequence[str], title: str) -> Any:
    """Draw the matrix: rows are classes, columns predictions, colours shares of a class's images."""
    side = min(max(4., 0.32 * len(names)), 14.)
    figure = new_figure(side + 2.5, side + 1.5)
    panel = figure.subplots()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    image = panel.imshow(shares.numpy(), cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, ax=panel, label="share of the class's images", shrink=0.8)
    panel.set(xlabel='predicted class', ylabel='class')
    texts = [panel.set_title(title)]
    if len(names) <= MOST_NAMES:
        places = range(len(names))
        panel.set_xticks(places, names, rotation=90)
        panel.set_yticks(places, names)
        texts += [*panel.get_xticklabels(), *panel.get_yticklabels()]
    for text in texts:
        text.set_parse_math(False)  # a $ in a name is a $
    for i, j in counts.nonzero().tolist() if len(names) <= MOST_NUMBERS else ():
        panel.text(j, i, str(int(counts[i, j])), ha='center', va='center', fontsize=8,
                   color='white' if shares[i, j] > 0.6 else 'black')
    return figure


