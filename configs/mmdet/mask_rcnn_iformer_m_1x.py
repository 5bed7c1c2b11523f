"""Mask R-CNN 1x, iformer_m. Published: 40.8 box AP, 37.9 mask AP.

Source: nirvanesque/iFormer @ 2a87540, detection/configs/mask_rcnn_iformer_m_fpn_1x_coco.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.05, 8 x 2 images, 12 epochs, divided by 10 after epochs 8
and 11, warm-up from 1e-06 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_iformer_m_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='iformer_m'),
    neck=dict(in_channels=[48, 96, 192, 384]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
