"""UPerNet 160k, dinat_small. Published: 48.9 mIoU, 49.9 at many scales.

Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
segmentation/configs/dinat/upernet_dinat_small_512x512_160k_ade20k.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm, rpb), stochastic depth 0.5, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, mixed precision
(loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg upernet_dinat_small_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='dinat_small', drop_path_rate=0.5, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(dilation=((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2))))),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale=512.0,
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rpb')}))
