"""Configs of mmdet and mmsegmentation: all parse, say what the authors' say, build, and take a step."""
import ast
import copy
import functools
import math
import re

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import mmdet.registry
import mmseg.registry
import numpy as np
import timm
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from tests.models import families
from zoo.registry import FAMILIES
from zoo.train.options import config_path

register_all_modules(init_default_scope=False)
FILES = {
    path.stem: path for kind, one in (('mmdet', 'mask_rcnn_ravlt_t_1x'), ('mmseg', 'fpn_ravlt_t_80k'))
    for path in sorted(config_path(one, kind).parent.glob('[!_]*.py'))}
RECIPES = [name for name in FILES if not name.startswith('shapes_')]  # those are the recipes of the generated data


@functools.cache
def config(name):
    return Config.fromfile(FILES[name])


def backbone(name):
    return config(name).model.backbone


def test_every_family_has_a_config_or_a_reason():
    modules = {v.name: family.module.split('.')[-1] for family in FAMILIES for v in family.variants}
    covered = {modules[model] for name in FILES if (model := backbone(name).model.split('.')[0]) in modules}
    without = {name for name in families.NAMES if 'no_dense_config' in families.load(name)}
    assert set(modules.values()) - covered == without


@pytest.mark.parametrize('name', FILES)
def test_parses_and_says_how_to_run_it(name):
    cfg, text = config(name), FILES[name].read_text()
    doc = ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 35
    command = 'train-det' if cfg.default_scope == 'mmdet' else 'train-seg'
    assert f'-m zoo {command} {name} {cfg.data_root.rstrip("/")}' in doc
    assert cfg.model.backbone.type == 'ZooBackbone' and timm.is_model(backbone(name).model)
    assert backbone(name).model.partition('.')[0] in name and 'zoo.dense.mm' in cfg.custom_imports.imports
    assert cfg.val_dataloader == cfg.test_dataloader and cfg.val_evaluator == cfg.test_evaluator


def test_a_run_saves_what_it_was_given():
    cfg = config('cascade_mask_rcnn_agent_swin_tiny_3x')  # the one with the most in it
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('name', RECIPES)
def test_does_what_its_header_says_of_the_published_recipe(name):
    doc = ast.get_docstring(ast.parse(FILES[name].read_text()))
    assert re.search(r'\. Published: (no figure in the repository|.*\d box AP.*|.*\d mIoU.*)\.$', doc.splitlines()[0])
    assert re.search(r' @ [0-9a-f]{7}\b', doc) and '--nproc_per_node=8 ' in doc
    [told] = re.findall(r'^Recipe: (.+?)\.$', doc, re.M | re.S)
    assert told.replace('\n', ' ') == ', '.join(recipe(config(name)))
    assert backbone(name).pretrained is True


def recipe(cfg):
    """What a config does, in the words of the headers."""
    wrapper, batch = cfg.optim_wrapper, cfg.train_dataloader.batch_size
    rules = wrapper.get('paramwise_cfg') or {}
    keys = rules.get('custom_keys', {})
    *warmup, decay = cfg.param_scheduler
    length = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    words = {
        'MultiStepLR': lambda: 'divided by 10 after epochs ' + ' and '.join(map(str, decay.milestones)),
        'PolyLR': lambda: f'polynomial decay of power {decay.power:g} to {decay.eta_min:g}',
        'CosineAnnealingLR': lambda: 'cosine decay to ' + (
            f'{decay.eta_min_ratio:g} of the rate' if decay.eta_min_ratio else '0')}
    assert (decay.begin, decay.end, decay.by_epoch, decay.get('gamma', 0.1)) == (0, length, length < 100, 0.1)
    assert cfg.auto_scale_lr.base_batch_size == 8 * batch
    without = sorted(keys) + ['norm layers'] * (rules.get('norm_decay_mult') == 0)
    assert all(rule['decay_mult'] == 0 for rule in keys.values())
    yield f'{wrapper.optimizer.type} with learning rate {wrapper.optimizer.lr:g} and weight decay ' + (
        f'{wrapper.optimizer.weight_decay:g}' + (f' (none for {", ".join(without)})' if without else ''))
    if 'drop_path_rate' in cfg.model.backbone:
        yield f'stochastic depth {cfg.model.backbone.drop_path_rate:g}'
    yield f'8 x {batch} image' + 's' * (batch > 1) + (
        ' of random sizes' if 'RandomChoiceResize' in str(cfg.train_dataloader.dataset.pipeline) else '')
    yield f'{length} ' + ('epochs' if length < 100 else 'iterations')
    yield words[decay.type]()
    for linear in warmup:
        assert (linear.type, linear.begin, linear.by_epoch) == ('LinearLR', 0, False)
        yield f'warm-up from {linear.start_factor:g} of the rate in {linear.end} iterations'
    if wrapper.type == 'OptimWrapper':
        yield 'float32'
    else:
        scale = wrapper.loss_scale
        yield f'mixed precision (loss scale {scale if isinstance(scale, str) else f"{scale:g}"})'


def test_learning_rates_are_those_of_the_old_runner():
    """The warm-up multiplies what the schedule gives, as mmcv 1 did it for the authors."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=6e-5)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in config('upernet_ravlt_s_160k').param_scheduler]
    found = {}
    for step in range(3001):
        found[step] = optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    for step in (0, 1, 750, 1499, 1500, 3000):
        warmup = min(1., 1e-6 + (1 - 1e-6) * step / 1499)  # mmengine reaches the top a step earlier than mmcv
        assert math.isclose(found[step], 6e-5 * (1 - step / 160000) * warmup, rel_tol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize('name', FILES)
def test_builds_and_takes_a_step(name, monkeypatch):
    cfg = copy.deepcopy(config(name))
    cfg.model.backbone.pretrained = False
    detects = cfg.default_scope == 'mmdet'
    regions = cfg.model.get('train_cfg', {}).get('rcnn', [])
    for stage in regions if isinstance(regions, list) else [regions]:
        stage.sampler.num = 16  # of 512: the heads would take half a minute
    if not detects:
        cfg.model.data_preprocessor.size = (64, 96)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm((mmdet if detects else mmseg).registry.MODELS.build(cfg.model))
    model.init_weights()
    head = cfg.model.get('neck') or cfg.model.decode_head
    assert list(head.in_channels) == list(model.backbone.channels)
    assert model.backbone.strides == [8, 16, 32] if cfg.model.type == 'RetinaNet' else [4, 8, 16, 32]
    wrapper = cfg.optim_wrapper
    wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    wrapper.pop('loss_scale', None)
    optimizer = build_optim_wrapper(model, wrapper)
    monkeypatch.setattr(optimizer, 'zero_grad', lambda: None)  # the gradients are looked at below
    before = [p.detach().clone() for p in model.parameters()]
    losses = model.train().train_step(_batch(detects), optimizer)
    assert all(math.isfinite(float(value.detach())) for value in losses.values())
    learning = [(key, p) for key, p in model.backbone.named_parameters() if p.requires_grad]
    assert [key for key, p in learning if p.grad is None] == []  # what distributed training would stop at
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters())]
    assert sum(moved) > 0.5 * len(moved)


def _batch(detects):
    """Two images of 64 x 96 pixels with a box and a mask, or two classes, as a data loader hands them out."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=generator) for _ in range(2)]
    samples = []
    for _ in images:
        meta = dict(img_shape=(64, 96), ori_shape=(64, 96), pad_shape=(64, 96), scale_factor=(1., 1.))
        if detects:
            mask = np.zeros((1, 64, 96), dtype=np.uint8)
            mask[:, 10:50, 20:70] = 1
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor([[20., 10., 70., 50.]]), labels=torch.tensor([1]), masks=BitmapMasks(mask, 64, 96))
        else:
            labels = torch.zeros(1, 64, 96, dtype=torch.long)
            labels[:, 10:50, 20:70] = 1
            sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)
