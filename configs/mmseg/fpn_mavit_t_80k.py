"""Semantic FPN 80k, mavit_t. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/FPN_t_1x.py.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_mavit_t_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(model='mavit_t', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[64, 128, 256, 512]))
