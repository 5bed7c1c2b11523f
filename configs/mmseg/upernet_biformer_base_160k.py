"""UPerNet 160k, biformer_base. Published: 51.0 mIoU, 51.7 at many scales.

Source: rayleizhu/BiFormer @ 1697bbb, semantic_segmentation/configs/ade20k/upernet.biformer_base.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_biformer_base_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='biformer_base', drop_path_rate=0.4, out_norms=True, model_kwargs=dict(mixer_kwargs=dict(n_win=8))),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
