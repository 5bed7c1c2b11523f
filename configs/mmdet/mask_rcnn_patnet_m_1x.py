"""Mask R-CNN 1x, patnet_m. Published: no figure in the repository.

Source: haiduo/PartialNet @ 679cfc0, detection/configs/partialnet/mask_rcnn_partialnet_m_fpn_1x_coco.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.2, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_patnet_m_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        model='patnet_m', drop_path_rate=0.2, out_norms=True,
        model_kwargs=dict(embed_dim=144, depths=(3, 4, 18, 3), activation='relu')),
    neck=dict(in_channels=[144, 288, 576, 1152]))
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
