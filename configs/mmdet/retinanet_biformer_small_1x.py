"""RetinaNet 1x, biformer_small. Published: 45.9 box AP.

Source: rayleizhu/BiFormer @ 1697bbb, object_detection/configs/coco/retinanet.1x.biformer_small.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.2, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss scale
512).

torchrun --nproc_per_node=8 -m zoo train-det retinanet_biformer_small_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        model='biformer_small', drop_path_rate=0.2, out_norms=True, norm_eval=True,
        model_kwargs=dict(mixer_kwargs=dict(n_win=16))),
    neck=dict(in_channels=[128, 256, 512]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(weight_decay=0.0001))
