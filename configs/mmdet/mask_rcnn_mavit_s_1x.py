"""Mask R-CNN 1x, mavit_s. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, detect/configs/MALA/maskrcnn_s_1x.py.

Recipe: AdamW with learning rate 0.0004 and weight decay 0.05 (none for norm), stochastic depth 0.15, 8 x 2 images, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss
scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_mavit_s_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='mavit_s', drop_path_rate=0.15, out_norms=True),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    optimizer=dict(lr=0.0004),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
