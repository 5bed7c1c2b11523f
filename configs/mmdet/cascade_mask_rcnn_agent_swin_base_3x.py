"""Cascade Mask R-CNN 3x, agent_swin_base. Published: 52.6 box AP, 45.3 mask AP.

Source: LeapLabTHU/Agent-Attention @ 207ce3e,
downstream/detection/configs/agent_swin/agent_swin_b_crcnn_3x_9-12-14-7.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.05 (none for agent_bias, norm, query_bias, rel_pos),
stochastic depth 0.4, 8 x 2 images of random sizes, 36 epochs, divided by 10 after epochs 27 and 33, warm-up from
0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det cascade_mask_rcnn_agent_swin_base_3x data/coco
"""
_base_ = '_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(
        model='agent_swin_base', drop_path_rate=0.4, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(agents=(9, 12, 14, 7)))),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        key: dict(decay_mult=0.) for key in ('norm', 'rel_pos', 'agent_bias', 'query_bias')}))
