"""RetinaNet 1x, ravlt_l. Published: 50.9 box AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/retinanet_l_1x.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.55, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss scale
512).

torchrun --nproc_per_node=8 -m zoo train-det retinanet_ravlt_l_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='ravlt_l', drop_path_rate=0.55, out_norms=True),
    neck=dict(in_channels=[192, 448, 640]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(weight_decay=0.0001))
