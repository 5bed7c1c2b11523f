"""Official weights of the hub: huggingface_hub itself against a local server, each case with what the user reads.

It takes its settings when it is imported, so it runs in processes of its own.
"""
import hashlib
import re

import huggingface_hub.constants
import pytest
import timm
import torch

from tests import goldens
from tests.weights.client import outcomes, start
from tests.weights.host import COMMIT, File, serving
from tests.weights.test_checkpoint import Bomb
from zoo.weights import WeightsError

NAME = 'flatten_pvt_v2_b0.in1k'
REASONS = {
    'gone': (r'a\.pth of org/gone on the hub does not exist or is private \(404 .*'),
    'private': (r'a\.pth of org/private on the hub does not exist or is private \(401 .*'),
    'gated': (r'a\.pth of org/gated on the hub is restricted by its authors; request access there, then log in '
              r'with `hf auth login`'),
    'revision': (r'a\.pth of org/revision on the hub does not exist or is private \(404 .*'),
    'failing': (r'a\.pth of org/failing on the hub cannot be reached and is not in the cache \(.*500 .*; '
                r'try again later'),
    'flipped': (r'https://huggingface\.co/org/flipped/resolve/main/a\.pth is damaged or has been replaced .*'),
    'short': (r'a\.pth of org/short on the hub cannot be fetched \(.*|.*is damaged or has been replaced .*'),
    'page': (r'https://huggingface\.co/org/page/resolve/main/a\.pth returned a web page .*'),
}


def case(repo, revision=None):
    return f'{NAME} hub org/{repo}:a.pth' + (f'@{revision}' if revision else '')


def path(repo, revision='main'):
    return f'/org/{repo}/resolve/{revision}/a.pth'


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    """What two processes saw, the second with the server down; the requests; the folder of their caches."""
    folder = tmp_path_factory.mktemp('hub')
    state = goldens.reference_state(goldens.load('flatten_pvt_v2_b0@224'), torch.float32)
    torch.save({'model': state}, folder / 'good.pth')
    torch.save({'model': state, 'config': Bomb(str(folder / 'exploded'))}, folder / 'bomb.pth')
    good = (folder / 'good.pth').read_bytes()
    etag = hashlib.sha256(good).hexdigest()
    at = len(good) // 2
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1:]
    env = dict(HF_HUB_DISABLE_XET=1, HF_HOME=folder / 'hf', ZOO_CACHE=folder / 'zoo')
    with serving() as host:
        host.files = {
            path('good'): File(good), path('pinned', COMMIT): File(good), path('cut'): File(good, faults=[12_000_000]),
            path('kept'): File(good), path('flipped'): File(flipped, etag=etag),
            path('short'): File(good[:-1000], etag=etag), path('bomb'): File((folder / 'bomb.pth').read_bytes()),
            path('page'): File(b'<!doctype html>sign in', kind='text/html'),
            path('private'): File(b'', faults=[(401, {'X-Error-Code': 'RepoNotFound'})], forever=True),
            path('gated'): File(b'', faults=[(401, {'X-Error-Code': 'GatedRepo'})], forever=True),
            path('revision'): File(b'', faults=[(404, {'X-Error-Code': 'RevisionNotFound'})], forever=True),
            path('failing'): File(b'', faults=[500], forever=True),
            path('small'): File(good, etag='1' * 40, later=File(flipped, etag='2' * 40, commit='d' * 40)),
        }
        env['HF_ENDPOINT'] = host.address
        cases = [case('small'), 'forget', case('small'), case('good'), case('cut'), case('pinned', COMMIT),
                 *(case(repo) for repo in REASONS), case('bomb'), case('kept')]
        first, *rest = outcomes(start(host, *cases, **env))
        asked = list(host.asked)
    down = outcomes(start(host, case('kept'), case('good'), 'forget', case('kept'), case('new'), **env))
    want = state['patch_embed1.proj.weight'].double().sum().item()
    return dict(first=first, up=dict(zip(cases[2:], rest)), down=down, asked=asked, folder=folder, want=want)


def test_loads(hub):
    assert hub['first'] == hub['up'][case('good')] == hub['up'][case('pinned', COMMIT)] == hub['want']
    assert ('GET', path('pinned', COMMIT), 0) in hub['asked']


def test_cut_connection_is_resumed(hub):
    assert hub['up'][case('cut')] == hub['want']
    firsts = [first for *request, first in hub['asked'] if request == ['GET', path('cut')]]
    assert firsts == [0, 10 * 2**20]  # a block of huggingface_hub


@pytest.mark.parametrize('repo', REASONS)
def test_says_why(hub, repo):
    text = hub['up'][case(repo)]
    assert re.fullmatch(f'WeightsError: (?:{REASONS[repo]}).*', text) and '\n' not in text


def test_flipped_byte_is_caught_at_first_use_and_removed(hub):
    """The hub's ETag of a large file is its hash, which neither huggingface_hub nor timm checks."""
    folder = hub['folder'] / 'hf' / 'hub' / 'models--org--flipped'
    assert not list((folder / 'blobs').iterdir()) and not list(folder.rglob('a.pth'))


def test_flipped_byte_is_caught_by_the_manifest(hub):
    """Small files have no hash in their ETag."""
    assert re.search('is damaged or has been replaced', hub['up'][case('small')])


def test_pickle_that_runs_code(hub):
    assert re.match('ZooError: .* is refused: .*would run code.*nothing was executed', hub['up'][case('bomb')])
    assert not (hub['folder'] / 'exploded').exists()


def test_server_down(hub):
    *cached, new = hub['down']
    assert cached == [hub['want']] * 3  # two are converted, the third is in the cache of huggingface_hub
    assert re.fullmatch(r'WeightsError: a\.pth of org/new on the hub cannot be reached and is not in the cache '
                        r'\(.*[Cc]onnection refused.*\); try again later.*', new)


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hf'))
    monkeypatch.setenv('ZOO_CACHE', str(tmp_path / 'zoo'))
    with pytest.raises(WeightsError, match='weights of ravlt_t.in1k are not in the cache and HF_HUB_OFFLINE is set: '):
        timm.create_model('ravlt_t', pretrained=True)
