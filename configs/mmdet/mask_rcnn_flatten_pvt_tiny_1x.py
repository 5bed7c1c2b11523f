"""Mask R-CNN 1x, flatten_pvt_tiny. Published: no figure in the repository.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code and no figures for dense
prediction. The recipe is that of the same authors for Agent-PVT in LeapLabTHU/Agent-Attention @ 207ce3e.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_flatten_pvt_tiny_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='flatten_pvt_tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002, weight_decay=0.0001))
