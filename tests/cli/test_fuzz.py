"""Whatever a command line or a config says, a command does its work, or says in one line why it does not."""
import random
import sys
from pathlib import Path

import pytest
import timm
import torch

import zoo_cli
from zoo.arena import compare
from zoo.train import options, report
from zoo.train.option_schema import TRAIN

from ..train.conftest import MODEL
from . import fuzz

HANG = 120  # seconds


@pytest.fixture(scope='module')
def bases(pictures, tmp_path_factory):
    """Command lines that work, by command; files of every kind; a config that works."""
    root = tmp_path_factory.mktemp('fuzz')
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), root / 'c.pth')
    (root / 'labels.txt').write_text('0\n1\n2\n')
    (root / 'list.json').write_text('[1, {"model": 2}]')
    (root / 'empty.yaml').write_text('')
    picture = str(pictures / 'val' / 'red' / '0.png')
    data = dict(data_dir=str(pictures), model=MODEL, num_classes=3, input_size=[3, 32, 32], batch_size=8, workers=0,
                device='cpu')
    shared = [str(pictures), '--model', MODEL, '--num-classes', '3', '--input-size', '3', '32', '32',
              '--batch-size', '8', '--workers', '0', '--device', 'cpu']
    run = ['--epochs', '1', '--stop-epoch', '1', '--warmup-epochs', '0', '--output', 'out', '--experiment', 'run']
    weights = ['--checkpoint', str(root / 'c.pth')]
    lines = {
        'train': [*shared, *run], 'validate': [*shared, *weights], 'probe': [*shared, *run, *weights],
        'arena': [str(pictures), '--output', 'arena', '--device', 'cpu'],
        'infer': [MODEL, picture, *weights, '--num-classes', '3', '--device', 'cpu'],
        'attention': [MODEL, picture, '--img-size', '32', '--output', 'a.png', '--device', 'cpu'],
        'plot': ['van_b0', '--output', 'p.svg'], 'info': ['van_b0'], 'list': ['van_b0'],
        'benchmark': ['models', MODEL, '--sizes', '32', '--repeats', '1', '--output', 'b', '--device', 'cpu'],
        'shapes': ['s', '--train', '1', '--val', '1', '--size', '32'],
        'convert': [str(root / 'c.pth'), '--model', 'van_b0', '--output', 'converted'],
        'publish': ['van_b0', '--repo', 'a/b', '--dry-run'],
        'predict': ['mask_rcnn_ravlt_t_1x', str(root / 'c.pth'), picture, '--output', 'o.png'],
        'cards': ['care', '--output', 'cards']}
    files = [str(path) for path in sorted(root.iterdir())] + [picture, str(pictures)]
    config = dict(data, epochs=1, stop_epoch=1, warmup_epochs=0, output='out', experiment='run', opt='adamw', lr=2e-3)
    return lines, files, config


@pytest.fixture
def attempt(bases, zoo, tmp_path, monkeypatch):
    """Run a command line with mistakes of a seed in an empty folder and look at how it ends."""
    lines, files, config = bases
    monkeypatch.setattr(report, 'draw_curves', lambda *_: None)  # slow, and none of the options'
    monkeypatch.setattr(compare, '_run', lambda *_: print('would train') or dict(rows=[]))  # processes of their own

    def run(seed):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        if rng.random() < 0.3:
            keys = [option.dest for option in TRAIN if option.dest != 'config']
            (folder / 'c.yaml').write_text(fuzz.config(config, keys, rng), encoding='utf-8', errors='surrogateescape')
            command, words = 'train', ['--config', 'c.yaml']
        else:
            command = rng.choice((*lines, 'train', 'train', 'validate', 'probe', 'infer'))
            parser = zoo_cli._module(command).parser()
            if command == 'benchmark':
                parser = next(action for action in parser._actions if action.dest == 'kind').choices['models']
            words = fuzz.command_line(parser, lines[command], files, rng)
        end(zoo, command, words, folder)

    return run


def end(zoo, command, words, folder):
    """Assert that a command ends as it should."""
    told = f'zoo {command} ' + ' '.join(repr(word[:60]) for word in words)
    if Path(folder, 'c.yaml').exists():
        told += '\n' + Path(folder, 'c.yaml').read_text(encoding='utf-8', errors='replace')[:2000]
    try:
        result = zoo(command, *words)
    except SystemExit as e:
        assert e.code == 0, told
        return
    except Exception as e:
        e.add_note(told) if sys.version_info >= (3, 11) else print(told)
        raise
    assert 'Traceback' not in result.err, told
    if result.code == 2:
        lines = result.err.strip().splitlines()
        assert lines[-1].startswith('error: ') and len(lines[-1]) < 2000, (told, result)
        assert result.out or len(lines) == 1, (told, result)  # later ones belong to a run that had begun
    else:
        assert result.code == 0 or result.code == 1 and command in ('infer', 'validate'), (told, result)
        assert result.out, (told, result)


@pytest.mark.timeout(HANG)
def test_commands_and_configs_with_mistakes(attempt):
    for seed in range(50):
        attempt(seed)


@pytest.mark.slow
@pytest.mark.timeout(60 * HANG)
@pytest.mark.parametrize('first', range(1000, 1500, 100))
def test_many_commands_and_configs_with_mistakes(attempt, first):
    for seed in range(first, first + 100):
        attempt(seed)


def ends_of_ranges():
    """Words for the smallest and the largest value that each number of ``train`` may have."""
    for option in TRAIN:
        if option.kind not in (int, float, 'ints', 'floats') or option.dest in fuzz.NOT_TRIED:
            continue
        step = 1 if option.kind in (int, 'ints') else 1e-6
        low = option.low if option.above is None else option.above + step
        high = option.high if option.below is None else option.below - step
        for value in (low, options.MOST if high is None and step == 1 else high):
            if value is not None:
                yield f'--{option.dest.replace("_", "-")}', *[str(value)] * max(option.counts or (1,))


BESIDE = {  # options that give others something to do
    '--sched': 'step', '--opt': 'adamw', '--mixup': '0.5', '--cutmix': '0.5', '--reprob': '0.5',
    '--smoothing': '0.1', '--model-ema': None}


@pytest.mark.slow
@pytest.mark.timeout(60 * HANG)
@pytest.mark.parametrize('beside', [{}, BESIDE], ids=['alone', 'beside others'])
def test_ranges_are_honest(bases, zoo, tmp_path, monkeypatch, beside):
    """A run with a number at the end of its range trains, or says in one line why it does not."""
    monkeypatch.setattr(report, 'draw_curves', lambda *_: None)
    more = [word for pair in beside.items() for word in pair if word is not None]
    seen = 0
    for number, words in enumerate(ends_of_ranges()):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        end(zoo, 'train', [*bases[0]['train'], *more, *words], folder)
        seen += 1
    assert seen > 80
