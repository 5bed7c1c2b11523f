"""Mask R-CNN 1x, efficientmod_s_conv. Published: 42.1 box AP, 38.5 mask AP.

Source: ma-xu/EfficientMod @ ec04df6, detection/configs/efficientMod_s_Conv.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.05, stochastic depth 0.02, 8 x 4 images, 12 epochs, divided
by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_efficientmod_s_conv_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='efficientmod_s_conv', drop_path_rate=0.02),
    neck=dict(in_channels=[40, 80, 160, 344]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
