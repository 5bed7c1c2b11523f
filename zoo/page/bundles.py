"""JavaScript of others for the page, taken from the Python packages that bring it along when the page is made."""
import re
from importlib import metadata, resources

from ..utils.errors import ZooError, require_packages

PACKAGES = 'itables', 'jinja2', 'vl_convert'
EXTRA = 'pip install "backbone-zoo[page]"'
TABLES, CHARTS = 'zooQuery', 'zooEmbed'  # what the bundles are called in the page: jQuery with DataTables, vega-embed
_EXPORTS = re.compile(r'\bexport\s*\{([^{}]*)\}\s*;?')
_QUERY = re.compile(r'([\w$]+) as jQuery\b')


def require() -> None:
    """Check that the packages of the extra ``page`` are installed.

    Raises:
        ZooError: The message names the missing one and the command that installs it.
    """
    require_packages(*PACKAGES, extra=EXTRA)


def tables() -> str:
    """DataTables with its jQuery, as a module that calls it ``window.zooQuery``.

    Raises:
        ZooError: This itables has another bundle.
    """
    code = resources.files('itables').joinpath('html/dt_bundle.js').read_text(encoding='utf-8')
    exports = _EXPORTS.search(code)
    query = exports and _QUERY.search(exports[1])
    if not (exports and query):
        raise ZooError(f'the DataTables of itables {metadata.version("itables")} export no jQuery; '
                       f'pip install "itables==2.9.1"')
    code = f'{code[:exports.start()]}window.{TABLES}={query[1]};{code[exports.end():]}'
    return f'{notice("itables", "DataTables and jQuery")}\n{code}'


def charts() -> str:
    """Vega with vega-embed, as a module that calls the latter ``window.zooEmbed``."""
    import vl_convert

    code = vl_convert.javascript_bundle(f'window.{CHARTS}=vegaEmbed;')
    whose = 'Vega, Vega-Lite, vega-embed (University of Washington Interactive Data Lab) and D3 (Mike Bostock)'
    return f'{notice("vl-convert-python", whose)}\n{code}'


def notice(package: str, what: str) -> str:
    """A comment that says what a bundle is, with the licence of the package that it comes from."""
    found = metadata.distribution(package)
    text = found.read_text('licenses/LICENSE') or found.read_text('LICENSE') or ''
    lines = [f'{what}, from {package} {found.version}', '', *text.strip().splitlines()]
    return '/*!\n' + '\n'.join(f' * {line}'.rstrip().replace('*/', '* /') for line in lines) + '\n */'
