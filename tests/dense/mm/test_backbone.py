"""``ZooBackbone`` in mmdet and mmsegmentation: registry, initialisation, freezing, sizes, padding, precision."""
import copy
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import mmdet
import numpy as np
import timm
import torch
from mmdet.registry import MODELS as DETECTORS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.utils import register_all_modules as register_mmseg

from tests.dense.mm import runs
from tests.models.weights import scatter
from zoo.dense import mm

for register in (register_mmdet, register_mmseg):
    register(init_default_scope=False)
SHALLOW = dict(depths=(1, 1, 1, 1))


def detector(kind, name='flatten_pvt_v2_b0', **backbone):
    return built(DETECTORS, runs.model_config(kind, name, **backbone))


def built(registry, cfg):
    """As a runner builds it: names that a part asks for are looked up in the package's scope."""
    with DefaultScope.overwrite_default_scope(registry.scope):
        return registry.build(cfg)


def batch(*sizes, masks=False):
    """Images of these sizes as a data loader hands them to a detector, with a box each."""
    inputs, samples = [], []
    for height, width in sizes:
        inputs.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        truth = InstanceData(bboxes=torch.tensor([[4., 5., 60., 50.]]), labels=torch.tensor([1]))
        if masks:
            bitmap = np.zeros((1, height, width), np.uint8)
            bitmap[:, 5:50, 4:60] = 1
            truth.masks = BitmapMasks(bitmap, height, width)
        sample = DetDataSample(metainfo=dict(
            img_shape=(height, width), ori_shape=(height, width), scale_factor=(1., 1.), img_id=0))
        sample.gt_instances = truth
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def total(losses):
    return sum(v if torch.is_tensor(v) else sum(v) for k, v in losses.items() if 'loss' in k)


def test_registered_for_both():
    for registry in (MODELS, DETECTORS, SEGMENTORS):
        assert type(registry.build(dict(type='ZooBackbone', model='van_b0', out_indices=(2, 3)))) is mm.ZooBackbone


# --- initialisation: a timm model under a BaseModule loses all its weights, silently


class Plain(BaseModule):
    """What one writes first."""

    def __init__(self, net):
        super().__init__()
        self.net = net


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'flatten_pvt_v2_b0', 'resnet18'])
@pytest.mark.parametrize('way', ['pretrained', 'init_cfg'])
def test_loaded_weights_survive_init_weights(name, way, tmp_path):
    source = scatter(timm.create_model(name, num_classes=0))
    path = str(tmp_path / 'weights.pth')
    torch.save(source.state_dict(), path)
    given = dict(pretrained=path) if way == 'pretrained' else dict(init_cfg=dict(type='Pretrained', checkpoint=path))
    model = Plain(MODELS.build(dict(type='ZooBackbone', model=name, **given)))
    model.init_weights()
    state = {k.replace('.', '_'): v for k, v in source.state_dict().items()}
    loaded = {k.removeprefix('net.net.').removeprefix('model.').replace('.', '_'): v
              for k, v in model.state_dict().items()}
    assert loaded and all(torch.equal(v, state[k]) for k, v in loaded.items())
    model.init_weights()  # once more, as runners do after a resume
    assert all(torch.equal(v, loaded[k.removeprefix('net.net.').removeprefix('model.').replace('.', '_')])
               for k, v in model.state_dict().items())


def test_the_trap_is_still_there():
    """Where this fails, mmengine leaves timm's models alone, and so may we."""
    model = Plain(timm.create_model('vit_tiny_patch16_224', num_classes=0))
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert 'net.blocks.0.attn.qkv.weight' in changed


def test_the_weights_of_a_detector_with_random_backbone_are_the_papers():
    """init_weights leaves the initialisation of the model; neck and head get mmdet's."""
    model = detector('retinanet')
    before = copy.deepcopy(model.backbone.state_dict())
    neck = model.neck.lateral_convs[0].conv.weight.clone()
    model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert not torch.equal(model.neck.lateral_convs[0].conv.weight, neck)


@pytest.mark.parametrize('init_cfg', [
    dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='a.pth', revise_keys=[])])
def test_other_initialisations_are_refused(init_cfg):
    with pytest.raises(ValueError, match=r"use dict\(type='Pretrained', checkpoint=FILE\)"):
        MODELS.build(dict(type='ZooBackbone', model='van_b0', init_cfg=init_cfg))


def test_a_part_of_a_file_by_its_prefix_as_in_configs_of_mm(tmp_path):
    source, other = (scatter(timm.create_model('van_b0', depths=(1, 1, 1, 1))).state_dict() for _ in range(2))
    path = str(tmp_path / 'detector.pth')
    torch.save(dict(meta={}, state_dict={
        **{f'backbone.{key}': value for key, value in other.items()}, 'neck.a': torch.zeros(1),
        **{f'teacher.backbone.{key}': value for key, value in source.items()}}), path)
    for prefix, weights in (('backbone.', other), ('backbone', other), ('teacher.backbone', source)):
        model = MODELS.build(dict(
            type='ZooBackbone', model='van_b0', model_kwargs=dict(depths=(1, 1, 1, 1)),
            init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix, map_location='cpu')))
        model.init_weights()
        state = model.state_dict()
        assert state and all(torch.equal(value, weights[key.removeprefix('net.model.')])
                             for key, value in state.items())
    with pytest.raises(ValueError, match=r"detector\.pth: no name begins with the prefix 'student', they begin with "
                                         'backbone, neck, teacher'):
        model.load(path, 'student')


def test_weights_of_another_model_are_refused(tmp_path):
    path = str(tmp_path / 'other.pth')
    torch.save(timm.create_model('smt_tiny').state_dict(), path)
    model = MODELS.build(dict(type='ZooBackbone', model='van_b0', init_cfg=dict(type='Pretrained', checkpoint=path)))
    with pytest.raises(ValueError, match=r'other\.pth: .*does not fit van_b0: .*is missing') as caught:
        model.init_weights()
    assert '\n' not in str(caught.value)


# --- freezing


def test_frozen_stages_of_a_detector_are_frozen():
    """A training step moves neither their parameters nor their statistics, in a loop that calls train() again."""
    model = detector('retinanet', 'van_b0', frozen_stages=1)
    model.eval()
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    data = model.data_preprocessor(batch((64, 96), (64, 96)), training=True)
    total(model(**data, mode='loss')).backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {k for k in before if k.startswith(('backbone.net.model.stem.', 'backbone.net.model.stages.0.'))}
    assert frozen and not moved & frozen
    assert {k.split('.')[4] for k in moved if k.startswith('backbone.net.model.stages.')} == {'1', '2', '3'}
    assert any(k.startswith('backbone.net.model.stages.1.') and 'running_mean' in k for k in moved)


def test_norm_eval_of_a_detector():
    model = detector('retinanet', 'van_b0', norm_eval=True).train()
    before = copy.deepcopy(model.backbone.state_dict())
    data = model.data_preprocessor(batch((64, 96)), training=True)
    total(model(**data, mode='loss')).backward()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is not None for p in model.backbone.parameters())


# --- sizes, padding, precision


@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
@pytest.mark.parametrize('divisor', [1, 32])
def test_batches_of_odd_sizes_are_padded(kind, divisor):
    """100 x 131 beside 64 x 97: losses, gradients, and boxes inside each image's own frame."""
    model = detector(kind, model_kwargs=SHALLOW)
    model.data_preprocessor.pad_size_divisor = divisor
    data = model.data_preprocessor(batch((100, 131), (64, 97), masks=kind == 'mask_rcnn'), training=True)
    padded = (100, 131) if divisor == 1 else (128, 160)
    assert data['inputs'].shape == (2, 3, *padded)
    assert [tuple(s.batch_input_shape) for s in data['data_samples']] == [padded] * 2
    loss = total(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    with torch.no_grad():
        for sample, (height, width) in zip(model.eval()(**data, mode='predict'), ((100, 131), (64, 97))):
            boxes = sample.pred_instances.bboxes
            assert len(boxes) and (boxes >= 0).all() and (boxes <= torch.tensor([width, height, width, height])).all()
            if kind == 'mask_rcnn':
                assert sample.pred_instances.masks.shape[1:] == (height, width)


@torch.no_grad()
def test_images_of_800_by_1333():
    model = detector('retinanet', model_kwargs=SHALLOW).eval()
    model.data_preprocessor.pad_size_divisor = 1
    data = model.data_preprocessor(batch((800, 1333)))
    maps = model.extract_feat(data['inputs'])
    assert [tuple(y.shape[2:]) for y in maps] == [(100, 167), (50, 84), (25, 42), (13, 21), (7, 11)]
    boxes = model(**data, mode='predict')[0].pred_instances.bboxes
    assert len(boxes) == 100 and boxes.isfinite().all()


def test_masks_of_padding_reach_a_transformer():
    """DETR on our backbone leaves padded tokens out: what lies in the padding changes nothing of its outputs."""
    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs/detr/detr_r50_8xb2-150e_coco.py').model
    cfg.backbone = dict(type='ZooBackbone', model='van_b0', out_indices=(3,))
    cfg.neck.in_channels = [256]
    cfg.num_queries = 5
    cfg.encoder.num_layers = cfg.decoder.num_layers = 1
    model = built(DETECTORS, cfg).eval()
    data = model.data_preprocessor(batch((100, 131), (64, 97)), training=True)
    memory = model.extract_feat(data['inputs'])
    inputs, _ = model.pre_transformer(memory, data['data_samples'])
    mask = inputs['feat_mask'].reshape(2, *memory[0].shape[2:])
    assert mask.shape == (2, 4, 5)
    assert not mask[0].any() and mask[1, :, 4].all() and mask[1, 3].all() and not mask[1, :2, :3].any()
    losses = model.train()(**data, mode='loss')
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())


@pytest.mark.parametrize('kind', ['retinanet', 'mask_rcnn'])
def test_bfloat16_autocast(kind):
    """Losses near those of float32, and finite gradients in float32."""
    torch.manual_seed(0)
    model = detector(kind, norm_eval=True, model_kwargs=SHALLOW)
    model.init_weights()
    data = model.data_preprocessor(batch((96, 128), (64, 97), masks=kind == 'mask_rcnn'), training=True)
    want = model(**copy.deepcopy(data), mode='loss')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert model.backbone(data['inputs'])[-1].dtype in (torch.bfloat16, torch.float32)
        losses = model(**data, mode='loss')
        loss = total(losses)
    loss.backward()
    key = 'loss_cls' if kind == 'retinanet' else 'loss_rpn_cls'
    torch.testing.assert_close(total({key: losses[key]}).float(), total({key: want[key]}), rtol=0.05, atol=0.01)
    for p in model.parameters():
        assert p.grad is None or p.grad.dtype == torch.float32 and p.grad.isfinite().all()
    assert all(p.grad is not None for p in model.backbone.parameters())


# --- mmsegmentation


def test_a_segmentor_takes_an_odd_size():
    cfg = runs.model_config('upernet', 'flatten_pvt_v2_b0', model_kwargs=SHALLOW)
    cfg.decode_head.norm_cfg = cfg.auxiliary_head.norm_cfg = dict(type='BN')
    model = built(SEGMENTORS, cfg).eval()
    with torch.no_grad():
        assert model.encode_decode(torch.randn(1, 3, 100, 131), [dict(img_shape=(100, 131))]).shape == (1, 4, 100, 131)
