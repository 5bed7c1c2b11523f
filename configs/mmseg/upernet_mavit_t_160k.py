"""UPerNet 160k, mavit_t. Published: no figure in the repository.

Source: qhfan/MALA @ 7114e63, segmentation/configs/MALA/Uper_t_2x.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.1, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, mixed
precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg upernet_mavit_t_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='mavit_t', drop_path_rate=0.1, out_norms=True),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
