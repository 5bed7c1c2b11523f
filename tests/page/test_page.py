"""The file that ``zoo page`` writes: whole in itself, within its size, safe against any name."""
import base64
import copy
import errno
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest

import zoo_cli
from zoo.page import bundles, render, write
from zoo.utils import files
from zoo.utils.errors import ZooError

from .conftest import HOSTILE

LARGEST = 2_000_000  # bytes

pytestmark = pytest.mark.usefixtures('needs_extra')


class Outline(HTMLParser):
    """Start tags with their attributes, the text of scripts and styles, and text by the nearest tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.texts, self.open = [], [], [], ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag in ('script', 'style'):
            self.inside.append((tag, dict(attrs), ''))

    def handle_data(self, data):
        if self.open in ('script', 'style'):
            tag, attrs, text = self.inside.pop()
            self.inside.append((tag, attrs, text + data))
        else:
            self.texts.append((self.open, data))

    def handle_endtag(self, tag):
        self.open = ''

    def scripts(self):
        return [(attrs, text) for tag, attrs, text in self.inside if tag == 'script']


@pytest.fixture(scope='module')
def page(content):
    return render.render(content)


@pytest.fixture(scope='module')
def outline(page):
    return Outline(page)


def embedded(outline):
    [text] = [text for attrs, text in outline.scripts() if attrs.get('id') == 'data']
    found = json.loads(text)
    found['models'] = [dict(zip(found['models']['keys'], row)) for row in found['models']['rows']]
    return found


def test_size(page):
    assert 1_000_000 < len(page.encode()) <= LARGEST


def test_holds_every_row(outline, content):
    assert embedded(outline)['models'] == json.loads(json.dumps(content['models']))


def test_equal_data_make_equal_pages(page, content):
    assert render.render(content) == page


def test_loads_nothing(outline):
    for tag, attrs in outline.tags:
        loaded = [attrs[key] for key in ('src', 'srcset', 'data', 'poster') if key in attrs and tag != 'a']
        if tag == 'link':
            loaded.append(attrs['href'])
        assert all(address.startswith('data:') for address in loaded), (tag, attrs)
        assert tag not in ('iframe', 'object', 'embed', 'base') and not [key for key in attrs if key.startswith('on')]
    [(_, _, style)] = [entry for entry in outline.inside if entry[0] == 'style']
    assert '@import' not in style and 'url(' not in style


def test_policy_lets_these_scripts_run_and_nothing_else(outline):
    [policy] = [attrs['content'] for tag, attrs in outline.tags if attrs.get('http-equiv') == 'Content-Security-Policy']
    allowed = dict(part.strip().split(' ', 1) for part in policy.split(';'))
    assert allowed['default-src'] == "'none'"
    run = [text for attrs, text in outline.scripts() if attrs.get('type') != 'application/json']
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert allowed['script-src'].split() == [f"'sha256-{digest}'" for digest in digests] and len(digests) == 4


def test_names_with_signs_of_html_stay_text(content):
    bad = copy.deepcopy(content)
    bad['models'][0].update(name=HOSTILE, note=HOSTILE, license=HOSTILE)
    family = next(iter(bad['families'].values()))
    family.update(title=HOSTILE, summary=HOSTILE)
    cells = next(iter(bad['matrix']['rows'].values()))
    bad['matrix']['rows'] = {HOSTILE: cells, **bad['matrix']['rows']}
    bad['matrix']['reasons'][0]['text'] = HOSTILE
    bad['arenas'][0]['rows'][0][0]['text'] = bad['arenas'][0]['notes'][0] = HOSTILE
    page = render.render(bad)
    found = Outline(page)
    assert len(found.scripts()) == len(Outline(render.render(content)).scripts())
    assert embedded(found)['models'][0]['name'] == HOSTILE and '\u2028' not in found.scripts()[1][1]
    assert [tag for tag, text in found.texts if text.strip().removeprefix(': ') == HOSTILE].count('code') == 2
    assert sum(HOSTILE in text for _, text in found.texts) == 4


def test_scripts_cannot_end_early():
    code = 'let a = "</script>", b = /<!--\\<script/i, c = "<SCRIPT";\r\nd()'
    assert render.inline(code) == 'let a = "\\x3c/script>", b = /\\x3c!--\\x3cscript/i, c = "\\x3cSCRIPT";\nd()'


def test_bundles_come_with_their_licences(page):
    for start in ('DataTables and jQuery, from itables ', 'and D3 (Mike Bostock), from vl-convert-python '):
        [text] = re.findall(re.escape(start) + r'.*?\*/', page, re.DOTALL)
        assert 'Permission is hereby granted' in text or 'Redistribution and use' in text


def test_writes_page_and_cards(content, tmp_path, results, capsys):
    output = tmp_path / 'site'
    assert zoo_cli.main(['page', '--output', str(output), '--results', str(results)]) == 0
    assert re.search(r'wrote .*index\.html \(1\.\d\d MB\)', capsys.readouterr().out)
    links = {attrs['href'] for tag, attrs in Outline((output / 'index.html').read_text(encoding='utf-8')).tags
             if tag == 'a'}
    assert {link for link in links if link.startswith('#')} >= {'#models', '#chart', '#runs', '#arena'}
    found = embedded(Outline((output / 'index.html').read_text(encoding='utf-8')))
    assert all((output / family['card']).is_file() for family in found['families'].values())
    assert sorted(path.name for path in output.iterdir()) == ['index.html', 'model_cards']


@pytest.mark.parametrize('base, want', [
    ('', 'model_cards/ravlt.md'), ('https://example.org/zoo/', 'https://example.org/zoo/model_cards/ravlt.md'),
    ('../families/{family}.html', '../families/ravlt.html'), ('../docs', '../docs/model_cards/ravlt.md')])
def test_addresses_of_cards(base, want):
    assert write.card_address(base).replace('{family}', 'ravlt') == want


@pytest.mark.parametrize('base', [
    'javascript:alert(1)//{family}', 'data:text/html,{family}', 'JavaScript:x', ' file:///x'])
def test_other_addresses_are_refused(base, capsys, tmp_path):
    assert zoo_cli.main(['page', '--output', str(tmp_path / 'site'), '--base-url', base]) == 2
    assert 'give an http or https address, or a relative one' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_cards(content, monkeypatch, tmp_path):
    monkeypatch.setattr(write, 'collect', lambda files, setting: copy.deepcopy(content))
    path = write.write(tmp_path, {}, base_url='https://example.org')
    assert [entry.name for entry in tmp_path.iterdir()] == ['index.html']
    assert 'https://example.org/model_cards/ravlt.md' in path.read_text(encoding='utf-8')


@pytest.mark.parametrize('missing', bundles.PACKAGES)
def test_without_the_extra(missing, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    assert zoo_cli.main(['page', '--output', str(tmp_path / 'site')]) == 2
    assert capsys.readouterr().err == f'error: {missing} is not installed; pip install "backbone-zoo[page]"\n'
    assert not list(tmp_path.iterdir())


def test_another_bundle_is_told(monkeypatch):
    monkeypatch.setattr(bundles, '_QUERY', re.compile('nothing'))
    with pytest.raises(ZooError, match=r'the DataTables of itables \S+ export no jQuery; pip install "itables=='):
        bundles.tables()


def test_a_full_disk_leaves_the_old_page(content, monkeypatch, tmp_path):
    monkeypatch.setattr(write, 'collect', lambda files, setting: copy.deepcopy(content))
    (tmp_path / 'index.html').write_text('old')

    def full(path):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(files, '_flush', full)
    with pytest.raises(ZooError, match='cannot write .*No space left'):
        write.write(tmp_path, {}, base_url='https://example.org')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'index.html': 'old'}


def test_mistakes_are_told_before_anything_is_made(capsys, tmp_path):
    file = tmp_path / 'file'
    file.write_text('{}')
    for words, told in (
            (['--output', str(file)], 'is not a folder; choose another --output'),
            (['--results', str(file)], 'holds no results'), (['--setting', 'H100'], "in a setting 'H100'; there is:")):
        assert zoo_cli.main(['page', '--output', str(tmp_path / 'site'), *words]) == 2
        assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_chart_has_a_mark_for_every_point(content):
    """Vega draws the chart here as browsers do: marks, and the front that pareto computes."""
    import vl_convert

    spec = json.loads(render._text('accuracy.vg.json'))
    spec['marks'] = [mark for mark in spec['marks'] if mark.get('name') != 'labels']  # which ask a browser for widths
    for cost, axis in content['costs'].items():
        points = [dict(point, rank=point['cost'] if axis['less'] else -point['cost'], shown=True, colour='#0f8b8d',
                       family='x', tip={}) for point in axis['points']]
        spec['data'][0]['values'] = points
        drawn = list(groups(vl_convert.vega_to_scenegraph(spec)['scenegraph']))
        assert [len(items) for name, items in drawn if name == 'marks'] == [len(points)], cost
        lines = [len(items) for name, items in drawn if name == 'front-line']
        assert sorted(lines) == sorted(len(names) for names in axis['front'].values() if names), cost


def groups(item):
    """Name and items of every mark of a scene."""
    if 'marktype' in item:
        yield item.get('name'), item['items']
    for inner in item.get('items', ()):
        yield from groups(inner)
