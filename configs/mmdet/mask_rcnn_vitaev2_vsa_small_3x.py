"""Mask R-CNN 3x, vitaev2_vsa_small. Published: 48.1 box AP, 42.9 mask AP.

Source: ViTAE-Transformer/ViTAE-VSA @ 75dc986,
Object-Detection/configs/vitaev2_vsa/mask_rcnn_vitaev2_vsa_s_mstrain_480-800_adamw_3x_coco.py. Here, maps are padded
right and bottom to whole windows, there on all sides.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm1, norm2, rel_pos), stochastic depth 0.25, 8
x 2 images of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500
iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_vitaev2_vsa_small_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='vitaev2_vsa_small', drop_path_rate=0.25),
    neck=dict(in_channels=[64, 128, 256, 512]))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm1', 'norm2', 'rel_pos')}))
