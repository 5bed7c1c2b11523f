"""``tools/gpu_check.py`` without a GPU: every part runs, a wrong result is found, nothing is lost when it is ended."""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip('triton', reason='a kernel runs in its interpreter')

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'gpu_check.py'

# A part that loses the GPU in its first check.
LOSING = f'''
import runpy, sys
sys.argv[0] = {str(TOOL)!r}
tool = runpy.run_path(sys.argv[0])
code = """
import sys
from gpu import part
losing = part.Part('losing')
part.lost, losing.dry = (lambda: True), False
losing.check('first', lambda: 1 / 0)
losing.check('second', lambda: dict(ok=True))
losing.close()
"""
sys.exit(tool['main'](sys.argv[1:], [tool['Part']('losing', 20, 0, command=['-c', code])]))
'''
# A plan of two parts, of which the first writes lines, starts a process and does not end. A program: it gets signals.
HANGING = f'''
import runpy, sys
sys.argv[0] = {str(TOOL)!r}
tool = runpy.run_path(sys.argv[0])
code = """
import subprocess, sys, time
from gpu.part import Part
part = Part('hanging')
part.check('first', lambda: dict(ok=True))
child = subprocess.Popen(['sleep', '600'])
part.check('second', lambda: dict(ok=True, child=child.pid))
time.sleep(600)
"""
plan = [tool['Part']('hanging', 0.3, 0, command=['-c', code]), tool['Part']('sanitizer', 20, 0)]
tool['main'].__globals__['GRACE'] = 0.5
sys.exit(tool['main'](sys.argv[1:], plan))
'''


def lines(folder: Path, name: str = 'checks.jsonl') -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def start(folder: Path, *argv: str, program: tuple[str, ...] = (str(TOOL),)) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.Popen(
        [sys.executable, *program, '--out', str(folder), '--dry-run', *argv], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that only its new parent still has to notice has."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except FileNotFoundError:
        return True


def test_a_dry_run_goes_through_every_part_and_finds_a_wrong_result(tmp_path):
    run = start(tmp_path, '--spoil', 'float64 mala s1@tiny')
    text, log = run.communicate()
    assert run.returncode == 1, text + log + (tmp_path / 'log.txt').read_text()
    spec = importlib.util.spec_from_file_location('gpu_check', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert {path.name for path in tmp_path.iterdir()} == set(tool.summary.FILES) and len(tool.summary.FILES) <= 8
    found = [line for name in ('checks', 'ops', 'models') for line in lines(tmp_path, f'{name}.jsonl')]
    ended = {line['part']: line for line in found if line['check'] == 'part'}
    assert list(ended) and set(ended) == {part.name for part in tool.PLAN}
    assert all(line['left_out'] == [] for line in ended.values())
    assert not any({'error', 'problem', 'reason', 'no_graph'} & line.keys() for line in found)
    assert not any(line.get('ms') or line.get('host_ms') for line in found), 'a dry run measures nothing'
    failed, = (line for line in found if line.get('ok') is False)
    assert failed['check'] == 'float64 mala s1@tiny' and failed['why'].startswith('out: 2.0e-02 in L2 (bound 1e-03)')
    assert f'* FAILED correctness: float64 mala s1@tiny: {failed["why"]}' in text
    judged = {line['check'] for line in found if line.get('ok')}
    assert {'float64 identity s1@tiny', 'fullgraph focal s1@tiny', 'over 2^31 elements: one sample'} <= judged
    assert {line['provider'] for line in lines(tmp_path, 'ops.jsonl') if 'provider' in line} == {
        'triton', 'eager', 'compile', 'sdpa', 'sdpa mask', 'cudnn'}
    summary = (tmp_path / 'summary.md').read_text()
    assert text.strip() == summary.strip() and '1 failed' in summary and 'Does focus pay at stage 3?' in summary


def test_every_call_at_a_real_shape_gets_a_kernel(monkeypatch):
    """Those that are timed, those that are checked in small batches, and the large ones; a 7 x 7 has no kernel."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from gpu import cases, correctness, extremes

    timed = [case for shape in cases.shapes(dry=False) for case in cases.at(shape)]
    assert len({str(case) for case in timed}) == len(timed) == 9 * 13
    others = [*correctness.small(False), *extremes.grids(False).values(), *extremes.large(False).values()]
    with FakeTensorMode():
        for case in timed + others:
            choice = case.choose(cases.make_inputs(case, torch.bfloat16, torch.device('cuda')), 'force')
            assert (choice.backend == 'triton') is (case.op != 'dw7 dilated'), f'{case}: {choice.reason}'
    for case in extremes.large(False).values():
        first = next(iter(case.build(lambda *shape: torch.empty(shape, device='meta')).values()))
        assert first.numel() > 2 ** 31, case


def test_the_table_answers_what_was_asked(tmp_path, monkeypatch):
    """Of made-up lines, the last of which a kill has cut off."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    from gpu import summary

    def row(op, shape, provider, ms, **more):
        return dict(part='ops', check=f'{op} {shape}', op=op, shape=shape, provider=provider, bytes=100_000_000, ms=ms,
                    how='graph', host_ms=0.045, **{'pass': 'forward'}, **more)

    rows = [row('focus', 's3@224', 'triton', 0.3, kernels={}), row('focus', 's3@224', 'compile', 0.075),
            row('dw5 gated', 's1@224', 'triton', 0.1), row('dw5 gated', 's1@224', 'cudnn', 0.25),
            row('identity', 's1@224', 'triton', 0.0921), row('identity', 's1@224', 'sdpa', None, reason='no memory')]
    (tmp_path / 'ops.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n{"part": "ops", "ch')
    copy = dict(part='ceilings', check='copy', bytes_per_second=4e12)
    failed = dict(part='correctness', check='float64 rala s1@224', ok=False, why='out: 1.0e-01 in L2')
    (tmp_path / 'checks.jsonl').write_text(json.dumps(copy) + '\n' + json.dumps(failed) + '\n')
    profile = dict(part='models', check='profile van_b1', bmm={'forward': False, 'training step': True})
    (tmp_path / 'models.jsonl').write_text(json.dumps(profile) + '\n')
    text = summary.write(tmp_path)
    for line in (
            'A copy moves 4.00 TB/s, read and written.',
            '**0 checks passed, 1 failed, 0 could not be made.**',
            '* FAILED correctness: float64 rala s1@224: out: 1.0e-01 in L2',
            '* Does focus pay at stage 3? forward: triton 300 us, compile 75 us: the kernel LOSES, 0.25 x the speed of '
            'compile.',
            '* Does focus pay at stage 3? forward+backward: not measured.',
            '* Does the 5 x 5 pay (cuDNN: the bare convolution)? forward: triton 100 us, cudnn 250 us: the kernel '
            'wins, 2.50 x the speed of cudnn.',
            '* Is plain linear attention done in 100 us at stage 1? Yes, 92 us.',
            '* Is there a batched matrix product in VAN? YES, in training step.',
            '| identity s1@224 | forward | 92.1 |  |  | failed |  |  | 45.0 | 25 | 3.7 |',
            '* sdpa failed: no memory (identity s1@224)'):
        assert line in text.splitlines(), f'{line}\n\n{text}'
    assert summary.failures(tmp_path) == [failed]


def test_a_part_that_lost_the_gpu_goes_on_in_another_process(tmp_path):
    run = start(tmp_path, program=('-c', LOSING))
    text, _ = run.communicate()
    assert run.returncode == 1 and '1 checks passed, 1 failed' in text
    assert [(line['check'], line.get('error')) for line in lines(tmp_path)] == [
        ('first', 'ZeroDivisionError: division by zero'), ('second', None), ('part', None)]


@pytest.mark.parametrize('number', [None, signal.SIGTERM, signal.SIGINT])
def test_what_was_found_outlives_the_end(tmp_path, number):
    """At a part's limit, and at a signal; the part's own processes end too."""
    run = start(tmp_path, program=('-c', HANGING))
    if number:
        while not (tmp_path / 'checks.jsonl').exists() or len(lines(tmp_path)) < 2:
            time.sleep(0.05)
        run.send_signal(number)
    text, _ = run.communicate()
    found = lines(tmp_path)
    assert run.returncode == (128 + number if number else 0)
    assert [line['check'] for line in found[:3]] == ['first', 'second', 'part'] and found[2]['stopped']
    assert [line['part'] for line in found[3:]] == ([] if number else ['sanitizer'] * 3)
    assert '**2 checks passed' in text and 'hanging was stopped before its end' in text
    assert gone(found[1]['child'])
