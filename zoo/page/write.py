"""Writes the page, and beside it the cards that it links to."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cards import folder as cards
from ..utils.errors import ZooError
from ..utils.files import check_writable, write_atomically
from . import bundles
from .content import collect
from .render import render

NAME = 'index.html'
CARDS = 'model_cards'


def write(output: Path, files: Mapping[str, Any], setting: str = '', base_url: str = '') -> Path:
    """Write ``index.html``, which is whole in itself, and the model cards that it links to.

    Args:
        output: Folder of both; it is made if there is none.
        files: As :func:`zoo.analysis.result_files.read` gives them.
        setting: Part of the setting that throughput was measured in; the one with most models by default.
        base_url: Address that has the cards already, which are not written then: a folder with ``model_cards`` in it,
            or a pattern in which ``{family}`` stands for the short name of a family.

    Returns:
        The path of the page.

    Raises:
        ZooError: A package of the extra ``page`` is missing, the address is not one, the folder cannot be written to,
            or no throughput was measured in such a setting.
    """
    bundles.require()
    card = card_address(base_url)
    check_writable(output)
    content = collect(files, setting)
    for family, row in content['families'].items():
        row['card'] = card.replace('{family}', family)
    page = render(content)
    output.mkdir(parents=True, exist_ok=True)
    if not base_url:
        cards.write(output / CARDS, list(content['families']))
    write_atomically(output / NAME, lambda file: file.write(page.encode()))
    return output / NAME


def card_address(base_url: str) -> str:
    """The address of a family's card, with ``{family}`` in it.

    Raises:
        ZooError: The address is of another kind than http, https or relative.
    """
    scheme, colon, _ = base_url.partition(':')
    if colon and scheme.lower() not in ('http', 'https') and '/' not in scheme:
        raise ZooError(f'`base_url` {base_url!r}: give an http or https address, or a relative one')
    if '{family}' in base_url:
        return base_url
    return '/'.join([*filter(None, [base_url.rstrip('/')]), CARDS, '{family}.md'])
