"""Mask R-CNN 1x, biformer_small. Published: 47.8 box AP, 43.2 mask AP.

Source: rayleizhu/BiFormer @ 1697bbb, object_detection/configs/coco/maskrcnn.1x.biformer_small.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm), stochastic depth 0.2, 8 x 2 images, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss
scale 512).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_biformer_small_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        model='biformer_small', drop_path_rate=0.2, out_norms=True, norm_eval=True,
        model_kwargs=dict(mixer_kwargs=dict(n_win=16))),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.)}))
