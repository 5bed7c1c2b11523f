"""The recipes of VAN and EfficientMod, against the commands and defaults of their repositories.

Visual-Attention-Network/VAN-Classification @ e19779b, LGYoung/VAN-Classification @ b3e3188 (ImageNet-22k) and
ma-xu/EfficientMod @ ec04df6.
"""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

# Nodes of 8 GPUs, global batch, lr, warmup_lr, min_lr, all epochs, warm-up epochs, weight decay, stochastic depth,
# top-1
PUBLISHED = {
    'van_b0': (1, 1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1, 75.4),
    'van_b1': (1, 1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1, 81.1),
    'van_b2': (1, 1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.1, 82.8),
    'van_b3': (1, 1024, 1e-3, 1e-6, 1e-6, 310, 5, 0.05, 0.2, 83.9),
    **{f'van_{size}_in22k': (8, 8192, 4e-3, 0., 1e-6, 90, 5, 0.05, 0.1, None) for size in ('b4', 'b5', 'b6')},
    **{f'van_{size}_in22k_ft_in1k{suffix}': (
        nodes, 512, 5e-5, 0., 1e-6, 30, 0, 1e-8, 0.3 if size == 'b6' else 0.2, None)
       for size in ('b4', 'b5', 'b6') for suffix, nodes in (('', 2), ('_384', 4))},
    'efficientmod_xxs': (1, 2048, 4e-3, 1e-6, 1e-5, 310, 5, 0.05, 0., 77.1),
    'efficientmod_xs': (1, 2048, 4e-3, 1e-6, 1e-5, 310, 5, 0.05, 0., 79.4),
    'efficientmod_s': (1, 2048, 4e-3, 1e-6, 1e-5, 310, 5, 0.05, 0.02, 81.9),
    'efficientmod_s_conv': (1, 2048, 4e-3, 1e-6, 1e-5, 310, 5, 0.05, 0.02, 80.5),
}


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def test_there_is_a_recipe_for_every_variant():
    folder = options.config_path('van_b0').parent
    assert sorted(PUBLISHED) == sorted(path.stem for glob in ('van_*', 'efficientmod_*') for path in folder.glob(glob))
    assert {load(name).model for name in PUBLISHED} == set(zoo.list_models(['van_*', 'efficientmod_*']))


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_the_published_ones(name):
    nodes, batch, lr, warmup_lr, min_lr, epochs, warmup, decay, drop_path, _ = PUBLISHED[name]
    args, van, large = load(name), name.startswith('van'), 'in22k' in name
    assert args.model == name.partition('_in22k')[0] and args.batch_size * 8 * nodes * args.grad_accum_steps == batch
    for world_size in (8 * nodes, 1):  # the rates are fixed, whatever runs
        rates = build.learning_rates(args, world_size)
        assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    ahead = args.warmup_epochs if args.warmup_prefix else 0
    assert ahead + args.epochs + args.cooldown_epochs == epochs and args.warmup_epochs == warmup
    assert args.warmup_prefix is args.sched_on_updates is large
    assert (args.weight_decay, args.drop_path, args.clip_grad, args.amp) == (decay, drop_path, None, not van)
    assert args.model_ema is not van and (van or args.model_ema_decay == 0.9998)
    assert (args.opt, args.aa, args.reprob, args.aug_repeats) == ('adamw', 'rand-m9-mstd0.5-inc1', 0.25, 0)
    assert (args.mixup, args.cutmix, args.smoothing) == ((0., 0., 0.1) if '_ft_' in name else (0.8, 1., 0.1))
    assert args.train_interpolation == ('bicubic' if large else 'random')
    assert args.num_classes == (21841 if name.endswith('in22k') else 1000)
    assert args.img_size == (384 if name.endswith('384') else 224)
    if not name.endswith('in22k'):
        assert args.drop_path == zoo.registry.variant(args.model).drop_path


@pytest.mark.parametrize('name', [name for name in PUBLISHED if name.endswith('384')])
def test_large_images_are_squashed_in_validation(name):
    args = load(name)
    assert (args.crop_pct, args.crop_mode) == (1.0, 'squash')


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    nodes, batch, *_, top1 = PUBLISHED[name]
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    spread = '' if nodes == 1 else f'--nnodes={nodes} '
    assert f'torchrun {spread}--nproc_per_node=8 -m zoo train --config {name} ' in header
    assert f'Global batch {batch}' in header and (top1 is None or f'{top1} %' in header)
    paper, commit = ('2403.19963', 'ec04df6') if name.startswith('efficientmod') else (
        '2202.09741', 'b3e3188' if 'in22k' in name else 'e19779b')
    assert paper in header and commit in header
    assert ('a teacher that this recipe lacks' in header) is (name in (
        'efficientmod_xxs', 'efficientmod_xs', 'efficientmod_s'))
    assert ('--pretrained-path' in header) is ('_ft_' in name)
