"""Mask R-CNN 3x, smt_base. Published: 49.8 box AP, 44.0 mask AP.

Source: AFeng-x/SMT @ 11e954d, detection/configs/mask_rcnn_smt_b_fpn_mstrain-poly_3x_coco.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.05 (none for norm), stochastic depth 0.3, 8 x 2 images of
random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations,
float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_smt_base_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='smt_base', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002), paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
