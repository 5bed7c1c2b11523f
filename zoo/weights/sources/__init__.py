"""Table of the authors' official weights, with a row for every released checkpoint and every registered tag.

The rows are in the YAML files of this folder, one file per family, keyed by ``model.tag``; the first row of a model is
its default. The columns are the fields of :class:`Source`; a missing column has the value in the file's row
``defaults``, or else the default of the field. Links, accuracies and hashes are taken from the repositories that the
files name in their first lines. If there is no published link, the row has the kind ``none`` and a note.
"""
import dataclasses
import functools
import re
from collections.abc import Hashable, Mapping
from importlib import resources
from typing import Any

import yaml

from ...utils.errors import ZooError

__all__ = ['HOSTS', 'KINDS', 'Source', 'load', 'parse', 'source', 'tags']

# What a location looks like by kind of host: a pattern, and the same in words.
KINDS = {
    'hub': (r'[\w.-]+/[\w.-]+:[^:@\s]+(@[0-9a-f]{40})?', 'org/repo:file or org/repo:file@revision'),
    'github': (r'https://github\.com/\S+', 'an https://github.com/ address'),
    'https': (r'https://\S+', 'an https:// address'),
    'tsinghua': (r'https://cloud\.tsinghua\.edu\.cn/f/[0-9a-f]+/\?dl=1', 'https://cloud.tsinghua.edu.cn/f/…/?dl=1'),
    'gdrive': (r'[\w-]{20,}', 'the id of a file'),
    'onedrive': (r'https://\S+', 'an https:// address'),
    'baidu': (r'https://\S+', 'an https:// address'),
    'none': (r'', 'empty: say in the note why there is no file'),
}
HOSTS = dict(  # as readers know them
    hub='Hugging Face', github='GitHub', https='download', tsinghua='Tsinghua Cloud', gdrive='Google Drive',
    onedrive='OneDrive', baidu='Baidu')


@dataclasses.dataclass(frozen=True)
class Source:
    """A row of the table: location, licence and evaluation settings of a model's weights.

    Args:
        name: ``model.tag``.
        kind: Host, one of :data:`KINDS`; 'none' if there is no file, or no link to the file itself.
        location: For 'hub' ``org/repo:file``, followed by ``@`` and the commit if known; for 'gdrive' the id of the
            file; for others the address. Empty for 'none'.
        license: SPDX name of the licence of the weights; 'unknown' if their repository has none.
        size: Height and width in pixels of the published evaluation; one number in the YAML stands for both.
        crop: Fraction of the resized image that the crop keeps (timm's ``crop_pct``).
        top1: Published ImageNet-1k accuracy in percent; None if unknown.
        top1_source: Source of ``top1``, unless it is a table of the authors.
        crop_mode: timm's name of the crop mode.
        interpolation: Interpolation of the resizing.
        num_classes: Number of classes.
        mean: Means for normalisation, by channel; ImageNet's by default.
        std: Standard deviations, likewise.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits; None if unknown.
        bytes: Size of the file in bytes; None if unknown.
        note: Further information for users; for 'none' the reason why there is no file.

    Raises:
        ValueError: A field has an invalid value; the message names it and what is allowed.
    """

    name: str
    kind: str
    license: str
    size: tuple[int, int]
    crop: float
    location: str = ''
    top1: float | None = None
    top1_source: str = ''
    crop_mode: str = 'center'
    interpolation: str = 'bicubic'
    num_classes: int = 1000
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    sha256: str | None = None
    bytes: int | None = None
    note: str = ''

    def __post_init__(self):
        self._require(re.fullmatch(r'\w+\.\w+', self.name), 'a row is named model.tag')
        self._require(self.kind in KINDS, f'unknown kind {self.kind!r}; use one of {", ".join(KINDS)}')
        pattern, words = KINDS[self.kind]
        self._require(
            isinstance(self.location, str) and re.fullmatch(pattern, self.location),
            f'location {self.location!r} of kind {self.kind} must be {words}')
        self._require(self.kind != 'none' or self.note, 'kind none needs a note with the reason why there is no file')
        self._require(isinstance(self.license, str) and self.license, "license: give an SPDX name or 'unknown'")
        self._require(
            len(self.size) == 2 and all(isinstance(side, int) and side > 0 for side in self.size),
            f'size {self.size!r}: give pixels, as a number or [height, width]')
        self._require(
            isinstance(self.crop, int | float) and 0 < self.crop <= 1,
            f'crop {self.crop!r} is not a fraction above 0 and up to 1')
        self._require(
            self.top1 is None or isinstance(self.top1, int | float) and 0 < self.top1 < 100,
            f'top1 {self.top1!r} is not a percentage')
        self._require(
            isinstance(self.top1_source, str) and (self.top1 or not self.top1_source),
            'top1_source requires top1')
        self._require(
            self.sha256 is None or isinstance(self.sha256, str) and re.fullmatch('[0-9a-f]{64}', self.sha256),
            f'sha256 {self.sha256!r}: give all 64 lower-case hexadecimal digits, in quotes')
        self._require(
            self.bytes is None or isinstance(self.bytes, int) and self.bytes > 0,
            f'bytes {self.bytes!r} is not a positive number')

    def _require(self, condition: Any, message: str) -> None:
        if not condition:
            raise ValueError(f'{self.name}: {message}')


IMAGES = 50_000  # size of the validation set of ImageNet-1k, on which published accuracies are measured
# columns of the YAML, and whether a row must have them
_COLUMNS = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(Source)[1:]}


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # pyright: ignore[reportGeneralTypeIssues]
    """yaml's safe loader, which also refuses duplicate keys (of which YAML uses the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise ValueError(f'{max(keys, key=keys.count)} is there twice; keep one')
        return mapping


def parse(text: str) -> dict[str, Source]:
    """Parse and check the rows of a YAML file; returns them by ``model.tag``.

    Raises:
        ValueError: The text is not a table, or has a duplicate key, an unknown or missing column, or an invalid value.
    """
    try:
        table = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f'not YAML: {" ".join(str(error).split())}') from error
    if not isinstance(table, dict) or not all(isinstance(row, Mapping) for row in table.values()):
        raise ValueError('not a table: every row is `model.tag: {column: value, ...}`')
    defaults = table.pop('defaults', {})
    return {name: _row(str(name), {**defaults, **row}) for name, row in table.items()}


def _row(name: str, row: Mapping[str, Any]) -> Source:
    unknown = sorted(str(key) for key in row if key not in _COLUMNS)
    if unknown:
        raise ValueError(f'{name}: unknown column {", ".join(unknown)}; use {", ".join(_COLUMNS)}')
    missing = [key for key, needed in _COLUMNS.items() if needed and key not in row]
    if missing:
        raise ValueError(f'{name}: column {", ".join(missing)} is missing')
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    if not isinstance(values['size'], tuple):
        values['size'] = (values['size'],) * 2
    return Source(name=name, **values)


@functools.cache
def load() -> dict[str, Source]:
    """Return all rows by ``model.tag``, from the files in this folder; they are read once.

    Raises:
        ValueError: As :func:`parse`, with the name of the file, or a row is in two files.
    """
    rows: dict[str, Source] = {}
    files = (file for file in resources.files(__name__).iterdir() if file.name.endswith('.yaml'))
    for file in sorted(files, key=lambda file: file.name):
        try:
            new = parse(file.read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'{file.name}: {error}') from error
        twice = sorted(rows.keys() & new.keys())
        if twice:
            raise ValueError(f'{file.name}: {", ".join(twice)} is in another file already; keep one')
        rows.update(new)
    return rows


def tags(model: str) -> dict[str, Source]:
    """Return the rows of a model by tag, the default first; {} if it has none."""
    return {name.partition('.')[2]: row for name, row in load().items() if name.partition('.')[0] == model}


def source(name_tag: str) -> Source:
    """Return the row of ``model.tag``.

    Raises:
        ZooError: There is no such row; the message lists the tags of the model, if it has any.
    """
    if name_tag in load():
        return load()[name_tag]
    others = [row.name for row in tags(name_tag.partition('.')[0]).values()]
    raise ZooError(f'no weights are listed as {name_tag}; ' + (
        f'use one of {", ".join(others)}' if others else 'zoo.list_models() names the models'))
