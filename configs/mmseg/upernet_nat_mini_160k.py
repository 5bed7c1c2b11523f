"""UPerNet 160k, nat_mini. Published: 45.1 mIoU, 46.4 at many scales.

Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
segmentation/configs/nat/upernet_nat_mini_512x512_160k_ade20k.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm, rpb), stochastic depth 0.2, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, mixed precision
(loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg upernet_nat_mini_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='nat_mini', drop_path_rate=0.2, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rpb')}))
