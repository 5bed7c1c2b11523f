"""Whole runs: train, measure, save, resume, load again, infer."""
import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import numpy as np
import torch

from tests.dense.mm import runs
from zoo.registry import smallest_models

QUICK = [(kind, name) for kind in ('retinanet', 'fpn') for name in ('flatten_pvt_v2_b0', 'van_b0')]
FULL = [(kind, name) for kind in runs.KINDS for name in ('flatten_pvt_v2_b0', 'van_b0', 'agent_swin_tiny')]
FULL += [(kind, name) for kind in ('retinanet', 'fpn') for name in smallest_models(each_host=False)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.full) for case in dict.fromkeys(FULL) if case not in QUICK)]
METRIC = dict(retinanet='val/coco/bbox_mAP', mask_rcnn='val/coco/segm_mAP', fpn='val/mIoU', upernet='val/mIoU')


@pytest.mark.parametrize('kind, name', CASES)
def test_a_run(kind, name, tmp_path):
    """Two iterations and two more after a resume, each with a measurement; then the files alone give the model."""
    cfg = runs.run_config(kind, name, tmp_path, steps=2)
    runner, losses = runs.train(cfg)
    assert len(losses) == 2 and np.isfinite(losses).all()
    cfg = runs.run_config(kind, name, tmp_path, steps=4)
    cfg.resume, cfg.load_from = True, runs.last_checkpoint(cfg)
    resumed, more = runs.train(cfg)
    assert resumed.iter == 4 and list(more[:2]) == list(losses) and len(more) == 4
    for one in (runner, resumed):  # checkpoints are written before the measurement
        measured = one.message_hub.log_scalars[METRIC[kind]].data[0]
        assert len(measured) == 1 and 0 <= measured[0] <= 100
    infer = infer_boxes if runs.is_detector(kind) else infer_map
    infer(cfg, runs.last_checkpoint(cfg), resumed.model.state_dict(), runs.shapes(tmp_path) / 'val')


def infer_boxes(cfg, weights, state, folder):
    from mmdet.apis import DetInferencer
    inferencer = DetInferencer(model=cfg, weights=weights, device='cpu', show_progress=False)
    assert_same(inferencer.model.state_dict(), state)
    found = inferencer(sorted(map(str, folder.glob('*.png')))[:2], no_save_vis=True, return_datasamples=False)
    assert len(found['predictions']) == 2
    for one in found['predictions']:
        boxes, scores = np.array(one['bboxes']), np.array(one['scores'])
        assert len(boxes) and boxes.min() >= 0 and boxes.max() <= 96
        assert ((scores >= 0) & (scores <= 1)).all() and set(one['labels']) <= {0, 1, 2}
        assert ('masks' in one) == (cfg.model.type == 'MaskRCNN')


def infer_map(cfg, weights, state, folder):
    from mmseg.apis import MMSegInferencer
    inferencer = MMSegInferencer(
        model=save(cfg), weights=weights, device='cpu', classes=list('abcd'), palette=[[i] * 3 for i in range(4)],
        dataset_name=None)
    assert_same(inferencer.model.state_dict(), state)
    found = inferencer(str(min(folder.glob('*.png'))), return_datasamples=False)['predictions']
    assert found.shape == (96, 96) and set(np.unique(found)) <= {0, 1, 2, 3}


def save(cfg):
    """mmsegmentation's inferencer takes a file."""
    path = f'{cfg.work_dir}/whole.py'
    cfg.dump(path)
    return path


def assert_same(state, want):
    assert set(state) == set(want)
    assert all(torch.equal(value, want[key]) for key, value in state.items())


def test_losses_fall(tmp_path):
    """Sixty iterations on the shapes: the loss at the end is well below that of the start."""
    cfg = runs.run_config('retinanet', 'flatten_pvt_v2_b0', tmp_path, steps=60)
    cfg.train_cfg.val_interval = 1000
    cfg.default_hooks.checkpoint.interval = 1000
    _, losses = runs.train(cfg)
    assert len(losses) == 60
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()
