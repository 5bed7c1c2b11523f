"""RetinaNet 1x, mavit_s. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, detect/configs/MALA/retinanet_s_1x.py.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_mavit_s_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='mavit_s', drop_path_rate=0.15, out_norms=True),
    neck=dict(in_channels=[128, 320, 512]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(lr=0.0004, weight_decay=0.0001))
