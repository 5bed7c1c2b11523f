"""Generates the tables of README and docs/ from the registry, the table of weights and docstrings.

A table stands between two comments, of which the first names it: a key of :data:`TABLES`.
"""
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from os.path import commonprefix
from pathlib import Path

from ..backbone import Backbone
from ..bench.report import table
from ..blocks.mixers import MixerTable, list_mixers, mixer_class
from ..models.hybrid import HOSTS
from ..registry import FAMILIES, Family, Variant, modules
from ..utils.errors import ZooError
from ..utils.files import write_atomically
from ..weights.sources import Source, tags
from .family_doc import family_doc

PLACE = re.compile(
    r'(<!-- table of (\w+), made by python -m zoo cards -->\n).*?(\n<!-- end of the table -->)', re.DOTALL)
OURS = f'{__package__.partition(".")[0]}.'  # modules of the zoo begin so
USUAL_SIZE = (224, 224)


def places(root: Path) -> list[Path]:
    """The files of a checkout that have tables: README.md, and pages of docs/."""
    files = [root / 'README.md', *sorted((root / 'docs').glob('*.md'))]
    return [path for path in files if path.is_file() and PLACE.search(path.read_text(encoding='utf-8'))]


def filled(text: str, cards: str = 'model_cards') -> str:
    """Fill the tables of a text.

    Args:
        text: The text.
        cards: The folder of the cards, as a link from the text.

    Raises:
        ZooError: The text has a place for an unknown table.
    """
    unknown = [name for _, name, _ in PLACE.findall(text) if name not in TABLES]
    if unknown:
        raise ZooError(f'no table is called {", ".join(unknown)}; use {", ".join(TABLES)}')
    return PLACE.sub(lambda place: f'{place[1]}{TABLES[place[2]](cards)}{place[3]}', text)


def write(path: Path, cards: Path) -> None:
    """Rewrite the tables of a file, which link to the cards in a folder."""
    text = filled(path.read_text(encoding='utf-8'), _link(path, cards))
    write_atomically(path, lambda file: file.write(text.encode()))
    print(f'tables written to {path}')


def check(path: Path, cards: Path) -> None:
    """Check that the tables of a file are up to date.

    Raises:
        ZooError: The message names those that are not, and the command that writes them.
    """
    text = path.read_text(encoding='utf-8')
    new = PLACE.finditer(filled(text, _link(path, cards)))
    stale = [old[2] for old, now in zip(PLACE.finditer(text), new) if old[0] != now[0]]
    if stale:
        raise ZooError(f'out of date in {path}: the table of {", ".join(stale)}; python -m zoo cards writes it')
    print(f'the tables of {path} are up to date', file=sys.stderr)


def summary(cards: str = 'model_cards') -> str:
    """All families, one line each."""
    members = {name: [f for f in FAMILIES if f.module.rpartition('.')[2] == name] for name in modules()}
    variants = {name: [v for family in families for v in family.variants] for name, families in members.items()}
    return '\n'.join(table({
        'family': lambda name: _title(members[name][0], cards),
        'what it is': lambda name: _about(members[name][0]),
        'models': lambda name: str(len(variants[name])),
        'top-1 (published)': lambda name: _range(variants[name]),
        'linear': lambda name: _share([v.linear for v in variants[name]])}, list(members)))


def families(cards: str = 'model_cards') -> str:
    """The families of our own backbones, one line per host."""
    return _families([family for family in FAMILIES if _is_ours(family)], cards, {
        'token mixing': lambda family: _about(family) + _by_stage(family), 'linear': _linear})


def gates(cards: str = 'model_cards') -> str:
    """The families that put gates into CNNs of timm."""
    return _families([family for family in FAMILIES if not _is_ours(family)], cards, {'gates': _about})


def mixers(cards: str = '') -> str:
    """The zoo's own mixers by name, without those of other installed packages, and the hosts."""
    classes = {name: mixer_class(name) for name in list_mixers()}
    names = [name for name, cls in classes.items() if cls.__module__.startswith(OURS)]
    lines = table({
        'mixer': lambda name: f'`{name}`',
        'what it does': lambda name: _in_markdown((classes[name].__doc__ or '').partition('\n')[0].rstrip('.')),
        'class token': lambda name: 'yes' if classes[name].takes_sequences() else 'no'}, names)
    hosts = [_braces(list(group)) for _, group in itertools.groupby(HOSTS, key=lambda name: HOSTS[name][0])]
    return '\n'.join([*lines, '', f'Hosts: {", ".join(hosts)}.'])


TABLES = dict(summary=summary, families=families, gates=gates, mixers=mixers)


def _families(chosen: Sequence[Family], cards: str, columns: dict[str, Callable[[Family], str]]) -> str:
    return '\n'.join(table({
        'family': lambda family: _title(family, cards),
        'models': lambda family: _braces([variant.name for variant in family.variants]),
        'top-1 (published)': _figures, **columns}, chosen))


def _link(path: Path, cards: Path) -> str:
    return Path(os.path.relpath(cards, path.parent)).as_posix()


def _is_ours(family: Family) -> bool:
    return isinstance(family.host, type) and issubclass(family.host, Backbone)


def _first(family: Family) -> bool:
    """Whether a table is the first of its module; that one shows what the module's docstring says of all."""
    return next(other for other in FAMILIES if other.module == family.module) is family


def _title(family: Family, cards: str) -> str:
    """The name, linked to the card, and the papers."""
    if not _first(family):
        return ''
    name = family.module.rpartition('.')[2]
    doc = family_doc(name)
    papers = (f'[{arxiv}](https://arxiv.org/abs/{arxiv})' for arxiv in doc.papers)
    return f'[{doc.title}]({cards}/{name}.md) {", ".join(papers)}'


def _about(family: Family) -> str:
    return _in_markdown(family_doc(family.module.rpartition('.')[2]).summary) if _first(family) else ''


def _braces(names: Sequence[str]) -> str:
    """Names in one literal, as a shell would expand it."""
    start = commonprefix(names)
    return f'`{names[0]}`' if len(names) == 1 else f'`{start}{{{",".join(name[len(start):] for name in names)}}}`'


def _figures(family: Family) -> str:
    figures = [_top1(variant) for variant in family.variants]
    return ', '.join(figures) if set(figures) != {'-'} else '-'


def _top1(variant: Variant) -> str:
    """The accuracies of a model's weights, with unusual sizes and data in brackets; "-" if there are none."""
    def figure(tag: str, row: Source) -> str:
        notes = [str(row.size[0])] * (row.size != USUAL_SIZE) + ['22k'] * ('22k' in tag)
        return f'{row.top1:.1f}' + '\\*' * bool(row.top1_source) + (f' ({", ".join(notes)})' if notes else '')
    return ' / '.join(figure(tag, row) for tag, row in tags(variant.name).items() if row.top1) or '-'


def _range(variants: Sequence[Variant]) -> str:
    """The lowest and the highest accuracy of all weights; "-" if none is published."""
    figures = [row.top1 for variant in variants for row in tags(variant.name).values() if row.top1]
    return ' to '.join(dict.fromkeys(f'{figure:.1f}' for figure in (min(figures), max(figures)))) if figures else '-'


def _share(answers: list[bool]) -> str:
    return 'yes' if all(answers) else 'some' if any(answers) else 'no'


def _by_stage(family: Family) -> str:
    """The names of its mixers: one, or one per stage from the first."""
    mixers = family.mixers
    rows = (mixers.mixers if isinstance(mixers, MixerTable) else mixers) or ()
    names = ['/'.join(f'`{entry}`' for entry in ([row] if isinstance(row, str) else row or ())) or '-' for row in rows]
    return (': ' if _first(family) else '') + ', '.join(names if len(set(names)) > 1 else names[:1])


def _linear(family: Family) -> str:
    yes = [variant.name for variant in family.variants if variant.linear]
    no = [variant.name for variant in family.variants if not variant.linear]
    if yes and no:
        return f'only {_braces(yes)}' if len(yes) <= len(no) else f'all but {_braces(no)}'
    return 'yes' if yes else 'no'


def _in_markdown(text: str) -> str:
    """A line of a docstring."""
    return re.sub(r'(:\w+:)?`+([^`]+)`+', r'`\2`', text)
