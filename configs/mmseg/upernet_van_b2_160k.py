"""UPerNet 160k, van_b2. Published: 50.1 mIoU at many scales.

Source: Visual-Attention-Network/VAN-Segmentation @ 8285fc7,
configs/upernet/1k_pretrained/upernet_van_b2_512x512_160k_ade20k.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_van_b2_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='van_b2', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
