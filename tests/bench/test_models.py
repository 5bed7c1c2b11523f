"""``zoo benchmark models``: selection, FLOPs, growth, and a run at a tiny size."""
import json
import shutil
import sys

import pytest
import torch

from zoo.bench import models, report, runtimes, timing
from zoo.cli import benchmark
from zoo.utils.errors import ZooError

CPU = torch.device('cpu')


def test_selection():
    assert models.select(['flatten_pvt_v2_b[01]', 'resnet18']) == ['flatten_pvt_v2_b0', 'flatten_pvt_v2_b1', 'resnet18']
    assert 'pvt_v2_b2_li' in models.select(['pvt_v2_*'])
    with pytest.raises(ZooError, match='resnet18'):
        models.select(['resnet_18'])


@pytest.mark.parametrize('text, size', [('224', (224, 224)), ('800x1333', (800, 1333))])
def test_sizes(text, size):
    assert models.parse_size(text) == size


@pytest.mark.parametrize('power', [1., 1.5, 2.])
def test_slope_of_a_power_law(power):
    pixels = [224 ** 2, 448 ** 2, 896 ** 2]
    assert models.slope(pixels, [3e-5 * n ** power for n in pixels]) == pytest.approx(power)


def row(side, ms, peak, **more):
    return {
        'model': 'm', 'height': side, 'width': side, 'batch': 2, 'provider': 'eager', 'kernels': 'off',
        'pass': 'forward', 'parameters': 1_230_000, 'flops': 2_000_000_000, 'throughput': 2e3 / ms, 'peak_bytes': peak,
        'ms': {'median': ms, 'low': ms, 'high': ms, 'samples': 1}, **more}


def test_growth():
    rows = [row(10, 1., 100), row(20, 16., 400), row(10, 1., 1, provider='compile')]
    found, = models.growth(rows)
    assert (found['time'], found['memory']) == (pytest.approx(2.), pytest.approx(1.))
    assert (found['smallest'], found['largest']) == ('10x10', '20x20')


def test_growth_of_noise_is_no_finding():
    rows = [row(10, 1., 100), row(20, 4., 400)]
    rows[1]['ms'].update(low=1., high=16.)
    found, = models.growth(rows)
    assert found['time'] == pytest.approx(1.) and found['time_range'] == pytest.approx([0., 2.])
    assert report.GROWTH_COLUMNS['time'](found) == 'noise (0.00 to 2.00)'
    rows[1]['ms'].update(low=3.9, high=4.1)
    assert report.GROWTH_COLUMNS['time'](models.growth(rows)[0]) == '1.00'


def test_table():
    failed = {k: v for k, v in row(30, 1., 1).items() if k not in ('ms', 'throughput')}
    rows = [row(10, 1., 1_000_000), row(20, 16., 4_000_000), {**failed, 'reason': 'out of memory'}]
    text = report.markdown({
        'kind': 'models', 'device': 'a device', 'dtype': 'float32', 'commit': None, 'date': 'today',
        'versions': {'torch': '2.0'}, 'notes': [], 'rows': rows, 'growth': models.growth(rows)})
    assert text == '''# Benchmark of models

a device, float32, torch 2.0, today.

| model | pixels | batch | variant | pass | images/s | ms (quartiles) | peak MB | GFLOP/image | M parameters |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| m | 10 x 10 | 2 | eager, kernels off | forward | 2000 | 1.00 (1.00-1.00) | 1.00 | 2.00 | 1.23 |
| m | 20 x 20 | 2 | eager, kernels off | forward | 125 | 16.0 (16.0-16.0) | 4.00 | 2.00 | 1.23 |

* m at 30 x 30, eager, kernels off, forward: out of memory

## Growth

Time and memory grow with this power of the pixels:

| model | variant | pass | time | memory | pixels |
| --- | --- | --- | --- | --- | --- |
| m | eager, kernels off | forward | 2.00 | 1.00 | 10x10 to 20x20 |

'''


def test_a_model():
    """resnet18 at 64 pixels: it has 1.814 GMACs at 224, so 2 * 1.814 / 12.25 GFLOP here."""
    rows = models.measure('resnet18', (64, 64), 2, [models.Setting('eager', 'off')], torch.float32, CPU, repeats=2)
    forward, both = rows
    assert (forward['pass'], both['pass']) == models.PASSES
    assert forward['parameters'] == 11_689_512
    assert forward['flops'] == pytest.approx(2 * 1.814e9 / 12.25, rel=5e-3)
    assert forward['throughput'] == pytest.approx(2e3 / forward['ms']['median'])
    # the first map and its norm, [2, 64, 32, 32] each, and scratch; backward also a gradient for every parameter
    assert 2 * 524_288 <= forward['peak_bytes'] < 2 ** 24
    assert both['peak_bytes'] > 4 * 11_689_512


def test_a_model_that_is_built_for_its_size():
    """timm's Swin takes no other size by itself."""
    row, = models.measure(
        'swin_tiny_patch4_window7_224', (64, 64), 1, [models.Setting('eager', 'off')], torch.float32, CPU, 1,
        passes=['forward'])
    assert row['ms']['samples'] == 1


def test_one_that_fails_says_why(monkeypatch):
    def fail(*args):
        raise RuntimeError('out of\nmemory')

    monkeypatch.setattr(models, '_build', fail)
    rows = models.measure('resnet18', (64, 64), 1, [models.Setting('eager', 'off')], torch.float32, CPU, 1)
    assert [row['reason'] for row in rows] == ['RuntimeError: out of memory'] * 2


def test_command_line(tmp_path):
    stem = tmp_path / 'here'
    argv = ['models', 'flatten_pvt_v2_b0', '--sizes', '32', '64x32', '--repeats', '1', '--device', 'cpu', '--plot',
            '--forward-only', '--output', str(stem)]
    assert benchmark.main(argv) == 0
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert [(r['height'], r['width'], r['kernels'], r['pass']) for r in saved['rows']] == [
        (32, 32, 'auto', 'forward'), (64, 32, 'auto', 'forward')]
    assert len(saved['growth']) == 1
    assert (tmp_path / 'here.md').read_text() == report.markdown(saved)
    assert (tmp_path / 'here.png').read_bytes()[:4] == b'\x89PNG'
    assert 'complete' not in saved


def test_models_with_more_arguments(tmp_path, capsys):
    argv = ['models', 'zoo_hybrid', '--sizes', '32', '--repeats', '1', '--device', 'cpu', '--forward-only', '--output',
            str(tmp_path / 'here'), '--model-kwargs']
    assert benchmark.main([*argv, 'mixer=pooling', 'depths=(1,1,1,1)']) == 0
    saved = json.loads((tmp_path / 'here.json').read_text())
    [found] = saved['rows']
    assert found['parameters'] < 2_500_000 and found['ms']['samples'] == 1  # 3.7 million by default
    assert saved['notes'][0] == 'built with mixer=pooling depths=(1,1,1,1)'
    assert 'Note: built with mixer=pooling' in (tmp_path / 'here.md').read_text()
    capsys.readouterr()
    assert benchmark.main([*argv, 'pooling']) == 2
    assert capsys.readouterr().err == "error: expected key=value, got 'pooling'\n"
    assert benchmark.main([*argv, 'mixer=ralla']) == 2  # nothing was measured; told in the row, too
    assert "error: nothing could be measured: ZooError: mixer 'ralla': use one of " in capsys.readouterr().err
    [found] = json.loads((tmp_path / 'here.json').read_text())['rows']
    assert found['reason'].startswith("ZooError: mixer 'ralla': use one of ")


def test_an_interrupted_run_leaves_its_rows(tmp_path, monkeypatch):
    def stops(name, size, *args):
        if size == (30, 30):
            raise KeyboardInterrupt
        return [row(size[0], 1., 1_000_000)]

    monkeypatch.setattr(models, 'measure', stops)
    argv = ['models', 'resnet18', '--sizes', '10', '20', '30', '--device', 'cpu', '--output', str(tmp_path / 'here')]
    assert benchmark.main(argv) == 130
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert [r['height'] for r in saved['rows']] == [10, 20] and saved['complete'] is False
    assert saved['growth'] == models.growth(saved['rows'])
    assert (tmp_path / 'here.md').read_text() == report.markdown(saved)


def test_throughput_is_of_the_longer_of_host_and_device(monkeypatch):
    times = timing.Timing.of([2.], host=5., hidden=True)
    monkeypatch.setattr(timing, 'interleaved', lambda calls, *args, **kwargs: dict.fromkeys(calls, times))
    found, = models.measure(
        'resnet18', (32, 32), 2, [models.Setting('eager', 'off')], torch.float32, CPU, 1, passes=['forward'])
    assert (found['ms']['median'], found['host_ms'], found['host_hidden']) == (2., 5., True)
    assert found['throughput'] == 2 / 5e-3


def test_providers():
    """Names with commas or spaces between them; other runtimes know no kernels."""
    eager, compiled, onnx = models.settings(['eager,compile', 'onnxruntime', 'eager'], ['off'])
    assert (eager, compiled, onnx) == (('eager', 'off'), ('compile', 'off'), ('onnxruntime', 'off'))
    assert models.settings(['eager', 'openvino'], ['off', 'auto']) == [
        ('eager', 'off'), ('eager', 'auto'), ('openvino', 'off')]
    with pytest.raises(ZooError, match="unknown provider 'onnx'; did you mean onnxruntime, openvino"):
        models.settings(['onnx'], ['off'])


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) for name in runtimes.RUNTIMES])
def test_another_runtime(name):
    """The same logits; no gradients and no memory that torch could see."""
    pytest.importorskip(name)
    variants = models.settings(['eager', name], ['off'])
    rows = models.measure('test_resnet', (64, 64), 3, variants, torch.float32, CPU, repeats=2, rate=1e9)
    eager, other, *backward = rows
    for row in eager, other:
        assert 0 < row['deviation'] < 1e-5
        assert row['floor_ms'] == pytest.approx(1e3 * 3 * row['flops'] / 1e9) and row['ms']['samples'] == 2
    assert eager['peak_bytes'] > 0 and other['peak_bytes'] is None and other['provider'] == name
    assert backward[0]['floor_ms'] == 3 * eager['floor_ms'] and 'deviation' not in backward[0]
    assert backward[1]['reason'] == 'ZooError: it runs forward passes only'


def test_16_bit_providers():
    """Less exact than float32, and without its floor; gradients too."""
    variants = models.settings(['eager', 'bfloat16', 'autocast'], ['auto'])
    rows = models.measure('test_resnet', (64, 64), 2, variants, torch.float32, CPU, repeats=1, rate=1e9)
    eager, whole, products, *backward = rows
    assert eager['deviation'] < 1e-5 < whole['deviation'] < 0.1 and 1e-5 < products['deviation'] < 0.1
    assert [('floor_ms' in row, 'ms' in row) for row in backward] == [(True, True), (False, True), (False, True)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='needs a C++ compiler')
def test_frozen_weights():
    variants = models.settings(['frozen'], ['off'])
    forward, backward = models.measure('test_resnet', (64, 64), 1, variants, torch.float32, CPU, repeats=2)
    assert 0 < forward['deviation'] < 1e-5 and forward['ms']['samples'] == 2
    assert backward['reason'] == 'ZooError: it runs forward passes only'


def test_another_runtime_says_what_it_needs(monkeypatch):
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ZooError, match='in float32 on a CPU, not in torch.bfloat16 on cpu'):
        runtimes.prepare('onnxruntime', torch.nn.Identity(), x.bfloat16(), False)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ZooError, match=r'openvino is not installed; pip install "backbone-zoo\[bench\]"'):
        runtimes.prepare('openvino', torch.nn.Identity(), x, False)


def test_a_table_with_a_floor():
    rows = [row(10, 8., 1_000_000, threads=2, floor_ms=4., deviation=1.5e-6),
            row(10, 6., None, threads=2, floor_ms=4., deviation=2e-6)]
    text = report.markdown({
        'kind': 'models', 'device': 'a device', 'dtype': 'float32', 'commit': None, 'date': 'today',
        'versions': {'torch': '2.0'}, 'notes': [], 'product_rates': {'2': 5e11}, 'rows': rows,
        'growth': models.growth(rows)})
    assert 'a device, float32, torch 2.0, today. A large product runs at 500 GFLOP/s, threads: 2.' in text
    head, _, first, second = (line.split(' | ') for line in text.splitlines() if line.startswith('|'))
    assert head[3:8] == ['threads', 'variant', 'pass', 'images/s', 'ms (quartiles)']
    assert head[8:11] == ['times the floor', 'deviation', 'peak MB']
    assert first[8:11] == ['2.00', '2e-06', '1.00'] and second[8:11] == ['1.50', '2e-06', '']
    assert report.FLOOR_NOTE in text


def test_several_numbers_of_threads(tmp_path):
    before = torch.get_num_threads()
    argv = ['models', 'test_resnet', '--sizes', '32', '--repeats', '1', '--device', 'cpu', '--forward-only',
            '--threads', '1', '2', '--output', str(tmp_path / 'here')]
    assert benchmark.main(argv) == 0
    saved = json.loads((tmp_path / 'here.json').read_text())
    assert [row['threads'] for row in saved['rows']] == [1, 2] and torch.get_num_threads() == before
    assert sorted(saved['product_rates']) == ['1', '2'] and all(rate > 1e8 for rate in saved['product_rates'].values())
    assert (tmp_path / 'here.md').read_text() == report.markdown(saved)
