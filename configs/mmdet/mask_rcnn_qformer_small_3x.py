"""Mask R-CNN 3x, qformer_small. Published: 49.5 box AP, 44.2 mask AP.

Source: RogerZhangzz/qformer-hierarchical-detection @ 07f50bd,
configs/swin/mask_rcnn_qformer_small_patch4_window7_mstrain_480-800_adamw_3x_coco.py. The figures are those of
ViTAE-Transformer/QFormer @ 8aabe08.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, rel_pos), stochastic depth 0.35, 8 x 2
images of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500
iterations, mixed precision (loss scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_qformer_small_3x data/coco
"""
_base_ = '_base_/mask_rcnn_3x.py'
model = dict(
    backbone=dict(
        model='qformer_small', drop_path_rate=0.35, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(coords_lambda=1e-05))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
