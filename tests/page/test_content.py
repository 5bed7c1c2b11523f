"""The data of the page: those of the catalogue, the result files and pareto."""
import json

import pytest

import zoo_cli
from zoo.analysis import pareto, result_files
from zoo.cards import dense
from zoo.page import content as page_content
from zoo.page import outcomes
from zoo.registry import list_models
from zoo.train.options import config_path
from zoo.utils.errors import ZooError

from .conftest import MEASURED


def test_rows_are_those_of_list(content, capsys):
    assert zoo_cli.main(['list', '--json']) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row['name'] for row in content['models']] == [row['name'] for row in listed]
    for row, want in zip(content['models'], listed):
        differs = {key for key in want if json.loads(json.dumps(row[key])) != want[key]}
        assert differs <= ({'measured_top1'} if row['name'] in MEASURED else set()), row['name']
    assert {row['name']: row['measured_top1'] for row in content['models'] if row['measured_top1']} == MEASURED


def test_every_row_has_the_same_entries(content):
    assert len({tuple(sorted(row)) for row in content['models']}) == 1


def test_points_and_fronts_are_those_of_plot(content):
    files = result_files.read([])
    assert set(content['costs']) == set(pareto.COSTS)
    for cost, axis in content['costs'].items():
        points, setting = pareto.collect([], cost, ['published'], files)
        got = [point for point in axis['points'] if point['kind'] == 'published']
        assert [(p['name'], p['cost'], p['top1']) for p in got] == [(p.name, p.cost, p.top1) for p in points]
        assert axis['front']['published'] == [p.name for p in pareto.front(points, axis['less'])]
        assert axis['setting'] == setting
    measured = [point for point in content['costs']['macs']['points'] if point['kind'] == 'measured']
    assert {point['name']: point['top1'] for point in measured} == MEASURED
    flagged = {row['name'] for row in content['models'] if 'macs' in row['front']}
    assert flagged == {name for names in content['costs']['macs']['front'].values() for name in names}


def test_parity_is_that_of_the_size_where_it_was_compared(content):
    rows = {row['name']: row for row in content['models']}
    golden = result_files.parity()['rows']['agent_cswin_base@384']
    assert rows['agent_cswin_base.in1k_384']['parity'] == dict(
        pixels='384', logits=golden['logits'], grad=golden['grad'], agrees=True)
    assert rows['zoo_hybrid']['parity'] is None and rows['zoo_hybrid']['relatives'] == 0
    assert rows['agent_pvt_large.in1k']['parity'] is None and rows['agent_pvt_large.in1k']['relatives'] > 5


def test_what_weights_were_trained_on(content):
    rows = {row['name']: row['training'] for row in content['models']}
    assert rows['van_b4.in22k_ft_in1k_384'] == 'ImageNet-22k, then 1k' and rows['van_b4.in22k'] == 'ImageNet-22k'
    assert rows['ravlt_t.in1k'] == 'ImageNet-1k' and rows['zoo_hybrid'] is None
    assert set(rows.values()) == {*page_content.TRAINING.values(), None}


def test_commands_are_ones_that_the_zoo_takes(content):
    """Every command line of every model: its parser knows the words, and its recipe or config exists."""
    parsers, seen = {}, set()
    for row in content['models']:
        for command in page_content.COMMANDS:
            if command.needs and not row[command.needs]:
                continue
            program, *words = command.text.format(**row).split()
            if program != 'zoo':
                compile(command.text.format(**row), 'command', 'exec')
                continue
            name, *words = words
            parser = parsers.setdefault(name, zoo_cli._module(name).parser())
            assert not parser.parse_known_args(words)[1], command.text
            seen.add(name)
    assert seen == {'info', 'infer', 'validate', 'train', 'train-det', 'train-seg', 'export'}
    recipes = {row['recipe'] for row in content['models']} - {None}
    assert len(recipes) > 100 and all(config_path(name) for name in recipes)
    known = {row.name for row in dense.configs()}
    assert {row[key] for row in content['models'] for key in ('detector', 'segmentor')} - {None} <= known
    assert {row['model'] for row in content['models']} == set(list_models())


def test_recipe_is_that_of_the_size(content):
    rows = {row['name']: row['recipe'] for row in content['models']}
    assert (rows['agent_cswin_base.in1k'], rows['agent_cswin_base.in1k_384']) == (
        'agent_cswin_base', 'agent_cswin_base_384')
    assert rows['zoo_hybrid'] is None


def test_matrix_has_every_cell_and_every_reason(content):
    matrix, rows = content['matrix'], result_files.read([])['compatibility.json']['rows']
    assert {model: {key: cell['result'] for key, cell in row.items()} for model, row in matrix['rows'].items()} == {
        model: {key: cell['result'] for key, cell in row.items()} for model, row in rows.items()}
    for model, row in matrix['rows'].items():
        for key, cell in row.items():
            assert (cell['reason'] is not None) == (cell['result'] in ('fails', 'differs'))
            if cell['reason']:
                reason = matrix['reasons'][cell['reason'] - 1]
                assert model in reason['models'] and reason['target'] == matrix['targets'][key]
                assert reason['text'].replace('MODEL', model) == rows[model][key]['reason']
    assert set(matrix['legend']) == {cell['result'] for row in rows.values() for cell in row.values()}
    tried = {row['name']: row['tried'] for row in content['models']}
    assert (tried['ravlt_t.in1k'], tried['ravlt_b.in1k'], tried['zoo_hybrid']) == ('ravlt_t', 'ravlt_t', None)


def test_arena_is_in_columns_that_sort(content):
    [arena] = content['arenas']
    rows = result_files.read([])['arena-cpu.json']['rows']
    assert [row[0]['text'] for row in arena['rows']] == [row['mixer'] for row in rows]
    assert {len(row) for row in arena['rows']} == {len(arena['columns'])} and set(outcomes.NUMBERS) < set(
        arena['columns'])
    first = {title: cell['number'] for title, cell in zip(arena['columns'], arena['rows'][0])}
    assert first['top-1 % (seeds)'] == rows[0]['top1'] and first['ms a step'] == rows[0]['step_ms']['median']
    assert [point['mixer'] for point in arena['points']] == [row['mixer'] for row in rows]
    failed = dict(rows[0], failed={'1': 'no memory'})
    content = dict(result_files.read([])['arena-cpu.json'], rows=[failed, dict(mixer='x', runs=[], reason='too slow')])
    assert outcomes.arena(content)['failed'] == ['scale_aware, seed 1: no memory', 'x: too slow']


def test_other_files_and_none():
    assert outcomes.matrix({}) == {} == outcomes.arena([1]) == outcomes.arena(dict(kind='models'))
    files = {name: content for name, content in result_files.read([]).items() if name in ('models.json', 'parity.json')}
    bare = page_content.collect(files)
    assert set(bare['costs']) == {'macs', 'parameters'} and not bare['matrix'] and not bare['arenas']
    assert {row['throughput'] for row in bare['models']} == {None} == {row['tried'] for row in bare['models']}


def test_throughput_of_a_setting():
    files = result_files.read([])
    throughput = page_content.collect(files, 'batch 1')['costs']['throughput']
    assert throughput['setting'].startswith('AMD EPYC, float32, batch 1, ') and throughput['less'] is False
    with pytest.raises(ZooError, match="in a setting 'H100'; there is: AMD EPYC"):
        page_content.collect(files, 'H100')
