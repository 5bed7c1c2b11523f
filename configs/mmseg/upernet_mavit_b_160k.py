"""UPerNet 160k, mavit_b. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/Uper_b_2x.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_mavit_b_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='mavit_b', drop_path_rate=0.4, out_norms=True),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
