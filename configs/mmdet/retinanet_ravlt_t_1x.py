"""RetinaNet 1x, ravlt_t. Published: 45.9 box AP.

Source: qhfan/RALA @ a86314f, detection/configs/RALA/retinanet_t_1x.py.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_ravlt_t_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='ravlt_t', drop_path_rate=0.1, out_norms=True),
    neck=dict(in_channels=[128, 256, 512]))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0, optimizer=dict(weight_decay=0.0001))
