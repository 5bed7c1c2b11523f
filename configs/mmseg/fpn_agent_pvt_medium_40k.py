"""Semantic FPN 40k, agent_pvt_medium. Published: 44.30 mIoU.

Source: LeapLabTHU/Agent-Attention @ 207ce3e, downstream/segmentation/configs/agent_pvt/fpn_agent_pvt_m_12-16-28-28.py.

Recipe: AdamW with learning rate 0.0002 and weight decay 0.0001, stochastic depth 0.2, 8 x 2 images, 40000 iterations,
polynomial decay of power 0.9 to 0, float32.

torchrun --nproc_per_node=8 -m zoo train-seg fpn_agent_pvt_medium_40k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/fpn_40k.py'
model = dict(
    backbone=dict(
        model='agent_pvt_medium', drop_path_rate=0.2, model_kwargs=dict(mixer_kwargs=dict(agents=(12, 16, 28, 28)))),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(optimizer=dict(lr=0.0002))
