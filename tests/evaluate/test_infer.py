"""python -m zoo infer: pictures from files, folders and addresses, each named or its fault told."""
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from tests import goldens
from tests.train.conftest import MODEL
from tests.weights.host import File, lead_to, serving
from zoo.evaluate import infer
from zoo.utils import web
from zoo.utils.errors import ZooError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkpoint(tmp_path):
    """Weights for three classes, without a word of what they are of; and the model."""
    model = timm.create_model(MODEL, num_classes=3)
    torch.save(model.state_dict(), tmp_path / 'three.pth')
    return tmp_path / 'three.pth', model.eval()


def expected(model, path, **changes):
    """Probabilities, by timm alone."""
    transform = create_transform(**{**resolve_data_config({}, model=model, use_test_size=True), **changes})
    with torch.no_grad():
        return model(transform(Image.open(path).convert('RGB'))[None]).softmax(-1)[0]


def probabilities(picture):
    return [row['probability'] for row in sorted(picture['classes'], key=lambda row: row['index'])]


# --- pictures

def test_a_folder_with_a_damaged_picture(zoo, checkpoint, pictures, tmp_path):
    path, model = checkpoint
    for name in ('blue', 'green', 'red'):
        (tmp_path / 'in' / name).mkdir(parents=True)
        (tmp_path / 'in' / name / '0.PNG').write_bytes((pictures / 'val' / name / '0.png').read_bytes())
    (tmp_path / 'in' / 'green' / '1.jpg').write_bytes((pictures / 'val' / 'red' / '1.png').read_bytes()[:-500])
    (tmp_path / 'in' / 'notes.txt').write_text('no picture')
    runs = [zoo('infer', MODEL, tmp_path / 'in', '--checkpoint', path, '--json', '-b', size) for size in (2, 32)]
    found = json.loads(runs[0].out)
    names = ['blue/0.PNG', 'green/0.PNG', 'green/1.jpg', 'red/0.PNG']
    assert [picture['image'] for picture in found] == [str(tmp_path / 'in' / name) for name in names]
    assert runs[0].code == runs[1].code == 1
    assert runs[0].err == f'error: {found[2]["error"]}\n' and '1.jpg cannot be read as a picture (' in found[2]['error']
    for i in (0, 1, 3):
        want = expected(model, found[i]['image'])
        assert probabilities(found[i]) == pytest.approx(want.tolist(), abs=1e-5)
        assert probabilities(json.loads(runs[1].out)[i]) == pytest.approx(want.tolist(), abs=1e-5)
        assert found[i]['classes'][0] == dict(
            index=want.argmax().item(), probability=pytest.approx(want.max().item(), abs=1e-5), label=None)
        assert len(found[i]['classes']) == 3  # no more than there are


def test_text_and_labels(zoo, checkpoint, pictures, tmp_path):
    path, model = checkpoint
    picture = pictures / 'val' / 'red' / '0.png'
    want = expected(model, picture)
    best = want.argmax().item()
    words = 'infer', MODEL, picture, '--checkpoint', path, '--topk', '1'
    percent = f'{100 * want[best]:5.1f} %'
    assert zoo(*words).out == f'{picture}\n  {percent}  class {best}\n'
    (tmp_path / 'labels.txt').write_text('blå\ngreen\nred\n', encoding='utf-8')
    label = ('blå', 'green', 'red')[best]
    assert zoo(*words, '--labels', tmp_path / 'labels.txt').out == f'{picture}\n  {percent}  {label} ({best})\n'
    (tmp_path / 'labels.txt').write_text('one\n')
    assert_refused(zoo(*words, '--labels', tmp_path / 'labels.txt'), 'has 1 lines, the model 3 classes')
    assert_refused(zoo(*words, '--labels', tmp_path / 'none.txt'), 'none.txt cannot be read (')


def test_a_checkpoint_of_train_brings_its_preprocessing(zoo, small, pictures, tmp_path):
    zoo('train', *small(epochs=1, crop_pct='0.5', model_kwargs='drop_path_rate=0.1'))
    path, picture = tmp_path / 'out' / 'run' / 'last.pth.tar', pictures / 'val' / 'green' / '3.png'
    result = zoo('infer', MODEL, picture, '--checkpoint', path, '--json')
    assert result.code == 0, result.err
    model = timm.create_model(MODEL, num_classes=3)
    model.load_state_dict(torch.load(path, weights_only=True)['state_dict'])
    want = expected(model.eval(), picture, input_size=(3, 32, 32), crop_pct=0.5)
    assert probabilities(json.loads(result.out)[0]) == pytest.approx(want.tolist(), abs=1e-5)
    assert_refused(zoo('infer', 'test_resnet', picture, '--checkpoint', path), f'a checkpoint of {MODEL}')


def test_a_checkpoint_in_the_names_of_a_paper(zoo, pictures, tmp_path):
    """1000 classes are ImageNet's."""
    state = goldens.reference_state(goldens.load('flatten_pvt_v2_b0@224'), torch.float32)
    torch.save(dict(model=state), tmp_path / 'paper.pth')
    picture = pictures / 'val' / 'red' / '0.png'
    result = zoo('infer', 'flatten_pvt_v2_b0', picture, '--checkpoint', tmp_path / 'paper.pth', '--json')
    assert result.code == 0, result.err
    model = timm.create_model('flatten_pvt_v2_b0', pretrained=True, pretrained_cfg_overlay=dict(
        file=str(tmp_path / 'paper.pth'))).eval()
    want = expected(model, picture, crop_mode='squash').topk(5)
    rows = json.loads(result.out)[0]['classes']
    assert [row['index'] for row in rows] == want.indices.tolist()
    assert rows[0]['label'] == infer.ImageNetInfo().index_to_description(rows[0]['index'])


def test_pictures_are_upright_and_of_the_mode_of_the_model(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 200
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / 'a.png', exif=exif)
    picture = infer.open_picture(str(tmp_path / 'a.png'))
    assert picture.size == (4, 6) and picture.getpixel((3, 0)) == (200, 200, 200)
    Image.new('RGBA', (3, 3), (9, 9, 9, 255)).save(tmp_path / 'b.png')
    assert infer.open_picture(str(tmp_path / 'b.png')).getpixel((0, 0)) == (9, 9, 9)
    assert infer.open_picture(str(tmp_path / 'b.png'), 'L').getpixel((0, 0)) == 9


def test_labels():
    assert infer.labels_of(SimpleNamespace(num_classes=1000))[967] == 'espresso'
    assert len(infer.labels_of(SimpleNamespace(num_classes=21841))) == 21841
    cfg = dict(label_names=['n1', 'n2'], label_descriptions=dict(n1='cat'))
    assert infer.labels_of(SimpleNamespace(num_classes=2, pretrained_cfg=cfg)) == ['cat', 'n2']
    assert infer.labels_of(SimpleNamespace(num_classes=3, pretrained_cfg=cfg)) is None


# --- addresses

@pytest.fixture
def host(monkeypatch, pictures):
    monkeypatch.setattr(urllib.request, '_opener', None)
    with serving() as host:
        lead_to(host.address)
        host.files['/a.png'] = File((pictures / 'val' / 'red' / '0.png').read_bytes(), kind='image/png')
        yield host


def test_a_picture_from_the_web_beside_one_that_is_none(zoo, checkpoint, pictures, host):
    good, gone = f'{host.address}/a.png', f'{host.address}/b.png'
    result = zoo('infer', MODEL, gone, good, '--checkpoint', checkpoint[0], '--json')
    found = json.loads(result.out)
    assert found[0] == dict(image=gone, error=f'{gone} cannot be fetched (HTTP 404 Not Found)') and result.code == 1
    want = expected(checkpoint[1], pictures / 'val' / 'red' / '0.png')
    assert probabilities(found[1]) == pytest.approx(want.tolist(), abs=1e-5)


def test_what_is_no_picture_on_the_web(host, monkeypatch):
    picture = host.files['/a.png'].content
    host.files['/page'] = File(b'<html>', kind='text/html; charset=utf-8')
    host.files['/unnamed'] = File(picture)
    host.files['/cut.png'] = File(picture, faults=[300], kind='image/png')
    host.files['/bad.png'] = File(b'not at all', kind='image/png')
    host.files['/down.png'] = File(picture, faults=[500])
    assert infer.open_picture(f'{host.address}/unnamed').size == (40, 40)
    for name, text in (('page', 'is not a picture but text/html; give the address of the picture itself'),
                       ('cut.png', 'cannot be'), ('down.png', 'cannot be fetched (HTTP 500 Internal Server Error)'),
                       ('bad.png', 'cannot be read as a picture (not a known image format)')):
        assert_unread(f'{host.address}/{name}', text)
    monkeypatch.setattr(infer, 'MOST_BYTES', 1 << 10)
    assert_unread(f'{host.address}/a.png', 'is larger than 0 MB; fetch it and give the file')


def test_servers_that_do_not_answer(host, monkeypatch):
    monkeypatch.setattr(infer, 'TIMEOUT', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        address = f'http://127.0.0.1:{silent.getsockname()[1]}/a.png'
        assert_unread(address, 'cannot be fetched (timed out)')
    assert_unread(address, 'cannot be fetched ([Errno')
    assert_unread('http://127.0.0.1:x/a.png', 'cannot be fetched (nonnumeric port')


def test_servers_that_send_too_much_or_too_slowly(host, monkeypatch):
    picture = host.files['/a.png'].content
    with monkeypatch.context() as small:
        small.setattr(infer, 'MOST_BYTES', 1 << 10)
        for headers in ({}, {'Content-Length': ''}):
            host.files['/large.png'] = File(picture, kind='image/png', headers=headers)
            assert_unread(f'{host.address}/large.png', 'is larger than 0 MB; fetch it and give the file')
    monkeypatch.setattr(web, 'PATIENCE', 0.1)
    monkeypatch.setattr(web, 'SLOWEST', 20_000)
    host.files['/slow.png'] = File(picture, kind='image/png', drip=0.1)
    assert_unread(f'{host.address}/slow.png', 'cannot be fetched (less than 20 kB/s arrive)')
    host.files['/odd.png'] = File(picture, kind='image/png', headers={'Content-Length': 'abc'})
    assert_unread(f'{host.address}/odd.png', 'cannot be fetched (its Content-Length is not a number: abc)')


def test_redirects_to_another_scheme_are_not_followed(host):
    host.files['/up.png'] = File(b'', faults=[(302, {'Location': 'https://safe.example/a.png'})])
    host.files['/safe.example/a.png'] = host.files['/a.png']
    assert infer.open_picture(f'{host.address}/up.png').size == (40, 40)
    host.files['/down.example/a.png'] = File(b'', faults=[(302, {'Location': f'{host.address}/a.png'})], forever=True)
    assert_unread('https://down.example/a.png', 'cannot be fetched (HTTP 302 a redirect from https to http, which is')
    host.files['/ftp.png'] = File(b'', faults=[(302, {'Location': 'ftp://127.0.0.1:9/a.png?sig=SECRET'})])
    assert_unread(f'{host.address}/ftp.png', 'cannot be fetched (HTTP 302 a redirect from http to ftp, which is not')
    assert ('GET', '/a.png', 0) not in host.asked


def test_signatures_and_control_characters_are_not_printed(zoo, checkpoint, host, monkeypatch):
    """Addresses of stores of files are signed; what a server says goes to the terminal."""
    monkeypatch.setattr('tests.weights.host.Answer.responses', {403: ('no\x1b[2J', '')})
    host.files['/a.png?sig=SECRET'] = host.files['/a.png']
    host.files['/page?sig=SECRET'] = File(b'<html>', kind='text\x1b[2J/html')
    host.files['/bad.png?sig=SECRET'] = File(b'no picture', kind='image/png')
    host.files['/no.png?sig=SECRET'] = File(b'', faults=[403], forever=True)
    places = [f'{host.address}/{name}?sig=SECRET' for name in ('a.png', 'page', 'bad.png', 'no.png', 'gone.png')]
    places += [f'http://me:SECRET@{host.address[7:]}/a.png', f'{host.address}/a.png?sig=SECRET\x1b[2J']
    for words in ((), ('--json',)):
        result = zoo('infer', MODEL, *places, '--checkpoint', checkpoint[0], *words)
        said = result.out + result.err
        assert result.code == 1 and result.err.count('error: http') == 6 and result.err.count('\n') == 6
        assert 'SECRET' not in said and '\x1b' not in said and f'{host.address}/a.png?...' in result.out


def assert_unread(place, text):
    with pytest.raises(ZooError) as caught:
        infer.open_picture(place)
    assert str(caught.value).startswith(place) and text in str(caught.value) and '\n' not in str(caught.value)


# --- mistakes

def assert_refused(result, text):
    assert result.code == 2 and result.out == '' and text in result.err
    assert result.err.startswith('error: ') and result.err.count('\n') == 1


def test_mistakes(zoo, checkpoint, pictures, tmp_path, monkeypatch):
    picture = pictures / 'val' / 'red' / '0.png'
    (tmp_path / 'empty').mkdir()
    for words, text in (
            ((MODEL, tmp_path / 'a.png'), f'no picture or folder {tmp_path / "a.png"}'),
            ((MODEL, tmp_path / 'empty'), f'no pictures in {tmp_path / "empty"}'),
            (('test_convnex', picture), "unknown model 'test_convnex'; did you mean test_convnext"),
            ((MODEL, picture, '--topk', '0'), '--topk: must be at least 1, got 0'),
            ((MODEL,), 'arguments are required: IMAGE|FOLDER|URL'),
            ((MODEL, picture, '--chekpoint', 'x'), 'unrecognized arguments: --chekpoint'),
            ((MODEL, picture, '--num-classes', '3'), '--num-classes is for a --checkpoint'),
            ((MODEL, picture, '--checkpoint', tmp_path / 'none.pth'), f'no checkpoint file at {tmp_path / "none.pth"}'),
            ((MODEL, picture, '--checkpoint', checkpoint[0], '--device', 'gpu'), "unknown device 'gpu'"),
            (('resnet18', picture, '--checkpoint', checkpoint[0]), 'resnet18: '),
            (('flatten_pvt_small', picture), 'there are no official weights of flatten_pvt_small.in1k')):
        assert_refused(zoo('infer', *words), text)
    headless = timm.create_model(MODEL, num_classes=0)
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: headless)
    assert_refused(zoo('infer', MODEL, picture), f'{MODEL} has no classifier')


@pytest.mark.slow
def test_the_tool_is_the_same_program_from_a_bare_checkout(tmp_path):
    result = subprocess.run(
        [sys.executable, '-S', '-c', 'import sys; sys.path[:0] = sys.argv[2:]; import runpy; tool = sys.argv[1]; '
         'sys.argv = [tool, "test_convnex", "a.png"]; runpy.run_path(tool, run_name="__main__")',
         str(ROOT / 'tools' / 'infer.py'), str(Path(torch.__file__).parents[1])],
        capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: unknown model 'test_convnex'"), result.stderr
