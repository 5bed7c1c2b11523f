"""One decoder for every command: bit depths, orientation, formats, and files that cannot be read."""
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo.evaluate import infer
from zoo.train.data import datasets, decoding
from zoo.utils.errors import Unreadable, ZooError

from .test_datasets import options_with

RAMP = np.tile(np.linspace(0, 1, 64), (8, 1))
EIGHT = np.rint(255 * RAMP).astype(np.uint8)


def tiff(path, values, sample_format):
    """An uncompressed TIFF of 32-bit numbers, whose tags Pillow would not write so."""
    height, width = values.shape
    data = values.astype('<u4').tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    table = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', tag, kind, 1, value)
                                                    for tag, kind, value in tags) + bytes(4)
    path.write_bytes(struct.pack('<2sHI', b'II', 42, 8 + len(data)) + data + table)


@pytest.mark.parametrize('name, values', [
    ('16.png', (RAMP * 65535).round().astype(np.uint16)), ('16.tif', (RAMP * 65535).round().astype(np.uint16)),
    ('16.pgm', (RAMP * 65535).round().astype(np.uint16)),
    ('int32.tif', (RAMP * (2 ** 31 - 1)).astype(np.int32)), ('narrow.tif', (RAMP * 65535).round().astype(np.int32)),
    ('bytes.tif', EIGHT.astype(np.int32)),
    ('unit.tif', RAMP.astype(np.float32)), ('float8.tif', (RAMP * 255).astype(np.float32)),
    ('float16.tif', (RAMP * 65535).astype(np.float32)), ('over.tif', (RAMP * 1.02).clip(0, 1.02).astype(np.float32)),
], ids=lambda value: value if isinstance(value, str) else '')
def test_deep_images_are_scaled_to_8_bits(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    for mode in ('L', 'RGB'):
        found = np.asarray(decoding.decode(tmp_path / name, mode)).astype(int)
        difference = np.abs((found if mode == 'L' else found[..., 0]) - EIGHT)
        assert difference.max() <= (6 if name == 'over.tif' else 1), name
    assert found.mean() == pytest.approx(127.5, abs=2.6)


def test_numbers_without_sign_and_without_a_value(tmp_path):
    tiff(tmp_path / 'a.tif', np.rint(RAMP * (2 ** 32 - 1)), sample_format=1)
    assert np.abs(np.asarray(decoding.decode(tmp_path / 'a.tif', 'L')).astype(int) - EIGHT).max() <= 1
    values = RAMP.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / 'b.tif')
    assert np.asarray(decoding.decode(tmp_path / 'b.tif', 'L'))[0, :3].tolist() == [0, 255, 0]
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / 'c.tif')
    assert not np.asarray(decoding.decode(tmp_path / 'c.tif', 'L')).any()
    assert np.asarray(decoding.decode(tmp_path / 'b.tif', 'F'))[1, 63] == 1  # asked for as it is


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_upright(tmp_path, orientation):
    upright = np.arange(24, dtype=np.uint8).reshape(4, 6)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
              6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = np.ascontiguousarray(stored).astype(np.uint16) * 257
    for image in (Image.fromarray(np.ascontiguousarray(stored)), Image.fromarray(deep)):
        image.save(tmp_path / 'a.png', exif=exif)
        assert np.array_equal(np.asarray(decoding.decode(tmp_path / 'a.png', 'L')), upright)


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_damaged_exif_data_do_not_cost_the_image(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / 'a.jpg', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff garbage')
    Image.fromarray(EIGHT).save(tmp_path / 'b.jpg', exif=b'Exif\0\0nothing like it')
    for name in ('a.jpg', 'b.jpg'):
        assert decoding.decode(tmp_path / name).size == (64, 8)


def bomb(path):
    """A PNG of 30000 x 30000 pixels, of which there are none."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 30000, 30000, 8, 0, 0, 0, 0))
                     + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


def dds(path):
    """A DirectDraw surface of a pixel format that Pillow does not know."""
    head = struct.pack('<7I', 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack('<2I4s5I', 32, 4, b'ABCD', *[0] * 5)
    path.write_bytes(b'DDS ' + head + bytes(60))


def avif(path):
    Image.fromarray(EIGHT).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b'mdat') + 4
    content[place:] = bytes(len(content) - place)
    path.write_bytes(content)


@pytest.mark.parametrize('name, write, reason', [
    ('a.png', bomb, 'decompression bomb'), ('a.dds', dds, 'Unimplemented'), ('a.avif', avif, 'decode'),
    ('b.png', lambda path: path.write_text('no'), 'not a known image format'),
    ('c.png', os.mkfifo, 'not a regular file'), ('d.png', lambda path: None, 'No such file')])
def test_what_cannot_be_read_is_named(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(Unreadable, match=reason):
        decoding.decode(tmp_path / name)
    with pytest.raises(ZooError, match=f'{name} cannot be read as a picture') as told:
        infer.open_picture(str(tmp_path / name))
    assert '\n' not in str(told.value)


def test_all_formats_that_pillow_reads_by_itself():
    endings = decoding.endings()
    assert endings >= {
        '.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff', '.avif', '.gif', '.ppm', '.jp2', '.dds'}
    assert not endings & {'.pdf', '.h5', '.eps', '.mpg', '.txt', '.npy'}


@pytest.mark.parametrize('kind', ['', 'tar', 'torch/folder', 'wds/all'])
def test_every_kind_of_data_is_decoded_alike(tmp_path, kind):
    """A deep image that lies on its side."""
    if kind == 'wds/all':
        pytest.importorskip('webdataset')
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / 'train' / 'ant').mkdir(parents=True)
    file = tmp_path / 'train' / 'ant' / '1.png'
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(file, exif=exif)
    values = dict(data_dir=str(tmp_path), dataset=kind)
    if kind == 'tar':
        values = dict(data_dir=str(tmp_path / 'a.tar'))
        with tarfile.open(tmp_path / 'a.tar', 'w') as packed:
            packed.add(file, 'ant/1.png')
    elif kind == 'wds/all':
        with tarfile.open(tmp_path / 'a.tar', 'w') as packed:
            packed.add(file, '1.png')
            (tmp_path / '1.cls').write_text('0')
            packed.add(tmp_path / '1.cls', '1.cls')
        (tmp_path / '_info.json').write_text(json.dumps(dict(splits=dict(train=dict(
            name='train', num_samples=1, filenames=['a.tar'], shard_lengths=[1])))))
    data = datasets.open_dataset(options_with(**values), 'train', channels=1)
    image = next(iter(data))[0]
    assert image.mode == 'L' and image.size == (8, 64)
    assert np.abs(np.asarray(image).astype(int) - np.rot90(EIGHT, -1)).max() <= 1
