"""UPerNet 160k, plainmamba_l1. Published: 44.1 mIoU.

Source: ChenhongyiYang/PlainMamba @ 0975a1d, downstream/mmsegmentation/plain_mamba_seg_configs/l1_upernet.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for .D, A_log, directions, norm, pos_embed),
stochastic depth 0.1, 8 x 2 images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate
in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_plainmamba_l1_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='plainmamba_l1', drop_path_rate=0.1, out_indices=(5, 11, 17, 23), out_norms=True),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192, in_index=3))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={
    key: dict(decay_mult=0.) for key in ('norm', 'pos_embed', 'A_log', '.D', 'directions')}))
