"""Mask R-CNN on synthetic shapes with the smallest FLatten model, from random weights: for a CPU, tens of minutes.

python -m zoo shapes data/shapes --train 200 --val 50
python -m zoo train-det shapes_mask_rcnn_flatten_pvt_v2_b0 data/shapes
"""
_base_ = ['_base_/mask_rcnn.py', '_base_/shapes.py', '_base_/schedule_1x.py', '_base_/runtime.py']
model = dict(
    backbone=dict(model='flatten_pvt_v2_b0', pretrained=False, drop_path_rate=0.),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        mask_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes=3)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=400, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=100), rcnn=dict(max_per_img=20)))
optim_wrapper = dict(optimizer=dict(lr=0.0005))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., begin=0, end=40, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=40, val_interval=5)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
