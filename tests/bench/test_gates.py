"""``zoo benchmark gates``: selection, ratios, and a run at a tiny size."""
import json

import pytest
import torch

from zoo.bench import gates, report, timing
from zoo.blocks.gates import GATES
from zoo.cli import benchmark
from zoo.utils.errors import ZooError


def test_selection():
    assert set(gates.select([])) == {*GATES, 'emca'}
    assert gates.select(['e*', 'eca']) == ['eca', 'efficient', 'ela', 'emca']
    with pytest.raises(ZooError, match="unknown gate 'ecaa'; did you mean eca"):
        gates.select(['ecaa'])


def test_ratios_are_to_the_plain_host(monkeypatch):
    times = {'none': 20., 'eca': 25., 'fca': 40., 'emca': 30.}
    monkeypatch.setattr(timing, 'interleaved', lambda calls, *args: {
        name: timing.Timing.of([times[name]]) for name in calls})
    rows = gates.measure('resnet18', ['eca', 'fca', 'emca'], (64, 64), 2, torch.float32, torch.device('cpu'), 1)
    assert [(row['gate'], row['ratio']) for row in rows] == [('none', 1.), ('eca', 1.25), ('fca', 2.), ('emca', 1.5)]
    assert [row['parameters'] for row in rows] == [0, 36, 87040, 73]
    assert rows[1]['ms'] == {'median': 25., 'low': 25., 'high': 25., 'samples': 1} and rows[1]['host_ms'] is None


def test_a_host_without_places(tmp_path, capsys):
    argv = ['gates', 'eca', '--host', 'seresnet50', '--size', '32', '--output', str(tmp_path / 'x')]
    assert benchmark.main(argv) == 2
    assert 'eca in seresnet50: Bottleneck already has a SEModule' in capsys.readouterr().err
    assert benchmark.main(['gates', 'emca', '--host', 'mobilenetv2_100', '--size', '32']) == 2
    assert 'emca in mobilenetv2_100: there is none; use --host resnet18' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path):
    argv = ['gates', 'eca', '--host', 'resnet18', '--size', '64x32', '--batch-size', '1', '--repeats', '2', '--device',
            'cpu', '--output', str(tmp_path / 'here')]
    assert benchmark.main(argv) == 0
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert [(r['gate'], r['height'], r['width'], r['batch']) for r in saved['rows']] == [
        ('none', 64, 32, 1), ('eca', 64, 32, 1)]
    assert (tmp_path / 'here.md').read_text() == report.markdown(saved)
