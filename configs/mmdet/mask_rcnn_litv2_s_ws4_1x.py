"""Mask R-CNN 1x, litv2_s_ws4. Published: 44.7 box AP, 40.7 mask AP.

Source: ziplab/LITv2 @ 7501c86, detection/configs/litv2/mask_rcnn_litv2_s_fpn_1x_coco_ws_4.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001 (none for norm), stochastic depth 0.2, 8 x 2 images,
12 epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision
(loss scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_litv2_s_ws4_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        model='litv2_s', drop_path_rate=0.2, out_norms=True, model_kwargs=dict(window_sizes=(None, None, 4, 1))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    optimizer=dict(lr=0.0002, weight_decay=0.0001),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
