"""Two processes on one CPU, as torchrun starts them."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.train import validate

ROOT = Path(__file__).parents[2]


def test_two_processes_train_one_model(small, tmp_path):
    flags = small(
        data_dir='', dataset='digits', input_size='1 32 32', num_classes=10, mean=0.3, std=0.4, model='test_resnet',
        batch_size=64, aug_repeats=2, grad_accum_steps=3, model_ema=True, model_ema_decay=0.5, mixup=0.2,
        dist_bn='broadcast')
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
        [str(ROOT), str(ROOT / 'kernels'), os.environ.get('PYTHONPATH', '')]))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    result = subprocess.run(
        [*torchrun, '-m', 'zoo', 'train', *flags],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert '2 process(es)' in result.stdout and result.stdout.count('validate it:') == 1
    last = torch.load(tmp_path / 'out' / 'run' / 'last.pth.tar', weights_only=True)
    # of 1437 images timm's sampler takes the multiple of 256: 640 for each process, 10 batches, an update every 3
    assert last['updates'] == 8 and last['epoch'] == 1
    found = validate.validate(['--checkpoint', str(tmp_path / 'out' / 'run' / 'last.pth.tar')])
    assert found['count'] == 360 and found['top1'] == pytest.approx(last['metric'], abs=1e-4)
