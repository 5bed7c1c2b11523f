"""validate of several models, checkpoints and crops: what is measured, written and survived."""
import csv
import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import timm
import torch

from tests.train.conftest import MODEL
from zoo.evaluate import accuracy, batch_validate, loading, validate
from zoo.train import report
from zoo.utils.errors import ZooError

TIMMS = ['model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation']
TIMES = ('samples_per_sec', 'infer_samples_per_sec')


def figures(*words):
    return validate.validate([str(word) for word in words])


def untimed(row):
    return {key: value for key, value in row.items() if key not in TIMES}


@pytest.fixture(scope='module')
def run(pictures, tmp_path_factory):
    """The folder of a run of two epochs."""
    from zoo.train.run import train

    folder = tmp_path_factory.mktemp('several')
    train(['--data-dir', str(pictures), '--model', MODEL, '--num-classes', '3', '--input-size', '3', '32', '32',
           '-b', '8', '-j', '0', '--opt', 'adamw', '--lr', '2e-4', '--warmup-epochs', '0', '--epochs', '2',
           '--crop-pct', '0.9', '--model-ema', '--model-ema-decay', '0.5', '--output', str(folder), '--experiment',
           'run', '--device', 'cpu'])
    return folder / 'run'


def test_a_folder_of_checkpoints_with_a_broken_one(zoo, run, tmp_path):
    folder = tmp_path / 'files'
    shutil.copytree(run, folder, copy_function=os.link)
    (folder / 'checkpoint-10.pth.tar').write_bytes((run / 'last.pth.tar').read_bytes()[:5000])
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), folder / 'nameless.pth')
    result = zoo('validate', '--checkpoint', folder, '--results-file', tmp_path / 'all.csv', '--json')
    assert result.code == 1  # for those that failed
    found = json.loads(result.out)
    paths = [str(folder / f'checkpoint-{epoch}.pth.tar') for epoch in (0, 1)]
    singles = {path: figures('--checkpoint', path) for path in paths}
    assert [untimed(row) for row in found['results']] == [
        untimed(row) for row in sorted(singles.values(), key=lambda row: -row['top1'])]
    assert {row['checkpoint'] for row in found['results']} == set(paths)
    broken, nameless = str(folder / 'checkpoint-10.pth.tar'), str(folder / 'nameless.pth')
    assert list(found['failed']) == [broken, nameless]
    assert 'is truncated or not a checkpoint' in found['failed'][broken]
    assert found['failed'][nameless] == f'{nameless} does not say what model it is of; give --model'
    assert found['skipped'][str(folder / 'last.pth.tar')] == 'the same file as checkpoint-1.pth.tar'
    assert '2 measured, 2 skipped, 2 failed' in result.err
    rows = list(csv.DictReader((tmp_path / 'all.csv').open()))
    assert list(rows[0])[:9] == TIMMS and list(rows[0]) == list(found['results'][0])
    assert [float(row['top1']) for row in rows] == [row['top1'] for row in found['results']]
    assert all(row[key] > 0 for row in found['results'] for key in TIMES)
    raw = figures('--checkpoint', folder, '--model', MODEL, '--no-use-ema')
    assert len(raw['results']) == 2 and untimed(raw['results'][0]) not in map(untimed, found['results'])
    assert raw['failed'][nameless].startswith('no data: give --data-dir')


def test_a_pattern_chooses_among_the_checkpoints_of_a_folder(zoo, run, pictures, tmp_path):
    """By what a checkpoint says, else by the name of its file."""
    shutil.copy(run / 'last.pth.tar', tmp_path)
    for name in ('test_resnet', 'test_vit'):
        torch.manual_seed(0)
        torch.save(timm.create_model(name, num_classes=3).state_dict(), tmp_path / f'{name}.r160.pth')
    found = figures('--checkpoint', tmp_path, '--model', 'test_[rv]*', '--data-dir', pictures, '-b', '8', '-j', '0')
    assert sorted(row['model'] for row in found['results']) == ['test_resnet', 'test_vit'] and not found['failed']
    assert [row['count'] for row in found['results']] == [24, 24]
    assert found['skipped'] == {str(tmp_path / 'last.pth.tar'): f'a checkpoint of {MODEL}, not of test_[rv]*'}
    single = figures('--checkpoint', tmp_path / 'test_vit.r160.pth', '--data-dir', pictures, '-b', '8', '-j', '0')
    assert untimed(single) in map(untimed, found['results'])


def test_a_pattern_of_models_takes_those_with_published_weights(zoo, pictures, tmp_path, monkeypatch):
    create, built = timm.create_model, []

    def untrained(name, pretrained=False, **more):
        built.append((name, pretrained))
        if name.startswith('test_vit.'):
            raise RuntimeError('no weights today')
        torch.manual_seed(0)
        return create(name, pretrained=False, **more)

    monkeypatch.setattr(timm, 'create_model', untrained)
    words = ['--model', 'test_[re]*net*', '--data-dir', pictures, '-b', '8', '-j', '0', '--num-classes', '3',
             '--img-size', '64', '--results-file', tmp_path / 'all.json', '--results-format', 'json']
    found = figures(*words)
    names = timm.list_models('test_[re]*net*', pretrained=True)
    assert len(names) >= 2 and built == [(name, True) for name in names]
    assert sorted(row['model'] for row in found['results']) == sorted(names)
    assert [row['top1'] for row in found['results']] == sorted((r['top1'] for r in found['results']), reverse=True)
    assert json.loads((tmp_path / 'all.json').read_text()) == found['results']

    result = zoo('validate', *words, '--model', 'test_*', '--skip-done', '--json')
    more = json.loads(result.out)
    assert result.code == 1 and more['failed']['test_vit.r160_in1k'] == 'no weights today'
    assert more['skipped'] == dict.fromkeys(names, f'it is in {tmp_path / "all.json"}')
    again = built[len(names):]
    assert {name for name, _ in again} == set(timm.list_models('test_*', pretrained=True)) - set(names)
    everything = json.loads((tmp_path / 'all.json').read_text())
    assert [row for row in everything if row['model'] in names] == found['results']
    assert everything == more['results'] and len(everything) == len(names) + len(again) - len(more['failed'])


def test_a_crop_sweep_is_the_single_runs(zoo, run, tmp_path):
    last = run / 'last.pth.tar'
    result = zoo('validate', '--checkpoint', last, '--crop-sweep', '0.5', '0.75', '1', '--json', '--results-file',
                 tmp_path / 'crops.csv')
    rows = json.loads(result.out)['results']
    assert result.code == 0 and {row['crop_pct'] for row in rows} == {0.5, 0.75, 1.0}
    assert [row['top1'] for row in rows] == sorted((row['top1'] for row in rows), reverse=True)
    for row in rows:
        assert untimed(row) == untimed(figures('--checkpoint', last, '--crop-pct', row['crop_pct']))
    assert len({row['loss'] for row in rows}) == 3
    assert f'best crop {rows[0]["crop_pct"]:g}: top-1 {rows[0]["top1"]:.2f} %' in result.err
    assert [float(row['crop_pct']) for row in csv.DictReader((tmp_path / 'crops.csv').open())] == [
        row['crop_pct'] for row in rows]
    words = ['--checkpoint', last, '--results-file', tmp_path / 'crops.csv', '--skip-done']
    assert figures(*words, '--crop-sweep', '0.5', '1')['skipped'] == {str(last): f'it is in {tmp_path / "crops.csv"}'}
    more = figures(*words, '--crop-sweep', '0.5', '0.9')['results']
    assert sorted(row['crop_pct'] for row in more) == [0.5, 0.75, 0.9, 1.0]  # of two calls, none twice


def test_figures_are_on_the_disk_before_the_next_model(run, tmp_path, monkeypatch):
    shutil.copy(run / 'checkpoint-0.pth.tar', tmp_path / 'a.pth')
    shutil.copy(run / 'checkpoint-0.pth.tar', tmp_path / 'b.pth')
    measure, seen = accuracy.measure, []

    def interrupted(*args):
        seen.append((tmp_path / 'all.csv').exists())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(accuracy, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        figures('--checkpoint', tmp_path, '--results-file', tmp_path / 'all.csv')
    row, = csv.DictReader((tmp_path / 'all.csv').open())
    assert seen == [False, True] and row['checkpoint'] == str(tmp_path / 'a.pth')


def test_the_clock_leaves_the_first_batch_out():
    naps = iter((0.2, 0.02, 0.02))
    model = SimpleNamespace(eval=lambda: None)
    watch = accuracy.Stopwatch(lambda images: time.sleep(next(naps)) or images, torch.device('cpu'))
    watch(torch.zeros(4, 1))
    alone = watch.speed()
    for _ in range(2):
        watch(torch.zeros(4, 1))
    assert 10 < alone <= 20 and 40 < watch.speed() <= 200 and model.eval() is None


def test_what_a_file_of_results_gives_back(tmp_path):
    rows = [dict(model='a', top1=50.5, img_size=224, crop_pct=0.9, interpolation='bicubic', crop_mode='center',
                 checkpoint='x.pth', count=7)]
    for kind in ('csv', 'json'):
        report.write_results(tmp_path / kind, rows, kind)
        assert batch_validate.read_results(tmp_path / kind, kind) == rows
    assert batch_validate.read_results(tmp_path / 'none', 'csv') == []
    for kind, other in (('csv', 'json'), ('json', 'csv')):
        with pytest.raises(ZooError, match='holds no results of validate as'):
            batch_validate.read_results(tmp_path / kind, other)


@pytest.mark.parametrize('words, text', [
    (('--model', 'nosuch_*', '--data-dir', '.'), "no model with published weights matches 'nosuch_*'"),
    (('--checkpoint', 'empty'), 'no checkpoint (*.pth.tar, *.pth, *.pt, *.bin, *.safetensors) in empty'),
    (('--checkpoint', 'empty', '--skip-done'), '--skip-done skips what is in a --results-file; give one'),
    (('--model', MODEL, '--data-dir', '.', '--crop-sweep', '0', '1'), 'must be at least 0.1 and at most 2'),
    (('--model', MODEL, '--data-dir', '.', '--crop-sweep', 'a'), "--crop-sweep: expected numbers, got ['a']")])
def test_mistakes(zoo, words, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    if '--skip-done' in words:
        (tmp_path / 'empty' / 'a.pth').touch()
    result = zoo('validate', *words)
    assert result.code == 2 and text in result.err and result.err.count('\n') == 1, result.err


def test_patterns():
    assert [loading.is_pattern(name) for name in ('ravlt_t', 'ravlt_*', 'ravlt_?', 'ravlt_[ts]')] == [
        False, True, True, True]
