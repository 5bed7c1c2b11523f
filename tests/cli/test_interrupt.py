"""Ctrl-C at random moments: one line, exit code 130, no traceback."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch

import zoo_cli
from zoo.utils.errors import INTERRUPTED, GracefulInterrupt

from ..train.conftest import MODEL

HERE = Path(__file__).parent
LONGEST = 6  # seconds until Ctrl-C


def assert_quiet(code, errors, told):
    assert code == INTERRUPTED, (told, errors)
    assert 'Traceback' not in errors and 'Exception' not in errors, (told, errors)
    assert errors.strip().splitlines()[-1].startswith('interrupted'), (told, errors)


IMPORT = '''
import signal, sys, zoo_cli
def broken(name):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        {reaction}
zoo_cli._module, sys.argv = broken, ['zoo', 'train']
sys.exit(zoo_cli.main())
'''


@pytest.mark.parametrize('reaction', ['raise', 'raise ImportError(name)', 'sys.exit(1)'])
def test_a_package_that_makes_another_error_of_ctrl_c(reaction):
    done = subprocess.run(
        [sys.executable, '-c', IMPORT.format(reaction=reaction)], capture_output=True, text=True, check=False,
        env=dict(os.environ, PYTHONPATH=str(Path(zoo_cli.__file__).parent)))
    assert_quiet(done.returncode, done.stderr, reaction)


BROKEN = '''
import signal, sys, zoo_cli
class Iterator:
    def __init__(self):
        signal.raise_signal(signal.SIGINT)
        self.workers = []
    def __del__(self):
        self.workers.clear()
zoo_cli._module, sys.argv = lambda name: type('module', (), dict(main=lambda argv: Iterator())), ['zoo', 'train']
sys.exit(zoo_cli.main())
'''


def test_destructors_of_what_ctrl_c_left_half_made():
    done = subprocess.run(
        [sys.executable, '-c', BROKEN], capture_output=True, text=True, check=False,
        env=dict(os.environ, PYTHONPATH=str(Path(zoo_cli.__file__).parent)))
    assert_quiet(done.returncode, done.stderr, 'destructor')


def test_loading_processes_leave_ctrl_c_to_the_one_that_they_load_for(capfd):
    with GracefulInterrupt() as ctrl_c:
        ctrl_c.process += 1  # as in a process that was forked
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        ctrl_c.check()
    assert capfd.readouterr().err == ''


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_at_random_moments_of_a_command(pictures, tmp_path):
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), tmp_path / 'c.pth')
    rng = random.Random(0)
    shared = [str(pictures), '--model', MODEL, '--num-classes', '3', '--input-size', '3', '32', '32', '--workers', '2',
              '--device', 'cpu']
    weights = ['--checkpoint', str(tmp_path / 'c.pth')]
    crops = [str(1 - i / 100) for i in range(80)]
    picture = str(pictures / 'val' / 'red' / '0.png')
    kinds = [
        lambda name: ['train', *shared, '--batch-size', '8', '--epochs', '1000', '--recovery-interval', '2', '--output',
                      str(tmp_path), '--experiment', name],
        lambda name: ['probe', *shared, *weights, '--batch-size', '8', '--epochs', '1000', '--output', str(tmp_path),
                      '--experiment', name],
        lambda name: ['validate', *shared, *weights, '--batch-size', '1', '--crop-sweep', *crops],
        lambda name: ['attention', 'resnet50', picture, '--what', 'influence', '--output', str(tmp_path / 'a.png')]]
    chosen = [kinds[0]] * 11 + [kind for kind in kinds[1:] for _ in range(3)]
    runs = [[kind(f'run{i}'), rng.uniform(0, LONGEST)] for i, kind in enumerate(chosen)]
    assert len(runs) == 20
    done = subprocess.run(
        [sys.executable, str(HERE / 'interrupted.py'), str(tmp_path)], input=json.dumps(runs), capture_output=True,
        text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (words, seconds), (code, errors) in zip(runs, json.loads(done.stdout)):
        assert_quiet(code, errors, (words[0], seconds))


@pytest.mark.slow
@pytest.mark.parametrize('seconds', [0.5, 1.5, 3.])
def test_while_the_packages_are_imported(tmp_path, seconds):
    process = subprocess.Popen(
        [sys.executable, '-m', 'zoo', 'train', '--config', 'quickstart', '--output', str(tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1])
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    assert_quiet(process.wait(120), process.communicate()[1], seconds)
