"""UPerNet 160k, van_b4. Published: 52.2 mIoU at many scales.

Source: Visual-Attention-Network/VAN-Segmentation @ 8285fc7,
configs/upernet/1k_pretrained/upernet_van_b4_512x512_160k_ade20k.py.
It starts from weights of ImageNet-1k, which were not released.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_van_b4_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='van_b4', drop_path_rate=0.4),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
