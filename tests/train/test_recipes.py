"""The recipes that come with the zoo, against the published figures."""
from pathlib import Path

import pytest
import timm

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

FOLDER = options.config_path('quickstart').parent
RECIPES = sorted(path.stem for path in FOLDER.glob('[!_]*.yaml'))
FLATTEN = [name for name in RECIPES if name.startswith('flatten_')]

# Global batch on 8 GPUs, then lr, warmup_lr and min_lr after scaling by it / 512, epochs with cool-down
PUBLISHED = {
    'flatten_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_pvt_small': (512, 5e-4, 1e-6, 1e-5, 310),
    'flatten_pvt_medium': (512, 5e-4, 1e-6, 1e-5, 310),
    'flatten_pvt_large': (256, 2.5e-4, 5e-7, 5e-6, 310),
    'flatten_pvt_v2_b0': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_pvt_v2_b1': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_pvt_v2_b2': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_pvt_v2_b3': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_pvt_v2_b4': (512, 5e-4, 1e-6, 1e-5, 310),
    'flatten_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300),
    'flatten_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300),
    'flatten_swin_base': (512, 5e-4, 5e-7, 5e-6, 300),
    'flatten_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30),
    'flatten_cswin_tiny': (2048, 2e-3, 4e-6, 4e-5, 310),
    'flatten_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310),
    'flatten_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310),
    'flatten_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30),
}


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_parses_and_names_a_model(name):
    args = load(name)
    assert timm.is_model(args.model)
    assert args.model == 'flatten_pvt_v2_b0' if name.startswith('quickstart') else name.startswith(args.model)


def test_there_is_a_recipe_for_every_published_variant():
    assert FLATTEN == sorted(PUBLISHED)


@pytest.mark.parametrize('name', FLATTEN)
def test_learning_rates_and_length_are_the_published_ones(name):
    batch, lr, warmup_lr, min_lr, epochs = PUBLISHED[name]
    args = load(name)
    assert args.batch_size * 8 == batch and args.epochs + args.cooldown_epochs == epochs
    rates = build.learning_rates(args, world_size=8)
    assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    half = build.learning_rates(args, world_size=4)  # follows the global batch as the reference does
    assert half == pytest.approx({key: value / 2 for key, value in rates.items()})


@pytest.mark.parametrize('name', FLATTEN)
def test_regularisation_is_the_published_one(name):
    args, family = load(name), name.split('_')[1]
    assert args.drop_path == {'flatten_swin_base_384': 0.5, 'flatten_cswin_base_384': 0.7}.get(
        name, zoo.registry.variant(args.model).drop_path)
    deep = name in ('flatten_pvt_medium', 'flatten_pvt_large', 'flatten_pvt_v2_b3', 'flatten_pvt_v2_b4')
    assert args.clip_grad == (5.0 if family == 'swin' else 1.0 if deep else None)
    assert args.model_ema is (family == 'cswin')
    assert args.weight_decay == (1e-8 if name.endswith('384') else 0.1 if name == 'flatten_cswin_base' else 0.05)
    assert (args.mixup, args.cutmix, args.smoothing, args.reprob, args.aug_repeats) == (0.8, 1.0, 0.1, 0.25, 0)
    assert args.opt == 'adamw' and args.sched_on_updates and args.aa == 'rand-m9-mstd0.5-inc1'


@pytest.mark.parametrize('name', FLATTEN)
def test_headers_give_command_source_and_batch(name):
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'--config {name} ' in header and 'torchrun --nproc_per_node=8' in header
    assert '2308.00442' in header and 'abdb115' in header and f'Global batch {PUBLISHED[name][0]}' in header
    published = zoo.registry.variant(load(name).model).top1.get('in1k_384' if name.endswith('384') else 'in1k')
    assert published is None or f'{published} %' in header


@pytest.mark.parametrize('name', [name for name in FLATTEN if name.endswith('384')])
def test_fine_tuning_is_at_its_own_size(name):
    args = load(name)
    assert args.img_size == 384 and args.model_kwargs == dict(img_size=384)
    assert '--pretrained-path' in Path(options.config_path(name)).read_text()
    assert args.crop_pct == (1.0 if 'swin_base' in name and 'cswin' not in name else None)
