"""Mask R-CNN 1x, biformer_base. Published: 48.6 box AP, 43.7 mask AP.

Source: rayleizhu/BiFormer @ 1697bbb, object_detection/configs/coco/maskrcnn.1x.biformer_base.py.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_biformer_base_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        model='biformer_base', drop_path_rate=0.3, out_norms=True, norm_eval=True,
        model_kwargs=dict(mixer_kwargs=dict(n_win=16))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
