"""RetinaNet 1x, agent_pvt_large. Published: 46.8 box AP.

Source: LeapLabTHU/Agent-Attention @ 207ce3e, downstream/detection/configs/agent_pvt/agent_pvt_l_rtn_1x_12-16-28-28.py.

Recipe: AdamW with learning rate 0.0001 and weight decay 0.0001, stochastic depth 0.3, 8 x 2 images, 12 epochs,
divided by 10 after epochs 8 and 11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_agent_pvt_large_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        model='agent_pvt_large', drop_path_rate=0.3, model_kwargs=dict(mixer_kwargs=dict(agents=(12, 16, 28, 28)))),
    neck=dict(in_channels=[128, 320, 512]))
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
