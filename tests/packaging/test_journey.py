"""From a folder of pictures to a shared model, by the console command of a wheel in an environment of its own."""
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.packaging.conftest import install_fresh

CLASSES = {'Ameise': (200, 40, 40), 'Biene <gelb>': (200, 200, 40), 'Käfer $5': (40, 60, 200)}
MODEL = 'flatten_pvt_v2_b0'
SMALL = ['--model-kwargs', 'depths=(1,1,1,1)', 'embed_dims=(16,32,40,64)', '--img-size', '64', '--scale', '0.6', '1']


def draw(folder: Path) -> None:
    """Noisy pictures of three colours, in a train and a val folder."""
    random = np.random.default_rng(0)
    for split, count in (('train', 32), ('val', 8)):
        for name, color in CLASSES.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(color, 60, (72, 80, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f'Bild {i}.jpg')


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_pictures_to_a_shared_model(wheel, clean_env, tmp_path):
    programs = install_fresh(tmp_path / 'fresh', f'{wheel}[train,explain,export]', clean_env)
    work = tmp_path / 'Meine Ordner'
    work.mkdir()
    draw(work / 'Käfer & Co')

    def zoo(*words: str) -> str:
        print('$ zoo', ' '.join(f'"{word}"' if ' ' in word else word for word in words))
        ran = subprocess.run([programs / 'zoo', *words], cwd=work, env=clean_env, capture_output=True, text=True)
        print(ran.stdout + ran.stderr)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    told = zoo('train', 'Käfer & Co', '--model', MODEL, *SMALL, '--epochs', '6', '-b', '16', '--opt', 'adamw', '--lr',
               '2e-3', '--warmup-epochs', '0', '--workers', '0', '--output', 'Läufe', '--experiment', 'erster Lauf')
    assert '3 classes' in told.splitlines()[0]
    run = work / 'Läufe' / 'erster Lauf'
    best = 'Läufe/erster Lauf/model_best.pth.tar'
    assert 'Biene <gelb>' in (run / 'args.yaml').read_text(encoding='utf-8')
    told = zoo('validate', '--checkpoint', best, '--report', 'Bericht', '--tta', '--workers', '0')
    assert (work / 'Bericht' / 'confusion.png').stat().st_size > 5000
    rows = (work / 'Bericht' / 'classes.csv').read_text(encoding='utf-8').splitlines()
    assert len(rows) == 4 and rows[2].startswith('1,Biene <gelb>,8,')
    zoo('average', 'Läufe/erster Lauf', '--output', 'Mittel.pth.tar')
    picture = 'Käfer & Co/val/Käfer $5/Bild 3.jpg'
    for given in (best, 'Mittel.pth.tar'):
        told = zoo('infer', MODEL, picture, '--checkpoint', given, '--topk', '1')
        assert 'Käfer $5 (2)' in told
    told = zoo('attention', MODEL, picture, '--what', 'cam', '--checkpoint', best, '--output', 'warum.png')
    assert 'Bild 3.jpg: Käfer $5' in told and (work / 'warum.png').stat().st_size > 5000
    told = zoo('export', MODEL, '--format', 'onnx', '--checkpoint', best, '--image', picture, '--output', 'Käfer.onnx')
    assert 'the same top class' in told
    zoo('convert', best, '--model', f'{MODEL}.beetles', '--output', 'Mein Modell', '--license', 'MIT')
    config = json.loads((work / 'Mein Modell' / 'config.json').read_text(encoding='utf-8'))
    assert config['label_names'] == list(CLASSES) and config['pretrained_cfg']['tag'] == 'beetles'
    assert 'Käfer $5 (2)' in zoo('infer', 'local-dir:Mein Modell', picture, '--topk', '1')
    zoo('publish', 'Mein Modell', '--repo', 'me/beetles', '--dry-run')
    assert not [path for path in work.rglob('.*') if path.name != '.lock'], 'something was left behind'
