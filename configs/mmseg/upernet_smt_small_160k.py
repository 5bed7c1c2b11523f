"""UPerNet 160k, smt_small. Published: 49.2 mIoU, 50.2 at many scales.

Source: AFeng-x/SMT @ 11e954d, segmentation/configs/upernet_smt_512x512_160k_ade20k.py with upernet_smt_s.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01, stochastic depth 0.2, 8 x 2 images, 160000 iterations,
polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_smt_small_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='smt_small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
