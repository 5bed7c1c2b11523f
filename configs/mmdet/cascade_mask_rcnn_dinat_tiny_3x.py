"""Cascade Mask R-CNN 3x, dinat_tiny. Published: 52.2 box AP, 45.1 mask AP.

Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
detection/configs/dinat/cascade_mask_rcnn_dinat_tiny_3x_coco.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, rpb), stochastic depth 0.3, 8 x 2 images
of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations,
mixed precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_dinat_tiny_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(
        model='dinat_tiny', drop_path_rate=0.3, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(dilation=((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3))))),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rpb')}))
