"""UPerNet 160k, overlock_t. Published: 50.3 mIoU.

Source: LMMMEng/OverLoCK @ 2c8ab3b, segmentation/configs/overlock/upernet_overlock_tiny_ade20k_8xb2.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.2, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_overlock_t_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='overlock_t', drop_path_rate=0.2, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 384, 640]),
    auxiliary_head=dict(in_channels=384))
