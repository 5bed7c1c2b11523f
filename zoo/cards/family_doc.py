"""Parses the docstring of a family's file, and finds the papers that it names."""
import functools
import re
import sys
from importlib import resources
from typing import NamedTuple

from ..registry import FAMILIES

NO_DEPARTURES = 'None known, apart from those mentioned above.'


class Story(NamedTuple):
    """The parts of a family's docstring, as Markdown.

    Args:
        title: Name of the family.
        summary: What it is, in half a sentence.
        origin: Papers, and the code that the models are compared with.
        about: The mechanism.
        departures: Where that code departs from the papers, and what else users should know; '' if nothing.
        papers: arXiv ids of the papers.
    """

    title: str
    summary: str
    origin: str
    about: str
    departures: str
    papers: tuple[str, ...]


def family_doc(family: str) -> Story:
    """Read the docstring of a family."""
    module = next(f.module for f in FAMILIES if f.module.rpartition('.')[2] == family)
    heading, origin, *paragraphs = sys.modules[module].__doc__.strip().split('\n\n')
    title, _, summary = heading.partition(': ')
    start = next((i for i, text in enumerate(paragraphs) if text.startswith('Departures')), len(paragraphs))
    return Story(
        title, summary.rstrip('.'), _linked(_markdown([origin])), _markdown(paragraphs[:start]),
        _markdown(paragraphs[start:]), tuple(re.findall(r'arXiv\s(\d{4}\.\d{5})', origin)))


def bibtex(arxiv: str) -> str:
    """The BibTeX entry of a paper.

    Raises:
        KeyError: It is not among the references.
    """
    return _references()[arxiv]


@functools.cache
def _references() -> dict[str, str]:
    text = resources.files(__package__).joinpath('references.bib').read_text(encoding='utf-8')
    entries = [entry.strip() for entry in re.findall(r'^@.*?^}', text, re.DOTALL | re.MULTILINE)]
    return {re.search(r'eprint = \{(.+?)\}', entry)[1]: entry.replace(
        'eprint = ', 'archiveprefix = {arXiv},\n  eprint = ') for entry in entries}


def _markdown(paragraphs: list[str]) -> str:
    """Convert the literals and code blocks of a docstring's paragraphs."""
    lines = []
    for text in paragraphs:
        if all(line.startswith('    ') for line in text.splitlines()):
            lines.append('\n'.join(['```python', *(line[4:] for line in text.splitlines()), '```']))
        else:
            lines.append(re.sub('::$', ':', text).replace('``', '`'))
    return '\n\n'.join(lines)


def _linked(text: str) -> str:
    text = re.sub(r'arXiv\s(\d{4}\.\d{5})', r'[arXiv \1](https://arxiv.org/abs/\1)', text)
    return re.sub(r'([\w.-]+/[\w.-]+) @\s([0-9a-f]{7,40})', lambda m: (
        f'[{m[1]} @ {m[2][:7]}](https://github.com/{m[1]}/tree/{m[2]})'), text)
