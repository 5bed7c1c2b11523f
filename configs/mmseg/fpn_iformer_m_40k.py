"""Semantic FPN 40k, iformer_m. Published: 42.4 mIoU.

Source: nirvanesque/iFormer @ 2a87540, segmentation/configs/sem_fpn/fpn_iformer_m_ade20k_40k.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, 8 x 4 images, 40000 iterations, polynomial decay of
power 0.9 to 1e-06, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_iformer_m_40k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_40k.py'
model = dict(
    backbone=dict(model='iformer_m'),
    neck=dict(in_channels=[48, 96, 192, 384]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=40000, by_epoch=False)]
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
