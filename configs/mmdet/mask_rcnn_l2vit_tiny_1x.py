"""Mask R-CNN 1x, l2vit_tiny. Published: no figure in the repository.

Source: ChuanyangZheng/L2ViT @ fad0341, object_detection/configs/L2ViT/maskrcnn_1x_l2vit_v0_tiny_coco.py.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_l2vit_tiny_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(model='l2vit_tiny', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[96, 192, 384, 768]))
