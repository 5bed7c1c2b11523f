"""Semantic FPN 80k, mavit_s. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/FPN_s_1x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.15, 8 x 2 images, 80000
iterations, polynomial decay of power 0.9 to 1e-06, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_mavit_s_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(model='mavit_s', drop_path_rate=0.15, out_norms=True),
    neck=dict(in_channels=[64, 128, 320, 512]))
