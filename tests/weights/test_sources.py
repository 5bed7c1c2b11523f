"""The table of official weights: complete, in step with the registry, and refused where it cannot be right."""
import shutil
import sys
from importlib import resources

import pytest
import timm
import yaml

from zoo.registry import FAMILIES, Variant, register_variants, variant
from zoo.weights import sources
from zoo.weights.sources import Source, load, parse, source, tags

FILES = [file for file in resources.files(sources).iterdir() if file.name.endswith('.yaml')]
CFGS = {
    f'{variant.name}.{tag}': (variant, sys.modules[family.module].default_cfgs[variant.name].cfgs[tag])
    for family in FAMILIES for variant in family.variants for tag in variant.cfgs}
FAMILY = {
    f'{variant.name}.{tag}': family.module.split('.')[-1]
    for family in FAMILIES for variant in family.variants for tag in variant.cfgs}
HASH = 'ab' * 32
GOOD = dict(kind='github', location='https://github.com/a/b/c.pth', license='MIT', top1=80.1, size=224, crop=0.875)


def text(name='a_b.in1k', **changes) -> str:
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return yaml.safe_dump({name: row})


def test_every_registered_tag_has_a_row_and_every_row_is_registered():
    assert set(load()) == set(CFGS)


def test_rows_are_in_the_file_of_their_family():
    for file in FILES:
        assert {f'{FAMILY[name]}.yaml' for name in parse(file.read_text())} == {file.name}
    assert {file.name for file in FILES} == {f'{family}.yaml' for family in FAMILY.values()}


def test_pretrained_cfgs_are_made_from_the_table():
    """No family says otherwise."""
    for name, (own, cfg) in CFGS.items():
        row = source(name)
        assert (3, *row.size) == cfg.input_size, name
        for theirs, ours in (('crop', 'crop_pct'), ('crop_mode',) * 2, ('num_classes',) * 2, ('interpolation',) * 2,
                             ('mean',) * 2, ('std',) * 2):
            assert getattr(row, theirs) == getattr(cfg, ours), name
        assert row.top1 == own.top1.get(name.split('.')[1])
        assert cfg.license == (None if row.license == 'unknown' else row.license.lower())


@pytest.mark.parametrize('name, pool_size', [
    ('flatten_swin_base.in1k_384', (12, 12)), ('agent_deit_small.in1k_448', None),
    ('van_b4.in22k_ft_in1k_384', (12, 12)),
    ('cbam_resnet18_cifar.cifar100', (4, 4)), ('agent_pvt_medium.in1k_256', (8, 8))])
def test_size_of_the_last_map(name, pool_size):
    assert CFGS[name][1].pool_size == pool_size


def test_first_row_is_the_default():
    assert list(tags('smt_large')) == ['in22k_ft_in1k', 'in22k_ft_in1k_384', 'in22k'] == list(variant('smt_large').cfgs)
    assert timm.get_pretrained_cfg('smt_large').tag == 'in22k_ft_in1k'
    assert variant('smt_large').top1 == {'in22k_ft_in1k': 87.1, 'in22k_ft_in1k_384': 88.1}
    assert tags('zoo_hybrid') == {} and list(variant('zoo_hybrid').cfgs) == ['in1k']


def test_entries_of_a_tag_without_a_row_are_refused():
    with pytest.raises(ValueError, match='smt_tiny: the table of weights has no row of the tag in21k; add it'):
        register_variants('zoo.models.smt', None, None, [Variant('smt_tiny', {}, cfgs=dict(in21k={}))], None, {})


def test_some_rows_of_note():
    assert source('agent_swin_small.in1k_288') == Source(
        'agent_swin_small.in1k_288', 'tsinghua', 'unknown', (288, 288), 1.0, top1=84.1, crop_mode='squash',
        location='https://cloud.tsinghua.edu.cn/f/09760394e93b4046a25e/?dl=1')
    van = source('van_b0.in1k')
    assert (van.kind, van.bytes, van.sha256[:8]) == ('hub', 49627991, '058bda07')
    assert van.location.startswith('Visual-Attention-Network/VAN-Tiny-original:van_tiny_754.pth.tar@b13047f7')
    assert van.mean == (0.5, 0.5, 0.5)
    assert source('van_b5.in22k').mean == source('ravlt_t.in1k').mean == (0.485, 0.456, 0.406)
    assert source('fcanet_resnet34.in1k').interpolation == 'bilinear'
    assert source('overlock_b.in1k').crop == 0.975 and source('emca_resnet18_s1n1.in1k').top1 == 70.83
    assert source('emca_resnet50.in1k').note == 'not released'


def test_no_file_is_listed_twice():
    places = [row.location for row in load().values() if row.kind != 'none']
    hashes = [row.sha256 for row in load().values() if row.sha256]
    assert len(places) == len(set(places)) and len(hashes) == len(set(hashes))


def test_a_good_row():
    row = parse(text(size=[192, 256], sha256=HASH, bytes=7, mean=[0.5, 0.5, 0.5]))['a_b.in1k']
    assert (row.size, row.sha256, row.bytes, row.mean) == ((192, 256), HASH, 7, (0.5, 0.5, 0.5))
    assert (row.crop_mode, row.num_classes, row.interpolation, row.note) == ('center', 1000, 'bicubic', '')
    assert parse(text())['a_b.in1k'].size == (224, 224)


def test_defaults_of_a_file():
    rows = parse('defaults: {interpolation: bilinear, top1: 70}\n' + text() + text('c_d.in1k', top1=None))
    assert [row.interpolation for row in rows.values()] == ['bilinear'] * 2
    assert {name: row.top1 for name, row in rows.items()} == {'a_b.in1k': 80.1, 'c_d.in1k': 70}
    with pytest.raises(ValueError, match='a_b.in1k: unknown column crop_pct'):
        parse('defaults: {crop_pct: 1.0}\n' + text())


@pytest.mark.parametrize('changes, message', [
    (dict(name='a_b'), 'a row is named model.tag'),
    (dict(kind='ftp'), "a_b.in1k: unknown kind 'ftp'; use one of hub, github"),
    (dict(location='http://github.com/a/b/c.pth'), 'must be an https://github.com/ address'),
    (dict(location='https://gitlab.com/a/b/c.pth'), 'must be an https://github.com/ address'),
    (dict(kind='https', location='http://a.org/c.pth'), 'must be an https:// address'),
    (dict(kind='onedrive', location='http://1drv.ms/a'), 'must be an https:// address'),
    (dict(kind='baidu', location=None), "location '' of kind baidu"),
    (dict(kind='tsinghua', location='https://cloud.tsinghua.edu.cn/f/3ab1/'), 'dl=1'),
    (dict(kind='hub', location='org/repo'), 'must be org/repo:file or org/repo:file@revision'),
    (dict(kind='hub', location='org/repo:a.pth@main'), 'must be org/repo:file'),
    (dict(kind='gdrive', location='https://drive.google.com/file/d/1mvAVvhLR'), 'must be the id of a file'),
    (dict(kind='none', note='gone'), 'must be empty'),
    (dict(kind='none', location=None), 'needs a note'),
    (dict(license=None), 'column license is missing'),
    (dict(license=''), "give an SPDX name or 'unknown'"),
    (dict(size=None), 'column size is missing'),
    (dict(size='large'), 'give pixels'),
    (dict(size=[224]), 'give pixels'),
    (dict(crop=1.5), 'crop 1.5 is not a fraction'),
    (dict(crop='all'), 'is not a fraction'),
    (dict(top1=0.801e3), 'top1 801.0 is not a percentage'),
    (dict(sha256='abcdef12'), 'give all 64 lower-case hexadecimal digits'),
    (dict(sha256=HASH.upper()), 'give all 64 lower-case hexadecimal digits'),
    (dict(sha256=12345678), 'in quotes'),
    (dict(bytes=-1), 'bytes -1 is not a positive number'),
    (dict(url='https://a.org'), 'unknown column url; use kind, license'),
])
def test_bad_rows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text(**changes))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('bad, message', [
    (text() + text(), 'a_b.in1k is there twice'),
    ('a_b.in1k: {kind: none, kind: hub}', 'kind is there twice'),
    ('a_b.in1k: [1, 2]', 'not a table'),
    ('', 'not a table'),
    ('a_b.in1k: {kind: none', 'not YAML'),
    ('a_b.in1k: !!python/object/apply:os.getcwd []', 'not YAML'),
])
def test_bad_files_are_refused(bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(bad)
    assert '\n' not in str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of files in place of the table."""
    monkeypatch.setattr(sources.resources, 'files', lambda package: tmp_path)
    load.cache_clear()
    yield tmp_path
    load.cache_clear()


def test_a_row_in_two_files_is_refused(folder):
    (folder / 'a.yaml').write_text(text())
    (folder / 'notes.txt').write_text('no table')
    assert list(load()) == ['a_b.in1k']
    load.cache_clear()
    shutil.copy(folder / 'a.yaml', folder / 'b.yaml')
    with pytest.raises(ValueError, match='b.yaml: a_b.in1k is in another file already'):
        load()


def test_the_error_names_the_file(folder):
    (folder / 'a.yaml').write_text(text(kind='ftp'))
    with pytest.raises(ValueError, match="a.yaml: a_b.in1k: unknown kind 'ftp'"):
        load()


def test_unknown_names():
    with pytest.raises(ValueError, match='ravlt_t.in22k; use one of ravlt_t.in1k'):
        source('ravlt_t.in22k')
    with pytest.raises(ValueError, match='no weights are listed as resnet50.a1_in1k; zoo.list_models'):
        source('resnet50.a1_in1k')
