"""Two processes on one CPU, as torchrun starts them."""
import os
import subprocess
import sys

import pytest

pytest.importorskip('mmdet')

from tests.dense.mm import runs

WORKER = '''
import sys

import torch

from zoo.dense import mm_compat

mm_compat.install()
from mmengine.config import Config
from mmengine.runner import Runner

cfg = Config.fromfile(sys.argv[1])
mm_compat.join_cpus(cfg)
runner = Runner.from_cfg(cfg)
runner.train()
mine = torch.stack([p.detach().double().abs().sum() for p in runner.model.parameters()])
first = mine.clone()
torch.distributed.broadcast(first, 0)
steps = len(runner.message_hub.log_scalars['train/loss'].data[0])
scores = 'val/coco/bbox_mAP' in runner.message_hub.log_scalars
said = [None, None]  # by one process: lines of two may run into each other
torch.distributed.all_gather_object(said, (bool(torch.equal(mine, first)), runner.iter, steps, scores))
if torch.distributed.get_rank() == 0:
    print('ranks', said, flush=True)
torch.distributed.destroy_process_group()
'''


def test_two_processes_train_one_detector(tmp_path):
    """Of eight images each takes four, two at a time; frozen stages and maps left out leave no parameter unused."""
    cfg = runs.run_config(
        'retinanet', 'flatten_swin_tiny', tmp_path, frozen_stages=1, out_norms=True,
        model_kwargs=dict(depths=(1, 1, 1, 1), embed_dim=24))
    cfg.train_dataloader.batch_size = 2
    cfg.dump(tmp_path / 'config.py')
    (tmp_path / 'worker.py').write_text(WORKER)
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
        [str(runs.ROOT), str(runs.ROOT / 'kernels'), os.environ.get('PYTHONPATH', '')]))
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(tmp_path / 'worker.py'), str(tmp_path / 'config.py')],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    said, = (line for line in done.stdout.splitlines() if line.startswith('ranks'))
    assert said == f'ranks {[(True, 2, 2, True)] * 2}'
