"""Mask R-CNN 1x, ravlt_l. Published: 52.3 box AP, 46.4 mask AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/maskrcnn_l_1x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm), stochastic depth 0.55, 8 x 2 images, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss
scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_ravlt_l_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='ravlt_l', drop_path_rate=0.55, out_norms=True),
    neck=dict(in_channels=[96, 192, 448, 640]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
