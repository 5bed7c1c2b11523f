"""Official weights by name, from the server to the model: verified, converted once, kept, whatever happens."""
import dataclasses
import hashlib
import json
import sys
import time
import types
import urllib.request
from argparse import Namespace
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors import safe_open

import zoo
from tests import goldens
from tests.weights.client import outcomes, start
from tests.weights.host import File, lead_to, serving
from tests.weights.test_checkpoint import Bomb
from zoo.registry import FAMILIES
from zoo.weights import WeightsError, official
from zoo.weights.cache import FORMAT, Cache, cache_folder
from zoo.weights.sources import source

MODEL = 'flatten_pvt_v2_b0'
NAME = f'{MODEL}.in1k'
PLACE = source(NAME).location
PATH = PLACE.replace('https:/', '')


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """An official file: a training checkpoint in the authors' format."""
    path = tmp_path_factory.mktemp('official') / 'a.pth'
    state = goldens.reference_state(goldens.load(f'{MODEL}@224'), torch.float32)
    torch.save({'model': state, 'epoch': 299, 'max_accuracy': 71.1}, path)
    return path.read_bytes()


@pytest.fixture
def host(monkeypatch, tmp_path, reference):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(urllib.request, '_opener', None)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)
    monkeypatch.setenv('ZOO_CACHE', str(tmp_path / 'zoo'))
    with serving() as host:
        lead_to(host.address)
        host.files[PATH] = File(reference)
        yield host


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / 'zoo')


def create(**kwargs):
    return timm.create_model(MODEL, pretrained=True, **kwargs)


def refused(match, error=WeightsError):
    with pytest.raises(error, match=match) as caught:
        create()
    assert '\n' not in str(caught.value)


def stand_in(monkeypatch, **changes):
    row = dataclasses.replace(source(NAME), **{**dict(sha256=None, bytes=None), **changes})
    monkeypatch.setattr(official, 'source', lambda name: row)


def names(cache):
    """Files in the cache, locks left out."""
    files = (path for path in cache.folder.rglob('*') if path.is_file() and path.suffix != '.lock')
    return sorted(str(path.relative_to(cache.folder)) for path in files)


READY = [f'converted/{NAME}.safetensors', 'manifest.json']


# --- where there is nothing wrong

def test_from_the_server_to_the_model(host, cache, reference):
    model = create()
    file = torch.load(cache_file(reference, cache.folder.parent), weights_only=True)['model']
    assert torch.equal(model.stem.proj.weight, file['patch_embed1.proj.weight'])
    assert torch.equal(model.head.fc.weight, file['head.weight'])
    assert names(cache) == READY
    assert host.got(PATH) == [0]
    host.shutdown()
    again = create()  # without a server
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert len(host.asked) == 1


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


FORMATS = {  # as the authors' programs write and read files, with averaged weights; where nothing is known: bare
    leaplab: ('agent', 'flatten', 'inline'),
    parallel: ('cbam', 'ecanet', 'emca', 'fcanet', 'triplet'),
    averaged: ('l2vit', 'ravlt', 'mavit', 'nalaformer'),
    timms: ('efficientmod', 'van'),
    (lambda state: {'model': state, 'epoch': 299}): ('biformer', 'litv2', 'smt'),
    (lambda state: {'state_dict': {f'model.{key}': value for key, value in state.items()}}): ('patnet',),
    dict: ('care', 'overlock', 'resnest_fast'),
}
QUICK = (
    'flatten_pvt_v2_b0', 'ecanet_resnet18', 'nalaformer_xt', 'efficientmod_xxs', 'smt_tiny', 'patnet_t0', 'care_s0')


def families():
    """A golden of the smallest variant of each table that is built without arguments, and the format of its file."""
    for family in FAMILIES:
        module = family.module.rpartition('.')[2]
        for variant in family.variants:
            stem = f'{variant.name}@224'
            if (goldens.FOLDER / f'{stem}.json').exists() and not goldens.load(stem).get('create_kwargs'):
                wrap = next(wrap for wrap, names in FORMATS.items() if module in names)
                yield pytest.param(stem, wrap, id=stem, marks=() if variant.name in QUICK else pytest.mark.full)
                break


def test_every_family_and_format_is_tried():
    tried = [case.values[0].partition('@')[0] for case in families()]
    untried = {family.module for family in FAMILIES if not {variant.name for variant in family.variants} & {*tried}}
    assert untried == {'zoo.models.unplaced'}  # no reference
    assert set(QUICK) <= set(tried) and len({case.values[1] for case in families() if not case.marks}) == len(FORMATS)


@pytest.mark.parametrize('stem, wrap', list(families()))
def test_goldens_from_the_server(host, monkeypatch, tmp_path, stem, wrap):
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
    host.files['/weights.example/a.pth'] = File((tmp_path / 'a.pth').read_bytes())
    torch.set_default_dtype(torch.float64)
    try:
        models = [timm.create_model(name, pretrained=True) for _ in range(2)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert host.got('a.pth') == [0]
    goldens.compare(golden, models[0].eval())
    assert all(torch.equal(*pair) for pair in zip(*(model.state_dict().values() for model in models)))


def test_provenance(host, cache, reference):
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


def test_explicit_weights_win(host, tmp_path, cache):
    model = timm.create_model(MODEL)
    torch.save(model.state_dict(), tmp_path / 'mine.pth')
    for overlay in (dict(file=str(tmp_path / 'mine.pth')), dict(state_dict=model.state_dict())):
        assert torch.equal(create(pretrained_cfg_overlay=overlay).stem.proj.weight, model.stem.proj.weight)
    own = create(pretrained_cfg=dict(
        timm.get_pretrained_cfg(NAME).to_dict(), file=str(tmp_path / 'mine.pth'), url=None))
    assert torch.equal(own.stem.proj.weight, model.stem.proj.weight)
    assert not host.asked and not cache.folder.exists()


def test_other_classes_and_sizes_by_name(host):
    assert create(num_classes=7).head.fc.weight.shape == (7, 256)
    assert create(img_size=288).stages[0].blocks[0].mixer.positional_encoding.weight.shape[1] == 72
    assert len(create(features_only=True)(torch.randn(1, 3, 64, 64))) == 4
    assert len(host.asked) == 1


def test_cache_folder(monkeypatch, tmp_path, host):
    assert cache_folder() == tmp_path / 'zoo'
    create(cache_dir=str(tmp_path / 'other'))
    assert (tmp_path / 'other' / 'manifest.json').exists() and not (tmp_path / 'zoo').exists()
    monkeypatch.delenv('ZOO_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    assert cache_folder() == Path('/x/zoo')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HF_HOME', '/hf')
    assert cache_folder() == Path('~/.cache/zoo').expanduser()


# --- files that are not what they should be

def flipped(content):
    """The content with another byte inside a weight, and the check sum of the archive to match: size as before."""
    import io
    import zipfile
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith('/data/0'):
                data = data[:9] + bytes([data[9] ^ 1]) + data[10:]
            new.writestr(entry, data)
    return out.getvalue()


def test_known_hash_is_enforced(host, cache, monkeypatch, reference):
    stand_in(monkeypatch, sha256='0' * 64)
    refused(r'damaged or another file than before \(SHA-256 .*expected 000000000000')
    assert names(cache) == []
    stand_in(monkeypatch, sha256=hashlib.sha256(reference).hexdigest())
    create()
    assert names(cache) == READY


def test_flipped_byte_is_caught_by_the_manifest(host, cache, reference):
    create()
    cache.converted_path(NAME).unlink()
    host.files[PATH] = File(flipped(reference))
    refused('damaged or another file than before .*it was removed, try again')
    assert names(cache) == ['manifest.json']
    host.files[PATH] = File(reference)
    create()
    assert names(cache) == READY


def test_damaged_conversion_is_made_anew(host, cache, caplog):
    want = create().stem.proj.weight
    path = cache.converted_path(NAME)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert torch.equal(create().stem.proj.weight, want)
    assert 'is damaged; fetching the weights' in caplog.text and len(host.asked) == 2


def test_conversion_of_another_format_or_hash_is_made_anew(host, cache, monkeypatch, reference):
    create()
    monkeypatch.setattr('zoo.weights.cache.FORMAT', FORMAT + 1)
    create()
    create()
    assert len(host.asked) == 2
    other = flipped(reference)
    host.files[PATH] = File(other)
    stand_in(monkeypatch, sha256=hashlib.sha256(other).hexdigest())  # the table has learnt of another file
    create()
    create()
    assert len(host.asked) == 3


def test_pickle_that_runs_code(host, cache, tmp_path):
    torch.save({'model': {}, 'config': Bomb(str(tmp_path / 'exploded'))}, tmp_path / 'a.pth')
    host.files[PATH] = File((tmp_path / 'a.pth').read_bytes())
    refused('would run code.*nothing was executed', error=ValueError)
    assert not (tmp_path / 'exploded').exists()
    assert names(cache) == []


@pytest.mark.parametrize('change, match', [
    (lambda state: state.pop('head.bias'), r'does not fit flatten_pvt_v2_b0: head\.fc\.bias is missing'),
    (lambda state: state.update({'head.weight': torch.zeros(999, 256)}), r'head\.fc\.weight is \[999, 256\]'),
    (lambda state: state.update(extra=torch.zeros(1)), 'extra is not in the model')])
def test_weights_of_another_model(host, cache, tmp_path, change, match):
    state = goldens.reference_state(goldens.load(f'{MODEL}@224'), torch.float32)
    change(state)
    torch.save(state, tmp_path / 'a.pth')
    host.files[PATH] = File((tmp_path / 'a.pth').read_bytes())
    refused(match, error=ValueError)
    assert names(cache) == []  # and no hash that would pin the wrong file


def test_server_that_sends_a_short_file(host, cache, reference):
    host.files[PATH] = File(reference[:-1000])
    refused('cut off or no checkpoint|not a plain checkpoint|arrived damaged', error=ValueError)
    assert names(cache) == []
    host.files[PATH] = File(reference)
    create()


@pytest.mark.parametrize('content', ['{"files": {', '[]', '{"files": []}'])
def test_damaged_manifest(host, cache, content):
    create()
    cache.manifest_path.write_text(content)
    refused('manifest.json cannot be read.*delete the folder')


def test_a_file_that_the_user_has_linked_stays(host, cache, tmp_path, reference):
    """Whoever has the file already can lay a link to it where the download would go."""
    own = tmp_path / 'mine.pth'
    for content, error in ((reference, None), (reference[:-1000], 'is damaged|arrived damaged|cut off'),
                           (b'<html>', 'web page')):
        own.write_bytes(content)
        cache.downloads.mkdir(parents=True, exist_ok=True)
        link = cache.downloads / f'{NAME}.pth'
        link.symlink_to(own)
        if error:
            refused(error, ValueError)
        else:
            create()
            assert names(cache) == READY
        assert own.read_bytes() == content and not link.is_symlink() and not host.asked
        cache.converted_path(NAME).unlink(missing_ok=True)


# --- processes of their own

CASE = f'{NAME} tsinghua {PLACE}'


def outcome(process):
    return outcomes(process)[0]


def test_killed_in_the_middle_of_conversion(host, cache):
    process = start(host, CASE, ZOO_TEST_KILL='')
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert names(cache) == [f'converted/.{NAME}.safetensors.tmp', f'downloads/{NAME}.pth']
    create()
    assert names(cache) == READY and len(host.asked) == 1


def test_two_processes_at_once(host, cache):
    processes = [start(host, CASE) for _ in range(2)]
    want = create().stem.proj.weight.double().sum().item()
    assert [outcome(process) for process in processes] == [want] * 2
    assert names(cache) == READY and len(host.asked) == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux says how to give up the powers of root')
def test_read_only_cache(host, cache):
    cache.folder.mkdir()
    cache.folder.chmod(0o555)
    text = outcome(start(host, CASE, ZOO_TEST_POWERLESS=''))
    assert text == (f'WeightsError: weights cannot be written to {cache.folder} (Permission denied); '
                    f'set ZOO_CACHE to a folder that is writable')
    cache.folder.chmod(0o755)
    want = create().stem.proj.weight.double().sum().item()
    for folder in (cache.folder, *filter(Path.is_dir, cache.folder.rglob('*'))):
        folder.chmod(0o555)
    assert outcome(start(host, CASE, ZOO_TEST_POWERLESS='')) == want
    for folder in (cache.folder, *filter(Path.is_dir, cache.folder.rglob('*'))):
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == 'win32', reason='no limit of file sizes')
@pytest.mark.parametrize('folder, left', [
    ('downloads', [f'downloads/{NAME}.pth.part', f'downloads/{NAME}.pth.part.json']),
    ('converted', [f'downloads/{NAME}.pth'])])
def test_full_disk(host, cache, folder, left):
    text = outcome(start(host, CASE, ZOO_TEST_FULL=folder))
    assert text == (f'WeightsError: no room for weights in {cache.folder / folder} (File too large); '
                    f'free some, or set ZOO_CACHE to a folder with more')
    assert names(cache) == left
    create()
    assert names(cache) == READY
    assert host.got(PATH) == ([0, 5_000_000] if folder == 'downloads' else [0])  # what had arrived is used
