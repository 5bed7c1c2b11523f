"""UPerNet 160k, agent_swin_base. Published: 48.73 mIoU.

Source: LeapLabTHU/Agent-Attention @ 207ce3e,
downstream/segmentation/configs/agent_swin/upernet_agent_swin_b_9-12-14-7.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for agent_bias, norm, query_bias, rel_pos),
stochastic depth 0.5, 8 x 2 images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the
rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_agent_swin_base_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='agent_swin_base', drop_path_rate=0.5, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(agents=(9, 12, 14, 7)))),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        key: dict(decay_mult=0.) for key in ('norm', 'rel_pos', 'agent_bias', 'query_bias')}))
