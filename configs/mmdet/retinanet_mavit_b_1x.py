"""RetinaNet 1x, mavit_b. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, detect/configs/MALA/retinanet_b_1x.py.

Recipe: AdamW with learning rate 0.0004 and weight decay 0.0001, stochastic depth 0.4, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss scale
512).

torchrun --nproc_per_node=8 -m zoo train-det retinanet_mavit_b_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='mavit_b', drop_path_rate=0.4, out_norms=True),
    neck=dict(in_channels=[192, 384, 512]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(lr=0.0004, weight_decay=0.0001))
