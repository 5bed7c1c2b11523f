"""Runs from the command line: what they leave, resuming, interrupting, validating."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import yaml

from zoo.evaluate import accuracy, validate
from zoo.train import engine, options
from zoo.train.data import fashion_mnist
from zoo.train.option_schema import TRAIN
from zoo.train.run import parser

from .conftest import MODEL


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def summary(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def figures(*words):
    """What validate prints, as numbers."""
    return validate.validate([str(word) for word in words])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_two_epochs_leave_what_timm_users_know(zoo, small, tmp_path):
    run = tmp_path / 'out' / 'run'
    result = zoo('train', *small(checkpoint_hist=1))
    assert result.code == 0, result.err
    assert sorted(path.name for path in run.iterdir())[2:] == [  # after the lock and args.yaml
        next(run.glob('checkpoint-*')).name, 'curves.png', 'last.pth.tar', 'model_best.pth.tar', 'summary.csv']
    rows = summary(run)
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert float(rows[1]['train_loss']) < 0.8 * float(rows[0]['train_loss'])
    assert float(rows[1]['eval_top1']) > 60  # chance is 33
    assert (run / 'curves.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    last = read(run / 'last.pth.tar')
    assert (last['epoch'], last['arch'], last['version'], last['num_classes'], last['in_chans']) == (1, MODEL, 2, 3, 3)
    assert last['metric'] == pytest.approx(float(rows[1]['eval_top1']), abs=1e-4) and last['updates'] == 18
    assert last['data_config']['input_size'] == [3, 32, 32] and 'state_dict_ema' not in last
    saved = yaml.safe_load((run / 'args.yaml').read_text())
    assert saved.pop('class_names') == last['class_names'] and last['args'] == saved
    for line in ('parameters  0.34 M', 'best top1', f'zoo validate --checkpoint {run / "model_best.pth.tar"}'):
        assert line in result.out
    assert 'epoch 1/2' in result.err and 'img/s' in result.err and 'ETA' in result.err


def test_validate_prints_the_figure_of_the_training_from_the_checkpoint_alone(zoo, small, tmp_path):
    zoo('train', *small(model_ema=True, model_ema_decay=0.5, amp=True, channels_last=True, img_size=48,
                        input_size=None, model_kwargs='drop_path_rate=0.1'))
    for name in ('last', 'model_best'):
        path = tmp_path / 'out' / 'run' / f'{name}.pth.tar'
        result = zoo('validate', '--checkpoint', path)
        metric = read(path)['metric']
        assert result.code == 0 and f'top-1 {metric:.2f} %' in result.out
        assert f'training noted top1 {metric:.2f}' in result.out
        assert figures('--checkpoint', path)['top1'] == pytest.approx(metric, abs=1e-4)
    raw = figures('--checkpoint', path, '--no-use-ema')
    rows = summary(tmp_path / 'out' / 'run')
    assert raw['top1'] == pytest.approx(float(rows[read(path)['epoch']]['raw_top1']), abs=1e-3)
    assert figures('--checkpoint', path, '--img-size', '40')['img_size'] == 40


def test_args_yaml_is_a_config(zoo, small, tmp_path):
    zoo('train', *small(epochs=1, experiment='', amp=True, mixup=0.2, opt_betas='0.9 0.95', opt_kwargs='amsgrad=True'))
    written, = (tmp_path / 'out').glob('*/args.yaml')
    assert written.parent.name.endswith(f'-{MODEL}-32')
    flags, config = options.parse(TRAIN, ['--config', str(written)], parser())
    again = options.merge(TRAIN, config, flags)
    assert again.opt_kwargs == dict(amsgrad=True) and again.opt_betas == [0.9, 0.95] and again.mixup == 0.2
    assert zoo('train', '--config', written, '--experiment', 'again').code == 0
    first, second = read(written.parent / 'last.pth.tar'), read(tmp_path / 'out' / 'again' / 'last.pth.tar')
    assert same(first['state_dict'], second['state_dict'])  # the seed is in it


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')
@pytest.mark.parametrize('extra', [
    dict(),
    dict(model_ema=True, model_ema_decay=0.9, mixup=0.8, cutmix=1.0, grad_accum_steps=2, clip_grad=1.0,
         layer_decay=0.8, drop_path=0.1, grad_checkpointing=True, reprob=0.25, aa='rand-m5', workers=1, opt='lamb',
         sched_on_updates=None, warmup_epochs=1),
    dict(no_prefetcher=True, sched='plateau', sched_on_updates=None, patience_epochs=0, eval_metric='loss', lr='2e-2',
         mixup=0.2, mixup_off_epoch=1, bce_loss=True, epochs=3),
], ids=['plain', 'everything', 'plateau'])
def test_a_resumed_run_is_the_unbroken_run(zoo, small, tmp_path, extra):
    assert zoo('train', *small(experiment='whole', **extra)).code == 0
    assert zoo('train', *small(experiment='parts', stop_epoch=1, **extra)).code == 0
    parts = tmp_path / 'out' / 'parts'
    assert len(summary(parts)) == 1 and read(parts / 'last.pth.tar')['epoch'] == 0
    result = zoo('train', '--resume', parts / 'last.pth.tar')  # nothing else needs to be said
    assert result.code == 0, result.err
    a, b = read(tmp_path / 'out' / 'whole' / 'last.pth.tar'), read(parts / 'last.pth.tar')
    for key in ('state_dict', 'state_dict_ema'):
        assert (key in a) == (key in b) == (key == 'state_dict' or 'model_ema' in extra)
        assert key not in a or same(a[key], b[key])
    timeless = [[{key: value for key, value in row.items() if key != 'seconds'} for row in summary(folder)]
                for folder in (tmp_path / 'out' / 'whole', parts)]
    assert timeless[0] == timeless[1] and len(timeless[0]) == extra.get('epochs', 2)
    assert a['points'] == b['points'] and a['best'] == b['best'] and a['updates'] == b['updates']


def test_flags_change_a_resumed_run(zoo, small, tmp_path):
    zoo('train', *small(epochs=1))
    run = tmp_path / 'out' / 'run'
    assert 'nothing left to do' in zoo('train', '--resume', run / 'last.pth.tar').out
    result = zoo('train', '--resume', run / 'last.pth.tar', '--epochs', '2', '--lr', '5e-4', '--sched', 'none',
                 '--weight-decay', '0.3', '--experiment', 'second')
    assert result.code == 0, result.err
    second = read(tmp_path / 'out' / 'second' / 'last.pth.tar')
    assert {group['lr'] for group in second['optimizer']['param_groups']} == {5e-4}
    assert {group['weight_decay'] for group in second['optimizer']['param_groups']} == {0., 0.3}
    assert [row['epoch'] for row in summary(tmp_path / 'out' / 'second')] == ['1']
    assert len(summary(run)) == 1  # the first run is left as it was


def test_ctrl_c_in_the_middle_leaves_the_last_whole_checkpoint(zoo, small, tmp_path, monkeypatch):
    step, calls = engine._step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 12:  # 9 batches per epoch
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(engine, '_step', interrupted)
    result = zoo('train', *small())
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert result.code == 130 and 'Traceback' not in result.err
    assert f'zoo train --resume {last}' in result.err.splitlines()[-1]
    assert read(last)['epoch'] == 0
    monkeypatch.undo()
    assert zoo('train', '--resume', last).code == 0 and len(summary(last.parent)) == 2


def test_recovery_checkpoints_are_gone_on_from(zoo, small, tmp_path, monkeypatch):
    step, calls = engine._step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 16:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(engine, '_step', interrupted)
    result = zoo('train', *small(recovery_interval=3))
    file = tmp_path / 'out' / 'run' / 'recovery-1-6.pth.tar'
    assert f'--resume {file}' in result.err and read(file)['updates'] == 15
    monkeypatch.undo()
    result = zoo('train', '--resume', file)
    assert result.code == 0 and 'going on in epoch 2 after 6 of 9 batches' in result.out
    assert [row['epoch'] for row in summary(file.parent)] == ['0', '1'] and not file.exists()


def test_ctrl_c_before_the_first_checkpoint(zoo, small, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, '_step', interrupted)
    result = zoo('train', *small())
    assert result.code == 130 and 'no checkpoint has been written' in result.err


def test_a_real_signal(small, tmp_path):
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    process = subprocess.Popen(
        [sys.executable, '-m', 'zoo', 'train', *small(epochs=1000, workers=1)], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'), cwd=Path(__file__).parents[2])
    try:
        for _ in range(1200):
            if last.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert 'Traceback' not in errors and f'--resume {last}' in errors
    assert read(last)['epoch'] >= 0 and not list(last.parent.glob('.*.*'))


def test_validation_that_is_left_out_still_happens_at_the_end(zoo, small, tmp_path):
    zoo('train', *small(epochs=3, val_interval=2, eval_metric='loss'))
    rows = summary(tmp_path / 'out' / 'run')
    assert [bool(row['eval_top1']) for row in rows] == [False, True, True]
    last = read(tmp_path / 'out' / 'run' / 'last.pth.tar')
    assert last['metric_name'] == 'loss' and last['metric'] == pytest.approx(float(rows[2]['eval_loss']), abs=1e-5)


def test_weights_of_a_file_start_a_run(zoo, small, tmp_path):
    torch.manual_seed(5)
    start = timm.create_model(MODEL, num_classes=3).state_dict()
    torch.save(dict(state_dict={f'module.{key}': value for key, value in start.items()}), tmp_path / 'start.pth')
    for flag, classes in (('initial_checkpoint', 3), ('pretrained_path', 3), ('pretrained_path', 5)):
        result = zoo('train', *small(epochs=1, lr='0', experiment=f'{flag}{classes}', num_classes=classes,
                                     **{flag: tmp_path / 'start.pth'}))
        assert result.code == 0, result.err
        state = read(tmp_path / 'out' / f'{flag}{classes}' / 'last.pth.tar')['state_dict']
        differing = [key for key in start if not torch.equal(state[key], start[key])]
        assert differing == ([] if classes == 3 else ['head.fc.weight']) or classes == 5 and set(differing) == {
            'head.fc.weight', 'head.fc.bias'}


def test_any_checkpoint_is_validated_with_a_model_name(zoo, small, pictures, tmp_path):
    zoo('train', *small(epochs=1))
    whole = tmp_path / 'out' / 'run' / 'last.pth.tar'
    torch.save(dict(model=read(whole)['state_dict']), tmp_path / 'bare.pth')
    words = ['--checkpoint', tmp_path / 'bare.pth', '--model', MODEL, '--num-classes', '3', '--data-dir', pictures,
             '--input-size', '3', '32', '32', '-b', '8', '-j', '0']
    assert figures(*words)['top1'] == figures('--checkpoint', whole)['top1']
    (tmp_path / 'labels.txt').write_text('0\n1\n2\n')
    found = figures(*words, '--valid-labels', tmp_path / 'labels.txt', '--results-file', tmp_path / 'r' / 'all.json',
                    '--results-format', 'json')
    assert json.loads((tmp_path / 'r' / 'all.json').read_text()) == found and found['count'] == 24
    figures(*words, '--results-file', tmp_path / 'all.csv')
    row, = csv.DictReader((tmp_path / 'all.csv').open())
    assert row['model'] == MODEL and float(row['top1']) == found['top1'] and float(row['top1_err']) == pytest.approx(
        100 - found['top1'], abs=1e-3)


@pytest.mark.parametrize('extra', [
    dict(amp=True, amp_dtype='float16', clip_grad=1.0, grad_accum_steps=2), dict(model_dtype='bfloat16', lr='5e-3'),
    dict(torchcompile='eager', model_ema=True, model_ema_decay=0.5), dict(sync_bn=True, val_split='train', drop=0.1),
], ids=['float16', 'bfloat16 weights', 'compiled', 'rest'])
def test_other_ways_to_compute(zoo, small, tmp_path, extra):
    result = zoo('train', *small(**extra))
    assert result.code == 0, result.err
    rows = summary(tmp_path / 'out' / 'run')
    assert float(rows[1]['train_loss']) < float(rows[0]['train_loss'])
    last = read(tmp_path / 'out' / 'run' / 'last.pth.tar')
    assert ('amp_scaler' in last) == ('amp' in extra) and not any('_orig_mod' in key for key in last['state_dict'])
    weights = {value.dtype for value in last['state_dict'].values()}
    assert weights == {torch.bfloat16 if 'model_dtype' in extra else torch.float32}
    assert figures('--checkpoint', tmp_path / 'out' / 'run' / 'last.pth.tar')['top1'] == pytest.approx(
        last['metric'], abs=1e-4)


def test_the_validation_flags_of_timm(pictures, tmp_path, monkeypatch, capsys):
    words = ['--data-dir', pictures, '-b', '8', '-j', '0', '--num-classes', '3']
    monkeypatch.setattr(timm, 'create_model', partial(_untrained, timm.create_model))
    plain = figures('--model', 'test_resnet', *words)
    assert plain['img_size'] == 160 and plain['count'] == 24 and plain['top5'] == 100
    assert figures('--model', 'test_resnet', *words, '--img-size', '256', '--test-pool')['crop_pct'] == 1.0
    fused = [figures('--model', 'mobileone_s0', *words, '--img-size', '32', *more) for more in ((), ('--reparam',))]
    assert fused[0]['loss'] == pytest.approx(fused[1]['loss'], rel=1e-4)

    (tmp_path / 'val' / 'x').mkdir(parents=True)
    for i, path in enumerate(sorted((pictures / 'val' / 'red').iterdir())):
        shutil.copy(path, tmp_path / 'val' / 'x' / f'ILSVRC2012_val_{i + 1:08d}.png')
    monkeypatch.setattr(accuracy, 'RealLabelsImagenet', _AllRight)
    (tmp_path / 'real.json').write_text('[]')
    real = figures('--model', 'test_resnet', *words, '--real-labels', tmp_path / 'real.json')
    assert (real['top1'], real['top5']) == (24, 1)  # what the stand-in counted

    evaluate, sizes = engine.evaluate, []

    def short_of_memory(model, batches, *more):
        sizes.append(len(next(iter(batches))[0]))
        if len(sizes) == 1:
            raise RuntimeError('CUDA out of memory. Tried to allocate 1 TiB')
        return evaluate(model, batches, *more)

    monkeypatch.setattr(engine, 'evaluate', short_of_memory)
    assert figures('--model', 'test_resnet', *words, '--retry')['top1'] == plain['top1']
    assert sizes[1] < sizes[0] == 8 and 'trying again with batches of' in capsys.readouterr().out


def _untrained(create, *args, **kwargs):
    """The same untrained model every time, whatever weights are asked for."""
    torch.manual_seed(0)
    return create(*args, **{**kwargs, 'pretrained': False})


class _AllRight:
    """Stands in for the ReaL labels: counts outputs."""

    def __init__(self, filenames, real_json):
        self.filenames, self.count, self.real_labels = filenames, 0, dict.fromkeys(filenames)

    def add_result(self, output):
        self.count += len(output)

    def get_accuracy(self, k):
        return self.count if k == 1 else float(len(self.filenames) == self.count)


def test_the_quickstart_on_fashion_mnist(zoo, tmp_path, monkeypatch):
    from .data.test_fashion_mnist import expect_small_files, put

    monkeypatch.setenv('ZOO_DATA', str(tmp_path / 'cache'))
    expect_small_files(monkeypatch)
    put(tmp_path / 'mine', packed=True)
    result = zoo('train', '--config', 'quickstart', '--data-dir', tmp_path / 'mine', '-b', '10', '--epochs', '1',
                 '--workers', '0', '--output', tmp_path / 'out', '--experiment', 'run')
    assert result.code == 0, result.err
    assert 'Fashion-MNIST: copied from' in result.out and 'torch/fashion_mnist: 40 images to train on' in result.out
    args = yaml.safe_load((tmp_path / 'out' / 'run' / 'args.yaml').read_text())
    assert (args['dataset'], args['data_dir']) == ('torch/fashion_mnist', str(tmp_path / 'cache'))
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    found = figures('--checkpoint', last)
    assert found['count'] == 20 and found['top1'] == pytest.approx(read(last)['metric'], abs=1e-4)


@pytest.mark.slow
def test_the_quickstart_goes_on_with_digits_where_nothing_else_can_be_had(zoo, tmp_path, monkeypatch):
    def no_network(folder):
        raise OSError('no network here')

    monkeypatch.setenv('ZOO_DATA', str(tmp_path / 'cache'))
    monkeypatch.setattr(fashion_mnist, 'from_server', no_network)
    monkeypatch.setattr(fashion_mnist, 'from_debian', no_network)
    words = '--config', 'quickstart', '--workers', '0', '--output', tmp_path / 'out', '--experiment', 'run'
    result = zoo('train', *words, '--epochs', '1')
    assert result.code == 0, result.err
    assert result.out.count('no network here') == 2 and 'digits that come with scikit-learn' in result.out
    run = tmp_path / 'out' / 'run'
    args, digits = yaml.safe_load((run / 'args.yaml').read_text()), yaml.safe_load(
        options.config_path('quickstart_digits').read_text())
    assert (args['dataset'], args['data_dir'], args['epochs']) == ('digits', None, 1)  # the flag wins
    assert args['mean'] == digits['mean'] and args['hflip'] == 0 and args['model'] == 'flatten_pvt_v2_b0'
    found = figures('--checkpoint', run / 'model_best.pth.tar')
    assert found['count'] == 360 and found['top1'] == pytest.approx(read(run / 'last.pth.tar')['metric'], abs=1e-4)
    assert zoo('train', *words, '--epochs', '2', '--resume', 'auto').code == 0
    assert [row['epoch'] for row in summary(run)] == ['0', '1']
