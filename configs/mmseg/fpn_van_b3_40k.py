"""Semantic FPN 40k, van_b3. Published: 48.1 mIoU.

Source: Visual-Attention-Network/VAN-Segmentation @ 8285fc7, configs/sem_fpn/fpn_van_b3_ade20k_40k.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.3, 8 x 4 images, 40000 iterations,
polynomial decay of power 0.9 to 0, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_van_b3_40k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_40k.py'
model = dict(
    backbone=dict(model='van_b3', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
