"""UPerNet 160k, qformer_tiny. Published: 46.9 mIoU, 48.1 at many scales.

Source: ViTAE-Transformer/QFormer @ 8aabe08, README.md. The configurations are announced there, but not released: the
recipe is that of Swin (SwinTransformer/Swin-Transformer-Semantic-Segmentation,
upernet_swin_tiny_patch4_window7_512x512_160k_ade20k.py), with a coords_lambda as for detection.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm, rel_pos), stochastic depth 0.3, 8 x 2
images, 160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_qformer_tiny_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='qformer_tiny', drop_path_rate=0.3, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(coords_lambda=1e-05))),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rel_pos')}))
