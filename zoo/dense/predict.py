"""``python -m zoo predict``: draw what a detector or segmentor finds in an image."""
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from ..train.data.decoding import decode
from ..train.options import config_path
from ..utils.errors import Unreadable, ZooError
from .launch import read_config

FORMATS = ('.png', '.jpg', '.jpeg', '.webp')


def predict(
        config: str, checkpoint: str | Path, image: str | Path, output: str | Path, score: float = 0.3,
        device: str = 'cpu', trust_checkpoints: bool = False) -> Counter:
    """Draw boxes and masks, or a segmentation, on an image and save the picture.

    Args:
        config: Name of a config in ``configs/mmdet`` or ``configs/mmseg``, or a path.
        checkpoint: Path of the weights of the whole detector or segmentor.
        image: Path of an image.
        output: Path of the picture to write, which has the size of the image.
        score: Least confidence of a detection, from 0 to 1.
        device: A device of torch.
        trust_checkpoints: As in :func:`zoo.dense.mm_compat.install`.

    Returns:
        The number of objects per class, or of pixels per class.

    Raises:
        ZooError: A file is missing or of the wrong kind.
    """
    output = Path(output)
    if output.suffix.lower() not in FORMATS or not output.absolute().parent.is_dir():
        raise ZooError(f'`output` {output}: name a picture in a folder that exists, ending in {", ".join(FORMATS)}')
    if not Path(checkpoint).is_file():
        raise ZooError(f'no checkpoint {checkpoint}')
    try:
        pixels = pil_to_tensor(decode(image))
    except Unreadable as e:
        raise ZooError(f'{image} cannot be read as an image: {e}') from None
    cfg = read_config(config, _kind(config), trust_checkpoints=trust_checkpoints)
    cfg.model.backbone.pretrained = False  # all weights are in the checkpoint
    find = _segments if cfg.default_scope == 'mmseg' else _objects
    found, picture = find(cfg, str(checkpoint), pixels, score, device)
    to_pil_image(picture).save(output)
    return found


def _kind(config: str) -> str:
    """mmseg for what only configs/mmseg has; for a file, what the config itself says."""
    try:
        config_path(config, 'mmseg')
    except ZooError:
        return 'mmdet'
    return 'mmseg'


def _objects(
        cfg: Any, checkpoint: str, pixels: Tensor, score: float, device: str) -> tuple[Counter, Tensor]:
    from mmdet.apis import inference_detector, init_detector
    model = init_detector(cfg, checkpoint, device=device)
    found = inference_detector(model, _bgr(pixels)).pred_instances.cpu()
    found = found[found.scores >= score]
    names = [model.dataset_meta['classes'][label] for label in found.labels.tolist()]
    if not names:
        return Counter(), pixels
    palette = _palette(model.dataset_meta)
    colours = [palette[label] for label in found.labels.tolist()]
    if 'masks' in found:
        pixels = draw_segmentation_masks(pixels, torch.as_tensor(found.masks).bool(), alpha=0.5, colors=colours)
    labels = [f'{name} {value:.2f}' for name, value in zip(names, found.scores.tolist())]
    return Counter(names), draw_bounding_boxes(pixels, found.bboxes, labels, colors=colours, width=2)


def _segments(
        cfg: Any, checkpoint: str, pixels: Tensor, score: float, device: str) -> tuple[Counter, Tensor]:
    from mmseg.apis import inference_model, init_model
    model = init_model(cfg, checkpoint, device=device)
    labels = inference_model(model, _bgr(pixels)).pred_sem_seg.data[0].cpu()
    classes, counts = labels.unique(return_counts=True)
    palette = _palette(model.dataset_meta)
    masks = labels == classes[:, None, None]
    picture = draw_segmentation_masks(pixels, masks, alpha=0.6, colors=[palette[label] for label in classes.tolist()])
    names = [model.dataset_meta['classes'][label] for label in classes.tolist()]
    return Counter(dict(zip(names, counts.tolist()))), picture


def _bgr(pixels: Tensor) -> np.ndarray:
    """An image ``[3, H, W]`` as mmcv reads it from a file."""
    return np.ascontiguousarray(pixels.flip(0).permute(1, 2, 0).numpy())


def _palette(meta: dict[str, Any]) -> list[tuple[int, ...]]:
    """A colour for each class: the data set's, or hues that are far apart from one class to the next."""
    import colorsys
    palette = meta.get('palette')
    if palette is None or isinstance(palette, str):
        hues = [0.618034 * i % 1 for i in range(len(meta['classes']))]
        palette = [[round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.8, 0.9)] for hue in hues]
    return [tuple(int(value) for value in colour) for colour in palette]
