"""UPerNet 160k, agent_swin_tiny. Published: 46.68 mIoU.

Source: LeapLabTHU/Agent-Attention @ 207ce3e,
downstream/segmentation/configs/agent_swin/upernet_agent_swin_t_9-12-14-7.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for agent_bias, norm, query_bias, rel_pos),
stochastic depth 0.3, 8 x 2 images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the
rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_agent_swin_tiny_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='agent_swin_tiny', drop_path_rate=0.3, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(agents=(9, 12, 14, 7)))),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        key: dict(decay_mult=0.) for key in ('norm', 'rel_pos', 'agent_bias', 'query_bias')}))
