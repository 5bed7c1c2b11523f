"""Mask R-CNN 1x, flatten_swin_tiny. Published: 44.2 box AP, 40.2 mask AP.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code for dense prediction; the
figures are those of tables 1 and 2 of the paper. The recipe is that of the same authors for Agent-Swin in
LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, rel_pos), stochastic depth 0.1, 8 x 2
images of random sizes, 12 epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500
iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_flatten_swin_tiny_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(model='flatten_swin_tiny', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
