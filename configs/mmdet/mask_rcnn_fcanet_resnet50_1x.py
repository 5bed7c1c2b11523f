"""Mask R-CNN 1x, fcanet_resnet50. Published: 40.3 box AP, 36.2 mask AP.

Source: cfzd/FcaNet @ aa5fb63, mmdetection/configs/mask_rcnn/mask_rcnn_freqnet50_fpn_1x_coco.py. Batch norms are frozen
with their scales.

Recipe: SGD with learning rate 0.01 and weight decay 0.0001 (none for .bn, downsample.1), 8 x 1 image, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_fcanet_resnet50_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='fcanet_resnet50', frozen_stages=0, norm_eval=True),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(custom_keys={key: dict(lr_mult=0., decay_mult=0.) for key in ('.bn', 'downsample.1')}))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
