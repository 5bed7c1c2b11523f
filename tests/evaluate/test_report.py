"""validate --report and --tta: which classes are taken for which, and means over views."""
import csv

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform, resolve_data_config

from tests.train.conftest import MODEL
from tests.train.test_errors import assert_refused
from zoo.evaluate.confusion import Confusion
from zoo.evaluate.views import Views, sizes_at
from zoo.utils.errors import ZooError


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    model = timm.create_model(MODEL, num_classes=3)
    torch.save(model.state_dict(), tmp_path / 'three.pth')
    return tmp_path / 'three.pth', model.eval()


def table(path):
    return list(csv.reader(path.open(encoding='utf-8')))


def predicted(model, pictures, view=None):
    """Labels and predictions of the validation pictures, by timm alone."""
    view = view or model
    transform = create_transform(**resolve_data_config({}, model=model, use_test_size=True))
    rows = []
    for label, name in enumerate(('blue', 'green', 'red')):
        images = torch.stack([
            transform(Image.open(file).convert('RGB')) for file in sorted((pictures / 'val' / name).iterdir())])
        with torch.no_grad():
            rows += [(label, i) for i in view(images).argmax(-1).tolist()]
    return rows


def test_report(zoo, checkpoint, pictures, tmp_path):
    path, model = checkpoint
    folder = tmp_path / 'a report'
    words = 'validate', pictures, '--model', MODEL, '--checkpoint', path, '--device', 'cpu', '-j', '0', '-b', '7'
    result = zoo(*words, '--report', folder)
    assert result.code == 0, result.err
    counts = np.zeros((3, 3), int)
    for label, prediction in predicted(model, pictures):
        counts[label, prediction] += 1
    head, *rows = table(folder / 'confusion.csv')
    assert head == ['class', 'blue', 'green', 'red']
    assert [list(map(int, row[1:])) for row in rows] == counts.tolist() and counts.sum() == 24
    for i, row in enumerate(table(folder / 'classes.csv')[1:]):
        named = dict(zip(table(folder / 'classes.csv')[0], row))
        assert (named['images'], named['correct']) == ('8', str(counts[i, i]))
        assert float(named['accuracy']) == pytest.approx(100 * counts[i, i] / 8, abs=0.01)
        assert int(named['times']) == max(counts[i, j] for j in range(3) if j != i)
    with Image.open(folder / 'confusion.png') as image:
        assert min(image.size) > 300
    assert str(folder / 'confusion.png') in result.out
    assert_refused(zoo(*words, '--report', path), 'is not a folder', '--report')
    assert_refused(zoo(*words, '--report', folder, '--crop-sweep', '0.8'), '--report is of one model at one crop')


def test_names_with_signs_and_classes_without_images(tmp_path):
    confusion = Confusion(3, torch.device('cpu'))
    confusion(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, -1]))
    confusion.write(tmp_path, ['$x^$', 'a,"b"\n<c>', 'ä'], 'cost $5')
    head, first, second, third = table(tmp_path / 'classes.csv')
    assert first == ['0', '$x^$', '2', '1', '50.00', '100.00', 'a,"b"\n<c>', '1']
    assert third == ['2', 'ä', '0', '0', '', '', '', '0'] and second[2:6] == ['0', '0', '', '0.00']


def test_many_classes(tmp_path):
    confusion = Confusion(120, torch.device('cpu'))
    confusion(torch.eye(120), torch.arange(120))
    confusion.write(tmp_path, [f'class {i}' for i in range(120)], 'many')
    assert len(table(tmp_path / 'confusion.csv')) == 121


def test_views(zoo, checkpoint, pictures):
    path, model = checkpoint
    side = resolve_data_config({}, model=model, use_test_size=True)['input_size'][-1]
    larger = round(1.25 * side)

    def view(images):
        scaled = F.interpolate(images, (larger, larger), mode='bicubic', antialias=True)
        return sum(model(x).softmax(-1) for x in (images, images.flip(-1), scaled, scaled.flip(-1)))

    right = np.mean([label == prediction for label, prediction in predicted(model, pictures, view)])
    words = 'validate', pictures, '--model', MODEL, '--checkpoint', path, '--device', 'cpu', '-j', '0', '--tta'
    result = zoo(*words, '--tta-scales', '1', '1.25')
    assert result.code == 0 and f'mean of several views  top-1 {100 * right:.2f} %' in result.out, result.err
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(Views(model, False, [(40, 40)])(images), model(images).log_softmax(-1))


def test_sizes_that_a_model_refuses(zoo, pictures):
    words = 'validate', pictures, '--model', 'vit_tiny_patch16_224', '--device', 'cpu', '-j', '0', '--num-classes', '3'
    model = timm.create_model('vit_tiny_patch16_224', depth=1).eval()
    kind = 3, torch.device('cpu'), torch.float32
    sizes, refused = sizes_at(model, (224, 224), [1, 1.5], *kind)
    assert sizes == [(224, 224)] and refused[0].startswith('scale 1.5 is left out: [3, 336, 336] images do not fit')
    with pytest.raises(ZooError, match='at none of the scales; scale 0.5'):
        sizes_at(model, (224, 224), [0.5], *kind)
    assert_refused(zoo(*words, '--tta-scales', '0'), 'must be at least 0.1')
