"""UPerNet 160k, flatten_swin_small. Published: 48.14 mIoU.

Source: arXiv 2308.00442; LeapLabTHU/FLatten-Transformer @ abdb115. The repository has no code for dense prediction; the
figures are those of tables 1 and 2 of the paper. The recipe is that of the same authors for Agent-Swin in
LeapLabTHU/Agent-Attention @ 207ce3e.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm, rel_pos), stochastic depth 0.3, 8 x 2
images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations,
float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_flatten_swin_small_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(model='flatten_swin_small', drop_path_rate=0.3, out_norms=True),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
