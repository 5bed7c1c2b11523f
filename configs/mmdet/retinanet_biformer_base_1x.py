"""RetinaNet 1x, biformer_base. Published: 47.1 box AP.

Source: rayleizhu/BiFormer @ 1697bbb, object_detection/configs/coco/retinanet.1x.biformer_base.py.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_biformer_base_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        model='biformer_base', drop_path_rate=0.3, out_norms=True, norm_eval=True,
        model_kwargs=dict(mixer_kwargs=dict(n_win=16))),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(weight_decay=0.0001))
