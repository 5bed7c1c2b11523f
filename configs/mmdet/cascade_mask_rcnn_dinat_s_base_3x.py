"""Cascade Mask R-CNN 3x, dinat_s_base. Published: 52.6 box AP, 45.3 mask AP.

Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
detection/configs/dinat_s/cascade_mask_rcnn_dinat_s_base_3x_coco.py.

Recipe: AdamW with learning rate 7.5e-05 and weight decay 0.05 (none for norm, rpb), stochastic depth 0.6, 8 x 2 images
of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500 iterations,
mixed precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_dinat_s_base_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(
        model='dinat_s_base', drop_path_rate=0.6, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(dilation=((1, 28), (1, 14), (1, 3, 1, 5, 1, 7), (1, 3))))),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    optimizer=dict(lr=7.5e-05),
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rpb')}))
