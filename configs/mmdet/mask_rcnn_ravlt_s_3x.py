"""Mask R-CNN 3x, ravlt_s. Published: 51.4 box AP, 45.5 mask AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/maskrcnn_s_3x.py.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_ravlt_s_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='ravlt_s', drop_path_rate=0.15, out_norms=True),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
