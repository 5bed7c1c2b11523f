"""Cascade Mask R-CNN 3x, smt_small. Published: 51.9 box AP, 44.7 mask AP.

Source: AFeng-x/SMT @ 11e954d, detection/configs/cascade_mask_rcnn_ressa_mstrain_480-800_giou_4conv1f_adamw_3x_coco.py
with cascade_mask_rcnn_smt_s_fpn.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05, stochastic depth 0.2, 8 x 2 images of random sizes, 36
epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_smt_small_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='smt_small', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]))
