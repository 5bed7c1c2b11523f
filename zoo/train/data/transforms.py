"""Completes timm's training transform by what some recipes do and timm does not."""
import argparse
import random
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment
from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from torchvision.transforms import ColorJitter

from ...utils.errors import ZooError

AUTOMATIC = (AutoAugment, RandAugment, AugMixAugment)
# Principal components of ImageNet's colours: standard deviations (of values up to 255) and directions
COLOR_DEVIATIONS = np.array([55.46, 4.794, 1.148])
COLOR_DIRECTIONS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """timm's, which keeps 0 bits at its highest level: black in Pillow before 13, which no longer takes that."""
    return auto_augment.posterize(image, bits, **settings) if bits else Image.new(image.mode, image.size)


def mend_posterize(transform: Any) -> None:
    """Make the automatic augmentation of a timm transform use our :func:`posterize`; timm's own table is unchanged."""
    for step in getattr(transform, 'transforms', ()):
        if isinstance(step, AUTOMATIC):
            groups = step.policy if isinstance(step, AutoAugment) else [step.ops]
            for operation in (operation for group in groups for operation in group):
                if operation.name.startswith('Posterize'):
                    operation.aug_fn = posterize


class Lighting:
    """AlexNet's lighting noise: the whole image moves along the principal components of ImageNet's colours.

    Args:
        strength: Standard deviation of the moves, in those of the components.

    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
    """

    def __init__(self, strength: float):
        self.strength = strength

    def __call__(self, image: Image.Image) -> Image.Image:
        """Transform an RGB image; return any other image unchanged."""
        if image.mode != 'RGB':
            return image
        moves = COLOR_DIRECTIONS @ (COLOR_DEVIATIONS * [random.gauss(0, self.strength) for _ in range(3)])
        return Image.fromarray(np.clip(np.rint(np.asarray(image) + moves), 0, 255).astype(np.uint8))

    def __repr__(self) -> str:
        return f'Lighting({self.strength})'


def complete(args: argparse.Namespace, dataset: Any) -> None:
    """Add to the training transform of a data set what the options ask for beyond timm, and fix its posterizing.

    ``aa_first`` moves the automatic augmentation before the crop and leaves colour jitter on beside it; ``lighting``
    comes after both.

    Raises:
        ZooError: ``aa_first`` without automatic augmentation.
    """
    mend_posterize(dataset.transform)
    if not (args.aa_first or args.lighting) or args.no_aug:
        return
    steps = list(dataset.transform.transforms)
    automatic = [step for step in steps if isinstance(step, AUTOMATIC)]
    last = 1 + max(i for i, step in enumerate(steps) if 'Crop' in type(step).__name__ or 'Flip' in type(step).__name__
                   or isinstance(step, (ColorJitter, *AUTOMATIC)))
    more = [Lighting(args.lighting)] if args.lighting else []
    if args.aa_first:
        if not automatic:
            raise ZooError('--aa-first needs --aa')
        jitter = args.color_jitter * 3 if len(args.color_jitter) == 1 else args.color_jitter
        if not any(isinstance(step, ColorJitter) for step in steps):
            more = [ColorJitter(*jitter), *more]
    steps = steps[:last] + more + steps[last:]
    if args.aa_first:
        steps = automatic + [step for step in steps if step not in automatic]
    dataset.transform.transforms = steps
