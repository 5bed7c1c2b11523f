"""Mask R-CNN 1x, l2vit_base. Published: no figure in the repository.

Source: ChuanyangZheng/L2ViT @ fad0341, object_detection/configs/L2ViT/maskrcnn_1x_l2vit_v0_base_coco.py.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_l2vit_base_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(model='l2vit_base', drop_path_rate=0.2, out_norms=True),
    neck=dict(in_channels=[128, 256, 512, 1024]))
