"""Data sets, splits and loaders."""
import numpy as np
import pytest
import torch

from zoo.train import build, options
from zoo.train.data import classes, datasets, loaders
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError

CONFIG = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation='bilinear', crop_pct=1.0,
              crop_mode='center')
SHARED = dict(device=torch.device('cpu'), distributed=False, img_dtype=torch.float32)


def options_with(**values):
    return options.merge(TRAIN, dict(workers=0, batch_size=8), values)


def test_digits_are_split_the_same_way_every_time_and_in_proportion():
    train, val = datasets.Digits(train=True), datasets.Digits(train=False)
    assert (len(train), len(val)) == (1437, 360)
    assert train.images.dtype == np.uint8 and train.images.shape[1:] == (8, 8) and train.images.max() == 255
    counts = np.bincount(train.labels), np.bincount(val.labels)
    assert np.abs(counts[0] / 1437 - counts[1] / 360).max() < 0.003
    again = datasets.Digits(train=True)
    assert np.array_equal(train.images, again.images) and train.labels == again.labels
    flat = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in flat for image in val.images) == 0
    assert classes.names_of(train) == list('0123456789') and classes.fingerprint(train) == [1437, None, []]
    image, label = train[0]
    assert image.mode == 'L' and image.size == (8, 8) and label == train.labels[0]


@pytest.mark.parametrize('split, folder', [('train', 'train'), ('validation', 'val'), ('val', 'val')])
def test_image_folder_splits_are_found_under_any_usual_name(pictures, split, folder):
    dataset = datasets.open_dataset(options_with(data_dir=str(pictures)), split, channels=3)
    assert len(dataset) == 3 * len(list((pictures / folder / 'red').iterdir()))
    assert dataset.reader.class_to_idx == dict(blue=0, green=1, red=2)


def test_a_missing_split_is_an_error_not_the_training_data(pictures, tmp_path):
    (tmp_path / 'train').symlink_to(pictures / 'train')
    with pytest.raises(ZooError, match="no split 'validation'.*validation"):
        datasets.open_dataset(options_with(data_dir=str(tmp_path)), 'validation', channels=3)
    with pytest.raises(ZooError, match="no split 'holdout'"):
        datasets.open_dataset(options_with(data_dir=str(pictures)), 'holdout', channels=3)


def test_an_undivided_folder_serves_as_any_split(pictures):
    assert len(datasets.open_dataset(options_with(data_dir=str(pictures / 'val')), 'validation', channels=3)) == 24


def test_one_channel_reads_grey(pictures):
    image, _ = datasets.open_dataset(options_with(data_dir=str(pictures)), 'val', channels=1)[0]
    assert image.mode == 'L'


def test_wrong_channels_are_told_before_training():
    with pytest.raises(ZooError, match='1 channel.*--in-chans 1'):
        datasets.open_dataset(options_with(dataset='digits'), 'train', channels=3)


@pytest.mark.parametrize('values, message', [
    (dict(), 'no data: give --data-dir'),
    (dict(data_dir='/nowhere'), 'no data folder /nowhere'),
    (dict(dataset='torch/cifar10'), 'no data: give --data-dir'),
])
def test_missing_folders(values, message):
    with pytest.raises(ZooError, match=message):
        datasets.check_folder(options_with(**values))


def test_names_and_files_that_timm_refuses(tmp_path):
    for name, message in (('torch/cifar10', '--dataset-download may fetch it'), ('torch/cifar11', 'cifar11')):
        with pytest.raises(ZooError, match=message):
            datasets.open_dataset(options_with(dataset=name, data_dir=str(tmp_path)), 'train', channels=3)
    with pytest.raises(ZooError, match='images'):
        datasets.open_dataset(options_with(data_dir=str(tmp_path)), 'train', channels=3)


def test_too_few_outputs_are_an_error(pictures):
    dataset = datasets.open_dataset(options_with(data_dir=str(pictures)), 'val', channels=3)
    datasets.check_classes(dataset, 3)
    with pytest.raises(ZooError, match='3 classes, the model 2; give --num-classes 3'):
        datasets.check_classes(dataset, 2)


@pytest.mark.parametrize('no_prefetcher', [False, True])
def test_loaders_normalise_alike_with_and_without_prefetcher(pictures, no_prefetcher):
    args = options_with(data_dir=str(pictures), no_prefetcher=no_prefetcher, no_aug=True)
    dataset = datasets.open_dataset(args, 'val', channels=3)
    images, target = next(iter(loaders.eval_loader(args, dataset, CONFIG, 24, **SHARED)))
    assert images.shape == (24, 3, 32, 32) and images.dtype == torch.float32
    assert target.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    blue = (images[0].mean(dim=(1, 2)) * 0.25 + 0.5) * 255  # back to pixels: the class colour, clipped noise apart
    assert blue[2] > 160 and blue[0] < 80


@pytest.mark.parametrize('no_prefetcher', [False, True])
def test_mixup_gives_soft_smoothed_targets(pictures, no_prefetcher):
    args = options_with(data_dir=str(pictures), no_prefetcher=no_prefetcher, mixup=0.8, cutmix=1.0)
    mixup = loaders.make_mixup(args, 3)
    loader = loaders.train_loader(args, datasets.open_dataset(args, 'train', channels=3), CONFIG, mixup, **SHARED)
    images, target = next(iter(loader))
    if no_prefetcher:
        images, target = mixup(images, target)
    assert target.shape == (8, 3) and torch.allclose(target.sum(dim=1), torch.ones(8))
    assert float(target.min()) == pytest.approx(0.1 / 3) and len(loader) == 9


def test_options_that_contradict_the_data(pictures):
    args = options_with(data_dir=str(pictures))
    dataset = datasets.open_dataset(args, 'train', channels=3)
    with pytest.raises(ZooError, match='too large for 72 training images'):
        loaders.train_loader(options_with(batch_size=100), dataset, CONFIG, None, **SHARED)
    with pytest.raises(ZooError, match='must be even'):
        loaders.make_mixup(options_with(batch_size=7, mixup=0.8), 3)


def test_padding_of_uneven_processes_is_not_counted(pictures):
    args = options_with(data_dir=str(pictures))
    loader = loaders.eval_loader(args, datasets.open_dataset(args, 'val', channels=3), CONFIG, 8, **SHARED)
    assert [loaders.real_samples(loader, rank, 5) for rank in range(5)] == [5, 5, 5, 5, 4]
    assert loaders.real_samples(loader, 0, 1) is None


def test_the_data_config_follows_options_over_the_model(monkeypatch):
    model = build.create_model(options_with(model='test_convnext', num_classes=3, in_chans=1))
    config = build.data_config_of(options_with(img_size=48, in_chans=1, crop_mode='squash'), model)
    assert config['input_size'] == (1, 48, 48) and config['crop_mode'] == 'squash' and len(config['mean']) == 1
    with pytest.raises(ZooError, match='--mean and --std need 1 or 3 numbers'):
        build.data_config_of(options_with(mean=[0.5, 0.5]), build.create_model(options_with(model='test_convnext')))
