"""RetinaNet 3x, smt_small. Published: 47.3 box AP.

Source: AFeng-x/SMT @ 11e954d, detection/configs/retinanet_ressa_fpn_mstrain_480-800_3x_coco.py with
retinanet_smt_s_fpn.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05, stochastic depth 0.2, 8 x 2 images of random sizes, 36
epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_smt_small_3x data/coco
"""
_base_ = '_base_/retinanet_3x.py'
model = dict(
    backbone=dict(model='smt_small', drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]))
