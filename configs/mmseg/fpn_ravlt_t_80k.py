"""Semantic FPN 80k, ravlt_t. Published: 47.9 mIoU.

Source: qhfan/RALA @ a86314f, segmentation/configs/RALA/RALA_FPN_s_1x.py. No configuration of T is in the repository,
only its result: that of S with the drop path of T.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.1, 8 x 2 images, 80000 iterations,
polynomial decay of power 0.9 to 1e-06, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_ravlt_t_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(model='ravlt_t', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[64, 128, 256, 512]))
