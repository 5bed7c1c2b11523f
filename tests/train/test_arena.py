"""The arena: one recipe for all mixers, runs that are resumed or fail alone, and the table of them."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from zoo.arena import measure, plan, result, runner
from zoo.blocks.mixers import list_mixers
from zoo.train import options, report
from zoo.train import run as trainer
from zoo.train.option_schema import TRAIN
from zoo.train.run import parser
from zoo.utils.errors import Interrupted, ZooError

ROOT = Path(__file__).parents[2]
TINY = ['--dataset', 'digits', '-b', '128', '--device', 'cpu', '--seeds', '0']


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs without a process of their own, which would take seconds to start; the command lines that they got."""
    started = []

    def start(run, threads):
        started.append(run.words())
        run.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            trainer.train(run.words())
        except ZooError as e:
            run.log.write_text(f'something before\nerror: {e}\n\n')
            return SimpleNamespace(poll=lambda: 2, returncode=2, kill=lambda: None)
        return SimpleNamespace(poll=lambda: 0, returncode=0, kill=lambda: None)

    monkeypatch.setattr(runner, '_start', start)
    monkeypatch.setattr(measure, 'REPEATS', 1)
    return started


def read(path):
    return json.loads(path.read_text())


def test_every_mixer_is_compared_by_default_and_flags_change_the_recipe_of_all(tmp_path):
    args = plan.parse(['--epochs', '7', '--model-kwargs', 'embed_dims=[8,16,32]'])
    assert args.mixers == list_mixers() and args.seeds == [0, 1]
    recipe = plan.recipe_of(options.merge(plan.ARENA, vars(args), dict(dataset='digits', data_dir=None)))
    assert recipe['epochs'] == 7 and recipe['model_kwargs']['embed_dims'] == [8, 16, 32]
    assert recipe['model_kwargs']['host'] == 'pvt_v2_b0' and not {'mixers', 'seeds', 'jobs', 'results'} & set(recipe)
    plan.keep_recipe(tmp_path, recipe)
    flags, config = options.parse(TRAIN, plan.Run(tmp_path, 'rala', 3).words(), parser())
    run = options.merge(TRAIN, config, flags)
    assert (run.seed, run.epochs, run.experiment, run.resume) == (3, 7, 'rala-3', '')
    assert run.model_kwargs == {**recipe['model_kwargs'], 'mixer': 'rala'}
    with pytest.raises(ZooError, match=r'another recipe \(epochs: 7, now 8\); choose another --output'):
        plan.keep_recipe(tmp_path, {**recipe, 'epochs': 8})


@pytest.mark.parametrize('mixer', list_mixers())
def test_every_mixer_fits_the_recipe(mixer):
    args = options.merge(TRAIN, options.read_config(options.config_path('arena'), TRAIN))
    model = measure.model_of(args, mixer)
    logits = model(torch.randn(2, 1, 32, 32))
    logits.square().sum().backward()
    assert logits.shape == (2, 10) and all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_one_fails_and_the_others_go_on(zoo, tmp_path, in_this_process):
    """Heads that do not divide the channels trouble the attentions alone."""
    words = ['arena', *TINY, '--epochs', '1', '--mixers', 'softmax', 'pooling', '--model-kwargs', 'num_heads=[3,3,3]',
             '--output', tmp_path / 'out', '--results', tmp_path / 'results' / 'tiny.json']
    found = zoo(*words)
    assert found.code == 1 and len(in_this_process) == 2, found.err
    content = read(tmp_path / 'results' / 'tiny.json')
    good, bad = content['rows']
    assert (good['mixer'], bad['mixer']) == ('pooling', 'softmax') and bad['runs'] == []
    assert set(bad) == {'mixer', 'runs', 'failed'} and bad['failed']['0'].startswith(
        '[1, 32, 32] images do not fit the model: ') and '\n' not in bad['failed']['0']
    last = report.read_summary(tmp_path / 'out' / 'runs' / 'pooling-0' / 'summary.csv', before=99)[-1]
    assert good['top1'] == last['eval_top1'] == good['runs'][0]['top1'] and good['top1_std'] is None
    assert good['seconds'] == last['seconds'] and good['epochs'] == 1
    args = options.merge(TRAIN, yaml.safe_load((tmp_path / 'out' / 'recipe.yaml').read_text()))
    assert good['parameters'] == sum(p.numel() for p in measure.model_of(args, 'pooling').parameters())
    assert 3e6 < good['flops'] < 6e6 and good['peak_bytes'] > 1e6 and good['step_ms']['median'] > good['ms']['median']
    assert good['throughput'] == pytest.approx(1e3 * 128 / good['ms']['median'])
    assert content['command'][0] == 'arena' and content['recipe']['epochs'] == 1 and content['device_type'] == 'cpu'
    text = (tmp_path / 'results' / 'tiny.md').read_text()
    assert f'| pooling | {good["top1"]:.2f} (1) | ' in text and '* softmax, seed 0, failed: [1, 32, 32] images' in text
    assert 'it says nothing about the papers\' models' in text and 'embed_dims [16, 32, 64]' in text
    assert '1437 images to train on, 360 to validate' in text
    assert (tmp_path / 'results' / 'tiny.png').read_bytes()[:4] == b'\x89PNG'

    again = zoo(*words)  # what has failed is tried again, what is finished is not
    assert len(in_this_process) == 3 and 'mixer=softmax' in in_this_process[2]
    assert '1 of 2 runs are finished already' in again.out and again.code == 1
    assert read(tmp_path / 'results' / 'tiny.json')['rows'][0]['runs'] == good['runs']


def test_an_unfinished_run_goes_on_from_its_checkpoint(tmp_path, in_this_process, monkeypatch):
    args = plan.parse([*TINY, '--epochs', '2', '--mixers', 'pooling', '--output', str(tmp_path)])
    plan.keep_recipe(tmp_path, plan.recipe_of(args))
    run = plan.Run(tmp_path, 'pooling', 0)
    trainer.train([*run.words(), '--stop-epoch', '1'])  # as if it had been killed then
    assert run.result() is None
    seen = []
    assert runner.train_all([run], 1, seen.append, seen.append) == {}
    last = run.folder / 'last.pth.tar'
    assert in_this_process == [[*run.words()]] and in_this_process[0][-2:] == ['--resume', str(last)]
    assert [row['epoch'] for row in report.read_summary(run.folder / 'summary.csv', before=99)] == [0, 1]
    assert run.result()['epochs'] == 2 and torch.load(last, weights_only=True)['metric'] == pytest.approx(
        run.result()['top1'], abs=1e-4)
    assert seen[0].startswith('1/1  pooling, seed 0: top-1 ') and seen[1] == {}


def test_the_rows_are_means_over_seeds(tmp_path):
    runs = [plan.Run(tmp_path, mixer, seed) for mixer in ('a', 'b', 'c') for seed in (0, 1, 2)]
    for run, top1 in zip(runs[:6], (80., 82., 87., 90., 91., 95.)):
        run.folder.mkdir(parents=True)
        run.keep(dict(
            mixer=run.mixer, seed=run.seed, epochs=2, top1=top1, top5=99., loss=1., train_loss=2., seconds=top1))
    b, a, c = result.rows_of(runs, {runs[6]: 'no such thing'})
    assert (a['mixer'], a['top1'], a['seconds']) == ('a', 83., 83.)
    assert a['top1_std'] == pytest.approx(13 ** 0.5)  # of squares 9, 1 and 16 over two
    assert (b['mixer'], b['top1'], c['mixer'], c['failed']) == ('b', 92., 'c', {'0': 'no such thing'})
    assert [run['top1'] for run in b['runs']] == [90., 91., 95.]
    content = dict(
        rows=[b, a, c], recipe=dict(dataset='digits', model_kwargs=dict(host='h')), seeds=[0, 1, 2], device='d',
        dtype='float32', versions=dict(torch='1'), commit=None, date='today', notes=['n'])
    text = result.markdown(content)
    assert '| b | 92.00 ± 2.65 (3) | 1.0000 | 1:32 | - | - | - | - | - |' in text
    assert '* c, seed 0, failed: no such thing' in text


@pytest.mark.parametrize('words, text', [
    (('--mixers', 'ralla'), "--mixers: unknown mixer 'ralla'; did you mean rala"),
    (('--seed', '1'), 'unknown argument --seed; did you mean --seeds'),
    (('--model', 'resnet18'), 'an arena puts mixers into zoo_hybrid, not into resnet18'),
    (('--model-kwargs', 'mixer=rala'), '--model-kwargs mixer: an arena puts its --mixers into all stages'),
    (('--jobs', '0'), '--jobs: must be at least 1'),
    (('--dataset', '', '--data-dir', '/nowhere'), 'no data folder /nowhere'),
    (('--seeds', '-1'), '--seeds: must be at least 0')])
def test_mistakes(zoo, words, text, tmp_path):
    found = zoo('arena', '--dataset', 'digits', '--output', tmp_path / 'out', *words)
    assert found.code == 2 and text in found.err and found.err.count('\n') == 1, found.err
    assert not (tmp_path / 'out').exists()


def test_two_arenas_do_not_work_in_one_folder(zoo, tmp_path):
    from filelock import FileLock

    tmp_path.joinpath('out').mkdir()
    with FileLock(tmp_path / 'out' / '.lock'):
        found = zoo('arena', *TINY, '--output', tmp_path / 'out')
    assert found.code == 2 and 'another arena is at work in' in found.err


def test_threads_share_the_cores(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)), raising=False)
    assert [runner.threads_of(jobs) for jobs in (1, 2, 3, 9)] == [8, 4, 2, 1]


def command(folder, *words):
    program = [sys.executable, str(ROOT / 'tools' / 'arena.py')]
    return [*program, *TINY, '--mixers', 'pooling', '--output', str(folder), *words]


@pytest.mark.slow
def test_runs_from_a_checkout_that_is_not_installed(tmp_path):
    """With a process for each run."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(
        command(tmp_path / 'out', '--epochs', '1', '--jobs', '2'), cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / 'out' / 'logs' / 'pooling-0.log').read_text()
    assert '1/1  pooling, seed 0: top-1 ' in done.stdout and '| pooling | ' in done.stdout
    assert read(tmp_path / 'out' / 'arena.json')['rows'][0]['runs'][0]['epochs'] == 1


def test_ctrl_c_stops_the_runs_at_a_checkpoint(tmp_path, monkeypatch):
    """A stand-in for a run that takes its time and says when it is asked to stop."""
    script = 'import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n' \
             'print("ready", flush=True)\ntime.sleep(60)'
    processes = []

    def start(run, threads):
        processes.append(subprocess.Popen(
            [sys.executable, '-c', script], stdout=subprocess.PIPE, start_new_session=True))
        assert processes[-1].stdout.readline() == b'ready\n'
        return processes[-1]

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, '_start', start)
    monkeypatch.setattr(runner, 'time', SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    runs = [plan.Run(tmp_path, 'pooling', seed) for seed in range(3)]
    with pytest.raises(Interrupted, match='the same command goes on with it'):
        runner.train_all(runs, 2, print, print)
    assert [process.returncode for process in processes] == [130, 130]


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_as_an_unbroken_arena(tmp_path):
    """Its runs end with it, and the same command goes on with them."""
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    words = ['--epochs', '4', '-b', '32']
    arena = subprocess.Popen(command(tmp_path / 'parts', *words), env=environment, stdout=subprocess.DEVNULL)
    last = tmp_path / 'parts' / 'runs' / 'pooling-0' / 'last.pth.tar'
    try:
        for _ in range(15000):  # five minutes, on a machine that is busy
            if last.exists() or arena.poll() is not None:
                break
            time.sleep(0.02)
    finally:
        arena.send_signal(signal.SIGKILL)
        arena.wait()
    time.sleep(2)  # a worker looks twice a second
    rows = report.read_summary(last.parent / 'summary.csv', before=99)
    assert 1 <= len(rows) < 4 and not (last.parent / 'result.json').exists()
    time.sleep(5)
    assert report.read_summary(last.parent / 'summary.csv', before=99) == rows  # nobody goes on
    for name in ('parts', 'whole'):
        subprocess.run(command(tmp_path / name, *words), env=environment, check=True)
    parts, whole = (read(tmp_path / name / 'runs' / 'pooling-0' / 'result.json') for name in ('parts', 'whole'))
    assert {**parts, 'seconds': 0} == {**whole, 'seconds': 0}
    log = (tmp_path / 'parts' / 'logs' / 'pooling-0.log').read_text()
    assert f'epoch {len(rows) + 1}/4' in log and log.count('epoch 1/4  loss') == 1
