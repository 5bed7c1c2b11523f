"""UPerNet 160k, dinat_large_in22k. Published: 54.0 mIoU, 54.9 at many scales.

Source: SHI-Labs/Neighborhood-Attention-Transformer @ d334f5b,
segmentation/configs/dinat/upernet_dinat_large_640x640_160k_ade20k.py.

Recipe: AdamW with learning rate 6e-05 and weight decay 0.01 (none for norm, rpb), stochastic depth 0.3, 8 x 2 images,
160000 iterations, polynomial decay of power 1 to 0, warm-up from 1e-06 of the rate in 1500 iterations, float32.

Despite its name, the authors' config has crops of 512 x 512 pixels.

torchrun --nproc_per_node=8 -m zoo train-seg upernet_dinat_large_in22k_160k data/ade/ADEChallengeData2016
"""
_base_ = '_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        model='dinat_large.in22k', drop_path_rate=0.3, out_norms=True,
        model_kwargs=dict(mixer_kwargs=dict(dilation=(
            (1, 20), (1, 5, 1, 10), (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5), (1, 2))))),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={key: dict(decay_mult=0.) for key in ('norm', 'rpb')}))
