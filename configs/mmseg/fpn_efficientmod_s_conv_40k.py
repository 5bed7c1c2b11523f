"""Semantic FPN 40k, efficientmod_s_conv. Published: 43.5 mIoU.

Source: ma-xu/EfficientMod @ ec04df6, segmentation/configs/sem_fpn/efficientMod_s_Conv.py. Its neck has the channels of
efficientmod_s.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.02, 8 x 4 images, 40000
iterations, cosine decay to 0, warm-up from 0.1 of the rate in 1000 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_efficientmod_s_conv_40k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_40k.py'
model = dict(
    backbone=dict(model='efficientmod_s_conv', drop_path_rate=0.02),
    neck=dict(in_channels=[40, 80, 160, 344]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.0, begin=0, end=40000, by_epoch=False)]
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
