"""Mask R-CNN 1x, l2vit_small. Published: no figure in the repository.

Source: ChuanyangZheng/L2ViT @ fad0341, object_detection/configs/L2ViT/maskrcnn_1x_l2vit_v0_small_coco.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05, stochastic depth 0.1, 8 x 2 images of random sizes, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_l2vit_small_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(model='l2vit_small', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[96, 192, 384, 768]))
