"""Mask R-CNN 1x, inline_pvt_medium. Published: no figure in the repository.

Source: arXiv 2412.06590; LeapLabTHU/InLine @ e463a6f. The repository has no code and no figures for dense prediction.
The recipe is that of the same authors for Agent-PVT in LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.1, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_inline_pvt_medium_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='inline_pvt_medium', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002, weight_decay=0.0001))
