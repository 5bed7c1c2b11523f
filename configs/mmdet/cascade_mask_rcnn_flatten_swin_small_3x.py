"""Cascade Mask R-CNN 3x, flatten_swin_small. Published: 52.2 box AP, 45.4 mask AP.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code for dense prediction; the
figures are those of tables 1 and 2 of the paper. The recipe is that of the same authors for Agent-Swin in
LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for norm, rel_pos), stochastic depth 0.1, 8 x 2
images of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from 0.001 of the rate in 500
iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_flatten_swin_small_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(model='flatten_swin_small', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
