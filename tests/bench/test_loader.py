"""``python -m zoo benchmark loader``."""
import json

import pytest
from PIL import Image

from zoo.bench import loader
from zoo_cli import main


def test_the_cost_of_an_image_becomes_cores(tmp_path, capsys):
    stem = tmp_path / 'loader'
    code = main(['benchmark', 'loader', '--size', '32', '--batch-size', '2', '--repeats', '4', '--workers', '0', '1',
                 '--model', 'test_convnext', '--device', 'cpu', '--output', str(stem)])
    assert code == 0, capsys.readouterr().err
    content = json.loads(stem.with_suffix('.json').read_text())
    assert [row['stage'] for row in content['costs']] == list(loader.STAGES)
    for row in content['costs']:
        assert row['cores'] == pytest.approx(3 * row['cpu_ms']) and row['cpu_ms'] > 0.5  # a picture is decoded
    assert [row['workers'] for row in content['rates']] == [0, 1] and content['step'] > 0
    text = stem.with_suffix('.md').read_text()
    assert f'| 0 | {content["rates"][0]["throughput"]:.3g}'[:7] in text and 'cores for 3000 images/s' in text


def test_the_pictures_are_as_large_as_photographs(tmp_path):
    loader.make_pictures(tmp_path, 2)
    files = sorted(tmp_path.rglob('*.jpg'))
    assert [file.parent.name for file in files] == ['class0', 'class1']
    for file in files:
        assert Image.open(file).size == (500, 375) and 80_000 < file.stat().st_size < 160_000


def test_too_few_images(tmp_path, capsys):
    loader.make_pictures(tmp_path, 4)
    assert main(['benchmark', 'loader', '--data-dir', str(tmp_path), '--size', '32', '--batch-size', '4']) == 2
    assert '4 images are too few for two batches of 4; lower --batch-size' in capsys.readouterr().err
