"""Training transforms beyond timm's."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.auto_augment import AutoAugment
from torch.utils.data import Dataset
from torchvision.transforms import ColorJitter, Compose

from zoo.train import options
from zoo.train.data import loaders
from zoo.train.data.transforms import Lighting, mend_posterize, posterize
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError


class Grey(Dataset):
    """Sixteen grey pictures."""

    transform = None

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.transform(Image.new('RGB', (48, 48), (128, 128, 128))), 0


def steps(**values):
    args = options.merge(TRAIN, dict(batch_size=8, workers=0), values)
    dataset = Grey()
    config = dict(input_size=(3, 32, 32), mean=(0.,) * 3, std=(1.,) * 3)
    loader = loaders.train_loader(
        args, dataset, config, None, device=torch.device('cpu'), distributed=False, img_dtype=torch.float32)
    images = next(iter(loader))[0]
    assert images.shape == (8, 3, 32, 32)
    return dataset.transform.transforms


def names(transforms):
    return [type(step).__name__ for step in transforms]


def test_automatic_augmentation_comes_first_with_colour_jitter_beside_it():
    usual = names(steps(aa='originalr'))
    assert usual[:3] == ['RandomResizedCropAndInterpolation', 'RandomHorizontalFlip', 'AutoAugment']
    assert 'ColorJitter' not in usual
    changed = steps(aa='originalr', aa_first=True, color_jitter=[0.4], lighting=0.1)
    assert names(changed) == ['AutoAugment', *usual[:2], 'ColorJitter', 'Lighting', *usual[3:]]
    jitter, = (step for step in changed if isinstance(step, ColorJitter))
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.6, 1.4) and jitter.hue is None
    assert isinstance(changed[0], AutoAugment) and changed[4].strength == 0.1


def test_lighting_alone_follows_colour_jitter():
    assert names(steps(lighting=0.1))[:4] == [
        'RandomResizedCropAndInterpolation', 'RandomHorizontalFlip', 'ColorJitter', 'Lighting']


def test_the_order_needs_an_automatic_augmentation():
    with pytest.raises(ZooError, match='--aa-first needs --aa'):
        steps(aa_first=True)


def test_lighting_moves_colours_along_their_components(monkeypatch):
    monkeypatch.setattr('random.gauss', lambda mean, deviation: deviation)  # one deviation along each
    image = Image.new('RGB', (4, 4), (100, 100, 100))
    moved = np.asarray(Lighting(0.5)(image))[0, 0]
    # 0.5 * (55.46 * first + 4.794 * second + 1.148 * third component) by hand
    expected = [100 + 0.5 * (55.46 * -0.5675 + 4.794 * 0.7192 + 1.148 * 0.4009),
                100 + 0.5 * (55.46 * -0.5808 + 4.794 * -0.0045 + 1.148 * -0.8140),
                100 + 0.5 * (55.46 * -0.5836 + 4.794 * -0.6948 + 1.148 * 0.4203)]
    assert moved.tolist() == [round(value) for value in expected]
    assert np.asarray(Lighting(10.)(image)).min() == 0  # clipped
    grey = Image.new('L', (4, 4), 100)
    assert Lighting(0.5)(grey) is grey


def test_lighting_has_the_spread_that_is_asked_for():
    image = Image.new('RGB', (1, 1), (128, 128, 128))
    moves = np.array([np.asarray(Lighting(0.1)(image))[0, 0] for _ in range(2000)], dtype=float) - 128
    along = moves @ np.array([-0.5675, -0.5808, -0.5836])
    assert along.std() == pytest.approx(5.546, rel=0.1) and abs(along.mean()) < 0.5


def test_the_highest_level_of_automatic_augmentation_is_black_not_an_error():
    """Level 10, which 'rand-m9-mstd0.5-inc1' reaches in one of 40 operations, keeps no bits."""
    image = Image.new('RGB', (4, 4), (200, 100, 50))
    black, half = (auto_augment.AugmentOp('PosterizeIncreasing', prob=1., magnitude=level) for level in (10, 5))
    mend_posterize(Compose([auto_augment.RandAugment([black]), auto_augment.AugMixAugment([half])]))
    assert black(image).getcolors() == [(16, (0, 0, 0))]
    assert half(image).getpixel((0, 0)) == (192, 64, 0)


@pytest.mark.parametrize('aa', ['rand-m9-mstd0.5-inc1', 'augmix-m5', 'original', 'v0'])
def test_automatic_augmentation_posterizes_with_ours(aa):
    transform = create_transform(32, is_training=True, auto_augment=aa)
    mend_posterize(transform)
    step, = (step for step in transform.transforms if hasattr(step, 'ops') or hasattr(step, 'policy'))
    operations = step.ops if hasattr(step, 'ops') else [op for group in step.policy for op in group]
    mended = {op.name: op.aug_fn for op in operations if 'Posterize' in op.name}
    assert mended and set(mended.values()) == {posterize}


@pytest.mark.slow
def test_timms_table_of_operations_stays_as_it_is():
    code = ('from timm.data import auto_augment as a; before = dict(a.NAME_TO_OP); import zoo.train.data.loaders, zoo; '
            'assert a.NAME_TO_OP == before')
    subprocess.run([sys.executable, '-c', code], check=True)
