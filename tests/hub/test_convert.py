"""``python -m zoo convert``: from a checkpoint on disk to a folder, and what is said about every key."""
import json
from collections import OrderedDict

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

from tests import goldens
from tests.weights.test_checkpoint import Bomb
from zoo.cli.convert import main
from zoo.hub import reference_outputs
from zoo.weights.sources import source

MODEL = 'flatten_pvt_v2_b0'
STEM = f'{MODEL}@224'
PROBE = str(goldens.FOLDER / f'{STEM}.json')


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('ZOO_CACHE', str(tmp_path / 'cache'))


def reference(path, dtype=torch.float32, **extra):
    state = goldens.reference_state(goldens.load(STEM), dtype)
    torch.save({'model': {**state, **extra}, 'config': OrderedDict(), 'epoch': 299}, path)
    return state


def run(capsys, *words):
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, tmp_path, *words):
    """The one line of a refusal that leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    code, _, err = run(capsys, *words)
    assert code == 2 and err.startswith('error: ') and err.count('\n') == 1, err
    assert sorted(tmp_path.iterdir()) == before
    return err


def test_folder_that_timm_loads(capsys, tmp_path):
    state = reference(tmp_path / 'a.pth')
    code, out, err = run(capsys, tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'new' / 'b')
    assert (code, err) == (0, '')
    folder = tmp_path / 'new' / 'b'
    assert sorted(path.name for path in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert [path.name for path in folder.parent.iterdir()] == ['b']
    with safe_open(folder / 'model.safetensors', 'pt') as file:
        metadata = file.metadata()
    assert (metadata['model'], metadata['license'], metadata['source']) == (
        f'{MODEL}.in1k', 'unknown', source(f'{MODEL}.in1k').location)
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert torch.equal(model.head.fc.weight, state['head.weight'])
    cfg = timm.get_pretrained_cfg(f'{MODEL}.in1k')
    assert model.pretrained_cfg['crop_mode'] == cfg.crop_mode and model.pretrained_cfg['architecture'] == MODEL
    card = ModelCard.load(folder / 'README.md')
    assert card.data.library_name == 'timm' and 'import zoo' in card.text and 'hf-hub:ORG/NAME' in card.text


def test_report(capsys, tmp_path):
    state = reference(tmp_path / 'a.pth', **{'norm.weight': torch.ones(256), 'norm.bias': torch.zeros(256)})
    code, out, err = run(capsys, tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'b', '--json')
    content = json.loads(out)
    ours = load_file(tmp_path / 'b' / 'model.safetensors')
    assert content['keys'] == dict(used=len(state), renamed=len(state), dropped=2, resampled=0, missing=0)
    assert content['names']['dropped'] == ['norm.weight', 'norm.bias']
    renamed = content['names']['renamed']
    assert renamed['patch_embed1.proj.weight'] == ['stem.proj.weight']
    joined = renamed['block1.0.attn.q.weight']
    assert joined == renamed['block1.0.attn.kv.weight'] == ['stages.0.blocks.0.mixer.qkv.weight']
    assert ours[joined[0]].shape[0] == 3 * state['block1.0.attn.q.weight'].shape[0]
    assert {name for names in renamed.values() for name in names} == set(ours)
    assert 'keys: ' in err and f'{len(state)} used ({len(state)} renamed), 2 dropped, 0 resampled, 0 missing' in err


def test_verbose_names_keys_and_tables_are_resampled(capsys, tmp_path):
    """Weights of 384 pixels for a model of 224."""
    golden_384 = goldens.load('flatten_swin_base@384')
    torch.save(goldens.reference_state(golden_384, torch.float32), tmp_path / 'a.pth')
    code, out, _ = run(
        capsys, tmp_path / 'a.pth', '--model', 'flatten_swin_base.in1k', '--output', tmp_path / 'b', '--verbose')
    assert code == 0
    table = 'stages.0.blocks.0.mixer.positional_encoding.weight'
    assert f'  resampled: {table}\n' in out and '  patch_embed.proj.weight -> stem.proj.weight\n' in out
    assert out.count('  resampled: ') == int(out.split(' resampled')[0].split()[-1]) > 1
    assert load_file(tmp_path / 'b' / 'model.safetensors')[table].shape[1:3] == (56, 56)
    assert 'not taken for the weights that the authors released' in out


def test_check_against_a_probe(capsys, tmp_path):
    reference(tmp_path / 'a.pth', torch.float64)
    words = '--model', MODEL, '--output', tmp_path / 'b', '--check'
    code, out, _ = run(capsys, tmp_path / 'a.pth', *words, PROBE)
    assert code == 0 and 'check: logits differ by ' in out and 'allowed 1e-09' in out
    assert load_file(tmp_path / 'b' / 'model.safetensors')['head.fc.weight'].dtype is torch.float64


def test_check_finds_a_difference(capsys, tmp_path):
    state = reference(tmp_path / 'a.pth', torch.float64)
    reference(tmp_path / 'a.pth', torch.float64, **{'head.bias': state['head.bias'] + 1e-3})
    words = tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'b', '--check'
    text = refused(capsys, tmp_path, *words, PROBE)
    assert 'does not give what' in text and 'logits differ by ' in text and 'nothing was written' in text
    other = goldens.FOLDER / 'flatten_pvt_tiny@224.json'
    assert 'is a probe of flatten_pvt_tiny, not of flatten_pvt_v2_b0.in1k' in refused(capsys, tmp_path, *words, other)
    (tmp_path / 'empty.json').write_text('{}')
    assert 'is not a probe: name, input_size, logits is missing' in refused(
        capsys, tmp_path, *words, tmp_path / 'empty.json')
    assert 'cannot be read as a probe' in refused(capsys, tmp_path, *words, tmp_path / 'none.json')


def test_nan_does_not_agree():
    assert reference_outputs.agrees(dict(logits=1e-10, gradient=5e-9, gate=1e-9))
    assert not reference_outputs.agrees(dict(logits=float('nan'), gate=1e-9))
    assert not reference_outputs.agrees(dict(logits=1e-10, gradient=2e-8, gate=1e-9))


def test_weights_of_another_model(capsys, tmp_path):
    state = reference(tmp_path / 'a.pth')
    for key in ('head.bias', 'norm4.weight', 'norm4.bias'):
        del state[key]
    torch.save(state, tmp_path / 'b.pth')
    words = tmp_path / 'b.pth', '--model', MODEL, '--output', tmp_path / 'c'
    text = refused(capsys, tmp_path, *words)
    assert 'does not fit flatten_pvt_v2_b0: ' in text and ' is missing; ' in text
    _, out, _ = run(capsys, *words, '--json')
    content = json.loads(out)
    assert [p for p in content['problems'] if p.endswith('is missing')] == content['problems']
    assert len(content['problems']) == 2 and content['error'] in text  # the classifier comes last
    _, out, _ = run(capsys, *words, '--verbose')
    assert out.splitlines() == content['problems']


def test_pickle_that_runs_code(capsys, tmp_path):
    torch.save({'model': {}, 'config': Bomb(str(tmp_path / 'exploded'))}, tmp_path / 'a.pth')
    text = refused(capsys, tmp_path, tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'b')
    assert 'would run code' in text and 'nothing was executed' in text


def test_weights_that_are_not_finite(capsys, tmp_path):
    reference(tmp_path / 'a.pth', **{'head.weight': torch.full((1000, 256), float('inf'))})
    assert 'head.weight in the checkpoint is not finite (1 of ' in refused(
        capsys, tmp_path, tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'b')


def test_other_mistakes(capsys, tmp_path):
    reference(tmp_path / 'a.pth')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').write_text('')
    (tmp_path / 'file').write_text('')
    for words, text in (
            ((tmp_path / 'none.pth', '--model', MODEL, '--output', tmp_path / 'b'), 'no checkpoint file at '),
            ((tmp_path / 'a.pth', '--model', 'flatten_pvt_v2_b9', '--output', tmp_path / 'b'), 'did you mean flatten_'),
            ((tmp_path / 'a.pth', '--model', f'{MODEL}.in22k', '--output', tmp_path / 'b'), "no tag 'in22k'; use one"),
            ((tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'full'), 'full is not an empty folder'),
            ((tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'file' / 'b'), 'cannot write to '),
            ((tmp_path / 'a.pth', '--model', MODEL), 'required: --output')):
        assert text in refused(capsys, tmp_path, *words)


def test_error_amid_writing_leaves_nothing(capsys, tmp_path, monkeypatch):
    reference(tmp_path / 'a.pth')

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('zoo.hub.package.save_config_for_hf', full)
    assert 'No space left on device' in refused(
        capsys, tmp_path, tmp_path / 'a.pth', '--model', MODEL, '--output', tmp_path / 'b')


def test_weights_of_ones_own(capsys, tmp_path):
    """With other classes and a licence; no accuracy of the paper is claimed for them."""
    torch.save(timm.create_model(MODEL, num_classes=7).state_dict(), tmp_path / 'a.pth')
    words = '--model', MODEL, '--output', tmp_path / 'b', '--license', 'MIT', '--json'
    code, out, _ = run(capsys, tmp_path / 'a.pth', *words)
    content = json.loads(out)
    assert code == 0 and content['license'] == 'MIT' and not content['official'] and content['keys']['renamed'] == 0
    model = timm.create_model(f'local-dir:{tmp_path / "b"}', pretrained=True)
    assert model.num_classes == 7
    card = ModelCard.load(tmp_path / 'b' / 'README.md')
    assert card.data.license == 'mit' and card.data.eval_results is None and 'no accuracy is claimed' in card.text


def test_hash_against_the_known_one(capsys, tmp_path):
    golden_van = goldens.load('van_b0@224')
    torch.save(goldens.reference_state(golden_van, torch.float32), tmp_path / 'a.pth')
    code, out, _ = run(capsys, tmp_path / 'a.pth', '--model', 'van_b0', '--output', tmp_path / 'b', '--json')
    content = json.loads(out)
    assert source('van_b0.in1k').sha256 and not content['official'] and content['license'] == 'unknown'
