"""Data sets by name."""
import argparse
import multiprocessing
import os
import pickle
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import ImageDataset, IterableImageDataset, create_dataset
from timm.data.readers.class_map import load_class_map
from torch.utils.data import Dataset, IterableDataset

from ...utils.errors import Unreadable, ZooError, format_error, require_packages
from . import classes, decoding, folders

QUICKSTART, DIGITS = 'quickstart', 'digits'
# Folder names that mean the same split
TRAIN_FOLDERS = ('train', 'training')
VAL_FOLDERS = ('validation', 'val', 'valid', 'eval', 'evaluation', 'test')
# What timm's readers of other kinds of data need, and what installs it
READERS = {
    'wds': ('webdataset', 'pip install "backbone-zoo[wds]"'), 'hfds': ('datasets', 'pip install "backbone-zoo[hfds]"'),
    'hfids': ('datasets', 'pip install "backbone-zoo[hfds]"'),
    'tfds': ('tensorflow_datasets', 'pip install tensorflow-datasets')}
# What a reader raises about a file that it cannot find or open, and decoding about its content
UNREADABLE = (OSError, EOFError, ValueError, struct.error, tarfile.TarError)
IN_A_ROW = 100  # so many files that cannot be read are no accident


class Digits(Dataset):
    """scikit-learn's 1797 hand-written digits of 8 x 8 pixels, as grey PIL images: real data that needs no network.

    Args:
        train: Whether to take the 80 % for training or the other 20 %; the split is always the same and stratified.
        transform: Applied to each image.
    """

    classes = [str(digit) for digit in range(10)]

    def __init__(self, train: bool, transform: Callable[[Image.Image], Any] | None = None):
        require_packages('sklearn')
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        parts = train_test_split(digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
        images, labels = (parts[0], parts[2]) if train else (parts[1], parts[3])
        self.images = np.round(images * (255 / 16)).astype(np.uint8)
        self.labels = [int(label) for label in labels]
        self.transform, self.target_transform = transform, None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = Image.fromarray(self.images[index]), self.labels[index]
        return (image if self.transform is None else self.transform(image)), (
            label if self.target_transform is None else self.target_transform(label))


class ImageFiles(ImageDataset):
    """timm's data set of image files, except that an unreadable file is reported and not silently replaced.

    With ``skip``, it is replaced by the next readable one, the same one every time, and counted in ``replaced``.
    """

    def setup(self, skip: bool) -> 'ImageFiles':
        self.skip, self.process = skip, None
        self.replaced = multiprocessing.Value('q', 0)  # loading processes count in it together
        return self

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= len(self):
            raise IndexError(index)
        for place in range(index, index + (IN_A_ROW if self.skip else 1)):
            try:
                image, target = self._read(place % len(self))
                break
            except UNREADABLE as e:
                message = f'{self._name(place % len(self))} cannot be read ({format_error(e)})'
                if not self.skip:
                    raise Unreadable(f'{message}; repair or remove it, or give --skip-corrupt') from None
                with self.replaced.get_lock():
                    self.replaced.value += 1
                print(f'{message}; the next one takes its place', file=sys.stderr, flush=True)
        else:
            raise Unreadable(f'{message}, nor can the {IN_A_ROW - 1} files before it: check --data-dir')
        return (image if self.transform is None else self.transform(image)), target

    def _read(self, index: int) -> tuple[Image.Image, int]:
        if self.process != os.getpid():
            self.process = os.getpid()
            _close_tars(self.reader)
        file, target, *_ = self.reader[index]
        with file:
            image = decoding.decode(file, self.input_img_mode)
        return image, -1 if target is None else target if self.target_transform is None else (
            self.target_transform(target))

    def _name(self, index: int) -> str:
        try:
            return self.filename(index, absolute=True)
        except (AssertionError, AttributeError, NotImplementedError):  # not all readers know names
            return f'image {index}'


class StreamedImages(IterableImageDataset):
    """timm's streams of images, decoded like those of files; a stream's own reader only converts them."""

    def setup(self, mode: str) -> 'StreamedImages':
        self.mode, self.reader.input_img_mode = mode, ''
        return self

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for image, target in self.reader:
            image = decoding.prepared(image, self.mode)
            yield (image if self.transform is None else self.transform(image)), (
                target if self.target_transform is None else self.target_transform(target))


def _close_tars(reader: Any) -> None:
    """Let timm's reader open its tar files anew: forked processes that share an open file share their place in it."""
    states = getattr(reader, 'tar_state', {})
    for state in states.values() if isinstance(states, dict) else [states]:
        for part in (state, *state.children.values()):
            part.reset()


def replaced_images(dataset: Any) -> int:
    """Number of files that :class:`ImageFiles` has replaced so far, in all loading processes."""
    return dataset.replaced.value if isinstance(dataset, ImageFiles) else 0


def open_dataset(
        args: argparse.Namespace, split: str, channels: int, training: bool = False,
        num_samples: int | None = None, names: classes.Names | None = None) -> Dataset:
    """Open the data set that ``args`` names (``dataset``, ``data_dir``, ``class_map``, ...).

    Its ``notes`` are lines about what is left out or missing.

    Args:
        args: Options.
        split: Name of the split; for image folders, any usual spelling of it is found.
        channels: Number of image channels that the model takes.
        training: Whether to shuffle streamed data.
        num_samples: Length of a stream that does not state it.
        names: Names of the classes in the order of their numbers; None to number them here.

    Raises:
        ZooError: The data does not exist, has a class that ``names`` lacks, or images with other channels.
    """
    if args.dataset == DIGITS:
        dataset = Digits(train=split in TRAIN_FOLDERS)
    elif args.dataset:
        dataset = _timm_dataset(args, split, channels, training, num_samples)
    else:
        dataset = _image_files(args, split, channels, names)
    dataset.notes = [f'{split}: {note}' for note in getattr(getattr(dataset, 'reader', None), 'notes', ())]
    classes.number_by(dataset, names, split, mapped=bool(args.class_map))
    _check_channels(dataset, channels)
    return dataset


def check_folder(args: argparse.Namespace) -> None:
    """Check, before a model is built, that the data folder and the packages that read it are there.

    Raises:
        ZooError: They are not; the message names the option to change, or the package to install.
    """
    needed = _reader_of(args)
    if needed:
        require_packages(needed[0], extra=needed[1])
        return
    if args.dataset in (QUICKSTART, DIGITS):
        return
    if args.data_dir is None:
        raise ZooError('no data: give --data-dir FOLDER (with train/ and validation/ in it), or --dataset')
    if not Path(args.data_dir).exists() and not args.dataset_download:
        raise ZooError(f'no data folder {args.data_dir}; check --data-dir')


def _reader_of(args: argparse.Namespace) -> tuple[str, str] | None:
    prefix, slash, _ = args.dataset.partition('/')
    return READERS.get(prefix.lower()) if slash else None


def check_classes(dataset: Dataset, num_classes: int) -> None:
    """Refuse a model with fewer outputs than the data set has classes.

    Raises:
        ZooError: The message names the right flag.
    """
    count = class_count(dataset)
    if count and count > num_classes:
        raise ZooError(f'the data has {count} classes, the model {num_classes}; give --num-classes {count}')


def class_count(dataset: Dataset) -> int | None:
    """Number of classes of a data set; None if it is unknown."""
    names = classes.names_of(dataset)
    return len(names) if names else None


def _mode(args: argparse.Namespace, channels: int) -> str:
    return args.input_img_mode or ('L' if channels == 1 else 'RGB')


def _image_files(args: argparse.Namespace, split: str, channels: int, names: classes.Names | None) -> ImageFiles:
    """The data set of a folder of image folders, or of a tar file of them."""
    check_folder(args)
    root = Path(args.data_dir)
    if not root.is_dir() and root.suffix.lower() != '.tar':
        raise ZooError(f'{root} is neither a folder nor a tar file; check --data-dir')
    root = _split_folder(root, split) if root.is_dir() else str(root)
    kind = folders.FolderReader if os.path.isdir(root) else folders.TarReader
    try:
        reader = kind(root, {name for name in names or () if name is not None},
                      load_class_map(args.class_map, root) if args.class_map else None)
    except (AssertionError, OSError, RuntimeError, ValueError, pickle.PickleError, tarfile.TarError) as e:
        raise ZooError(f'data set {args.data_dir!r}: {format_error(e)}') from e
    return ImageFiles(root, reader=reader, input_img_mode=_mode(args, channels)).setup(args.skip_corrupt)


def _timm_dataset(
        args: argparse.Namespace, split: str, channels: int, training: bool, num_samples: int | None) -> Dataset:
    check_folder(args)
    more = {} if args.dataset.startswith('torch/') else dict(input_img_mode=_mode(args, channels))
    if training:
        more['seed'] = args.seed  # of the order of streamed data
    if _reader_of(args):
        keys = dict(input_key=args.input_key, target_key=args.target_key, num_samples=num_samples)
        more.update((key, value) for key, value in keys.items() if value is not None)
    try:
        dataset = create_dataset(
            args.dataset, root=args.data_dir, split=split, class_map=args.class_map or None, is_training=training,
            download=args.dataset_download, batch_size=args.batch_size, **more)
    except KeyError as e:  # older timm, of columns; newer ones are asked below
        if not _reader_of(args):
            raise
        raise ZooError(f'the data has no {e}; give --input-key or --target-key') from e
    except (AssertionError, ImportError, OSError, RuntimeError, ValueError) as e:
        hint = ''
        if 'num_samples' in str(e):
            hint = '; give --train-num-samples and --val-num-samples (validate: --num-samples), or --dataset-download'
        elif not args.dataset_download:
            hint = '; --dataset-download may fetch it'
        raise ZooError(f'data set {args.dataset!r}: {format_error(e)}{hint}') from e
    _check_shards(dataset)
    _check_columns(dataset)
    if type(dataset) is ImageDataset:
        dataset.__class__ = ImageFiles  # timm has no other way to say what its data sets do with a file
        dataset.setup(args.skip_corrupt)
    if type(getattr(dataset, 'reader', None)).__name__ in ('ReaderWds', 'ReaderHfids'):
        dataset.__class__ = StreamedImages
        dataset.setup(_mode(args, channels))
    if hasattr(dataset, 'loader'):  # torchvision's data sets of files
        dataset.loader = partial(_load, mode=_mode(args, channels))
    return dataset


def _load(path: str, mode: str) -> Image.Image:
    try:
        return decoding.decode(path, mode)
    except Unreadable as e:
        raise Unreadable(f'{path} cannot be read ({e}); repair or remove it') from None


def _check_shards(dataset: Dataset) -> None:
    """Refuse a WebDataset with missing shards, for which its reader only warns."""
    reader = getattr(dataset, 'reader', None)
    names = getattr(getattr(reader, 'split_info', None), 'filenames', ())
    if type(reader).__name__ != 'ReaderWds' or any(mark in str(reader.root) for mark in ('://', 'pipe:')):
        return
    missing = [name for name in names if not Path(reader.root, name).is_file()]
    if missing:
        more = f' and {len(missing) - 1} more of {len(names)} shards' if len(missing) > 1 else ''
        raise ZooError(f'no shard {Path(reader.root, missing[0])}{more}; check --data-dir and the split')


def _check_columns(dataset: Dataset) -> None:
    """Refuse a Hugging Face data set without these columns, which its reader would notice only while reading."""
    reader = getattr(dataset, 'reader', None)
    kind = type(reader).__name__
    if kind == 'ReaderHfds' and len(reader):
        keys = reader.image_key, reader.label_key
        columns = [name for name, value in reader.dataset[0].items() if value is not None]
    elif kind == 'ReaderHfids':
        keys = reader.input_key, reader.target_key
        known = reader.builder.info.features
        columns = list(known or next(iter(reader.builder.as_streaming_dataset(reader.split)), ()))
    else:
        return
    for flag, key in zip(('--input-key', '--target-key'), keys):
        if any(part.strip().partition('.')[0] not in columns for part in key.split(',')):
            raise ZooError(f'the data has no {key!r}, but {", ".join(columns)}; give {flag}')


def _split_folder(root: Path, split: str) -> str:
    """The folder of a split, under any usual name; the root itself if it is not divided."""
    groups = [names for names in (TRAIN_FOLDERS, VAL_FOLDERS) if split in names] or [(split,)]
    for name in (split, *groups[0]):
        if (root / name).is_dir():
            return str(root / name)
    if any((root / name).is_dir() for name in TRAIN_FOLDERS + VAL_FOLDERS) or split not in TRAIN_FOLDERS + VAL_FOLDERS:
        raise ZooError(f'no split {split!r} in {root}; it should have a folder {root / split}')
    return str(root)


def _check_channels(dataset: Dataset, channels: int) -> None:
    if isinstance(dataset, IterableDataset) or not len(dataset):
        return
    image = dataset[0][0]
    found = len(image.getbands()) if isinstance(image, Image.Image) else channels
    if found != channels:
        raise ZooError(f'the images have {found} channel(s), the model takes {channels}; give --in-chans {found}')
