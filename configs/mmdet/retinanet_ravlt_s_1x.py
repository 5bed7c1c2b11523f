"""RetinaNet 1x, ravlt_s. Published: 48.3 box AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/retinanet_s_1x.py.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_ravlt_s_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='ravlt_s', drop_path_rate=0.15, out_norms=True),
    neck=dict(in_channels=[128, 320, 512]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(weight_decay=0.0001))
