"""UPerNet 160k, plainmamba_l3. Published: 49.1 mIoU.

Source: ChenhongyiYang/PlainMamba @ 0975a1d, downstream/mmsegmentation/plain_mamba_seg_configs/l3_upernet.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for .D, A_log, directions, norm, pos_embed),
stochastic depth 0.3, 8 x 2 images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate
in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_plainmamba_l3_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='plainmamba_l3', drop_path_rate=0.3, out_indices=(8, 17, 26, 35), out_norms=True),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448, in_index=3))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={
    key: dict(decay_mult=0.) for key in ('norm', 'pos_embed', 'A_log', '.D', 'directions')}))
