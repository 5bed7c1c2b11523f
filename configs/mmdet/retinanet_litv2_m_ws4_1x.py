"""RetinaNet 1x, litv2_m_ws4. Published: 45.8 box AP.

Source: ziplab/LITv2 @ 7501c86, detection/configs/litv2/retinanet_litv2_m_fpn_1x_coco_ws_4.py. Its rule for norms is
misspelled and has no effect: they decay.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.2, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, mixed precision (loss scale
dynamic).

torchrun --nproc_per_node=8 -m zoo train-det retinanet_litv2_m_ws4_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        model='litv2_m', drop_path_rate=0.2, out_norms=True, model_kwargs=dict(window_sizes=(None, None, 4, 1))),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(weight_decay=0.0001))
