"""The class names of a run: one list, taken from its training data, by which the classes of every split are numbered.

Checkpoints hold it as ``class_names``, beside ``data_fingerprint``, by which a resumed run recognises its data.
"""
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from ...utils.errors import ZooError
from ...utils.text_tables import some

Names = list[str | None]
SAMPLE = 64  # files whose sizes are part of a fingerprint


def names_of(dataset: Dataset) -> Names | None:
    """Names of a data set's classes in the order of its own numbers, None for numbers without a name.

    Returns:
        None if the data set has no names.
    """
    reader = getattr(dataset, 'reader', None)
    numbers = getattr(reader, 'class_to_idx', None) or getattr(reader, 'class_name_to_idx', None)
    if not numbers:
        found = getattr(dataset, 'classes', None)
        return [name if isinstance(name, str) else ', '.join(name) for name in found] if found else None
    names: Names = [None] * (max(numbers.values()) + 1)
    for name, number in sorted(numbers.items(), key=lambda item: str(item[0]), reverse=True):
        names[number] = str(name)
    return names


def names_in(content: Mapping[str, Any] | None) -> Names | None:
    """The class names in a checkpoint; None if it has none.

    Raises:
        ZooError: They are not a list of names.
    """
    names = (content or {}).get('class_names')
    if names is None:
        return None
    if not isinstance(names, list) or not all(name is None or isinstance(name, str) for name in names):
        raise ZooError('`class_names` in the checkpoint is not a list of names; it is damaged, use another')
    return names if any(name is not None for name in names) else None


def chosen_names(chosen: Sequence[str] | None, own: Names | None) -> Names | None:
    """The class names in the order of their numbers: those that the user lists, or else those of the data.

    Args:
        chosen: The user's list, which may have names that the data lacks.
        own: :func:`names_of` the training data.

    Raises:
        ZooError: A name is empty or occurs twice, or a name of the data is missing.
    """
    if chosen is None:
        return own
    twice = sorted({name for name in chosen if chosen.count(name) > 1 or not name.strip()})
    if twice:
        raise ZooError(f'--class-names should be different names; check {some([repr(name) for name in twice])}')
    unknown = [name for name in own or () if name is not None and name not in chosen]
    if unknown:
        raise ZooError(f'--class-names, or class_names in the config, lacks {some(unknown)} of the training data; add '
                       f'them, or leave it out')
    return list(chosen)


def number_by(dataset: Dataset, names: Names | None, split: str, mapped: bool = False) -> None:
    """Number the classes of a data set by a list of names; what it lacks is added to its ``notes``.

    Args:
        dataset: Data set, whose labels are translated from now on.
        names: The list; None keeps the data set's own numbers.
        split: Name of the data set, for messages.
        mapped: Whether its numbers come from ``--class-map``; they are kept if the list lacks some of its names.

    Raises:
        ZooError: The list lacks some classes; the message names them.
    """
    own = names_of(dataset)
    if names is None or own is None:
        return
    numbers = {name: number for number, name in enumerate(names) if name is not None}
    unknown = [name for name in own if name is not None and name not in numbers]
    if unknown and mapped:
        return
    if unknown:
        known = some([name for name in names if name is not None])
        raise ZooError(f'{split} has classes that training did not have: {some(unknown)}; its classes are {known}. '
                       f'Rename or remove these folders, or give a --class-map')
    lookup = [number if name is None else numbers[name] for number, name in enumerate(own)]
    if own != names[:len(own)] and lookup != list(range(len(own))):
        dataset.target_transform = lookup.__getitem__
    reader = getattr(dataset, 'reader', None)
    counts = getattr(reader, 'counts', None)  # of images, by class; else all classes that have a name are there
    present = {lookup[number] for number, name in enumerate(own) if name is not None} if counts is None else (
        {lookup[reader.class_to_idx[label]] for label in counts})
    lacking = [name for name, number in numbers.items() if number not in present]
    if lacking:
        per_class = '' if counts is None else '; images per class: ' + some(
            [*(f'{name} 0' for name in lacking[:3]), *(f'{name} {count}' for name, count in counts.items())], 8)
        dataset.notes.append(f'{split} lacks {len(lacking)} of {len(numbers)} classes ({some(lacking)}); the others '
                             f'keep their numbers{per_class}')


def resumed_names(before: Names | None, now: Names | None, new_data: bool) -> Names | None:
    """The class names of a resumed run.

    Args:
        before: Names in its checkpoint.
        now: Names in its training data.
        new_data: Allow different classes: those that stay keep their numbers, new ones take the numbers of those that
            are gone, then the next free ones.

    Raises:
        ZooError: The classes differ; the message names them.
    """
    if before is None or now is None:
        return now if before is None else before
    new = [name for name in now if name is not None and name not in before]
    gone = [name for name in before if name is not None and name not in now]
    if not (new or gone):
        return before
    if not new_data:
        told = [f'{word}: {some(names)}' for word, names in (('gone', gone), ('new', new)) if names]
        raise ZooError(f'the classes to train on are not those of the checkpoint ({"; ".join(told)}); give its data '
                       f'with --data-dir, or --new-data to go on with these')
    names = [None if name in gone else name for name in before]
    free = [before.index(name) for name in gone] + [i for i, name in enumerate(before) if name is None]
    for name in new:
        if free:
            names[free.pop(0)] = name
        else:
            names.append(name)
    return names


def fingerprint(dataset: Dataset) -> list[Any] | None:
    """The fingerprint by which a data set is recognised.

    Returns:
        The number of images, and for files also the SHA-256 of their sorted paths, classes included, and the sizes of a
        few of them, evenly spread. None for streams.
    """
    if not hasattr(dataset, '__getitem__') or not hasattr(dataset, '__len__'):
        return None
    reader = getattr(dataset, 'reader', None)
    if not hasattr(reader, 'entries'):
        return [len(dataset), None, []]
    lines = sorted((f'{path}\0{name}', place) for place, (path, name) in enumerate(reader.entries))
    digest = hashlib.sha256('\n'.join(line for line, _ in lines).encode('utf-8', 'surrogateescape')).hexdigest()
    count = min(SAMPLE, len(lines))
    sample = [lines[i * len(lines) // count][1] for i in range(count)]
    return [len(dataset), digest, [reader.size(place) for place in sample]]


def check_fingerprints(before: Mapping[str, Any] | None, now: Mapping[str, Any], new_data: bool) -> None:
    """Refuse to resume with different images from those of the checkpoint.

    A few files with different sizes are accepted: they may have been damaged and repaired.

    Args:
        before: :func:`fingerprint` by split, from the checkpoint.
        now: The same for the present data.
        new_data: Allow different images.

    Raises:
        ZooError: The images differ; the message says how.
    """
    for split, own in now.items():
        known = before.get(split) if isinstance(before, Mapping) else before
        if new_data or known is None or own is None:
            continue
        match known:
            case [int() as count, (str() | None) as digest, list() as sizes]:
                count_now, digest_now, sizes_now = own
            case _:
                raise ZooError('`data_fingerprint` in the checkpoint is not one; it is damaged, use another')
        changed = sum(a != b for a, b in zip(sizes, sizes_now))
        if count != count_now:
            what = f'{count_now} images, not {count}'
        elif digest != digest_now:
            what = f'other files than those {count}, or in other classes'
        elif changed > len(sizes) // 4:
            what = f'files of the same names with other content ({changed} of {len(sizes)} that were looked at)'
        else:
            continue
        raise ZooError(f'{split}: these are not the data of the checkpoint, but {what}; give its data with --data-dir, '
                       f'or --new-data to go on with these')


def padded(names: Sequence[str | None] | None, count: int) -> Names | None:
    """A list of names, extended to ``count`` outputs."""
    return None if names is None else [*names, *[None] * (count - len(names))]
