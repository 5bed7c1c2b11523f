"""Semantic FPN 40k, flatten_pvt_tiny. Published: 37.21 mIoU.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code for dense prediction; the
figures are those of tables 1 and 2 of the paper. The recipe is that of the same authors for Agent-PVT in
LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.1, 8 x 2 images, 40000 iterations,
polynomial decay of power 0.9 to 0, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_flatten_pvt_tiny_40k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_40k.py'
model = dict(
    backbone=dict(model='flatten_pvt_tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
