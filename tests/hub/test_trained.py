"""From a run's checkpoint to a folder that others load: architecture, classes, preprocessing, accuracy."""
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from tests.train.conftest import MODEL, few_threads, pictures, small, zoo  # noqa: F401
from zoo.hub import package

ROOT = Path(__file__).parents[2]
NAMES = ['bl$ue', 'gr<b>een|', 'rouge é']


@pytest.fixture
def trained(zoo, small, pictures, tmp_path):  # noqa: F811
    """A run of a model with arguments of its own, on classes with odd names; its data and its last checkpoint."""
    data = tmp_path / 'meine Bilder ä'
    for split in ('train', 'val'):
        for old, new in zip(('blue', 'green', 'red'), NAMES):
            (data / split / new).mkdir(parents=True)
            for file in sorted((pictures / split / old).iterdir())[:8]:
                os.link(file, data / split / new / file.name)

    def run(**changes):
        result = zoo('train', *small(data_dir=None, num_classes=None, epochs=1, **changes), '--data-dir', data)
        assert result.code == 0, result.err
        return data, tmp_path / 'out' / 'run' / 'last.pth.tar'

    return run


def test_convert(zoo, trained, tmp_path):  # noqa: F811
    data, path = trained(
        model_kwargs='conv_bias=False', input_size='1 32 48', mean='.4', std='.3', interpolation='bilinear',
        crop_pct='0.8', model_ema=True, model_ema_decay='0.5')
    content = torch.load(path, weights_only=True)
    folder = tmp_path / 'mine'
    umask = os.umask(0o027)
    try:
        result = zoo('convert', path, '--output', folder, '--license', 'MIT')
    finally:
        os.umask(umask)
    assert result.code == 0, result.err
    assert result.out.startswith(f'{MODEL}.custom  SHA-256 of the checkpoint ')
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in package.FILES} == {0o640}
    config = json.loads((folder / 'config.json').read_text())
    assert config['label_names'] == NAMES and config['model_args']['conv_bias'] is False
    assert 'num_classes' not in config['model_args']
    with safe_open(folder / 'model.safetensors', 'pt') as file:
        assert file.metadata()['source'] == 'last.pth.tar' and 'in1k' not in str(file.metadata())

    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    cfg = timm.data.resolve_model_data_config(model)
    assert [tuple(cfg[key]) for key in ('input_size', 'mean', 'std')] == [(1, 32, 48), (0.4,), (0.3,)]
    assert (cfg['interpolation'], cfg['crop_pct']) == ('bilinear', 0.8)
    assert model.pretrained_cfg['tag'] == 'custom' and model.pretrained_cfg['label_names'] == NAMES
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in content['state_dict_ema'].items())
    picture = next((data / 'val' / NAMES[1]).iterdir())
    with torch.no_grad():
        want = model(timm.data.create_transform(**cfg)(Image.open(picture).convert('L'))[None]).softmax(-1)[0]
    rows, = json.loads(zoo('infer', f'local-dir:{folder}', picture, '--json').out)
    assert [row['label'] for row in rows['classes']] == [NAMES[i] for i in want.argsort(descending=True)]
    assert rows['classes'][0]['probability'] == pytest.approx(want.max().item(), abs=1e-5)

    card = ModelCard.load(folder / 'README.md')
    result, = card.data.eval_results
    assert (card.data.license, result.dataset_name, result.metric_value) == (
        'mit', data.name, pytest.approx(content['metric'], abs=1e-4))
    assert '* 1: gr&lt;b&gt;een\\|' in card.text and '| opt | adamw |' in card.text and str(tmp_path) not in card.text
    assert 'Unknown model' in card.text and 'is not supported in your version of timm' in card.text


def test_publish_and_what_is_refused(zoo, trained, tmp_path):  # noqa: F811
    _, path = trained(model='zoo_hybrid', model_kwargs='host=vit_tiny mixer=rala depth=1 embed_dim=48')
    words = 'publish', path, '--repo', 'me/pets', '--dry-run'
    result = zoo(*words, '--license', 'MIT', '--model', 'zoo_hybrid.pets')
    assert result.code == 0 and result.out.startswith('would push zoo_hybrid.pets (MIT) to me/pets:\n'), result.err
    assert 'convert or publish the checkpoint with --license' in zoo(*words).err
    output = '--output', tmp_path / 'mine'
    for arguments, text in (
            (('convert', path, *output, '--model', 'resnet18.pets'), 'is a checkpoint of zoo_hybrid, not of resnet18'),
            (('convert', path, *output, '--model', 'zoo_hybrid.a b'), "a tag should be letters, digits, - and _, not"),
            (('convert', path, *output, '--check', 'a.json'), '--check compares with the code of'),
            (('publish', 'van_b0', '--repo', 'a/b', '--license', 'MIT'), '--model and --license are for a checkpoint')):
        result = zoo(*arguments)
        assert result.code == 2 and text in result.err and result.err.count('\n') == 1
        assert not (tmp_path / 'mine').exists()
    folder = tmp_path / 'mine'
    assert zoo('convert', path, '--output', folder, '--model', 'zoo_hybrid.pets').code == 0
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert len(model.stages[0].blocks) == 1 and model.num_features == 48


def test_a_published_tag_is_not_taken(zoo, small, tmp_path):  # noqa: F811
    assert zoo('train', *small(model='van_b0', epochs=1, model_kwargs='depths=[1,1,1,1]')).code == 0
    path = tmp_path / 'out' / 'run' / 'last.pth.tar'
    result = zoo('convert', path, '--output', tmp_path / 'mine', '--model', 'van_b0.in1k')
    assert result.code == 2 and 'the tag in1k stands for the published weights of van_b0' in result.err
    assert zoo('convert', path, '--output', tmp_path / 'mine').out.startswith('van_b0.custom ')


SCRIPT = '''
import sys
if sys.argv[1] == 'zoo':
    import zoo
from transformers import AutoImageProcessor, AutoModelForImageClassification
try:
    model = AutoModelForImageClassification.from_pretrained(sys.argv[2])
    processor = AutoImageProcessor.from_pretrained(sys.argv[2])
except ImportError as e:
    sys.exit(str(e))
import timm, torch
own = timm.create_model(f'local-dir:{sys.argv[2]}', pretrained=True).eval()
image = torch.randn(2, *own.pretrained_cfg['input_size'])
with torch.no_grad():
    torch.testing.assert_close(model.eval()(pixel_values=image).logits, own(image), rtol=0, atol=0)
print(model.config.id2label)
'''


@pytest.mark.slow
@pytest.mark.parametrize('before', ['zoo', 'nothing'])
def test_transformers(zoo, trained, tmp_path, before):  # noqa: F811
    pytest.importorskip('transformers')
    _, path = trained(model='zoo_hybrid', model_kwargs='host=vit_tiny mixer=rala depth=1 embed_dim=48')
    assert zoo('convert', path, '--output', tmp_path / 'mine').code == 0
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, before, str(tmp_path / 'mine')], cwd=ROOT, text=True, capture_output=True)
    if before == 'zoo':
        assert done.returncode == 0 and done.stdout.strip().endswith(str(dict(enumerate(NAMES)))), done.stderr
    else:
        assert "The model architecture 'zoo_hybrid' is not supported in your version of timm" in done.stderr
