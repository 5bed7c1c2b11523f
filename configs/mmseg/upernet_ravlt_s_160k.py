"""UPerNet 160k, ravlt_s. Published: 50.7 mIoU.

Source: qhfan/RALA @ a86314f, segmentation/configs/RALA/RALA_Uper_s_2x.py.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_ravlt_s_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='ravlt_s', drop_path_rate=0.15, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
