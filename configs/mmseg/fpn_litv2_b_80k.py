"""Semantic FPN 80k, litv2_b. Published: 47.2 mIoU.

Source: ziplab/LITv2 @ 7501c86, segmentation/configs/litv2/litv2_b_fpn_r50_512x512_80k_ade20k.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.3, 8 x 2 images, 80000 iterations,
polynomial decay of power 0.9 to 1e-06, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_litv2_b_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(model='litv2_b', drop_path_rate=0.3, out_norms=True),
    neck=dict(in_channels=[128, 256, 512, 1024]))
