"""Image folders and tar files: which files are images, and which class they belong to."""
import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from timm.data.readers import img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils.misc import natural_key

from ...utils.text_tables import some
from .decoding import endings

HIDDEN = ('.', '__pycache__', '__MACOSX')  # what names of files and folders that are no data begin with


@dataclass
class Found:
    """The content of a folder and all below it: paths of images, relative to the folder, and what is left out."""

    images: list[str] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)  # ending -> files
    refused: list[str] = field(default_factory=list)  # links that form a loop, named pipes, devices

    def notes(self) -> list[str]:
        """Lines about what is left out."""
        lines = []
        if self.others:
            ranked = sorted(self.others.items(), key=lambda item: (-item[1], item[0] or '~'))
            kinds = some([f'{ending or "without ending"} {count}' for ending, count in ranked])
            lines.append(f'{self.others.total()} files that are not images are left out ({kinds})')
        return lines + self.refusals()

    def refusals(self) -> list[str]:
        return [f'not followed, for they are links that form a loop, or not files: {some(sorted(self.refused))}'] if (
            self.refused) else []


def scan(root: str | os.PathLike) -> Found:
    """Search a folder and all below it. Links are followed; hidden files and folders are skipped."""
    found, top = Found(), os.path.realpath(root)
    pending = [(os.fspath(root), '', (_identity(root),))]
    while pending:
        folder, place, above = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                path = place + entry.name
                if entry.name.startswith(HIDDEN):
                    continue
                try:
                    if entry.is_dir():
                        identity = _identity(entry.path)
                        if entry.is_symlink() and (identity in above or _leads_back(entry.path, top, bool(place))):
                            found.refused.append(path)
                        else:
                            pending.append((entry.path, f'{path}/', (*above, identity)))
                    elif entry.is_file() or not os.path.exists(entry.path):  # a link to nothing fails when it is read
                        ending = os.path.splitext(entry.name)[1].lower()
                        if ending in endings():
                            found.images.append(path)
                        else:
                            found.others[ending] += 1
                    else:
                        found.refused.append(path)
                except OSError:  # a link to itself
                    found.refused.append(path)
    return found


def _identity(path: str | os.PathLike) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _leads_back(link: str, top: str, within: bool) -> bool:
    """Whether a link leads to a folder that contains all of the data, or from within a class to part of the data."""
    target = os.path.realpath(link)
    common = os.path.commonpath([target, top])
    return common == target or within and common == top


def class_folders(folders: Collection[str], known: Collection[str]) -> dict[str, str | None]:
    """The class of each folder of images: the first part of its path that names a known class.

    If there is none, it is the first part of the path after the part that all paths have in common.

    Args:
        folders: Paths relative to the root, '' for the root itself.
        known: Names of the classes, if they are known.

    Returns:
        Class by folder; None for the root, which belongs to no class.
    """
    parts = {folder: folder.split('/') for folder in folders if folder}
    depth = 0
    while not known and parts and len({tuple(part[:depth + 1]) for part in parts.values()}) == 1 and all(
            len(part) > depth + 1 for part in parts.values()):
        depth += 1
    classes = {folder: next((name for name in part if name in known), part[depth]) for folder, part in parts.items()}
    return {folder: classes.get(folder) for folder in folders}


class _ByClass:
    """Mixed into timm's readers: chooses the images that count, and their classes."""

    def _sort_in(self, paths: Sequence[str], known: Collection[str], class_map: Mapping[str, int] | None) -> list[int]:
        """Give every path its class.

        Args:
            paths: Images, relative to the root.
            known: Names of classes, if they are known.
            class_map: Numbers of the classes; images of others are left out.

        Returns:
            Places in ``paths`` of the images that count.
        """
        folders = [path.rpartition('/')[0] for path in paths]
        of = class_folders(set(folders), class_map or known)
        labels = [of[folder] for folder in folders]
        names = sorted({label for label in labels if label is not None}, key=lambda name: (natural_key(name), name))
        self.class_to_idx = dict(class_map) if class_map else {name: i for i, name in enumerate(names)}
        chosen = [place for place, label in enumerate(labels) if label in self.class_to_idx]
        self.entries = [(paths[place], labels[place]) for place in chosen]
        self.counts = Counter(label for _, label in self.entries)
        self.notes = self._notes(Counter(labels), of)
        if not chosen:
            raise RuntimeError(f'no images in class folders of {self.root}' + (' that --class-map knows' if names else (
                ': each class needs a folder of its own')))
        return chosen

    def _notes(self, labels: Counter, of: Mapping[str, str | None]) -> list[str]:
        lines = []
        if labels[None]:
            lines.append(f'{labels[None]} images outside class folders are left out')
        foreign = [name for name in labels if name is not None and name not in self.class_to_idx]
        if foreign:
            lines.append(f'{sum(labels[name] for name in foreign)} images of classes that --class-map does not name '
                         f'are left out ({some(sorted(foreign))})')
        deeper = sorted(folder for folder, name in of.items()
                        if name in self.class_to_idx and folder.rpartition('/')[2] != name)
        if deeper:
            lines.append(f'{len(deeper)} folders below class folders count as part of these ({some(deeper, 3)}); a '
                         f'--class-map with their names makes them classes')
        return lines


class FolderReader(_ByClass, ReaderImageFolder):
    """timm's reader of image folders, with the files of :func:`scan` and the classes of :func:`class_folders`.

    Args:
        root: The folder.
        known: Names of the classes, if they are known.
        class_map: Numbers of the classes; images of other classes are left out.

    Attributes:
        entries: Path, relative to the root, and class of every image.
        counts: Number of images by class.
        notes: Lines about what is left out.

    Raises:
        RuntimeError: There is no image.
    """

    def __init__(self, root: str, known: Collection[str] = (), class_map: Mapping[str, int] | None = None):
        self.root = root
        found = scan(root)
        paths = sorted(found.images, key=lambda path: (natural_key(path), path))
        try:
            self._sort_in(paths, known, class_map)
        except RuntimeError as e:
            raise RuntimeError('; '.join([str(e), *found.notes()])) from None
        self.notes = found.notes() + self.notes
        self.samples = [(os.path.join(root, path), self.class_to_idx[name]) for path, name in self.entries]

    def size(self, index: int) -> int:
        """Bytes of an image's file; -1 without one."""
        path = self.samples[index][0]
        return os.path.getsize(path) if os.path.isfile(path) else -1


class TarReader(_ByClass, ReaderImageInTar):
    """timm's reader of a tar file, with the classes of :func:`class_folders`."""

    def __init__(self, root: str, known: Collection[str] = (), class_map: Mapping[str, int] | None = None):
        with _all_endings():
            super().__init__(root)
        paths = [os.path.normpath(Path('' if inner is None else Path(inner.name).stem, member.path)).replace('\\', '/')
                 for member, _, inner in self.samples]
        seen = [place for place, path in enumerate(paths)
                if not any(part.startswith(HIDDEN) for part in path.split('/'))]
        chosen = [seen[place] for place in self._sort_in([paths[place] for place in seen], known, class_map)]
        self.samples = self.samples[chosen]
        self.targets = np.array([self.class_to_idx[name] for _, name in self.entries])

    def size(self, index: int) -> int:
        """Bytes of an image's file."""
        return self.samples[index][0].size


@contextlib.contextmanager
def _all_endings() -> Iterator[None]:
    """Make timm's reader of tar files accept all image formats, for which it has no argument."""
    before = img_extensions.get_img_extensions()
    img_extensions.set_img_extensions(sorted(endings()))
    try:
        yield
    finally:
        img_extensions.set_img_extensions(before)
