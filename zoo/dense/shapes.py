"""A small data set of coloured shapes, for tests and for trying things: made in seconds, learned in minutes.

It lies in a folder both as COCO has it (boxes and polygons, for mmdet) and as mmsegmentation reads it (label maps)::

    FOLDER/train/*.png  FOLDER/annotations/train.json  FOLDER/masks/train/*.png      and the same for val
"""
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..utils.errors import ZooError
from ..utils.files import atomic_dir

CLASSES = ('circle', 'square', 'triangle')
CORNERS = (32, 4, 3)
SHAPES = (1, 4)  # in an image, at least and at most
RADIUS = (0.12, 0.24)  # of the image's side

Polygon = list[tuple[float, float]]


def write_shapes(folder: str | Path, train: int = 16, val: int = 8, size: int = 128, seed: int = 0) -> Path:
    """Write images of circles, squares and triangles that do not touch, on a noisy background.

    >>> folder = write_shapes('shapes', train=2, val=1, size=64)
    >>> sorted(path.name for path in folder.iterdir())
    ['annotations', 'masks', 'train', 'val']

    Args:
        folder: Folder to write to, which is created if it does not exist. Equal arguments write equal bytes.
        train: Number of training images.
        val: Number of validation images.
        size: Side of the square images in pixels, at least 32.
        seed: Another seed draws other images.

    Returns:
        The folder.

    Raises:
        ZooError: The folder is not empty, or the images are fewer than one or smaller than 32 pixels.
    """
    folder = Path(folder)
    if train < 1 or val < 1 or size < 32:
        raise ZooError(f'train {train}, val {val}, size {size}: give at least 1, 1 and 32')
    with atomic_dir(folder) as draft:
        for number, (split, count) in enumerate((('train', train), ('val', val))):
            _write_split(draft, split, count, size, np.random.default_rng([seed, number]))
    return folder


def _write_split(folder: Path, split: str, count: int, size: int, rng: np.random.Generator) -> None:
    for path in (folder / split, folder / 'masks' / split, folder / 'annotations'):
        path.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        name = f'{number:05}.png'
        image, mask, shapes = _draw(size, rng)
        image.save(folder / split / name)
        mask.save(folder / 'masks' / split / name)
        images.append(dict(id=number + 1, file_name=name, height=size, width=size))
        for label, polygon in shapes:
            annotations.append(_annotation(len(annotations) + 1, number + 1, label, polygon))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'annotations' / f'{split}.json').write_text(json.dumps(content, indent=1), encoding='utf-8')


def _draw(size: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image, list[tuple[int, Polygon]]]:
    """An image, its label map (0 is background, class i is i + 1), and the classes and outlines in it."""
    background = rng.integers(60, 196, 3) + rng.normal(0, 20, (size, size, 3))
    image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
    mask = Image.new('L', (size, size))
    shapes, taken = [], []
    for _ in range(int(rng.integers(SHAPES[0], SHAPES[1] + 1))):
        radius = rng.uniform(*RADIUS) * size
        x, y = rng.uniform(radius, size - radius, 2)
        label = int(rng.integers(len(CLASSES)))
        turn = rng.uniform(0, 2 * math.pi)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        if any(math.hypot(x - u, y - v) < radius + other for u, v, other in taken):
            continue  # one that would touch another is left out; the first one never is
        taken.append((x, y, radius))
        corners = CORNERS[label]
        polygon = [
            (round(x + radius * math.cos(turn + 2 * math.pi * k / corners), 2),
             round(y + radius * math.sin(turn + 2 * math.pi * k / corners), 2)) for k in range(corners)]
        ImageDraw.Draw(image).polygon(polygon, fill=colour)
        ImageDraw.Draw(mask).polygon(polygon, fill=label + 1)
        shapes.append((label, polygon))
    return image, mask, shapes


def _annotation(number: int, image: int, label: int, polygon: Polygon) -> dict:
    """COCO's annotation of an object."""
    xs, ys = zip(*polygon)
    pairs = zip(polygon, [*polygon[1:], polygon[0]])
    return dict(
        id=number, image_id=image, category_id=label + 1, iscrowd=0,
        bbox=[min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        area=round(abs(sum(x * v - u * y for (x, y), (u, v) in pairs)) / 2, 2),
        segmentation=[[value for point in polygon for value in point]])
