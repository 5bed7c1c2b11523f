"""The recipes of L2ViT and CARE, against the commands and defaults of their repositories @ fad0341 and @ 400bf94."""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

# Model, processes, global batch, lr, warmup_lr, min_lr, all epochs, warm-up epochs, weight decay, stochastic depth,
# decay of averaged weights, top-1
PUBLISHED = {
    'l2vit_tiny': ('l2vit_tiny', 8, 4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.2, 0.9999, 83.1),
    'l2vit_small': ('l2vit_small', 8, 4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.2, 0.9999, 84.1),
    'l2vit_base': ('l2vit_base', 8, 4096, 4e-3, 0., 1e-6, 300, 20, 0.05, 0.3, 0.9999, 84.4),
    'l2vit_base_in22k': ('l2vit_base', 8, 1024, 1e-3, 1e-6, 1e-5, 90, 5, 0.05, 0.2, None, None),
    'l2vit_base_in22k_ft_in1k': ('l2vit_base', 8, 1024, 4e-5, 4e-8, 4e-7, 30, 5, 1e-8, 0.2, 0.9999, 86.0),
    'l2vit_base_384': ('l2vit_base_384', 8, 1024, 4e-5, 4e-8, 4e-7, 30, 5, 1e-8, 0.2, 0.9999, 87.0),
    'care_s0': ('care_s0', 12, 1536, 2.5e-3, 1e-6, 1e-5, 310, 20, 0.05, 0.1, None, 78.4),
    'care_s1': ('care_s1', 12, 1536, 2.5e-3, 1e-6, 1e-5, 310, 20, 0.05, 0.1, None, 80.1),
    'care_s2': ('care_s2', 12, 1536, 2.5e-3, 1e-6, 1e-5, 310, 20, 0.05, 0.1, None, 82.1),
}


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def test_there_is_a_recipe_for_every_variant():
    folder = options.config_path('care_s0').parent
    assert sorted(PUBLISHED) == sorted(path.stem for glob in ('l2vit_*', 'care_*') for path in folder.glob(glob))
    assert {row[0] for row in PUBLISHED.values()} == set(zoo.list_models(['l2vit_*', 'care_*']))


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_the_published_ones(name):
    model, processes, batch, lr, warmup_lr, min_lr, epochs, warmup, decay, drop_path, ema, _ = PUBLISHED[name]
    args = load(name)
    assert args.model == model and args.batch_size * processes * args.grad_accum_steps == batch
    for world_size in (processes, 1):  # the rates are fixed, whatever runs
        rates = build.learning_rates(args, world_size)
        assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    ahead = args.warmup_epochs if args.warmup_prefix else 0
    assert ahead + args.epochs + args.cooldown_epochs == epochs and args.warmup_epochs == warmup
    assert args.warmup_prefix is args.sched_on_updates is name.startswith('l2vit')
    assert (args.weight_decay, args.drop_path, args.clip_grad, args.amp) == (decay, drop_path, None, False)
    assert args.model_ema is (ema is not None) and (ema is None or args.model_ema_decay == ema)
    assert (args.opt, args.aa, args.reprob, args.aug_repeats) == ('adamw', 'rand-m9-mstd0.5-inc1', 0.25, 0)
    assert (args.mixup, args.cutmix, args.smoothing) == (0.8, 1.0, 0.1)
    assert args.train_interpolation == ('bicubic' if name.startswith('l2vit') else 'random')
    assert args.num_classes == (21841 if name == 'l2vit_base_in22k' else 1000)
    assert args.img_size == (384 if name == 'l2vit_base_384' else 224)
    if name == model and name not in ('l2vit_tiny', 'l2vit_small'):  # not published for these two
        assert args.drop_path == zoo.registry.variant(model).drop_path


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    _, processes, batch, *_, top1 = PUBLISHED[name]
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'torchrun --nproc_per_node={processes} -m zoo train --config {name} ' in header
    assert f'Global batch {batch}' in header and (top1 is None or f'{top1} %' in header)
    source = ('2501.16182', 'fad0341') if name.startswith('l2vit') else ('2411.16170', '400bf94')
    assert all(word in header for word in source)
    assert ('not published for this size' in header) is (name in ('l2vit_tiny', 'l2vit_small'))
    assert ('a teacher that this recipe lacks' in header) is name.startswith('care')
    assert ('--pretrained-path' in header) is (PUBLISHED[name][8] == 1e-8)
