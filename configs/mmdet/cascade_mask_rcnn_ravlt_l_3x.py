"""Cascade Mask R-CNN 3x, ravlt_l. Published: 55.6 box AP, 48.0 mask AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/casrcnn_l_3x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, norm layers), stochastic depth 0.55, 8 x
2 images of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500
iterations, mixed precision (loss scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_ravlt_l_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='ravlt_l', drop_path_rate=0.55, out_norms=True),
    neck=dict(in_channels=[96, 192, 448, 640]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}, norm_decay_mult=0.))
