"""Semantic FPN 80k, biformer_base. Published: 49.9 mIoU.

Source: rayleizhu/BiFormer @ 1697bbb, semantic_segmentation/configs/ade20k/sfpn.biformer_base.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.3, 8 x 4 images, 80000 iterations,
cosine decay to 1e-08 of the rate, warm-up from 0.1 of the rate in 1000 iterations, mixed precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg fpn_biformer_base_80k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_80k.py'
model = dict(
    backbone=dict(
        model='biformer_base', drop_path_rate=0.3, out_norms=True, model_kwargs=dict(mixer_kwargs=dict(n_win=8))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(lr=0.0002))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-8, begin=0, end=80000, by_epoch=False)]
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
