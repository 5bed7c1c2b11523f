"""RetinaNet 1x, ecanet_resnet50. Published: 37.3 box AP.

Source: BangguWu/ECANet @ b332f6b, README.md. The files of weights tell batch and learning rate; all else is mmdet's
own recipe for ResNet-50. There the gates have kernels of 3, 3, 7, 7, here those of the classifier.

Recipe: SGD with learning rate 0.01 and weight decay 0.0001, 8 x 1 image, 12 epochs, divided by 10 after epochs 8 and
11, warm-up from 0.001 of the rate in 500 iterations, float32.

torchrun --nproc_per_node=8 -m zoo train-det retinanet_ecanet_resnet50_1x data/coco
"""
_base_ = '_base_/retinanet_1x.py'
model = dict(
    backbone=dict(model='ecanet_resnet50', out_indices=(2, 3, 4), frozen_stages=1, norm_eval=True),
    neck=dict(in_channels=[512, 1024, 2048]))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
