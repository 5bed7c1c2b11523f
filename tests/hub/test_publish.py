"""``python -m zoo publish`` to a local server by huggingface_hub itself, and the way back by ``hf-hub:``."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import ModelCard

from tests.weights.host import serving
from zoo.cli import convert
from zoo.cli.publish import main
from zoo.hub import package
from zoo.hub.publish import REDISTRIBUTABLE
from zoo.weights import official
from zoo.weights.sources import load, source

ROOT = Path(__file__).parents[2]
MODEL = 'flatten_pvt_v2_b0'
SESSION = '''
import contextlib, io, json, os, sys
import timm
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    if words[0] == 'publish':
        from zoo_cli import main
        os.environ['HF_TOKEN'] = words.pop()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            results.append([main(words), out.getvalue(), err.getvalue()])
    else:
        try:
            if words[0] == 'zoo':
                import zoo
            model = timm.create_model(words[1], pretrained=True)
            results.append([model.num_classes, model.head.fc.weight.double().sum().item()])
        except Exception as e:
            results.append(f'{type(e).__name__}: {e}')
print(json.dumps(results))
'''


def session(host, folder, *steps):
    """A process of its own: huggingface_hub takes its settings when it is imported."""
    env = {**os.environ, 'HF_ENDPOINT': host.address, 'HF_HUB_DISABLE_XET': '1', 'HF_HOME': str(folder / 'hf'),
           'HF_HUB_OFFLINE': '0', 'ZOO_CACHE': str(folder / 'cache'), 'HF_HUB_DISABLE_IMPLICIT_TOKEN': '0'}
    done = subprocess.run(
        [sys.executable, '-c', SESSION, json.dumps(steps)], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A converted model of one's own."""
    folder = tmp_path_factory.mktemp('publish')
    torch.manual_seed(0)
    torch.save(timm.create_model(MODEL, num_classes=7).state_dict(), folder / 'a.pth')
    words = [str(folder / 'a.pth'), '--model', MODEL, '--output', str(folder / 'b'), '--licence', 'MIT']
    assert convert.main(words) == 0
    (folder / 'b' / 'pytorch_model.bin').write_bytes(b'not to be pushed')
    return folder / 'b'


@pytest.fixture(scope='module')
def pushed(folder, tmp_path_factory):
    """What two processes saw, the second without the zoo; the server after them."""
    home = tmp_path_factory.mktemp('home')
    push = ['publish', str(folder), '--repo', 'org/mine']
    with serving() as host:
        first = session(
            host, home, [*push, '--dry-run', ''], [*push, ''], [*push, 'reader'], [*push, 'writer'],
            ['zoo', 'hf-hub:org/mine'])
        second = session(host, home, ['timm', 'hf-hub:org/mine'], ['zoo', 'hf-hub:org/mine'])
        yield first, second, host


def test_dry_run_pushes_nothing(pushed, folder):
    code, out, err = pushed[0][0]
    assert (code, err) == (0, '')
    size = (folder / 'model.safetensors').stat().st_size
    assert out.startswith('would push flatten_pvt_v2_b0.in1k (MIT) to org/mine:\n')
    assert f'  model.safetensors    {size:>12,} bytes\n' in out
    assert [line.split()[0] for line in out.splitlines()[1:4]] == list(package.FILES)


def test_without_leave_of_the_hub(pushed):
    (first, _, login), (second, _, write) = pushed[0][1:3]
    assert (first, second) == (2, 2)
    assert login == ('error: nothing was published: the hub wants a login: run `hf auth login`, or set HF_TOKEN\n')
    assert write == 'error: nothing was published: the hub refuses: your token may not write to org/mine\n'


def test_push(pushed, folder):
    code, out, err = pushed[0][3]
    host = pushed[2]
    assert code == 0 and 'error' not in err and out.startswith('pushed flatten_pvt_v2_b0.in1k (MIT) to org/mine:\n')
    assert "timm.create_model('hf-hub:org/mine', pretrained=True)" in out
    assert sorted(host.files) == sorted(f'/org/mine/resolve/main/{name}' for name in package.FILES)
    assert host.files['/org/mine/resolve/main/model.safetensors'].content == (folder / 'model.safetensors').read_bytes()
    card = ModelCard(host.files['/org/mine/resolve/main/README.md'].content.decode())
    assert card.data.license == 'mit' and "'hf-hub:org/mine'" in card.text and 'ORG/NAME' not in card.text
    assert len(host.commits) == 1 and host.commits[0].startswith('flatten_pvt_v2_b0.in1k from backbone-zoo')


def test_from_the_hub_with_and_without_import_zoo(pushed, folder):
    want = safetensors.torch.load_file(folder / 'model.safetensors')['head.fc.weight'].double().sum().item()
    (first, second) = pushed[:2]
    assert first[4] == second[1] == [7, want]
    assert second[0] == 'RuntimeError: Unknown model (flatten_pvt_v2_b0)'
    page = (ROOT / 'docs/weights.md').read_text()
    assert 'RuntimeError: Unknown model' in page and 'import zoo' in page


def refused(capsys, *words):
    assert main([*map(str, words), '--repo', 'org/mine', '--dry-run']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and err.count('\n') == 1
    return err


def test_licences_that_forbid_it(capsys, folder, tmp_path):
    text = refused(capsys, f'{MODEL}.in1k')
    assert 'not published: the licence of the weights of flatten_pvt_v2_b0.in1k is unknown' in text
    assert 'convert or publish the checkpoint with --license SPDX' in text
    for license, part in (('unknown', 'is unknown'), ('CC-BY-ND-4.0', 'CC-BY-ND-4.0, is not known to let others')):
        words = [str(folder.parent / 'a.pth'), '--model', MODEL, '--output', str(tmp_path / license)]
        assert convert.main([*words, '--license', license]) == 0
        capsys.readouterr()
        assert part in refused(capsys, tmp_path / license)


def test_every_known_licence_of_the_table_lets_publish():
    known = {row.license.lower() for row in load().values()} - {'unknown'}
    assert known == {'mit', 'apache-2.0', 'bsd-3-clause'} <= set(REDISTRIBUTABLE)


def test_folders_that_are_not_published(capsys, folder, tmp_path):
    assert f'{tmp_path} has no model.safetensors, config.json, README.md' in refused(capsys, tmp_path)
    for name in package.FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    content = (tmp_path / 'model.safetensors').read_bytes()
    (tmp_path / 'model.safetensors').write_bytes(content[:100])
    assert 'is damaged (' in refused(capsys, tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(content)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'architecture': 'flatten_pvt_v2_b1'}))
    assert 'does not fit flatten_pvt_v2_b1' in refused(capsys, tmp_path)
    assert 'there is no folder ' in refused(capsys, tmp_path / 'none')
    assert "no model of the zoo is called 'resnet50'" in refused(capsys, 'resnet50')
    assert main([str(folder), '--repo', 'mine']) == 2 and 'should be ORG/NAME' in capsys.readouterr().err


def test_official_weights_by_name(capsys, monkeypatch, tmp_path):
    """With the source and the accuracy of the table."""
    name = 'van_b0.in1k'
    state = timm.create_model(name).state_dict()
    row = source(name)
    metadata = official.provenance(name, 'https://x/a.pth', '0' * 64, row.license)
    official.save(state, tmp_path / 'a.safetensors', metadata)
    monkeypatch.setattr('zoo.hub.publish.resolve', lambda *args: tmp_path / 'a.safetensors')
    seen = {}
    monkeypatch.setattr('zoo.hub.publish._push', lambda content, repo, model: seen.update(content, model=model))
    assert main([name, '--repo', 'org/van']) == 0
    card = ModelCard(seen['README.md'].decode())
    assert row.top1 == 75.4 and '75.4' in card.text and card.data.license == 'apache-2.0'
    assert seen['model'] == name and "'hf-hub:org/van'" in card.text and 'ORG/NAME' not in card.text
