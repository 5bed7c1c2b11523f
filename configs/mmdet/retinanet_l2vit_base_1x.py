"""RetinaNet 1x, l2vit_base. Published: no figure in the repository.

Source: ChuanyangZheng/L2ViT @ fad0341, object_detection/configs/L2ViT/retinanet_1x_l2vit_v0_base_coco.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05, stochastic depth 0.2, 8 x 2 images of random sizes, 12
epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_l2vit_base_1x data/coco
"""
_base_ = '_base_/retinanet_1x_ms.py'
model = dict(
    backbone=dict(model='l2vit_base', drop_path_rate=0.2, out_norms=True),
    neck=dict(in_channels=[256, 512, 1024]))
