"""Progress, summaries, curves and tables."""
import sys

import pytest

from zoo.train import report
from zoo.utils.errors import ZooError


@pytest.mark.parametrize('seconds, text', [(0, '0:00'), (59.6, '1:00'), (187, '3:07'), (43500, '12:05:00')])
def test_durations(seconds, text):
    assert report.duration(seconds) == text


def test_summaries_come_back_as_numbers_and_stop_at_an_epoch(tmp_path):
    rows = [dict(epoch=i, train_loss=1 / 3, train_top1=50., eval_top1=None if i == 1 else 60.5, lr=1e-5, other=1)
            for i in range(3)]
    report.write_summary(tmp_path / 'summary.csv', rows)
    found = report.read_summary(tmp_path / 'summary.csv', before=2)
    assert [row['epoch'] for row in found] == [0, 1] and [row['eval_top1'] for row in found] == [60.5, None]
    assert found[0]['train_loss'] == 0.333333 and found[0]['lr'] == 1e-5 and 'other' not in found[0]
    report.write_summary(tmp_path / 'again.csv', found)
    assert (tmp_path / 'again.csv').read_text() == ''.join(
        (tmp_path / 'summary.csv').read_text().splitlines(keepends=True)[:3])
    assert report.read_summary(tmp_path / 'none.csv', before=2) == []


def test_points_are_thinned_only_when_there_are_many():
    points = [[i] for i in range(report.MAX_POINTS)]
    assert report.thin(points) == points
    assert len(report.thin([*points, [0]])) == report.MAX_POINTS // 2 + 1


def test_curves_are_drawn_with_and_without_validation(tmp_path):
    points = [[0.5, 2., 30., 1e-3], [1., 1., 60., 5e-4]]
    rows = [dict(epoch=0, eval_loss=1.2, eval_top1=55.)]
    for name, seen in (('a.png', rows), ('b.png', [dict(epoch=0, eval_loss=None, eval_top1=None)]), ('c.png', [])):
        report.draw_curves(tmp_path / name, points, seen, 'run')
        assert (tmp_path / name).read_bytes()[1:4] == b'PNG'
    assert 'matplotlib.pyplot' not in sys.modules or sys.modules['matplotlib.pyplot'].get_fignums() == []


def test_commands_name_the_interpreter_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'executable', '/usr/bin/python3')
    assert report.command('train', '--resume', 'a b') == "python -m zoo train --resume 'a b'"
    monkeypatch.setattr(sys, 'executable', str(tmp_path / '.venv/bin/python'))
    assert report.command('train') == '.venv/bin/python -m zoo train'


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = [0.]
    monkeypatch.setattr(report.time, 'monotonic', lambda: now[0])
    progress = report.Progress(5, 'epoch 2/4', interval=2, before=(30., 0.25), share=0.25)
    for _ in range(5):
        now[0] += 2
        progress.step(100, loss='1.5', acc='50.0%')
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ['2/5', '4/5', '5/5']
    # 40 seconds for half of the run: as many are left
    assert lines[-1] == 'epoch 2/4 5/5  loss 1.5  acc 50.0%  50 img/s  ETA 0:40'


def test_a_bar_on_a_terminal_and_silence_elsewhere(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    progress = report.Progress(2, 'epoch 1/1')
    progress.bar.mininterval = 0
    for _ in range(2):
        progress.step(10, loss='0.5')
    progress.close()
    shown = capsys.readouterr().err
    assert 'epoch 1/1 100%' in shown and 'loss 0.5' in shown and 'img/s' in shown and 'ETA' in shown
    report.Progress(2, 'epoch 1/1', shown=False).step(10)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('text', ['epoch,lr\n0,1\n', 'nothing', 'x\n' * 3, '\0'])
def test_a_damaged_summary_is_told(tmp_path, text):
    report.write_summary(tmp_path / 'summary.csv', [dict(epoch=0, lr=0.5), dict(epoch=1, lr=0.25)])
    row, = report.read_summary(tmp_path / 'summary.csv', before=1)
    assert (row['epoch'], row['lr'], row['eval_top1']) == (0, 0.5, None)
    whole = (tmp_path / 'summary.csv').read_text()
    (tmp_path / 'summary.csv').write_text(text + whole)
    with pytest.raises(ZooError, match='summary.csv is damaged .*remove it'):
        report.read_summary(tmp_path / 'summary.csv', before=1)
