"""Official weights by name, from the server to the model: verified, converted once, kept, whatever happens."""
import dataclasses
import hashlib
import json
import sys
import types
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

import zoo
from tests import goldens
from tests.models import families
from tests.weights.host import File
from tests.weights.official_file import MODEL, NAME, PATH, PLACE, READY, create, names
from zoo.weights import WeightsError, official
from zoo.weights.cache import FORMAT, cache_folder
from zoo.weights.sources import source

# --- where there is nothing wrong

def test_from_the_server_to_the_model(official_host, cache, reference):
    model = create()
    file = torch.load(cache_file(reference, cache.folder.parent), weights_only=True)['model']
    assert torch.equal(model.stem.proj.weight, file['patch_embed1.proj.weight'])
    assert torch.equal(model.head.fc.weight, file['head.weight'])
    assert names(cache) == READY
    assert official_host.got(PATH) == [0]
    official_host.shutdown()
    again = create()  # without a server
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert len(official_host.asked) == 1


def cache_file(content, folder):
    path = folder / 'official.pth'
    path.write_bytes(content)
    return path


def leaplab(state):
    class CfgNode(dict):
        __module__, __qualname__ = 'yacs.config', 'CfgNode'
    sys.modules['yacs.config'].CfgNode = CfgNode
    return {'model': state, 'epoch': 299, 'max_accuracy': 71.1, 'config': CfgNode(MODEL=CfgNode(NAME='x'))}


def parallel(state):
    return {'epoch': 90, 'arch': 'se_resnet50', 'state_dict': {f'module.{key}': value for key, value in state.items()}}


def averaged(state):
    return {'model': {key: value + 1 for key, value in state.items()}, 'model_ema': state, 'args': Namespace(lr=1)}


def timms(state):
    return {'arch': 'x', 'state_dict': {key: value + 1 for key, value in state.items()}, 'state_dict_ema': state}


FORMATS = dict(  # as the authors' programs write and read files, with averaged weights; bare where nothing is known
    bare=dict, leaplab=leaplab, parallel=parallel, averaged=averaged, timm=timms,
    epoch=lambda state: {'model': state, 'epoch': 299},
    named=lambda state: {'model_state_dict': state, 'epoch': 299, 'summary': {'loss': []}},
    lightning=lambda state: {'state_dict': {f'model.{key}': value for key, value in state.items()}})


def cases():
    """The smallest golden of each family and the format of its file; the smallest of each format in a quick run."""
    seen = set()
    stems = {family: stem for family in families.NAMES if (stem := families.smallest_golden(family))}
    for family, stem in sorted(stems.items(), key=lambda pair: goldens.load(pair[1])['params']):
        written = families.load(family).get('checkpoint', 'bare')
        yield pytest.param(stem, FORMATS[written], id=stem, marks=pytest.mark.full if written in seen else ())
        seen.add(written)


def test_every_format_is_tried():
    assert {families.load(family).get('checkpoint', 'bare') for family in families.NAMES} == set(FORMATS)


@pytest.mark.parametrize('stem, wrap', list(cases()))
def test_goldens_from_the_server(official_host, monkeypatch, tmp_path, stem, wrap):
    """The paper's numbers, by name: a file in the authors' format is served, fetched, converted, kept and loaded."""
    golden = goldens.load(stem)
    name = golden['name']
    name_tag = f'{name}.{timm.get_pretrained_cfg(name).tag}'
    state = goldens.reference_state(golden)
    with monkeypatch.context() as patch:  # not there when the file is read
        for module in ('yacs', 'yacs.config'):
            patch.setitem(sys.modules, module, types.ModuleType(module))
        torch.save(wrap(state), tmp_path / 'a.pth')
    row = dataclasses.replace(
        source(name_tag), kind='https', location='https://weights.example/a.pth', sha256=None, bytes=None)
    monkeypatch.setattr(official, 'source', lambda name: row)
    official_host.files['/weights.example/a.pth'] = File((tmp_path / 'a.pth').read_bytes())
    torch.set_default_dtype(torch.float64)
    try:
        models = [timm.create_model(name, pretrained=True) for _ in range(2)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert official_host.got('a.pth') == [0]
    goldens.compare(golden, models[0].eval())
    assert all(torch.equal(*pair) for pair in zip(*(model.state_dict().values() for model in models)))


def test_provenance(official_host, cache, reference):
    create()
    digest = hashlib.sha256(reference).hexdigest()
    with safe_open(cache.converted_path(NAME), 'pt') as file:
        assert file.metadata() == dict(
            format='pt', model=NAME, source=PLACE, source_sha256=digest, license='unknown',
            zoo_version=zoo.__version__, zoo_format=str(FORMAT), note='converted, not retrained')
        assert set(file.keys()) == set(timm.create_model(MODEL).state_dict())
    entry = json.loads(cache.manifest_path.read_text())['files'][PLACE]
    assert entry['sha256'] == digest and entry['bytes'] == len(reference) and entry['first_used'].endswith('+00:00')


def test_listed_by_timm():
    listed = timm.list_pretrained('*flatten*')
    assert NAME in listed and f'{MODEL}.in1k' in zoo.list_models(pretrained=True)
    assert 'flatten_pvt_small.in1k' not in listed and not any('flatten_pvt_large' in name for name in listed)
    assert timm.get_pretrained_cfg(NAME).url == PLACE
    cfg = timm.get_pretrained_cfg('ravlt_t')
    assert (cfg.hf_hub_id, cfg.hf_hub_filename, cfg.license) == ('aldjalkdf/RAVLT', 'RAVLT_T.pth', 'mit')


def test_first_tag_stays_the_default():
    """timm would make the first tag with weights the default, and with it another image size."""
    assert timm.get_pretrained_cfg('inline_deit_small').tag == 'in1k'
    assert 'inline_deit_small.in1k_288' in timm.list_pretrained()
    with pytest.raises(WeightsError, match=r'of inline_deit_small\.in1k to .*There are weights of inline_deit_small'):
        timm.create_model('inline_deit_small', pretrained=True)


def test_tag_is_heeded(monkeypatch):
    asked = []

    def note(name):
        asked.append(name)
        raise WeightsError('far enough')
    monkeypatch.setattr(official, 'source', note)
    for name, cfg in (('flatten_swin_base.in1k_384', None), ('flatten_swin_base', 'in1k_384'),
                      ('flatten_swin_base', None), (NAME, timm.get_pretrained_cfg(NAME).to_dict())):
        with pytest.raises(WeightsError, match='far enough'):
            timm.create_model(name, pretrained=True, pretrained_cfg=cfg)
    assert asked == ['flatten_swin_base.in1k_384'] * 2 + ['flatten_swin_base.in1k', NAME]


def test_explicit_weights_win(official_host, tmp_path, cache):
    model = timm.create_model(MODEL)
    torch.save(model.state_dict(), tmp_path / 'mine.pth')
    for overlay in (dict(file=str(tmp_path / 'mine.pth')), dict(state_dict=model.state_dict())):
        assert torch.equal(create(pretrained_cfg_overlay=overlay).stem.proj.weight, model.stem.proj.weight)
    own = create(pretrained_cfg=dict(
        timm.get_pretrained_cfg(NAME).to_dict(), file=str(tmp_path / 'mine.pth'), url=None))
    assert torch.equal(own.stem.proj.weight, model.stem.proj.weight)
    assert not official_host.asked and not cache.folder.exists()


def test_other_classes_and_sizes_by_name(official_host):
    assert create(num_classes=7).head.fc.weight.shape == (7, 256)
    assert create(img_size=288).stages[0].blocks[0].mixer.positional_encoding.weight.shape[1] == 72
    assert len(create(features_only=True)(torch.randn(1, 3, 64, 64))) == 4
    assert len(official_host.asked) == 1


def test_cache_folder(monkeypatch, tmp_path, official_host):
    assert cache_folder() == tmp_path / 'zoo'
    create(cache_dir=str(tmp_path / 'other'))
    assert (tmp_path / 'other' / 'manifest.json').exists() and not (tmp_path / 'zoo').exists()
    monkeypatch.delenv('ZOO_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    assert cache_folder() == Path('/x/zoo')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HF_HOME', '/hf')
    assert cache_folder() == Path('~/.cache/zoo').expanduser()
