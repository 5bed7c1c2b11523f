"""The recipes of InLine, against cfgs/*.yaml, config.py, main_ema.py and README.md of the repository @ e463a6f."""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

# Global batch on 8 GPUs, lr, warmup_lr and min_lr after scaling by it / 512, epochs with cool-down, warm-up epochs,
# weight decay, gradient clipping, drop path
PUBLISHED = {
    'inline_deit_tiny': (4096, 4e-3, 4e-6, 4e-5, 300, 20, 0.05, 5., 0.1),
    'inline_deit_small_288': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.1),
    'inline_deit_base_448': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.1),
    'inline_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'inline_pvt_small': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, 0.1),
    'inline_pvt_medium': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, 1., 0.3),
    'inline_pvt_large': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., 0.3),
    'inline_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.2),
    'inline_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., 0.3),
    'inline_swin_base': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., 0.5),
    'inline_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30, 5, 1e-8, 5., 0.5),
    'inline_cswin_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.2),
    'inline_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.4),
    'inline_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310, 20, 0.1, None, 0.5),
    'inline_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30, 0, 1e-8, None, 0.7),
}


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def size(name):
    side = name.rsplit('_', 1)[1]
    return int(side) if side.isdigit() else 224


def tag(name):
    return 'in1k' if size(name) == 224 else f'in1k_{size(name)}'


def test_there_is_a_recipe_for_every_published_variant():
    folder = options.config_path('inline_pvt_tiny').parent
    assert sorted(PUBLISHED) == sorted(path.stem for path in folder.glob('inline_*.yaml'))
    tags = {f'{name}{tag.removeprefix("in1k")}' for name in zoo.list_models('inline_*')
            for tag in zoo.registry.variant(name).top1}
    assert tags == set(PUBLISHED) - {'inline_swin_base_384'}  # a recipe without a figure


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_the_published_ones(name):
    batch, lr, warmup_lr, min_lr, epochs, warmup, decay, clip, drop_path = PUBLISHED[name]
    args = load(name)
    assert args.batch_size * 8 == batch and args.epochs + args.cooldown_epochs == epochs
    rates = build.learning_rates(args, world_size=8)
    assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    assert (args.warmup_epochs, args.weight_decay, args.clip_grad, args.drop_path) == (warmup, decay, clip, drop_path)
    assert name == 'inline_cswin_base_384' or drop_path == zoo.registry.variant(args.model).drop_path
    assert args.model_ema is ('cswin' in name) and args.amp
    if args.model_ema:
        assert 1 - args.model_ema_decay == pytest.approx(1 - 0.9996 ** (batch / 4096), rel=2e-3)
    assert (args.mixup, args.cutmix, args.smoothing, args.reprob, args.aug_repeats) == (0.8, 1.0, 0.1, 0.25, 0)
    assert args.opt == 'adamw' and args.sched_on_updates and args.aa == 'rand-m9-mstd0.5-inc1'
    assert args.img_size == size(name) and args.crop_pct == (1.0 if name == 'inline_swin_base_384' else None)
    assert args.model_kwargs == (dict(img_size=size(name)) if size(name) != 224 else {})


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'--config {name} ' in header and 'torchrun --nproc_per_node=8' in header
    assert '2412.06590' in header and 'e463a6f' in header and f'Global batch {PUBLISHED[name][0]}:' in header
    top1 = zoo.registry.variant(load(name).model).top1.get(tag(name))
    assert ('not published.' if top1 is None else f'Top-1 of the paper: {top1} %.') in header
    assert ('--pretrained-path' in header) == name.endswith('_384')
