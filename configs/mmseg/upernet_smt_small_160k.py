"""UPerNet 160k, smt_small. Published: 49.2 mIoU, 50.2 at many scales.

Source: AFeng-x/SMT @ 11e954d, segmentation/configs/upernet_smt_512x512_160k_ade20k.py with upernet_smt_s.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_smt_small_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='smt_small', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
