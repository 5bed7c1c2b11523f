"""Cascade Mask R-CNN 1x, qformer_tiny. Published: 49.8 box AP, 43.0 mask AP.

Source: RogerZhangzz/qformer-hierarchical-detection @ 07f50bd,
configs/swin/cascade_mask_rcnn_qformer_tiny_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_1x_coco.py. The figures
are those of ViTAE-Transformer/QFormer @ 8aabe08.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, rel_pos), stochastic depth 0.15, 8 x 2
images of random sizes, 12 epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500
iterations, mixed precision (loss scale dynamic).

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_qformer_tiny_1x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(
        model='qformer_tiny', drop_path_rate=0.15, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(coords_lambda=1e-05))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic',
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
