"""Mask R-CNN 1x, flatten_pvt_small. Published: no figure in the repository.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code and no figures for dense
prediction. The recipe is that of the same authors for Agent-PVT in LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.2, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_flatten_pvt_small_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='flatten_pvt_small', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002, weight_decay=0.0001))
