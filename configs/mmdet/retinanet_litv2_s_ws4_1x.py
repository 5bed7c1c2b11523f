"""RetinaNet 1x, litv2_s_ws4. Published: 43.7 box AP.

Source: ziplab/LITv2 @ 7501c86, detection/configs/litv2/retinanet_litv2_s_fpn_1x_coco_ws_4.py. Its rule for norms is
misspelled and has no effect: they decay.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_litv2_s_ws4_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        model='litv2_s', drop_path_rate=0.2, out_norms=True, model_kwargs=dict(window_sizes=(None, None, 4, 1))),
    neck=dict(in_channels=[192, 384, 768]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(weight_decay=0.0001))
