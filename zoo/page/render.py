"""Makes the HTML of the page: everything inline, and a policy by which browsers load nothing else."""
import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

from ..utils.version import __version__
from . import bundles
from .content import licence

STYLES = ('page.css', 'table.css')
SCRIPTS = ('tools.js', 'state.js', 'table.js', 'chart.js', 'detail.js', 'main.js')  # one module, in this order
CHARTS = dict(accuracy='accuracy.vg.json', arena='arena.vg.json')
EMBEDDED = 'models', 'families', 'costs', 'kinds', 'commands', 'arenas'  # of the content, what the scripts read
# In a script, what ends or hides its end: "<" before these becomes an escape, in strings and patterns the same sign
_TAGS = re.compile(r'\\?<(?=!--|/?script)', re.IGNORECASE)


def render(content: dict[str, Any]) -> str:
    """The page as one HTML document that loads nothing.

    Args:
        content: As :func:`zoo.page.content.collect` makes it, with the address of a ``card`` in each family.

    Raises:
        ZooError: A package of the extra ``page`` is missing or does not fit.
    """
    bundles.require()
    import jinja2

    place = jinja2.PackageLoader('zoo.page', 'templates')
    environment = jinja2.Environment(
        loader=place, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies['json.dumps_kwargs'] = dict(separators=(',', ':'), allow_nan=False)
    environment.filters['licence'] = licence
    scripts = dict(
        theme=inline(_text('theme.js')), tables=inline(bundles.tables()), charts=inline(bundles.charts()),
        page=inline('\n'.join(map(_text, SCRIPTS))))
    data = {key: content[key] for key in EMBEDDED}
    data['tried'] = {model: {key: cell['result'] for key, cell in row.items()}
                     for model, row in content['matrix'].get('rows', {}).items()}
    data['models'] = _columns(content['models'])
    data.update({key: content['matrix'].get(key, {}) for key in ('targets', 'legend')})
    charts = {name: json.loads(_text(file)) for name, file in CHARTS.items()}
    return environment.get_template('page.html').render(
        **content, data=data, charts=charts, styles='\n'.join(map(_text, STYLES)), scripts=scripts,
        policy=policy(scripts.values()), version=__version__)


def inline(code: str) -> str:
    """JavaScript as it may stand in an HTML file, between tags of a script."""
    return _TAGS.sub(r'\\x3c', code.replace('\r\n', '\n').replace('\r', '\n'))


def policy(scripts: Any) -> str:
    """A content security policy: these scripts run, no other does, and nothing is loaded from anywhere."""
    hashes = ' '.join(f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
                      for code in scripts)
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            f"base-uri 'none'; form-action 'none'")


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows with their keys written once: a quarter of the page's data are names of entries."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return dict(keys=keys, rows=[[row.get(key) for key in keys] for row in rows])


def _text(name: str) -> str:
    return (resources.files('zoo.page') / 'templates' / name).read_text(encoding='utf-8')
