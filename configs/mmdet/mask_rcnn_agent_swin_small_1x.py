"""Mask R-CNN 1x, agent_swin_small. Published: 47.2 box AP, 42.7 mask AP.

Source: LeapLabTHU/Agent-Attention @ 207ce3e,
downstream/detection/configs/agent_swin/agent_swin_s_mrcnn_1x_9-12-14-7.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for agent_bias, norm, query_bias, rel_pos),
stochastic depth 0.1, 8 x 2 images of random sizes, 12 epochs, divided by 10 after epochs 8 and 11, warm-up from 0.001
of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det mask_rcnn_agent_swin_small_1x data/coco
"""
_base_ = '_base_/mask_rcnn_1x_ms.py'
model = dict(
    backbone=dict(
        model='agent_swin_small', drop_path_rate=0.1, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(agents=(9, 12, 14, 7)))),
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        key: dict(decay_mult=0.) for key in ('norm', 'rel_pos', 'agent_bias', 'query_bias')}))
