"""torchvision's detectors on a backbone of ours: losses, gradients and detections at odd sizes."""
import pytest
import torch
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet

import zoo.dense

KWARGS = dict(num_classes=4, min_size=96, max_size=160)
SIZES = (100, 131), (97, 70)


def build(kind, name, **backbone):
    if kind is RetinaNet:
        backbone['extra'] = 'p6p7'
    model = kind(zoo.dense.fpn(name, out_channels=32, **backbone), **KWARGS)
    return model.train()


def targets(masks):
    found = []
    for height, width in SIZES:
        target = dict(boxes=torch.tensor([[5., 6., 60., 50.], [20., 8., 64., 90.]]), labels=torch.tensor([1, 3]))
        if masks:
            target['masks'] = torch.zeros(2, height, width, dtype=torch.uint8)
            target['masks'][:, 10:40, 20:50] = 1
        found.append(target)
    return found


@pytest.mark.parametrize('kind, name, backbone', [
    (FasterRCNN, 'van_b0', dict(norm_eval=True)), (MaskRCNN, 'flatten_swin_tiny', dict(
        out_norms=True, model_kwargs=dict(depths=(1, 1, 1, 1), embed_dim=24))),
    (RetinaNet, 'flatten_pvt_v2_b0', dict(frozen_stages=1)), (RetinaNet, 'resnet18', {})])
def test_detectors_learn_and_detect(kind, name, backbone):
    model = build(kind, name, **backbone)
    images = [torch.rand(3, *size) for size in SIZES]
    losses = model(images, targets(kind is MaskRCNN))
    want = {'classification', 'bbox_regression'} if kind is RetinaNet else {
        'loss_classifier', 'loss_box_reg', 'loss_objectness', 'loss_rpn_box_reg',
        *(['loss_mask'] if kind is MaskRCNN else [])}
    assert set(losses) == want
    loss = sum(losses.values())
    assert loss.isfinite()
    loss.backward()
    learning = [p for p in model.backbone.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    assert any(p.grad.abs().sum() > 0 for p in learning[:5])
    with torch.no_grad():
        found = model.eval()(images)
    for (height, width), one in zip(SIZES, found):
        assert one['boxes'].shape == (len(one['scores']), 4)
        assert (one['boxes'] >= 0).all() and (one['boxes'] <= torch.tensor([width, height, width, height])).all()
        if kind is MaskRCNN:
            assert one['masks'].shape[1:] == (1, height, width)


@pytest.mark.parametrize('extra, strides', [('pool', (4, 8, 16, 32, 64)), ('p6p7', (8, 16, 32, 64, 128))])
@torch.no_grad()
def test_levels(extra, strides):
    model = zoo.dense.fpn('flatten_pvt_v2_b0', extra=extra, out_channels=16).eval()
    levels = model(torch.rand(1, 3, 256, 384))
    assert [tuple(y.shape) for y in levels.values()] == [(1, 16, 256 // s, 384 // s) for s in strides]


@pytest.mark.parametrize('kwargs, message', [
    (dict(name='agent_deit_tiny'), 'agent_deit_tiny gives maps of strides 16, 16, 16, 16: .* strides that double'),
    (dict(name='van_b0', extra='p7'), "extra 'p7': use one of pool, p6p7"),
    (dict(name='van_b9'), "unknown model 'van_b9'; did you mean van_b"),
    (dict(name='van_b9', extra='p6p7'), "unknown model 'van_b9'"),
])
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        zoo.dense.fpn(**kwargs)
