"""UPerNet 160k, van_b0. Published: 41.1 mIoU at many scales.

Source: Visual-Attention-Network/VAN-Segmentation @ 8285fc7,
configs/upernet/1k_pretrained/upernet_van_b0_512x512_160k_ade20k.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.1, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_van_b0_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='van_b0', drop_path_rate=0.1),
    decode_head=dict(in_channels=[32, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160))
