"""UPerNet 160k, mavit_t. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/Uper_t_2x.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_mavit_t_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='mavit_t', drop_path_rate=0.1, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
