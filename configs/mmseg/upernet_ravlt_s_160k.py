"""UPerNet 160k, ravlt_s. Published: 50.7 mIoU.

Source: qhfan/RALA @ a86314f, segmentation/configs/RALA/RALA_Uper_s_2x.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.15, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, mixed
precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg upernet_ravlt_s_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='ravlt_s', drop_path_rate=0.15, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
