"""The recipes of SMT and LITv2, against the configurations of their repositories @ 11e954d and @ 7501c86."""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

# Model, global batch, lr, warmup_lr, min_lr, all epochs, warm-up epochs, weight decay, stochastic depth, size, top-1
SMALL = ('litv2_s', 1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 0.2, 224)
ALPHAS = dict(alpha00=81.16, alpha02=81.89, alpha04=81.81, alpha05=81.88, alpha07=81.94, alpha10=81.89)
PUBLISHED = {
    'smt_tiny': ('smt_tiny', 1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.1, 224, 82.2),
    'smt_small': ('smt_small', 1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.2, 224, 83.7),
    'smt_base': ('smt_base', 1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.3, 224, 84.3),
    'smt_large': ('smt_large', 1024, 2e-3, 2e-7, 2e-6, 300, 5, 0.05, 0.4, 224, None),
    'smt_large_in22k': ('smt_large', 4096, 1e-3, 1e-6, 1e-5, 90, 5, 0.05, 0.1, 224, None),
    'smt_large_in22k_ft_in1k': ('smt_large', 1024, 2e-5, 2e-8, 2e-7, 30, 5, 0.05, 0.1, 224, 87.1),
    'smt_large_in22k_ft_in1k_384': ('smt_large', 512, 2e-5, 2e-8, 2e-7, 30, 5, 0.05, 0.1, 384, 88.1),
    'litv2_s': (*SMALL, 82.0),
    **{f'litv2_s_{name}': (f'litv2_s_{name}', *SMALL[1:], top1) for name, top1 in ALPHAS.items()},
    'litv2_m': ('litv2_m', 1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 0.3, 224, 83.3),
    'litv2_b': ('litv2_b', 1024, 1e-3, 1e-6, 1e-5, 300, 20, 0.05, 0.5, 224, 83.6),
    'litv2_b_384': ('litv2_b', 1024, 4e-5, 4e-8, 4e-7, 30, 5, 1e-8, 0.5, 384, 84.7),
}


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def test_there_is_a_recipe_for_every_variant():
    folder = options.config_path('smt_tiny').parent
    assert sorted(PUBLISHED) == sorted(path.stem for glob in ('smt_*', 'litv2_*') for path in folder.glob(glob))
    assert {row[0] for row in PUBLISHED.values()} == set(zoo.list_models(['smt_*', 'litv2_*']))


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_the_published_ones(name):
    model, batch, lr, warmup_lr, min_lr, epochs, warmup, decay, drop_path, size, _ = PUBLISHED[name]
    args, smt = load(name), name.startswith('smt')
    assert args.model == model and args.batch_size * 8 * args.grad_accum_steps == batch
    rates = build.learning_rates(args, world_size=8)
    assert rates == pytest.approx(dict(lr=lr, warmup_lr=warmup_lr, min_lr=min_lr))
    half = build.learning_rates(args, world_size=4)  # follows the global batch as the reference does
    assert half == pytest.approx({key: value / 2 for key, value in rates.items()})
    assert args.warmup_prefix is smt and args.sched_on_updates and args.cooldown_epochs == 0
    assert args.epochs + (args.warmup_epochs if smt else 0) == epochs and args.warmup_epochs == warmup
    assert (args.weight_decay, args.drop_path, args.clip_grad, args.amp) == (decay, drop_path, 5.0, True)
    assert (args.opt, args.aa, args.reprob, args.aug_repeats) == ('adamw', 'rand-m9-mstd0.5-inc1', 0.25, 0)
    assert (args.mixup, args.cutmix, args.smoothing) == (0.2 if smt else 0.8, 1.0, 0.1)
    assert args.lr_mult == ({} if smt else {'conv_offset.weight': 0.01}) and not args.model_ema
    assert args.num_classes == (21841 if name == 'smt_large_in22k' else 1000)
    assert args.img_size == size
    assert (args.crop_pct, args.crop_mode) == ((1.0, 'squash') if size == 384 else (None, None))
    if name == model:
        assert args.drop_path == zoo.registry.variant(model).drop_path


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'torchrun --nproc_per_node=8 -m zoo train --config {name} ' in header
    assert f'Global batch {PUBLISHED[name][1]}' in header
    top1 = PUBLISHED[name][-1]
    assert f'{top1} %' in header if top1 else 'is published' in header
    assert all(word in header for word in (
        ('2307.08579', '11e954d') if name.startswith('smt') else ('2205.13213', '7501c86')))
    assert ('--pretrained-path' in header) is (PUBLISHED[name][5] == 30)
