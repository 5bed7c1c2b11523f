"""Semantic FPN 80k, mavit_l. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/FPN_l_1x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.55, 8 x 2 images, 80000
iterations, polynomial decay of power 0.9 to 1e-06, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_mavit_l_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(model='mavit_l', drop_path_rate=0.55, out_norms=True),
    neck=dict(in_channels=[96, 192, 448, 640]))
