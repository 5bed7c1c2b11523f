"""Small runs of mmdet and mmsegmentation on the synthetic shapes, with the configs that we ship."""
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from zoo.dense import DenseBackbone
from zoo.dense.shapes import write_shapes

ROOT = Path(__file__).parents[3]
WIDTH = 32  # channels of necks and heads
KINDS = ('retinanet', 'mask_rcnn', 'fpn', 'upernet')


def is_detector(kind):
    return kind in ('retinanet', 'mask_rcnn')


def shapes(folder):
    """A data set of 8 and 4 images of 96 pixels, made once per folder."""
    folder = Path(folder) / 'shapes'
    return folder if folder.exists() else write_shapes(folder, train=8, val=4, size=96)


def model_config(kind, name, **backbone):
    """The shipped config of a detector or segmentor, narrow, on a backbone from random weights."""
    folder = 'mmdet' if is_detector(kind) else 'mmseg'
    cfg = Config.fromfile(ROOT / 'configs' / folder / '_base_' / f'{kind}.py').model
    indices = (1, 2, 3) if kind == 'retinanet' else None
    probe = DenseBackbone(name, model_kwargs=backbone.get('model_kwargs'))  # of all its maps
    cfg.backbone.update(
        type='ZooBackbone', model=name, pretrained=False, out_indices=indices and tuple(
            i for i, stride in zip(probe.out_indices, probe.strides) if stride >= 8), **backbone)
    channels = probe.channels[-3:] if indices else probe.channels
    plain = len(set(probe.strides)) == 1
    if plain:  # one stride: mmsegmentation's own neck makes a pyramid of them
        cfg.backbone.out_indices = None
        rescale = dict(type='mmseg.Feature2Pyramid', embed_dim=channels[0], rescales=[4, 2, 1, 0.5],
                       norm_cfg=dict(type='BN'))
        channels = probe.channels
    if 'neck' in cfg:
        cfg.neck.update(in_channels=channels, out_channels=WIDTH)
    if plain:
        cfg.neck = [rescale, cfg.neck] if 'neck' in cfg else rescale
        if kind == 'retinanet':
            cfg.neck[1].start_level = 1
    _narrow(kind, cfg, channels)
    return cfg


def _narrow(kind, cfg, channels):
    if kind == 'retinanet':
        cfg.bbox_head.update(num_classes=3, in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1)
        cfg.test_cfg.score_thr = 0.  # nothing is sure of itself after so few steps
    elif kind == 'mask_rcnn':
        cfg.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
        roi = cfg.roi_head
        roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = WIDTH
        roi.bbox_head.update(num_classes=3, in_channels=WIDTH, fc_out_channels=64)
        roi.mask_head.update(num_classes=3, in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1)
        cfg.test_cfg.rcnn.score_thr = 0.
        cfg.test_cfg.rpn.max_per_img = 100
    else:
        cfg.data_preprocessor.size = (96, 96)
        cfg.decode_head.update(num_classes=4, channels=WIDTH)
        cfg.decode_head.in_channels = [WIDTH] * 4 if kind == 'fpn' else channels
        if kind == 'upernet':
            cfg.auxiliary_head.update(num_classes=4, channels=WIDTH, in_channels=channels[2])


def run_config(kind, name, folder, steps=2, **backbone):
    """A config that trains for ``steps`` iterations of four images, measures at the end and keeps a checkpoint."""
    folder = Path(folder)
    data = shapes(folder)
    bases = ROOT / 'configs' / ('mmdet' if is_detector(kind) else 'mmseg') / '_base_'
    schedule = 'schedule_1x' if is_detector(kind) else 'schedule_40k'
    path = folder / f'{kind}.py'
    path.write_text(f'_base_ = {[str(bases / f"{part}.py") for part in ("shapes", schedule, "runtime")]}\n')
    cfg = Config.fromfile(path)
    from zoo.dense.launch import move_data
    move_data(cfg, cfg.data_root, f'{data}/')
    cfg.model = model_config(kind, name, **backbone)
    cfg.work_dir = str(folder / 'run')
    cfg.randomness = dict(seed=0)
    cfg.param_scheduler = []
    cfg.optim_wrapper.optimizer.update(lr=5e-4)
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = steps if not is_detector(kind) else 1
    if kind == 'retinanet':
        cfg.val_evaluator.metric = cfg.test_evaluator.metric = 'bbox'
    length(cfg, steps)
    return cfg


def length(cfg, steps):
    """Train until this iteration (a multiple of 2: an epoch has two)."""
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.update(max_epochs=steps // 2, val_interval=steps // 2)
    else:
        cfg.train_cfg.update(max_iters=steps, val_interval=steps)


def train(cfg):
    """Run it; the runner and the losses of all iterations, those before a resumed checkpoint too."""
    cfg.experiment_name = None
    cfg.pop('experiment_name')
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.visualization import Visualizer
    for kept in (MessageHub, MMLogger, Visualizer):  # those of an earlier run in this process
        kept._instance_dict.clear()
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, runner.message_hub.log_scalars['train/loss'].data[0]


def last_checkpoint(cfg):
    return Path(cfg.work_dir, 'last_checkpoint').read_text().strip()
