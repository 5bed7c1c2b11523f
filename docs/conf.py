"""Sphinx's configuration: ``make docs`` builds the site into build/docs/html, with warnings as errors."""
import os
import re
import sys
from importlib import import_module
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'kernels'), str(ROOT / 'tools'), str(ROOT / 'tools' / 'console')]

import repository  # noqa: E402  # of tools/

import zoo_cli  # noqa: E402
from zoo.utils.version import __version__  # noqa: E402

os.environ['COLUMNS'] = '110'  # of the help of commands

project = 'backbone-zoo'
author = 'The backbone-zoo contributors'
project_copyright = author
version = release = __version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_*']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # tests/docs executes the notebooks
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = 'furo'
html_title = f'{project} {release}'
html_show_sphinx = False
html_static_path = ['static']
html_css_files = ['site.css']
html_theme_options = {'navigation_with_keys': True}
if repository.address():
    html_theme_options['source_repository'] = repository.address()
    html_theme_options['source_branch'] = 'main'
    html_theme_options['source_directory'] = 'docs/'

PAGES = {  # files of the root that are pages of the site
    'CHANGELOG.md': 'changelog', 'CONTRIBUTING.md': 'contributing', 'CODE_OF_CONDUCT.md': 'conduct',
    'SECURITY.md': 'security'}
RESULTS = sorted((ROOT / 'results').glob('*.md')) + sorted((ROOT / 'results').glob('*/README.md'))
LINK = re.compile(r'(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?:\.\./)+[^)#\s]*)(?P<anchor>#[^)\s]*)?\)')


def write_pages(app) -> None:
    """Write what is made from other files, none of which is in git: cards, files of the root, commands."""
    cards = sorted((ROOT / 'model_cards').glob('*.md'))
    for card in cards:
        _write(f'families/{card.name}', _without_front_matter(card.read_text(encoding='utf-8')))
    _write_contents(
        'families', 'Families', 'One page per family: what it is, its models and their figures, weights, parity with '
        "the authors' code, recipes and licences. [Choose a model](../choose.md) has tables over all of them.",
        [card.stem for card in cards])
    for path in RESULTS:
        folder = path.parent.relative_to(ROOT).as_posix()
        text = path.read_text(encoding='utf-8')
        _write(f'results/{_result(path)}.md', re.sub(r'\]\((?!\w+:|#|\.\./)', f'](../../{folder}/', text))
    _write_contents(
        'results', 'Measured results', 'Tables as the commands have written them, with device, versions and commit.',
        [_result(path) for path in RESULTS])
    for file, page in PAGES.items():
        text = (ROOT / file).read_text(encoding='utf-8')
        _write(f'project/{page}.md', re.sub(r'\]\((?!\w+:|#)', '](../../', text))
    commands = [
        f'## zoo {name}\n\n```text\n{import_module("zoo.cli." + name.replace("-", "_")).parser().format_help()}```'
        for name in zoo_cli.COMMANDS]
    _write('reference/commands.md', '\n\n'.join(['# Commands', *commands]) + '\n')


def lead_links(app, docname: str, source: list[str]) -> None:
    """Make links out of docs/ links of the site where it has the page, else addresses in the repository."""
    depth = docname.count('/')

    def led(match: re.Match) -> str:
        path = os.path.normpath(os.path.join('docs', os.path.dirname(docname), match['path']))
        anchor = match['anchor'] or ''
        if match['image'] or path.startswith('docs'):
            return match[0]
        if path in PAGES:
            target = f'project/{PAGES[path]}.md{anchor}'
        elif path.partition('/')[0] == 'model_cards':
            target = f'families/{Path(path).name if path.endswith(".md") else "index.md"}{anchor}'
        elif ROOT / path in RESULTS or ROOT / path / 'README.md' in RESULTS:
            target = f'results/{Path(path).stem}.md{anchor}'
        elif repository.address():
            return f'[{match["text"]}]({repository.address()}/blob/main/{path}{anchor})'
        else:
            return f'{match["text"]} (`{path}`)'
        return f'[{match["text"]}]({"../" * depth}{target})'

    source[0] = LINK.sub(led, source[0])


def setup(app) -> None:
    app.connect('builder-inited', write_pages)
    app.connect('source-read', lead_links)


def _result(path: Path) -> str:
    """The name of a page of results: that of the file, or of its folder."""
    return path.parent.name if path.stem == 'README' else path.stem


def _write_contents(folder: str, title: str, about: str, names: list[str]) -> None:
    """Write the page that leads to the pages of a folder."""
    _write(f'{folder}/index.md', '\n'.join(
        [f'# {title}', '', about, '', '```{toctree}', ':maxdepth: 1', '', *names, '```', '']))


def _write(name: str, text: str) -> None:
    """Write a page if it has changed, so that Sphinx builds only what is new."""
    path = DOCS / name
    path.parent.mkdir(exist_ok=True)
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        path.write_text(text, encoding='utf-8')


def _without_front_matter(text: str) -> str:
    return re.sub(r'\A---\n.*?\n---\n\n', '', text, flags=re.DOTALL)
