"""The data set of shapes: the same bytes for the same seed, and boxes, outlines and label maps that agree."""
import json

import numpy as np
import pytest
from PIL import Image

from zoo.cli.shapes import main
from zoo.dense.shapes import CLASSES, write_shapes


def read(folder, split):
    content = json.loads((folder / 'annotations' / f'{split}.json').read_text())
    return content['images'], content['annotations'], content['categories']


def test_writes_both_formats(tmp_path):
    folder = write_shapes(tmp_path / 'new' / 'shapes', train=5, val=3, size=96)
    for split, count in (('train', 5), ('val', 3)):
        images, annotations, categories = read(folder, split)
        names = [image['file_name'] for image in images]
        assert len(names) == count and [c['name'] for c in categories] == list(CLASSES)
        assert sorted(p.name for p in (folder / split).iterdir()) == names
        assert sorted(p.name for p in (folder / 'masks' / split).iterdir()) == names
        assert [Image.open(folder / split / name).size for name in names] == [(96, 96)] * count
        assert {a['image_id'] for a in annotations} == {image['id'] for image in images}  # none is empty
        assert [a['id'] for a in annotations] == list(range(1, len(annotations) + 1))
        assert {a['iscrowd'] for a in annotations} == {0}


def test_boxes_areas_and_masks_agree(tmp_path):
    folder = write_shapes(tmp_path / 'shapes', train=20, val=1)
    images, annotations, _ = read(folder, 'train')
    masks = {i['id']: np.asarray(Image.open(folder / 'masks/train' / i['file_name'])) for i in images}
    for annotation in annotations:
        x, y, w, h = annotation['bbox']
        points = np.array(annotation['segmentation'][0]).reshape(-1, 2)
        assert points.min(0).tolist() == [x, y] and np.allclose(points.max(0), [x + w, y + h], atol=0.011)
        assert min(x, y) >= -0.01 and max(x + w, y + h) <= 128.01
        inside = masks[annotation['image_id']][int(y):int(y + h) + 1, int(x):int(x + w) + 1]
        pixels = (inside == annotation['category_id']).sum()
        assert abs(pixels - annotation['area']) < 0.3 * annotation['area']  # corners of others may reach in
    drawn = sum((mask > 0).sum() for mask in masks.values())
    assert abs(drawn - sum(a['area'] for a in annotations)) < 0.1 * drawn
    assert {a['category_id'] for a in annotations} == {1, 2, 3}


def test_seed_decides_every_byte(tmp_path):
    folders = [write_shapes(tmp_path / name, train=3, val=2, size=64, seed=seed) for name, seed in
               (('a', 1), ('b', 1), ('c', 2))]
    a, b, c = ({p.relative_to(f): p.read_bytes() for p in f.rglob('*') if p.is_file()} for f in folders)
    assert len(a) == 12 and a == b
    assert a.keys() == c.keys() and not any(a[key] == c[key] for key in a)
    images = [value for key, value in a.items() if key.parts[0] in ('train', 'val')]
    assert len(set(images)) == len(images)


def test_refuses_a_full_folder_and_nonsense(tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('kept')
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f'error: {tmp_path} is not an empty folder; name one that does not exist\n')
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']
    with pytest.raises(ValueError, match='train 0, val 8, size 16: give at least 1, 1 and 32'):
        write_shapes(tmp_path / 'new', train=0, size=16)


def test_command_line(tmp_path, capsys):
    folder = tmp_path / 'shapes'
    folder.mkdir()  # an empty folder will do
    assert main([str(folder), '--train', '2', '--val', '1', '--size', '48', '--seed', '3']) == 0
    assert capsys.readouterr().out == f'{folder}: 2 images to learn from, 1 to measure with, of 48 x 48 pixels\n'
    assert len(read(folder, 'train')[0]) == 2
    assert main([str(tmp_path / 'x'), '--images', '3']) == 2
    assert '--images' in capsys.readouterr().err
