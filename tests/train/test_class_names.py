"""Runs, resumed runs, validation, inference and probes agree on which class has which number."""
import json
import shutil

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from zoo.train import engine

from .conftest import MODEL
from .test_errors import assert_refused


@pytest.fixture
def data(pictures, tmp_path):
    """A copy of the pictures; validation has no blue ones, and a tool has left folders of its own."""
    root = tmp_path / 'data'
    shutil.copytree(pictures, root, ignore=shutil.ignore_patterns('1?.png', '2?.png'))
    shutil.rmtree(root / 'val' / 'blue')
    for folder in ('train/.ipynb_checkpoints', 'val/.ipynb_checkpoints', 'train/__pycache__'):
        (root / folder).mkdir()
        shutil.copy(root / 'train' / 'red' / '0.png', root / folder)
    return root


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def hits(content, root, names):
    """The share of pictures below a folder that are classified rightly, by timm alone."""
    model = timm.create_model(MODEL, num_classes=3)
    model.load_state_dict(content['state_dict'])
    transform = create_transform(**content['data_config'])
    files = sorted(root.glob('[!.]*/*.png'))
    with torch.no_grad():
        found = model.eval()(torch.stack([transform(Image.open(file).convert('RGB')) for file in files])).argmax(1)
    return 100 * sum(names[i] == file.parent.name for i, file in zip(found.tolist(), files)) / len(files)


def test_a_run_and_what_follows_number_classes_by_name(zoo, small, data, tmp_path):
    result = zoo('train', *small(data_dir=data, epochs=1))
    assert result.code == 0, result.err
    assert '30 images to train on, 16 to validate' in result.out
    note, = [line for line in result.out.splitlines() if line.startswith('note: ')]
    assert note == ('note: validation lacks 1 of 3 classes (blue); the others keep their numbers; images per class: '
                    'blue 0, green 8, red 8')
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    content = read(last)
    assert content['class_names'] == ['blue', 'green', 'red'] and content['num_classes'] == 3
    assert content['data_fingerprint']['train'][0] == 30 and content['data_fingerprint']['validation'][0] == 16
    right = hits(content, data / 'val', content['class_names'])
    assert content['metric'] == pytest.approx(right, abs=1e-3) and right > 40

    words = 'validate', '--checkpoint', last, '--json'
    result = zoo(*words)
    assert json.loads(result.out)['top1'] == pytest.approx(right, abs=1e-3) and note in result.err
    picture = data / 'val' / 'red' / '0.png'
    rows = json.loads(zoo('infer', MODEL, picture, '--checkpoint', last, '--json').out)[0]['classes']
    assert {row['index']: row['label'] for row in rows} == {0: 'blue', 1: 'green', 2: 'red'}

    (data / 'val' / 'red').rename(data / 'val' / 'rouge')
    assert_refused(zoo(*words), 'validation has classes that training did not have: rouge', 'blue, green, red')
    assert_refused(zoo('train', *small(data_dir=data, experiment='b')), 'training did not have: rouge')
    (data / 'val' / 'rouge').rename(data / 'val' / 'red')

    go_on = 'train', '--resume', last, '--epochs', '2'
    (data / 'train' / 'red' / '0.png').rename(data / 'train' / 'red' / 'new.png')
    assert_refused(zoo(*go_on), 'train: these are not the data of the checkpoint, but other files', '--new-data')
    (data / 'train' / 'blue').rename(data / 'train' / 'sky')
    assert_refused(zoo(*go_on), 'gone: blue; new: sky', '--new-data')
    assert read(last)['epoch'] == 0
    result = zoo(*go_on, '--new-data')
    assert result.code == 0, result.err
    after = read(last)
    assert after['class_names'] == ['sky', 'green', 'red'] and after['epoch'] == 1
    assert after['data_fingerprint']['train'] != content['data_fingerprint']['train']
    assert 'new_data' not in after['args'] and zoo('train', '--resume', last, '--epochs', '2').code == 0


def test_a_checkpoint_without_its_class_map_has_the_names(zoo, small, data, tmp_path):
    shutil.rmtree(data / 'train' / 'blue')
    (tmp_path / 'map.txt').write_text('red\nblue\ngreen\n')
    result = zoo('train', *small(data_dir=data, epochs=1, class_map=tmp_path / 'map.txt'))
    assert result.code == 0, result.err
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    content = read(last)
    assert content['class_names'] == ['red', 'blue', 'green']
    right = hits(content, data / 'val', content['class_names'])
    (tmp_path / 'map.txt').unlink()
    found = json.loads(zoo('validate', '--checkpoint', last, '--json').out)
    assert found['top1'] == content['metric'] == pytest.approx(right, abs=1e-3) and found['count'] == 16


def test_probes_number_classes_by_name(zoo, small, data, tmp_path):
    flags = small(data_dir=data, epochs=1, num_classes=None, sched_on_updates=None, warmup_epochs=None)
    assert zoo('probe', *flags).code == 0
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    content = read(last)
    assert content['class_names'] == ['blue', 'green', 'red'] and content['num_classes'] == 3
    found = json.loads(zoo('validate', '--checkpoint', last, '--json').out)
    assert found['top1'] == pytest.approx(content['metric'], abs=1e-3) and found['count'] == 16
    (data / 'train' / 'red').rename(data / 'train' / 'rouge')
    assert_refused(zoo('probe', '--resume', last, '--epochs', '2'), 'gone: red; new: rouge')


def test_published_weights_know_the_names_of_imagenet(zoo, pictures, tmp_path, monkeypatch):
    """Folders that are named after some of its synsets have their numbers; others are noted."""
    for name, target in (('n01443537', 'blue'), ('n07920052', 'red')):  # 1 and 967
        (tmp_path / 'val' / name).mkdir(parents=True)
        shutil.copy(pictures / 'val' / target / '0.png', tmp_path / 'val' / name / '0.png')
    model = timm.create_model(MODEL, num_classes=1000)
    torch.nn.init.zeros_(model.head.fc.weight)
    torch.nn.init.zeros_(model.head.fc.bias)
    with torch.no_grad():
        model.head.fc.bias[967] = 9
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    words = 'validate', '--model', MODEL, '--checkpoint', tmp_path / 'a.pth', '--data-dir', tmp_path, '-j', '0'
    result = zoo(*words)
    assert result.code == 0 and 'top-1 50.00 %' in result.out, result.err
    assert 'validation lacks 998 of 1000 classes (n01440764, ' in result.out
    (tmp_path / 'val' / 'n07920052').rename(tmp_path / 'val' / 'red')
    result = zoo(*words)
    assert 'top-1 0.00 %' in result.out and 'note: the data has 2 classes, the model 1000' in result.out

    def killed(*args):  # wherever the program is: torch's signal handler raises it
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')

    monkeypatch.setattr(engine, 'evaluate', killed)
    result = zoo(*words)
    assert result.code == 2 and result.err.splitlines()[-1].startswith(
        'error: DataLoader worker (pid 7) is killed by signal: Killed: a data loading process has died, ')
