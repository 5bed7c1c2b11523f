"""Mask R-CNN 3x, ravlt_b. Published: 52.7 box AP, 46.4 mask AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/maskrcnn_m_3x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm), stochastic depth 0.4, 8 x 2 images of
random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations, mixed
precision (loss scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_ravlt_b_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='ravlt_b', drop_path_rate=0.4, out_norms=True),
    neck=dict(in_channels=[96, 192, 384, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
