"""``zoo benchmark ops``: what it counts, whom it asks, and a run at tiny sizes whose certain figures are known."""
import json

import pytest
import torch

import zoo_kernels
from zoo.bench import main, ops, plot, providers, report, shapes, timing
from zoo.bench.operators import OPERATORS, make_inputs, moved_bytes
from zoo.cli import benchmark
from zoo.utils.errors import ZooError

CPU = torch.device('cpu')
TINY = shapes.Shape('tiny', 2, 7, 7, 64)
PROVIDERS = ('eager', 'sdpa', 'triton', 'natten', 'flash_bla')


@pytest.fixture(scope='module')
def rows():
    return {
        (name, row['pass'], row['provider']): row for name, operator in OPERATORS.items()
        for row in ops.measure(operator, TINY, PROVIDERS, torch.float32, CPU, 1e9, repeats=3)}


def test_shapes_are_those_of_a_backbone():
    found = shapes.shapes('cuda')
    stages = [found[f's{stage}@{image}'] for image in shapes.IMAGES for stage in range(1, 5)]
    assert [(s.batch, s.height, s.width, s.dim, s.heads) for s in stages] == [
        (128, 56, 56, 64, 2), (128, 28, 28, 128, 4), (128, 14, 14, 256, 8), (128, 7, 7, 512, 16),
        (2, 200, 334, 64, 2), (2, 100, 167, 128, 4), (2, 50, 84, 256, 8), (2, 25, 42, 512, 16),
        (1, 256, 256, 64, 2), (1, 128, 128, 128, 4), (1, 64, 64, 256, 8), (1, 32, 32, 512, 16)]
    assert stages[4].tokens == 66_800


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_the_sweep_is_equal_work(device):
    sweep = shapes.select(device, ['n*'])
    assert [s.tokens for s in sweep] == [49, 196, 784, 3136, *([12544] if device == 'cuda' else [])]
    assert {s.tokens * s.batch for s in sweep} == {shapes.SWEEP_TOKENS[device]}


def test_a_cpu_gets_less():
    small = shapes.shapes('cpu')
    assert (small['s1@224'].batch, small['s1@224'].tokens) == (1, 3136)
    assert (small['s1@800x1333'].height, small['s1@800x1333'].width) == (50, 84)
    assert [s.name for s in shapes.select('cpu', None, quick=True)] == [
        's3@224', 's4@224', 's4@800x1333', 's4@1024']
    assert all(s.tokens <= 196 and s.batch <= 2 for s in shapes.select('cuda', None, quick=True))


@pytest.mark.parametrize('name, forward, both', [
    # T = 128 * 3136 * 64 * 2 bytes: q, k, v, out; then those again with the gradients of out, q, k and v
    ('linear_attention', 4, 11),
    ('focused_attention', 4, 11),
    ('depthwise_conv_3', 2, 5),
])
def test_bytes_of_the_first_stage(name, forward, both):
    shape = shapes.shapes('cuda')['s1@224']
    inputs = make_inputs(OPERATORS[name], shape, torch.bfloat16, 'meta')
    out = torch.empty(shape.batch, shape.tokens, shape.dim, dtype=torch.bfloat16, device='meta')
    unit = 128 * 3136 * 64 * 2
    assert moved_bytes(inputs, out, False) / unit == pytest.approx(forward, rel=1e-4)
    assert moved_bytes(inputs, out, True) / unit == pytest.approx(both, rel=1e-4)


def test_bytes_to_the_last_one():
    x, routes = torch.empty(3, 5, requires_grad=True), torch.empty(7, dtype=torch.int64)
    out = torch.empty(2)
    assert moved_bytes(dict(x=x, routes=routes), out, False) == 60 + 56 + 8
    assert moved_bytes(dict(x=x, routes=routes), out, True) == 2 * (60 + 56 + 8) + 60


def test_every_op_of_the_kernels_is_measured():
    assert {operator.function.__name__ for operator in OPERATORS.values()} == {
        'agent_attention', 'depthwise_conv', 'focal_modulation', 'gated_linear_attention', 'linear_attention',
        'neighborhood_attention', 'neighborhood_sum', 'routed_attention', 'selective_scan'}
    assert all(hasattr(zoo_kernels, operator.function.__name__) for operator in OPERATORS.values())


def test_the_reference_is_right_everywhere(rows):
    found = {key: row for key, row in rows.items() if key[2] == 'eager'}
    assert len(found) == 2 * len(OPERATORS)
    for row in found.values():
        assert 0 <= row['error'] < 5e-6, row
        assert row['bytes'] > 0 and row['floor_ms'] == pytest.approx(1e3 * row['bytes'] / 1e9)
        assert row['of_floor'] == pytest.approx(row['floor_ms'] / row['ms']['median'])
        assert row['ms']['low'] <= row['ms']['median'] <= row['ms']['high'] and row['ms']['samples'] == 3


def test_softmax_attention_is_another_function(rows):
    for name, operator in OPERATORS.items():
        row = rows[name, 'forward', 'sdpa']
        if operator.softmax:
            assert row['error'] is None and row['ms']['median'] > 0
        else:
            assert row['reason'] == 'it is not attention' and 'ms' not in row


def test_who_takes_no_part_says_why(rows):
    for name in OPERATORS:
        reason = rows[name, 'forward', 'triton']['reason']
        assert any(text in reason for text in (
            'not one of torch.float16', 'the input is on cpu', 'there is no kernel'))
    assert 'natten cannot be imported' in rows['linear_attention', 'forward', 'natten']['reason']
    assert 'flash_bla cannot be imported' in rows['linear_attention', 'forward', 'flash_bla']['reason']
    assert rows['focused_attention', 'forward', 'flash_bla']['reason'] == 'it has no such function'


def test_a_peer_from_a_folder(tmp_path, monkeypatch):
    """It is called with contiguous heads-first tensors, and judged by the same oracle."""
    package = tmp_path / 'flash_bla' / 'ops' / 'linear_attn'
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / '__init__.py').touch()
    (package / 'fused.py').write_text(
        'def linear_attention(q, k, v):\n'
        '    assert q.is_contiguous() and q.shape == (2, 2, 49, 32)\n'
        '    s = k.transpose(-1, -2) @ v / 49\n'
        '    return q @ s / (q @ k.mean(2, keepdim=True).transpose(-1, -2) + 1e-6)\n')
    monkeypatch.syspath_prepend('')  # restores sys.path afterwards
    providers.add_peer(str(tmp_path))
    row, _ = ops.measure(OPERATORS['linear_attention'], TINY, ['flash_bla'], torch.float32, CPU, 1e9, 1)
    assert row['error'] < 1e-6


def test_one_that_fails_does_not_stop_the_others(monkeypatch):
    def broken(operator, inputs):
        def fail(inputs):
            raise RuntimeError('out of\nmemory')
        return fail

    monkeypatch.setitem(providers.PROVIDERS, 'natten', providers.Provider('broken', broken))
    row, eager, *_ = ops.measure(OPERATORS['agent_attention'], TINY, ['natten', 'eager'], torch.float32, CPU, 1e9, 1)
    assert row['reason'] == 'RuntimeError: out of memory' and eager['error'] < 1e-6


@pytest.mark.parametrize('linear, softmax, expected', [
    ({10: 2., 1000: 2.}, {10: 1., 1000: 100.}, 10 ** (1 + 2 * 0.30103 / 2)),  # 0.1 n meets 2 at n = 20
    ({10: 1., 100: 1.}, {10: 2., 100: 3.}, 10.),
    ({10: 1., 100: 5.}, {10: 2., 100: 3.}, None),
    ({10: 3., 100: 1., 1000: 30., 10_000: 30.}, {10: 1., 100: 10., 1000: 10., 10_000: 90.}, 10 ** 3.5),
    ({10: 1.}, {100: 1.}, None),
])
def test_crossing_point(linear, softmax, expected):
    found = plot.crossing(linear, softmax)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-4))


def row(provider, tokens, ms, **more):
    return {
        'op': 'focused_attention', 'shape': f'n{tokens}', 'batch': 2, 'tokens': tokens, 'dim': 64, 'heads': 2,
        'pass': 'forward', 'provider': provider, **more,
        'ms': {'median': ms, 'low': 0.9 * ms, 'high': 1.1 * ms, 'samples': 3}, 'bytes': 2_000_000, 'floor_ms': 0.02,
        'of_floor': 0.02 / ms, 'peak_bytes': 1_500_000, 'error': None if provider == 'sdpa' else 1.2e-7}


def content(rows):
    return {
        'kind': 'ops', 'device': 'a device', 'device_type': 'cpu', 'dtype': 'float32', 'commit': 'abc1234',
        'date': '2026-01-02T03:04:05+00:00', 'versions': {'torch': '2.0', 'triton': None}, 'notes': ['a note'],
        'bandwidth': 12.3e9, 'rows': rows}


def test_table():
    text = report.markdown(content([
        row('eager', 49, 0.25), row('sdpa', 49, 0.1),
        {**{k: v for k, v in row('triton', 49, 1.).items() if k != 'ms'}, 'reason': 'no CUDA'}]))
    assert text == '''# Benchmark of ops

a device, float32, torch 2.0, commit abc1234, 2026-01-02T03:04:05+00:00. A copy moves 12 GB/s.

Note: a note.

## focused_attention

| shape | pass | provider | ms (quartiles) | MB | floor ms | % of floor | peak MB | error |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| n49: 2 x 49 x 64 | forward | reference eager | 0.250 (0.225-0.275) | 2.00 | 0.0200 | 8 | 1.50 | 1.2e-07 |
| n49: 2 x 49 x 64 | forward | SDPA | 0.100 (0.0900-0.110) | 2.00 | 0.0200 | 20 | 1.50 | other function |

* triton took no part: no CUDA

'''


def test_what_the_host_takes_has_a_column():
    """Only where it was measured; a launch that could not be hidden has a footnote."""
    text = report.markdown(content([
        row('eager', 49, 0.25, host_ms=0.4, host_hidden=True), row('sdpa', 49, 0.1, host_ms=1.5, host_hidden=False)]))
    assert '''
| shape | pass | provider | ms (quartiles) | host ms | MB | floor ms | % of floor | peak MB | error |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| n49: 2 x 49 x 64 | forward | reference eager | 0.250 (0.225-0.275) | 0.400 | 2.00 | 0.0200 | 8 | 1.50 | 1.2e-07 |
| n49: 2 x 49 x 64 | forward | SDPA | 0.100 (0.0900-0.110) | 1.50[^wait] | 2.00 | 0.0200 | 20 | 1.50 | other function |

host ms: the time''' in text
    assert text.count('\n[^wait]: ') == 1 and 'not complete' not in text
    assert report.markdown(content([row('eager', 49, 1., host_ms=None, host_hidden=None)])) == report.markdown(
        content([row('eager', 49, 1.)]))


@pytest.mark.parametrize('x, text', [
    (0.00123456, '0.00123'), (0.5, '0.500'), (12.345, '12.3'), (123.4, '123'), (98765.4, '98765'), (0, '0')])
def test_numbers(x, text):
    assert report.number(x) == text


def test_crossings_and_their_picture(tmp_path):
    rows = [row('eager', n, 2.) for n in (10, 1000)] + [row('sdpa', 10, 1.), row('sdpa', 1000, 100.)]
    found = plot.crossings(rows)
    assert [(c['provider'], round(c['tokens'])) for c in found] == [('eager', 20)]
    plot.draw_ops(tmp_path / 'x.png', content(rows))
    assert (tmp_path / 'x.png').read_bytes()[:4] == b'\x89PNG'


def test_command_line(tmp_path, capsys):
    stem = tmp_path / 'results' / 'here'
    argv = ['ops', 'depthwise_conv_[35]', '--shapes', 's4@224', '--providers', 'eager', 'triton', '--repeats', '2',
            '--device', 'cpu', '--output', f'{stem}.json']
    assert benchmark.main(argv) == 0
    out, err = capsys.readouterr()
    saved = json.loads((stem.parent / 'here.json').read_text())
    assert (stem.parent / 'here.md').read_text() == report.markdown(saved)
    assert report.markdown(saved) in out and 'nothing about the speed of the kernels' in err
    assert sorted(p.name for p in stem.parent.iterdir()) == ['here.json', 'here.md']
    assert saved['kind'] == 'ops' and saved['versions']['torch'] == torch.__version__ and saved['bandwidth'] > 0
    assert saved['command'] == ['benchmark', *argv]
    assert {row['provider'] for row in saved['rows']} == {'eager', 'triton'}
    assert 'complete' not in saved


@pytest.mark.parametrize('stop, code, error', [
    (KeyboardInterrupt, 130, 'here.json and {stem}.md have what was measured so far'),
    (RuntimeError, None, ''),
])
def test_an_interrupted_run_leaves_its_rows(tmp_path, monkeypatch, capsys, stop, code, error):
    stem = tmp_path / 'here'
    measure, begun = ops.measure, []

    def third_time_stops(*args):
        begun.append(args)
        if len(begun) == 3:
            raise stop
        return measure(*args)

    monkeypatch.setattr(ops, 'measure', third_time_stops)
    argv = ['ops', 'depthwise_conv_[35]', '--shapes', 's[34]@224', '--providers', 'eager', '--repeats', '1',
            '--device', 'cpu', '--output', str(stem)]
    if code:
        assert benchmark.main(argv) == code
    else:
        with pytest.raises(stop):
            benchmark.main(argv)
    assert error.format(stem=stem) in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ['here.json', 'here.md']
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert saved['complete'] is False and [(r['op'], r['shape']) for r in saved['rows']] == [
        ('depthwise_conv_3', shape) for shape in ('s3@224', 's4@224') for _ in ops.PASSES]
    text = (tmp_path / 'here.md').read_text()
    assert text == report.markdown(saved) and '\nNote: not complete: ' in text

    monkeypatch.setattr(ops, 'measure', measure)
    assert benchmark.main(argv) == 0
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert 'complete' not in saved and len(saved['rows']) == 8
    assert 'not complete' not in (tmp_path / 'here.md').read_text()


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flex_attention_is_neighborhood_attention(compiled, monkeypatch):
    """Forward; torch has no backward pass of it on a CPU."""
    if not compiled:
        monkeypatch.setattr(torch, 'compile', lambda function, **options: function)
    shape = TINY._replace(height=9, width=12)
    found = ops.measure(OPERATORS['neighborhood_attention'], shape, ['flex'], torch.float32, CPU, 1e9, repeats=1)
    assert found[0]['error'] < 1e-5
    reason = ops.measure(OPERATORS['agent_attention'], TINY, ['flex'], torch.float32, CPU, 1e9, repeats=1)[0]['reason']
    assert reason == 'it is written for neighborhood attention alone'


def test_the_compiler_takes_part_when_asked_alone(monkeypatch, tmp_path):
    """Whatever the device: for all shapes it compiles for most of an hour."""
    asked = []
    monkeypatch.setattr(main, '_device', lambda name: torch.device('cuda'))
    monkeypatch.setattr(report, 'device_name', lambda device: 'a device')
    monkeypatch.setattr(timing, 'bandwidth', lambda device: 1e12)
    monkeypatch.setattr(ops, 'measure', lambda operator, shape, names, *args: asked.append(names) or [])
    argv = ['ops', 'depthwise_conv_3', '--shapes', 's4@224', '--output', str(tmp_path / 'here')]
    assert benchmark.main(argv) == benchmark.main([*argv, '--providers', 'compile', 'eager']) == 0
    assert asked == [['eager', 'sdpa', 'triton', 'natten', 'flash_bla'], ['compile', 'eager']]


@pytest.mark.parametrize('argv, text', [
    (['modles'], "unknown benchmark 'modles'; did you mean models? (known: ops, models, gates, loader)"),
    (['ops', 'agent_atention'], "unknown op 'agent_atention'; did you mean agent_attention"),
    (['ops', '--providers', 'tritn'], "unknown provider 'tritn'; did you mean triton?"),
    (['ops', '--shapes', 's5@224'], "no shape 's5@224'; did you mean s"),
    (['ops', '--peer', 'nowhere'], '--peer: no folder nowhere'),
    (['ops', '--repeats', '0'], 'argument --repeats: must be at least 1, got 0'),
    (['ops', '--device', 'tpu9'], "--device: 'tpu9' is none that this measures on"),
    (['models', 'flatten_pvt_tny'], "unknown model 'flatten_pvt_tny'; did you mean flatten_pvt_tiny"),
    (['models', 'resnet18', '--sizes', '2b'], "--sizes: '2b' is not a size"),
])
def test_mistakes_are_one_line(argv, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert benchmark.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {text}') and error.count('\n') == 1
    assert not any(tmp_path.iterdir())


def test_selection():
    assert [operator.name for operator in ops.select(['linear_attention', 'depth*_5', 'focal*'])] == [
        'linear_attention', 'depthwise_conv_5', 'focal_modulation']
    assert providers.select(['triton', 'eager', 'triton']) == (['triton', 'eager'], '')
    with pytest.raises(ZooError, match="unknown op 'conv'"):
        ops.select(['conv'])
