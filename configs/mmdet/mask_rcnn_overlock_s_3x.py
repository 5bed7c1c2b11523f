"""Mask R-CNN 3x, overlock_s. Published: 51.0 box AP, 45.0 mask AP.

Source: LMMMEng/OverLoCK @ 2c8ab3b, detection/configs/maskrcnn_overlock/mask_rcnn_overlock_s_in1k_fpn_3x_coco.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm), stochastic depth 0.4, 8 x 2 images of
random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations,
float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_overlock_s_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='overlock_s', drop_path_rate=0.4, out_norms=True),
    neck=dict(in_channels=[64, 128, 448, 640]))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
