"""Mixers of other packages: a real one, installed by pip, in every host and tool; and ones that are broken."""
import contextlib
import importlib
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from tests.zoo_models import narrow, small, smallest_hosts
from zoo.blocks.mixers import TokenMixer, list_mixers, mixer_class, registry
from zoo.registry import FAMILIES
from zoo.utils.errors import ZooError

SOURCE = Path(__file__).with_name('fourier_mixer')
HYBRIDS = smallest_hosts(class_token=False)
OURS = len(registry._MIXERS)
OWN = {  # of families, without class tokens
    family.host.__name__: family.variants[0].name for family in FAMILIES
    if family.mixers is not None and not family.host.__module__.startswith('zoo.hosts.')
    and not hasattr(family.host, 'num_prefix_tokens')}


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """A folder that pip has installed the package into, without a network."""
    folder = tmp_path_factory.mktemp('site')
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--no-index',
         '--no-build-isolation', '--target', folder, SOURCE], check=True)
    return folder


@contextlib.contextmanager
def installed(folder: Path):
    """As a process begins that has a folder of packages on its path; the warnings that these cost."""
    mixers, modules = dict(registry._MIXERS), set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    registry._loaded = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            list_mixers()
        yield [str(warning.message) for warning in caught]
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], '__file__', '')).startswith(str(folder)):
                del sys.modules[name]
        registry._MIXERS.clear()
        registry._MIXERS.update(mixers)
        registry._loaded = True


@pytest.fixture
def fourier(site):
    with installed(site) as told:
        assert told == []
        yield mixer_class('fourier')
    assert 'fourier' not in list_mixers()


def build(host, **kwargs):
    return zoo.create_hybrid(host, 'fourier', **{'num_classes': 3, **narrow(host), **kwargs})


def child(code: str, site: Path | None, cwd: Path) -> subprocess.CompletedProcess:
    """Run code in a process that has the package, or not."""
    path = filter(None, [site and str(site), os.environ.get('PYTHONPATH')])
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(path), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, '-c', code], env=env, cwd=cwd, capture_output=True, text=True)


# --- in this process

def test_is_listed(fourier):
    assert fourier.__module__ == 'fourier_mixer' and issubclass(fourier, TokenMixer)
    assert 'fourier' in list_mixers(class_token=False) and 'fourier' not in list_mixers(class_token=True)
    assert len(list_mixers()) == OURS + 1


def own_initialisation_is_kept(model):
    found = {name: m for name, m in model.named_modules() if type(m).__name__ == 'FourierMixer'}
    assert found
    for mixer in found.values():
        assert torch.equal(mixer.proj.weight, torch.eye(mixer.proj.in_features))
        assert mixer.filter[0].eq(1).all() and mixer.filter[1].eq(0).all()
    assert model.no_weight_decay() >= {f'{name}.filter' for name in found}


def trains(model, size):
    images = torch.randn(2, 3, *size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = model.train()(images)
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        sum(y.square().sum() for y in outputs).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
    mixers = [m for m in model.modules() if type(m).__name__ == 'FourierMixer']
    assert all(m.filter.grad.abs().max() > 0 for m in mixers)


@pytest.mark.parametrize('host', HYBRIDS)
def test_runs_and_trains_in_every_host(host, fourier):
    torch.manual_seed(0)
    model = build(host)
    assert {type(block.mixer) for stage in model.stages for block in stage.blocks} == {fourier}
    own_initialisation_is_kept(model)
    trains(model, (64, 96))
    with torch.no_grad():
        for size in ((32, 32), (97, 131)):
            y = model.eval()(torch.randn(1, 3, *size))
            assert y.shape == (1, 3) and torch.isfinite(y).all(), size


@pytest.mark.parametrize('name', OWN.values(), ids=OWN)
def test_runs_and_trains_in_the_hosts_of_families(name, fourier):
    torch.manual_seed(0)
    model = timm.create_model(name, mixer='fourier', num_classes=3, **small(name))
    own_initialisation_is_kept(model)
    trains(model, (64, 64))


def test_is_refused_beside_a_class_token(fourier):
    with pytest.raises(ZooError, match='FourierMixer mixes maps only, but this host has a class token; use'):
        zoo.create_hybrid('vit_tiny', 'fourier', depth=1)


def test_stands_in_tables(fourier):
    model = zoo.create_hybrid('pyramid_t', ('fourier', 'rala', ('fourier', 'linear'), 'linear'), **{
        **narrow('pyramid_t'), 'depths': (1, 1, 2, 1)})
    names = [type(block.mixer).__name__ for stage in model.stages for block in stage.blocks]
    assert names == ['FourierMixer', 'RankAugmentedLinearAttention', 'FourierMixer', *['LinearAttention'] * 2]


@pytest.mark.parametrize('host', HYBRIDS)
@torch.no_grad()
def test_is_resampled(host, fourier, tmp_path):
    """A checkpoint of another size is that model built for the new one, and so is one told of it."""
    torch.manual_seed(0)
    before = build(host, img_size=64).eval()
    for name, p in before.named_parameters():
        if name.endswith('filter'):
            p.add_(torch.randn_like(p))
    file = tmp_path / 'weights.pth'
    torch.save(before.state_dict(), file)
    given = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(file), num_classes=3))
    after = build(host, img_size=(96, 128), **given).eval()
    old, new, other = (model.stages[0].blocks[0].mixer.filter for model in (
        before, after, build(host, img_size=(96, 128))))
    assert new.shape == other.shape and (new.shape == old.shape) == (host == 'fit_small')  # which mixes within groups
    torch.testing.assert_close(new, F.interpolate(old, new.shape[2:], mode='bilinear', align_corners=True))
    x = torch.randn(1, 3, 96, 128)
    torch.testing.assert_close(before(x), after(x))  # on the fly
    before.set_input_size((96, 128))
    assert before.stages[0].blocks[0].mixer.filter.shape == new.shape
    torch.testing.assert_close(before(x), after(x))
    with pytest.raises(ZooError, match='mixer.filter is not in the model'):
        zoo.create_hybrid(host, 'pooling', num_classes=3, **narrow(host), **given)


# --- in tools: processes that start with the package there

TOOLS = '''
import json, sys
import zoo, timm
timm.create_model('ravlt_t', device='meta')
assert 'fourier_mixer' not in sys.modules  # nothing of it is imported until a mixer is asked for
from zoo_cli import main
SMALL = ['mixer=fourier', 'depths=(1,1,1,1)', 'embed_dims=(16,32,80,128)']
assert main(['train', '--dataset', 'digits', '--model', 'zoo_hybrid', '--model-kwargs', *SMALL, '--input-size', '1',
             '32', '32', '-b', '700', '--epochs', '1', '--device', 'cpu', '--workers', '0', '--output', 'runs',
             '--experiment', 'run']) == 0
assert main(['benchmark', 'models', 'zoo_hybrid', '--model-kwargs', *SMALL, '--sizes', '32', '--device', 'cpu',
             '--quick', '--repeats', '1', '--output', 'bench']) == 0
from zoo.arena import plan
json.dump(plan.parse([]).mixers, open('arena.json', 'w'))
'''


def test_tools_take_it(site, tmp_path):
    """Two updates by ``zoo train``, a benchmark, and the arena's default."""
    done = child(TOOLS, site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'UserWarning' not in done.stderr
    last = torch.load(tmp_path / 'runs' / 'run' / 'last.pth.tar', map_location='cpu', weights_only=True)
    assert last['updates'] == 2 and 'stages.0.blocks.0.mixer.filter' in last['state_dict']
    assert last['args']['model_kwargs']['mixer'] == 'fourier'
    rows = json.loads((tmp_path / 'bench.json').read_text())['rows']
    assert [row['pass'] for row in rows] == ['forward', 'forward+backward'] and all(row['throughput'] for row in rows)
    assert json.loads((tmp_path / 'arena.json').read_text()) == sorted([*list_mixers(), 'fourier'])


@pytest.mark.slow
def test_arena_compares_it(site, tmp_path):
    words = ['arena', '--mixers', 'fourier', 'pooling', '--seeds', '0', '--dataset', 'digits', '-b', '128', '--device',
             'cpu', '--epochs', '1', '--output', 'out', '--results', 'table']
    done = child(f'import sys; from zoo_cli import main; sys.exit(main({words!r}))', site, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'table.json').read_text())['rows']
    assert {row['mixer'] for row in rows} == {'fourier', 'pooling'} and all(row['top1'] > 15 for row in rows)


# --- packages that are broken

def package(folder: Path, name: str, code: str, entry: str = 'mine = {}:Mine') -> None:
    """A module and what an installer writes about it."""
    (folder / f'{name}.py').write_text(code)
    about = folder / f'{name}-1.0.dist-info'
    about.mkdir()
    (about / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    (about / 'entry_points.txt').write_text(f'[zoo.mixers]\n{entry.format(name)}\n')


MIXER = 'from zoo.blocks.mixers import TokenMixer, register_mixer\n{}class Mine(TokenMixer):\n    {}\n'
BROKEN = {
    'raises': ("raise RuntimeError('no such driver')", 'mine = {}:Mine', 'no such driver'),
    'missing': ('import not_there', 'mine = {}:Mine', "No module named 'not_there'"),
    'attribute': ('', 'mine = {}:Mine', "has no attribute 'Mine'"),
    'half': (MIXER.format("@register_mixer('half')\n", 'pass') + 'raise ValueError("stop")', 'half = {}:Mine', 'stop'),
    'taken': (MIXER.format('', 'pass'), 'rala = {}:Mine', "mixer 'rala' is taken by RankAugmentedLinearAttention"),
    'decorated': (MIXER.format("@register_mixer('rala')\n", 'pass'), 'mine = {}:Mine', "mixer 'rala' is taken by"),
    'misspelt': (MIXER.format('', 'def init_weight(self): pass'), 'mine = {}:Mine', 'init_weight is not part of'),
    'function': ('def Mine(ctx): pass', 'mine = {}:Mine', 'is not a TokenMixer; derive it from'),
    'module': ('from torch.nn import Linear as Mine', 'mine = {}:Mine', 'is not a TokenMixer; derive it from'),
    'nothing': ('x = 1', 'mine = {}', 'is not a TokenMixer; derive it from')}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_one_costs_one_warning(case, tmp_path):
    code, entry, text = BROKEN[case]
    package(tmp_path, f'broken_{case}', code, entry)
    package(tmp_path, 'honest_one', MIXER.format('', 'pass'), 'honest = {}:Mine')
    rala = mixer_class('rala')
    with installed(tmp_path) as told:
        assert len(told) == 1, told
        assert told[0].startswith(f'the mixer {entry.split()[0]!r} of the package broken_{case} is left out: ')
        assert text in told[0] and '\n' not in told[0]
        assert len(list_mixers()) == OURS + 1 and mixer_class('honest').__module__ == 'honest_one'
        assert mixer_class('rala') is rala
        assert zoo.create_hybrid('pvt_v2_b0', 'rala', device='meta') is not None
    assert len(list_mixers()) == OURS


def test_two_with_one_name(tmp_path):
    for name in ('first_one', 'second_one'):
        package(tmp_path, name, MIXER.format('', 'pass'))
    with installed(tmp_path) as told:
        assert len(told) == 1 and "mixer 'mine' is taken by Mine; choose another name" in told[0]
        assert mixer_class('mine').__module__ in ('first_one', 'second_one')


@pytest.mark.parametrize('entry', ['mine = {}:Mine', 'all_of_them = {}'])
def test_one_that_registers_itself(entry, tmp_path):
    """The decorator and the entry point may say the same, and the entry point may be the module."""
    package(tmp_path, 'by_itself', MIXER.format("@register_mixer('mine')\n", 'pass'), entry)
    with installed(tmp_path) as told:
        assert told == [] and mixer_class('mine').__module__ == 'by_itself' and len(list_mixers()) == OURS + 1


def test_without_packages_nothing_is_imported(tmp_path, monkeypatch):
    def load(self):
        raise AssertionError(f'{self} is loaded')

    monkeypatch.setattr(EntryPoint, 'load', load)
    before = set(sys.modules)
    with installed(tmp_path) as told:
        assert told == [] and len(list_mixers()) == OURS
    assert set(sys.modules) == before


def test_known_mixers_load_no_package(tmp_path, monkeypatch):
    package(tmp_path, 'never_asked_for', MIXER.format('', 'pass'))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, '_loaded', False)
    assert isinstance(timm.create_model('ravlt_t', device='meta', mixer='linear'), nn.Module)
    assert 'never_asked_for' not in sys.modules and not registry._loaded
