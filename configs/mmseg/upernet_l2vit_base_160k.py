"""UPerNet 160k, l2vit_base. Published: no figure in the repository.

Source: ChuanyangZheng/L2ViT @ fad0341, semantic_segmentation/configs/novel/upernet_l2vit_base_512x512_160k_ade20k.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01, stochastic depth 0.3, 8 x 2 images, 160000 iterations,
polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_l2vit_base_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='l2vit_base', drop_path_rate=0.3, out_norms=True),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
