"""The tables of models and mixers in README and docs: that they are current, and what they are made of."""
import shutil
import sys
import types
from pathlib import Path

import pytest

from zoo.backbone import Backbone
from zoo.blocks.mixers import TokenMixer, list_mixers, register_mixer, registry
from zoo.cards import family_doc, tables
from zoo.cli.cards import main
from zoo.registry import FAMILIES, Family, Variant, modules

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / 'model_cards'


def rows(text):
    """The cells of a table's rows."""
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()[2:] if line[:1] == '|']


def expanded(literal):
    """Names that a shell would make of ``a_{b,c}``."""
    start, braces, ends = literal.strip('`').rstrip('}').partition('{')
    return [start + end for end in ends.split(',')] if braces else [start]


def test_tables_are_up_to_date():
    places = tables.places(ROOT)
    for path in places:
        tables.check(path, CARDS)  # its error names the command that writes them
    named = [name for path in places for _, name, _ in tables.PLACE.findall(path.read_text())]
    assert sorted(named) == sorted(tables.TABLES) and places[0].name == 'README.md'


def test_what_is_out_of_date_is_named_and_written(tmp_path, capsys):
    page, readme = ROOT / 'docs/choose.md', ROOT / 'README.md'
    path = tmp_path / 'docs/choose.md'
    path.parent.mkdir()
    cards = shutil.copytree(CARDS, tmp_path / 'model_cards')
    shutil.copy(readme, tmp_path)
    path.write_text(page.read_text().replace('| 82.8, 84.4, 85.5, 85.8 |', '| 99.9 |'))
    assert main(['--output', str(cards), '--check']) == 2
    assert f'error: out of date in {path}: the table of families; python -m zoo cards writes it' in (
        capsys.readouterr().err)
    assert main(['--output', str(cards)]) == 0
    assert path.read_text() == page.read_text() and (tmp_path / 'README.md').read_text() == readme.read_text()
    path.write_text(page.read_text().replace('table of gates', 'table of gate'))
    assert main(['--output', str(cards), '--check']) == 2
    assert 'no table is called gate; use summary, families, gates, mixers' in capsys.readouterr().err


def test_every_model_is_named_once_in_its_table():
    cnns = {variant.name for family in FAMILIES if not issubclass(family.host, Backbone) for variant in family.variants}
    named = {table: [name for row in rows(tables.TABLES[table]()) for name in expanded(row[1])]
             for table in ('families', 'gates')}
    every = [variant.name for variants in modules().values() for variant in variants]
    assert sorted(named['families'] + named['gates']) == sorted(every) and set(named['gates']) == cnns


@pytest.mark.parametrize('names, table, figures, linear', [
    ('`agent_deit_{tiny,small,base}`', 'families', '74.9, 80.5 / 83.1 (448), 82.0', 'all but `agent_deit_base`'),
    ('`flatten_pvt_{tiny,small,medium,large}`', 'families', r'77.8, 81.7, 83.0\*, -', 'yes'),
    ('`l2vit_{tiny,small,base,base_384}`', 'families', '83.1, 84.1, 84.4 / 86.0 (22k), 87.0 (384, 22k)', 'yes'),
    ('`efficientmod_{xxs,xs,s,s_conv}`', 'families', '77.1, 79.4, 81.9, 80.5', 'only `efficientmod_s_conv`'),
    ('`triplet_mobilenet_v2{,_k3}`', 'gates', '72.0, 72.6', None),
])
def test_lines_are_those_of_the_papers(names, table, figures, linear):
    [row] = [row for row in rows(tables.TABLES[table]()) if row[1] == names]
    assert row[2] == figures and row[4:] == ([linear] if linear else [])


@pytest.mark.parametrize('family, count, figures, linear', [
    ('agent', '13', '74.9 to 85.8', 'some'), ('l2vit', '4', '83.1 to 87.0', 'yes'), ('patnet', '13', '-', 'no')])
def test_lines_of_the_summary(family, count, figures, linear):
    [row] = [row for row in rows(tables.summary()) if f'(model_cards/{family}.md)' in row[0]]
    assert row[2:] == [count, figures, linear]


def test_the_summary_has_every_family_once():
    cards = [row[0].partition('(model_cards/')[2].partition('.md)')[0] for row in rows(tables.summary())]
    assert cards == list(modules())


def test_mixers_are_named_by_stage():
    mixing = {row[1]: row[3] for row in rows(tables.families())}
    assert mixing['`flatten_swin_{tiny,small,base}`'] == '`focused`, `focused`, `window`, `window`'
    assert mixing['`smt_{tiny,small,base,large}`'].endswith(
        ': `scale_aware`, `scale_aware`, `scale_aware`/`softmax`, `softmax`')


def test_mixers_are_ours_alone():
    @register_mixer('theirs')
    class Theirs(TokenMixer):
        """Somebody else's."""
    try:
        found = {row[0].strip('`'): row[2] for row in rows(tables.mixers())}
    finally:
        registry._MIXERS.pop('theirs')
    assert {name for name, text in found.items() if text == 'yes'} == set(list_mixers(class_token=True)) & set(found)
    assert {'softmax', 'rala', 'hilo', 'cross_conv'} <= set(found) and 'theirs' not in found


def test_a_new_family_is_a_new_line(monkeypatch):
    module = types.ModuleType('zoo.models.novel', 'Novel: what no paper has.\n\nNobody, arXiv 2601.00001.\n\nMore.')
    family = Family(module.__name__, FAMILIES[0].host, ('softmax', None), [Variant('novel_t', {})], None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for user in (tables, family_doc):
        monkeypatch.setattr(user, 'FAMILIES', [*FAMILIES, family])
    monkeypatch.setattr(tables, 'modules', lambda: {**modules(), 'novel': family.variants})
    assert rows(tables.summary('../cards'))[-1] == [
        '[Novel](../cards/novel.md) [2601.00001](https://arxiv.org/abs/2601.00001)', 'what no paper has', '1', '-',
        'yes']
    assert rows(tables.families())[-1] == [
        '[Novel](model_cards/novel.md) [2601.00001](https://arxiv.org/abs/2601.00001)', '`novel_t`', '-',
        'what no paper has: `softmax`, -', 'yes']


