"""train-det, train-seg and predict, as a user calls them, on the data set of shapes."""
import json
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from zoo.cli import train_det, train_seg
from zoo.cli.predict import main as predict
from zoo.dense.launch import read_config
from zoo.dense.predict import _bgr
from zoo.dense.shapes import write_shapes
from zoo.train.data.decoding import decode
from zoo.utils.errors import ZooError

DET, SEG = 'shapes_mask_rcnn_flatten_pvt_v2_b0', 'shapes_fpn_flatten_pvt_v2_b0'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('tools') / 'shapes', train=4, val=2, size=64)


def records(folder):
    """What a run logged, over all its starts."""
    files = sorted(Path(folder).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def tree(path):
    return torch.load(path, weights_only=False)['state_dict']


def test_detector_trains_resumes_is_measured_and_draws(data, tmp_path, capsys):
    short = ['default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=1', 'train_cfg.val_interval=2']
    run = [DET, str(data), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *short]
    assert train_det.main([*run, 'train_cfg.max_epochs=1']) == 0
    first = tree(tmp_path / 'run' / 'epoch_1.pth')
    assert train_det.main([*run, 'train_cfg.max_epochs=2', '--resume']) == 0
    logged = [entry for entry in records(tmp_path / 'run') if 'loss' in entry]
    assert [entry['step'] for entry in logged] == [1, 2]  # the second start went on where the first ended
    second = tree(tmp_path / 'run' / 'epoch_2.pth')
    moved = [key for key in first if not torch.equal(first[key], second[key])]
    assert any(key.startswith('backbone.net.') for key in moved) and any(key.startswith('roi_head.') for key in moved)
    weights = str(tmp_path / 'run' / 'epoch_2.pth')
    assert train_det.main([DET, str(data), '--test', weights, '--work-dir', str(tmp_path / 'test')]) == 0
    scores = records(tmp_path / 'run')[-1], json.loads(next((tmp_path / 'test').glob('*/*.json')).read_text())
    assert scores[0]['coco/bbox_mAP'] == scores[1]['coco/bbox_mAP']
    capsys.readouterr()
    picture = tmp_path / 'seen.png'
    image = data / 'val' / '00000.png'
    assert predict([DET, weights, str(image), '--output', str(picture), '--score', '0', '--device', 'cpu']) == 0
    counts = capsys.readouterr().out.splitlines()[-1].partition(': ')[2].split(', ')
    assert 0 < sum(int(count.split()[1]) for count in counts) <= 20  # of test_cfg
    before, after = Image.open(image).convert('RGB'), Image.open(picture)
    assert before.size == after.size and before.tobytes() != after.tobytes()
    metainfo = read_config(DET, 'mmdet').train_dataloader.dataset.metainfo
    colours = {colour for _, colour in after.getcolors(64 * 64)}
    assert colours & set(map(tuple, metainfo.palette))  # of the lines of boxes
    assert predict([DET, weights, str(image), '--output', str(picture), '--score', '1', '--device', 'cpu']) == 0
    assert capsys.readouterr().out.endswith(f'{picture}: nothing found\n')
    assert Image.open(picture).tobytes() == before.tobytes()


def test_segmentor_trains_and_draws(data, tmp_path, capsys):
    assert train_seg.main([SEG, str(data), '--work-dir', str(tmp_path), '--cfg-options', 'train_cfg.max_iters=2',
                      'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']) == 0
    measured = [entry for entry in records(tmp_path) if 'mIoU' in entry]
    assert len(measured) == 1 and 0 <= measured[0]['mIoU'] <= 100
    capsys.readouterr()
    picture = tmp_path / 'seen.png'
    assert predict([SEG, str(tmp_path / 'iter_2.pth'), str(data / 'val' / '00001.png'), '--output', str(picture),
                    '--device', 'cpu']) == 0
    counts = capsys.readouterr().out.splitlines()[-1].partition(': ')[2].split(', ')
    assert sum(int(count.split()[1]) for count in counts) == 64 * 64  # every pixel has a class
    assert Image.open(picture).size == (64, 64)


def test_data_and_options_reach_the_config(data):
    cfg = read_config(DET, 'mmdet', ['optim_wrapper.optimizer.lr=0.25', 'model.backbone.with_cp=True'])
    assert cfg.optim_wrapper.optimizer.lr == 0.25 and cfg.model.backbone.with_cp is True
    assert read_config(SEG, 'mmseg').default_scope == 'mmseg'


@pytest.mark.parametrize('argv,message', [
    (['mask_rcnn_ravlt_x_1x'],
     "no config 'mask_rcnn_ravlt_x_1x': neither a file nor a recipe of the zoo; did you mean mask_rcnn_ravlt_"),
    ([DET], 'no data in data/shapes/; name its folder: python -m zoo train-det ' + DET + ' DATA_DIR'),
    ([DET, 'DATA', '--resume'], 'has no checkpoint to go on from; name a file or --work-dir'),
    ([DET, 'DATA', '--resume', 'missing.pth'], 'no checkpoint missing.pth'),
    ([DET, 'DATA', '--test', 'missing.pth'], 'no checkpoint missing.pth'),
    ([DET, 'DATA', '--cfg-options', 'modle.backbone.model=van_b0'], 'the config has no modle; did you mean model'),
    ([DET, 'DATA', '--cfg-options', 'model'], '--cfg-options model: expected key=value'),
    ([DET, 'DATA', '--cfg-options', 'model.backbone.model=van_b9'], 'van_b9'),
    ([DET, 'DATA', '--epochs', '3'], 'unrecognized arguments: --epochs 3'),
])
def test_mistakes_are_told_in_one_line(argv, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_det.main([str(data) if word == 'DATA' else word for word in argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ') and message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision works here')
def test_mixed_precision_needs_a_gpu(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_det.main([DET, str(data), '--amp']) == 2
    assert capsys.readouterr().err == 'error: mixed precision needs a GPU; --no-amp trains without\n'


@pytest.mark.parametrize('change,message', [
    (dict(output='seen.tiff'), '--output seen.tiff: name a picture in a folder that exists, ending in .png, .jpg'),
    (dict(output='nowhere/seen.png'), 'name a picture in a folder that exists'),
    (dict(checkpoint='missing.pth'), 'no checkpoint missing.pth'),
    (dict(image='text.png'), 'text.png cannot be read as an image'),
    (dict(config='shapes_mask_rcnn'), "no config 'shapes_mask_rcnn': neither a file nor a recipe of the zoo"),
])
def test_mistakes_of_predict(change, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('text.png').write_text('no image')
    torch.save({'state_dict': {}}, 'weights.pth')
    good = dict(config=DET, checkpoint='weights.pth', image=str(data / 'val' / '00000.png'), output='seen.png')
    given = {**good, **change}
    assert predict([given['config'], given['checkpoint'], given['image'], '--output', given['output']]) == 2
    assert message in capsys.readouterr().err and not Path('seen.png').exists()


def test_a_config_must_be_mmengines(tmp_path):
    (tmp_path / 'x.yaml').write_text('model: van_b0\n')
    with pytest.raises(ZooError, match='is not a config of mmengine: those end in .py'):
        read_config(str(tmp_path / 'x.yaml'), 'mmdet')


def test_the_model_sees_what_is_drawn_on(tmp_path):
    """Colours in the order that mmcv reads; deep images scaled, as everywhere."""
    import mmcv

    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    assert np.array_equal(_bgr(pil_to_tensor(decode(tmp_path / 'a.png'))), mmcv.imread(tmp_path / 'a.png'))
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / 'b.png')
    assert np.array_equal(_bgr(pil_to_tensor(decode(tmp_path / 'b.png')))[..., 2], pixels[..., 0])
