"""Accuracy against cost: fronts, what is drawn, and the program."""
import json
import runpy
import sys
from pathlib import Path

import pytest
from matplotlib.text import Text
from PIL import Image

from zoo.analysis import pareto, result_files
from zoo.analysis.pareto import Point
from zoo.utils.errors import ZooError
from zoo.weights.sources import source
from zoo_cli import main

TINY = 'agent_pvt_tiny.in1k'


def point(cost, top1, kind='published', name='m.in1k'):
    return Point(name, 'agent', kind, cost, top1, (224, 224))


@pytest.fixture
def bench(tmp_path):
    """A benchmark file: two models in bfloat16 on a GPU, one of them also at another size, and one in float32."""
    def row(model, throughput, size=224, direction='forward', batch=64):
        return {'model': model, 'height': size, 'width': size, 'batch': batch, 'provider': 'eager', 'kernels': 'auto',
                'pass': direction, 'throughput': throughput, 'ms': dict(median=1.)}

    shared = dict(kind='models', device='H100', device_type='cuda', threads=1, versions=dict(torch='2.15'), date='')
    paths = []
    for dtype, rows in (
            ('bfloat16', [row('agent_pvt_tiny', 3000.), row('agent_pvt_tiny', 900., 448), row('agent_pvt_small', 2000.),
                          row('agent_pvt_small', 500., direction='forward+backward')]),
            ('float32', [row('agent_pvt_tiny', 1000.)])):
        paths.append(tmp_path / f'{dtype}.json')
        paths[-1].write_text(json.dumps(dict(shared, dtype=dtype, rows=rows)))
    return paths


def test_front_has_those_that_none_beats():
    points = [point(1, 70.), point(2, 69.), point(3, 75.), point(3, 76.), point(4, 76.), point(5, 80.)]
    assert [(p.cost, p.top1) for p in pareto.front(points, less=True)] == [(1, 70.), (3, 76.), (5, 80.)]
    assert [(p.cost, p.top1) for p in pareto.front(points, less=False)] == [(5, 80.)]
    assert [p.cost for p in pareto.front([point(1, 80.), point(3, 70.), point(2, 60.)], less=False)] == [1, 3]
    assert pareto.front([], less=True) == []


def test_costs_and_accuracies_come_from_the_results():
    found, setting = pareto.collect([TINY, 'van_b4'], 'macs', ['published', 'measured'], result_files.read([]))
    # VAN-B4 has no published accuracy on ImageNet-1k alone
    assert found[0] == Point(TINY, 'agent', 'published', result_files.counts()['rows'][TINY]['macs'] / 1e9,
                             source(TINY).top1, (224, 224))
    assert {p.kind for p in found} == {'published'} and setting == ''


def test_throughput_is_of_one_setting_at_the_size_of_the_accuracy(bench):
    names = ['agent_pvt_tiny', 'agent_pvt_small']
    files = result_files.read(bench)
    found, setting = pareto.collect(names, 'throughput', ['published'], files, 'H100')
    assert {p.name: p.cost for p in found} == {TINY: 3000., 'agent_pvt_small.in1k': 2000.}
    assert setting == 'H100, bfloat16, batch 64, eager, kernels auto, torch 2.15'
    found, setting = pareto.collect(names, 'throughput', ['published'], files, 'H100, float32')
    assert [p.cost for p in found] == [1000.] and 'float32' in setting
    with pytest.raises(ZooError, match="no throughput .* in a setting 'TPU'; there is: .*H100, bfloat16"):
        pareto.collect(names, 'throughput', ['published'], files, 'TPU')


def test_throughput_that_nobody_measured_says_what_to_do():
    with pytest.raises(ZooError, match='measure it with "zoo benchmark models" and give its JSON file to `results`'):
        pareto.collect(['van_b6'], 'throughput', ['published'], {})


def test_labels_tell_what_is_unusual():
    assert point(1, 70.).label == 'm'
    assert Point('m.in22k_ft_in1k_384', 'f', 'published', 1, 80., (384, 384)).label == 'm (22k, 384)'


def test_published_and_measured_look_different():
    points = [point(1, 70.), point(2, 80.), point(1, 69., 'measured'), point(2, 81., 'measured', 'n.in1k')]
    axis = pareto.draw(dict(macs=points)).axes[0]
    marks = [(line.get_marker(), line.get_fillstyle()) for line in axis.lines if line.get_marker() != 'None']
    assert marks == [('o', 'none')] * 2 + [('s', 'full')] * 2
    fronts = {line.get_linestyle(): list(zip(*line.get_data())) for line in axis.lines if line.get_marker() == 'None'}
    assert fronts == {'--': [(1, 70.), (2, 80.)], '-': [(1, 69.), (2, 81.)]}


def test_names_do_not_hide_each_other():
    points = [point(1 + i / 50, 80 + i / 50, name=f'a_long_name_{i}.in1k') for i in range(8)]
    figure = pareto.draw(dict(macs=[*points, point(4, 70.)]))
    texts = [text for text in figure.axes[0].texts if text.get_text().startswith('a_long')]
    boxes = [Text.get_window_extent(text) for text in texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_legend_of_all_families_is_within_the_picture():
    points, _ = pareto.collect(['*'], 'macs', ['published'], result_files.read([]))
    figure = pareto.draw({'macs': points})
    figure.draw_without_rendering()
    [legend] = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_program(tmp_path, capsys, bench):
    measured = tmp_path / 'measured.json'
    measured.write_text(json.dumps([dict(model=TINY, top1=78.31, count=result_files.IMAGES),
                                    dict(model='agent_pvt_small.in1k', top1=80., count=100)]))
    words = ['plot', '--against', 'macs', 'throughput', '--setting', 'bfloat16', 'agent_pvt_*', '--results',
             str(measured), *map(str, bench), '--output', str(tmp_path / 'new' / 'chart')]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert 'macs: 5 published, 1 measured' in out and 'throughput: 2 published, 1 measured (H100, bfloat16' in out
    assert 'measured front      1.99   78.3 %  agent_pvt_tiny.in1k' in out
    with Image.open(tmp_path / 'new' / 'chart.png') as image:
        assert image.width == 1760
    svg = (tmp_path / 'new' / 'chart.svg').read_bytes()
    assert b'<svg' in svg
    assert main([*words[:-1], str(tmp_path / 'again.svg')]) == 0
    assert (tmp_path / 'again.svg').read_bytes() == svg


@pytest.mark.parametrize('words, message', [
    (['agent_pvt_tyni'], "error: no model of the zoo is called 'agent_pvt_tyni'; did you mean agent_pvt_tiny"),
    ([TINY, '--output', 'chart.jpg'], 'error: --output chart.jpg: end in .png, .svg, .pdf'),
    ([TINY, '--results', 'none.json'], 'error: none.json cannot be read as JSON'),
    ([TINY, '--accuracy', 'measured'], 'error: no accuracy (measured) of these models to draw against macs'),
    ([TINY, '--against', 'watts'], "invalid choice: 'watts'"),
])
def test_program_names_mistakes(words, message, capsys):
    assert main(['plot', *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize('tool', ['plot', 'attention'])
def test_tools_are_the_same_programs(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [tool, '--no-such-flag'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(Path(__file__).parents[2] / 'tools' / f'{tool}.py'), run_name='__main__')
    assert exit.value.code == 2 and f'see python -m zoo {tool} --help' in capsys.readouterr().err
