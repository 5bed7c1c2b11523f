"""UPerNet 160k, biformer_small. Published: 49.8 mIoU, 50.8 at many scales.

Source: rayleizhu/BiFormer @ 1697bbb, semantic_segmentation/configs/ade20k/upernet.biformer_small.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm), stochastic depth 0.3, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, mixed
precision (loss scale 512).

torchrun --nproc_per_node=8 -m zoo train-seg upernet_biformer_small_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='biformer_small', drop_path_rate=0.3, out_norms=True, model_kwargs=dict(mixer_kwargs=dict(n_win=8))),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
