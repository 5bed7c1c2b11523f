"""Where the authors' own weights are: one table, one row for every released checkpoint and every registered tag.

The rows are in the YAML files beside this one, one file per family, keyed by ``model.tag``; the first row of a model is
its default. The columns are the fields of :class:`Source`; a column that is absent has the value that the file's row
``defaults`` gives it, else that of the field. Links, figures and hashes are those of the repositories that the files
name in their first lines: a link that no source states is not in the table, and its row has the kind ``none`` and a
note.
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
    """One row: where the weights of a model are, whose they are, and how they are to be evaluated.

    Args:
        name: ``model.tag``.
        kind: Host, one of :data:`KINDS`; 'none' if there is no file, or no link to the file itself.
        location: For 'hub' ``org/repo:file``, with ``@`` and the commit where it is known; for 'gdrive' the file's
            id; else the address. Empty for 'none'.
        license: SPDX name of the licence of the weights; 'unknown' if their repository has none.
        size: Height and width in pixels of the published evaluation. A number in the YAML stands for both.
        crop: Fraction of the resized image that the crop keeps (timm's ``crop_pct``).
        top1: Published ImageNet-1k accuracy in percent; None if none is known.
        top1_source: Where ``top1`` is from if not from a table of the authors.
        crop_mode: timm's name for the way of resizing.
        interpolation: Of the resizing.
        num_classes: Outputs of the classifier.
        mean: Of the normalisation, by channel; by default ImageNet's.
        std: As ``mean``.
        sha256: Of the file, 64 lower-case hexadecimal digits; None if no source states it.
        bytes: Size of the file; None if no source states it.
        note: What else a user has to know; for 'none' why there is no file.

    Raises:
        ValueError: A field that cannot be right; the text says which and what is allowed.
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
        self._require(self.kind != 'none' or self.note, 'kind none needs a note that says why there is no file')
        self._require(isinstance(self.license, str) and self.license, "license: give an SPDX name or 'unknown'")
        self._require(
            len(self.size) == 2 and all(isinstance(side, int) and side > 0 for side in self.size),
            f'size {self.size!r}: give pixels, as a number or [height, width]')
        self._require(
            isinstance(self.crop, int | float) and 0 < self.crop <= 1,
            f'crop {self.crop!r} is not a fraction above 0 and up to 1')
        self._require(
            self.top1 is None or isinstance(self.top1, int | float) and 0 < self.top1 < 100,
            f'top1 {self.top1!r} is not in percent')
        self._require(
            isinstance(self.top1_source, str) and (self.top1 or not self.top1_source),
            'top1_source says where top1 is from: give both')
        self._require(
            self.sha256 is None or isinstance(self.sha256, str) and re.fullmatch('[0-9a-f]{64}', self.sha256),
            f'sha256 {self.sha256!r}: give all 64 lower-case hexadecimal digits, in quotes')
        self._require(
            self.bytes is None or isinstance(self.bytes, int) and self.bytes > 0,
            f'bytes {self.bytes!r} is not a positive number')

    def _require(self, condition: Any, message: str) -> None:
        if not condition:
            raise ValueError(f'{self.name}: {message}')


IMAGES = 50_000  # of the validation set of ImageNet-1k, which published accuracies are of
# by column of the YAML: whether a row must have it
_COLUMNS = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(Source)[1:]}


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # pyright: ignore[reportGeneralTypeIssues]
    """yaml's safe loader, which also refuses a key that is there twice (YAML's own takes the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise ValueError(f'{max(keys, key=keys.count)} is there twice; keep one')
        return mapping


def parse(text: str) -> dict[str, Source]:
    """Rows of one YAML file by ``model.tag``, checked.

    Raises:
        ValueError: Not a table, a key twice, an unknown or missing column, or a value that :class:`Source` refuses.
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
    """All rows by ``model.tag``, from the files beside this module; read once.

    Raises:
        ValueError: As :func:`parse`, with the name of the file; or a row in two files.
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
    """The rows of a model by tag, the default first; {} if it has none."""
    return {name.partition('.')[2]: row for name, row in load().items() if name.partition('.')[0] == model}


def source(name_tag: str) -> Source:
    """The row of ``model.tag``.

    Raises:
        ValueError: No such row; the text lists the tags of the model, if it has any.
    """
    if name_tag in load():
        return load()[name_tag]
    others = [row.name for row in tags(name_tag.partition('.')[0]).values()]
    raise ZooError(f'no weights are listed as {name_tag}; ' + (
        f'use one of {", ".join(others)}' if others else 'zoo.list_models() names the models'))
