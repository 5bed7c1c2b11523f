"""``zoo compatibility``: cells, what keeps them apart, and going on after an interruption."""
import json

import pytest
import torch

from zoo.compatibility import matrix, result, targets
from zoo.utils.errors import ZooError
from zoo_cli import main

NAME = 'ecanet_resnet18'  # small, and torch.fx traces it


def cells(path):
    return json.loads(path.read_text())['rows'][NAME]


def test_a_row_of_each_kind(tmp_path, capsys):
    """Runs, differs, refuses, is not installed: in the process of a worker."""
    stem = tmp_path / 'table'
    words = ['compatibility', NAME, '--targets', 'fx', 'mmdet', '--results', str(stem), '--jobs', '1']
    assert main(words) == 0
    found = cells(tmp_path / 'table.json')
    assert found['fx']['result'] == 'runs' and found['fx']['deviation'] < 1e-3
    assert found['mmdet']['result'] in ('runs', 'not installed')
    assert all(cell['seconds'] >= 0 for cell in found.values())
    text = (tmp_path / 'table.md').read_text()
    assert f'`{NAME}`' in text and 'torch.fx' in text
    capsys.readouterr()
    assert main(words) == 0  # nothing is tried again but what was not installed
    printed = capsys.readouterr().out
    assert 'cells have a result already' in printed and f'{NAME}  fx' not in printed


@pytest.mark.slow
@pytest.mark.parametrize('target', targets.TARGETS)
def test_every_target(target):
    if target == 'mmdet':
        pytest.importorskip('mmdet')
    row = targets.attempt(targets.TARGETS[target], NAME, 64)
    assert row['result'] in ('runs', 'converts', 'not installed'), row


@pytest.mark.parametrize('attempt, expected', [
    (lambda *_: 1e-6, dict(result='runs', deviation=1e-6)),
    (lambda *_: None, dict(result='runs')),
    (lambda *_: 0.1, dict(result='differs', deviation=0.1)),
    (lambda *_: float('nan'), dict(result='differs')),
    (lambda *_: 1 / 0, dict(result='fails', reason='division by zero')),
])
def test_results(attempt, expected):
    row = targets.attempt(targets.Target('t', (), attempt), NAME, 64)
    assert {key: row[key] for key in expected} == expected
    assert targets.attempt(targets.Target('t', ('no_such_package',), attempt), NAME, 64) == dict(result='not installed')


def test_late_and_dying_processes_take_nothing_along(tmp_path, monkeypatch, capsys):
    script = tmp_path / 'worker.sh'
    script.write_text('''#!/bin/sh
for target in "$@"; do
  case $target in
    lora) sleep 30;;
    int8) kill -11 $$;;
    *) echo "[\\"$target\\", {\\"result\\": \\"runs\\", \\"seconds\\": 1}]";;
  esac
done
''')
    script.chmod(0o755)

    def start(model, size, names):
        import subprocess
        return subprocess.Popen([str(script), *names], stdout=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setattr(matrix, '_start', start)
    monkeypatch.setattr(matrix, 'START', 0)
    assert main(['compatibility', NAME, '--targets', 'pt2', 'lora', 'cam', 'int8', 'fx', '--timeout', '1', '--results',
                 str(tmp_path / 'table')]) == 0
    found = {target: cell['result'] for target, cell in cells(tmp_path / 'table.json').items()}
    assert found == dict(pt2='runs', lora='not finished', cam='runs', int8='fails', fx='runs')
    assert 'exit code -11' in cells(tmp_path / 'table.json')['int8']['reason']
    assert matrix._is_open(dict(m=dict(fx=dict(result='not finished'))), 'm', 'fx')


def test_what_another_environment_found_stays(tmp_path):
    stem = tmp_path / 'table'
    result.write(stem, dict(
        matrix.report.header('compatibility', torch.device('cpu'), torch.float32, [], []), size=64,
        rows={NAME: dict(mmdet=dict(result='runs', seconds=1.))}))
    assert main(['compatibility', NAME, '--targets', 'mmdet', '--again', '--results', str(stem)]) == 0
    assert cells(tmp_path / 'table.json')['mmdet']['result'] == 'runs'


def test_foreign_results_are_refused(tmp_path):
    (tmp_path / 'table.json').write_text('[]')
    with pytest.raises(ZooError, match='is not a result of "compatibility"'):
        result.read(tmp_path / 'table')
