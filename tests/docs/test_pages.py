"""README and docs/: their links lead somewhere, README stays short, and every page is in the site's contents."""
import re

import pytest

from .blocks import PAGES, ROOT

LINK = re.compile(r'\]\((?!\w+:|#)([^)#\s]+)(?:#([^)\s]*))?\)')
OTHERS = [ROOT / name for name in ('CONTRIBUTING.md', 'SECURITY.md', 'CODE_OF_CONDUCT.md', 'CHANGELOG.md')]


def anchors(text):
    """The anchors of headings, as GitHub and MyST make them."""
    headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL | re.MULTILINE)
    for path, anchor in LINK.findall(text):
        target = page.parent / path
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target.read_text(encoding='utf-8')), f'{path}#{anchor}'


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150


def test_every_page_is_in_the_contents():
    contents = (ROOT / 'docs/index.md').read_text(encoding='utf-8').split()
    pages = {path.stem for path in PAGES[1:]} - {'index'}
    pages |= {f'notebooks/{path.stem}' for path in ROOT.glob('docs/notebooks/*.ipynb')}
    assert pages - set(contents) == set() and len(pages) > 14
    assert all(f'docs/{name}.md' in (ROOT / 'README.md').read_text() for name in pages if '/' not in name)
