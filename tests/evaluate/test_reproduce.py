"""validate --against published: official weights by name, each at its own size and crop, beside published figures.

A stand-in for ImageNet: six pictures, whose classes are chosen so that the accuracy of weights that were filled by a
rule is known.
"""
import csv
import dataclasses
import json
import time
import urllib.request
from types import SimpleNamespace

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from tests import goldens
from tests.weights.host import File, lead_to, serving
from zoo.evaluate import accuracy, reproduce, validate
from zoo.train import build
from zoo.weights.sources import load, source

NAME = 'flatten_pvt_v2_b0.in1k'
SQUASHED = dict(input_size=(3, 224, 224), crop_pct=0.875, crop_mode='squash', interpolation='bicubic')


@pytest.fixture(scope='module')
def state():
    return goldens.reference_state(goldens.load('flatten_pvt_v2_b0@224'), torch.float32)


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory, state):
    """Folder and class map; six pictures, four of them of the class that comes first, one of the second; and the
    mean loss with the given preprocessing."""
    root = tmp_path_factory.mktemp('imagenet')
    pixels = np.random.default_rng(0).integers(0, 255, (6, 6, 20, 3)).astype(np.uint8)
    images = [Image.fromarray(p).resize((400, 300), Image.NEAREST) for p in pixels]
    torch.save(state, root / 'weights.pth')
    model = timm.create_model(
        NAME, pretrained=True, pretrained_cfg_overlay=dict(file=str(root / 'weights.pth'))).eval()

    def logits(**changes):
        transform = create_transform(**{**SQUASHED, **changes})
        with torch.no_grad():
            return torch.stack([model(transform(image)[None])[0] for image in images])

    places = logits().topk(7).indices.tolist()
    labels = [ranks[k] for ranks, k in zip(places, (0, 0, 0, 0, 1, 6))]  # top-1 4/6, top-5 5/6
    names = [f'c{i:04d}' for i in range(1000)]
    for i, (image, label) in enumerate(zip(images, labels)):
        (root / 'val' / names[label]).mkdir(parents=True, exist_ok=True)
        image.save(root / 'val' / names[label] / f'{i}.png')
    (root / 'map.txt').write_text('\n'.join(names))

    def loss(**changes):
        return torch.nn.functional.cross_entropy(logits(**changes), torch.tensor(labels)).item()

    return SimpleNamespace(root=root, loss=loss, classes=len(set(labels)), words=(
        '--data-dir', root, '--class-map', root / 'map.txt', '-b', '4', '-j', '0', '--device', 'cpu'))


@pytest.fixture
def host(monkeypatch, tmp_path, state):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(urllib.request, '_opener', None)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setenv('ZOO_CACHE', str(tmp_path / 'cache'))
    torch.save({'model': state}, tmp_path / 'official.pth')
    with serving() as host:
        lead_to(host.address)
        host.files[source(NAME).location.replace('https:/', '')] = File((tmp_path / 'official.pth').read_bytes())
        yield host


def test_measured_beside_published(zoo, imagenet, host, tmp_path):
    """One has its weights on the server, one not any more, the others none at all."""
    result = zoo('validate', '--against', 'published', 'flatten_pvt_*', *imagenet.words, '--json',
                 '--results-file', tmp_path / 'all.csv')
    assert result.code == 1  # for the one that failed
    found = json.loads(result.out)
    row, = found['results']
    assert {key: row[key] for key in ('model', 'img_size', 'crop_pct', 'crop_mode', 'interpolation', 'count')} == dict(
        model=NAME, img_size=224, crop_pct=0.875, crop_mode='squash', interpolation='bicubic', count=6)
    assert row['top1'] == pytest.approx(400 / 6, abs=1e-4) and row['top5'] == pytest.approx(500 / 6, abs=1e-4)
    assert row['published'] == source(NAME).top1 == 71.1
    assert row['difference'] == pytest.approx(400 / 6 - 71.1, abs=1e-4)
    assert row['loss'] == pytest.approx(imagenet.loss(), abs=1e-4)
    assert abs(row['loss'] - imagenet.loss(crop_mode='center')) > 1e-3  # which would tell
    assert list(found['failed']) == ['flatten_pvt_tiny.in1k']
    assert 'cloud.tsinghua.edu.cn' in found['failed']['flatten_pvt_tiny.in1k'] and 'is gone' in found[
        'failed']['flatten_pvt_tiny.in1k']
    others = {name for name in load() if name.startswith('flatten_pvt_')} - {NAME, 'flatten_pvt_tiny.in1k'}
    assert set(found['skipped']) == others and len(others) == 8
    assert found['skipped']['flatten_pvt_small.in1k'] == 'no weights to download (not released)'
    with open(tmp_path / 'all.csv') as file:
        written, = csv.DictReader(file)
    assert list(written) == list(row) and float(written['difference']) == row['difference']
    assert list(written)[:5] == ['model', 'top1', 'top1_err', 'top5', 'top5_err']  # timm's
    for line in ('66.67       71.1       -4.43', 'flatten_pvt_v2_b0.in1k   224  0.875 squash',
                 'skipped: flatten_pvt_small.in1k: no weights to download (not released)',
                 'failed: flatten_pvt_tiny.in1k: ', 'note: 6 images, not the 50000 of ImageNet-1k',
                 '1 measured, 8 skipped, 1 failed'):
        assert line in result.err, result.err


def test_from_the_cache_by_tag_as_a_table(zoo, imagenet, host):
    timm.create_model(NAME, pretrained=True)
    host.shutdown()
    result = zoo('validate', *imagenet.words, '--against', 'published', '--model', NAME)
    lines = result.out.splitlines()
    assert result.code == 0, result.err
    assert lines[-4:] == [
        'model                   size          crop  top-1  published  difference',
        f'{NAME}   224  0.875 squash  66.67       71.1       -4.43',
        'note: 6 images, not the 50000 of ImageNet-1k: the published accuracies are of those',
        '1 measured, 0 skipped, 0 failed']


def test_every_row_is_measured_at_its_own_size(zoo, imagenet, monkeypatch):
    """Without running the models: what the shared run is given, for rows of every kind of crop, size and mean."""
    asked = []

    def note(args, ctx, content, own):
        model = SimpleNamespace(pretrained_cfg=timm.get_pretrained_cfg(args.model).to_dict())
        config = build.data_config_of(args, model, test_size=not args.use_train_size)
        asked.append(args.model)
        row = source(args.model)
        assert args.pretrained and content is None and not own
        assert config == dict(input_size=(3, *row.size), crop_pct=row.crop, crop_mode=row.crop_mode, mean=row.mean,
                              std=row.std, interpolation=row.interpolation)
        return [dict(model=args.model, top1=50., img_size=row.size[1], crop_pct=row.crop, crop_mode=row.crop_mode)]

    monkeypatch.setattr(accuracy, 'measure', note)
    names = ['flatten_swin_base.in1k_384', 'agent_swin_small.in1k_288', 'van_b0.in1k', 'ravlt_s.in1k', 'smt_tiny.in1k',
             'overlock_b.in1k', 'biformer_tiny.in1k']
    rows = {name: load()[name] for name in names}
    monkeypatch.setattr(reproduce, 'load', lambda: rows)
    found = validate.validate([str(word) for word in ('--against', 'published', '*', *imagenet.words)])
    assert asked == [name for name in names if name not in found['skipped']] and len(asked) >= 6
    assert [r['difference'] for r in found['results']] == [round(50 - rows[name].top1, 4) for name in asked]


def test_what_cannot_be_compared(zoo, imagenet, monkeypatch):
    row = dataclasses.replace(source(NAME), top1=None)
    rows = {'a.in1k': dataclasses.replace(row, name='a.in1k'),
            'b.in22k': dataclasses.replace(row, name='b.in22k', num_classes=21841, top1=50.),
            'c.in1k': dataclasses.replace(row, name='c.in1k', kind='baidu', location='https://pan.baidu.com/s/1')}
    monkeypatch.setattr(reproduce, 'load', lambda: rows)
    result = zoo('validate', '--against', 'published', '?', '--data-dir', imagenet.root, '--json')
    assert result.code == 1 and json.loads(result.out) == dict(results=[], failed={}, skipped={
        'a.in1k': 'no accuracy is published', 'b.in22k': 'it has 21841 classes, not those of ImageNet-1k',
        'c.in1k': 'no weights to download (they must be downloaded manually from https://pan.baidu.com/s/1)'})
    assert '0 measured, 3 skipped, 0 failed' in result.err
    assert f'note: the data has {imagenet.classes} classes, ImageNet-1k 1000: a --class-map gives' in result.err


@pytest.mark.parametrize('words, text', [
    (('ravlt_x*', '--data-dir', '.'), "no official weights are listed for 'ravlt_x*'; did you mean ravlt_"),
    (('--data-dir', '.'), "which models? --against published 'ravlt_*' takes those that match, '*' all"),
    (('ravlt_*',), 'no data: give --data-dir'),
    (('ravlt_*', '--data-dir', '/nowhere'), 'no data folder /nowhere'),
    (('ravlt_*', '--data-dir', '.', '--crop-pct', '1'), 'measures as the authors did; leave out --crop-pct'),
    (('ravlt_*', '--data-dir', '.', '--checkpoint', 'a'), 'leave out --checkpoint')])
def test_mistakes(zoo, words, text):
    result = zoo('validate', '--against', 'published', *words)
    assert result.code == 2 and text in result.err and result.err.count('\n') == 1, result.err


def test_a_single_result_as_json(zoo, small, tmp_path):
    zoo('train', *small(epochs=1))
    result = zoo('validate', '--checkpoint', tmp_path / 'out' / 'run' / 'last.pth.tar', '--json')
    found = json.loads(result.out)
    assert found['count'] == 24 and f'top-1 {found["top1"]:.2f} %' in result.err and result.code == 0
