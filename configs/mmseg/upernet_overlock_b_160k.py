"""UPerNet 160k, overlock_b. Published: 51.7 mIoU.

Source: LMMMEng/OverLoCK @ 2c8ab3b, segmentation/configs/overlock/upernet_overlock_base_ade20k_8xb2.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.5, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_overlock_b_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='overlock_b', drop_path_rate=0.5, out_norms=True),
    decode_head=dict(in_channels=[80, 160, 528, 720]),
    auxiliary_head=dict(in_channels=528))
