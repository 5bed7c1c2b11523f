"""Mask R-CNN 1x, overlock_s. Published: 49.4 box AP, 44.0 mask AP.

Source: LMMMEng/OverLoCK @ 2c8ab3b, detection/configs/maskrcnn_overlock/mask_rcnn_overlock_s_in1k_fpn_1x_coco.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.05 (none for norm), stochastic depth 0.4, 8 x 2 images, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_overlock_s_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(model='overlock_s', drop_path_rate=0.4, out_norms=True),
    neck=dict(in_channels=[64, 128, 448, 640]))
optim_wrapper = dict(optimizer=dict(lr=0.0002), paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
