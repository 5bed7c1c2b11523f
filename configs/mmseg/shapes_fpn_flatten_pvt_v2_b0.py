"""Semantic FPN on synthetic shapes with the smallest FLatten model, from random weights: for a CPU, minutes.

python -m zoo shapes data/shapes --train 200 --val 50
python -m zoo train-seg shapes_fpn_flatten_pvt_v2_b0 data/shapes
"""
_base_ = ['_base_/fpn.py', '_base_/shapes.py', '_base_/schedule_40k.py', '_base_/runtime.py']
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(model='flatten_pvt_v2_b0', pretrained=False, drop_path_rate=0.),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, num_classes=4))
optim_wrapper = dict(optimizer=dict(lr=0.001, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., begin=0, end=600, by_epoch=False)]
train_cfg = dict(max_iters=600, val_interval=200)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=200))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
