"""The recipes of Agent Attention, against cfgs/*.yaml, config.py and README.md of the repository @ 207ce3e."""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

# Global batch on 8 GPUs, lr, warmup_lr and min_lr after scaling by it / 512, epochs with cool-down, warm-up epochs,
# weight decay, gradient clipping, decay of averaged weights
PUBLISHED = {
    'agent_deit_tiny': (4096, 4e-3, 4e-6, 4e-5, 300, 20, 0.05, 5., None),
    'agent_deit_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., None),
    'agent_deit_small_448': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., None),
    'agent_deit_base': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., None),
    'agent_pvt_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, None),
    'agent_pvt_small': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, None, None),
    'agent_pvt_medium': (1024, 1e-3, 2e-6, 2e-5, 310, 5, 0.05, 1., None),
    'agent_pvt_medium_256': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., None),
    'agent_pvt_large': (512, 5e-4, 1e-6, 1e-5, 310, 5, 0.05, 1., None),
    'agent_swin_tiny': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., None),
    'agent_swin_small': (1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 5., None),
    'agent_swin_small_288': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., None),
    'agent_swin_base': (512, 5e-4, 5e-7, 5e-6, 300, 20, 0.05, 5., None),
    'agent_swin_base_384': (256, 1e-5, 1e-8, 1e-7, 30, 5, 1e-8, 5., None),
    'agent_cswin_tiny': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.99984),
    'agent_cswin_small': (1024, 1e-3, 2e-6, 2e-5, 310, 20, 0.05, None, 0.99984),
    'agent_cswin_base': (512, 5e-4, 1e-6, 1e-5, 310, 20, 0.1, None, 0.99992),
    'agent_cswin_base_384': (256, 2.5e-6, 2.5e-6, 2.5e-7, 30, 0, 1e-8, None, 0.9998),
}
WHOLE = ('agent_swin_small_288', 'agent_swin_base_384')  # TEST.CROP False


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def size(name):
    side = name.rsplit('_', 1)[1]
    return int(side) if side.isdigit() else 224


def test_there_is_a_recipe_for_every_published_variant():
    folder = options.config_path('agent_pvt_tiny').parent
    assert sorted(PUBLISHED) == sorted(path.stem for path in folder.glob('agent_*.yaml'))
    tags = {f'{name}{tag.removeprefix("in1k")}' for name in zoo.list_models('agent_*')
            for tag in zoo.registry.variant(name).top1}
    assert tags == set(PUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_the_published_ones(name):
    batch, lr, warmup_lr, min_lr, epochs, warmup, decay, clip, ema = PUBLISHED[name]
    args = load(name)
    assert args.batch_size * 8 == batch and args.epochs + args.cooldown_epochs == epochs
    rates = build.learning_rates(args, world_size=8)
    assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    assert (args.warmup_epochs, args.weight_decay, args.clip_grad) == (warmup, decay, clip)
    assert args.model_ema is (ema is not None) and (ema is None or args.model_ema_decay == ema)
    assert args.drop_path == (0.7 if name == 'agent_cswin_base_384' else zoo.registry.variant(args.model).drop_path)
    assert (args.mixup, args.cutmix, args.smoothing, args.reprob, args.aug_repeats) == (0.8, 1.0, 0.1, 0.25, 0)
    assert args.opt == 'adamw' and args.sched_on_updates and args.aa == 'rand-m9-mstd0.5-inc1'
    assert args.img_size == size(name) and args.crop_pct == (1.0 if name in WHOLE else None)
    assert args.model_kwargs == (dict(img_size=size(name)) if size(name) != 224 else {})


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'--config {name} ' in header and 'torchrun --nproc_per_node=8' in header
    assert '2312.08874' in header and '207ce3e' in header and f'Global batch {PUBLISHED[name][0]}' in header
    tag = 'in1k' if size(name) == 224 else f'in1k_{size(name)}'
    assert f'{zoo.registry.variant(load(name).model).top1[tag]} %' in header
    assert ('--pretrained-path' in header) == name.endswith('_384')
