"""The recipes of RAVLT, MAViT and NaLaFormer, against their training script (qhfan/RALA @ a86314f, main.py)."""
from pathlib import Path

import pytest

import zoo
from zoo.train import build, options
from zoo.train.table import TRAIN

MODELS = zoo.list_models(['ravlt_*', 'mavit_*', 'nalaformer_*'])
# Stochastic depth of the model functions, by size
DROP_PATH = dict(xt=0.1, t=0.1, s=0.15, b=0.4, l=0.55)
SOURCES = dict(
    ravlt=('2411.07635', 'a86314f'), mavit=('2507.00698', '7114e63'), nalaformer=('2506.21137', '1f1c10a'))


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def test_there_is_a_recipe_for_every_variant():
    folder = options.config_path('ravlt_t').parent
    assert len(MODELS) == 13
    assert sorted(MODELS) == sorted(path.stem for family in SOURCES for path in folder.glob(f'{family}_*.yaml'))


@pytest.mark.parametrize('name', MODELS)
def test_figures_are_the_published_ones(name):
    args = load(name)
    assert args.model == name and args.batch_size == 128
    assert build.learning_rates(args, 8) == pytest.approx(dict(lr=1e-3, warmup_lr=1e-6, min_lr=1e-5))
    assert build.learning_rates(args, 4) == pytest.approx(dict(lr=5e-4, warmup_lr=1e-6, min_lr=1e-5))
    assert (args.epochs, args.warmup_epochs, args.cooldown_epochs, args.sched_on_updates) == (300, 5, 0, False)
    assert args.drop_path == DROP_PATH[name.split('_')[1]] == zoo.registry.variant(name).drop_path
    assert args.model_ema and args.model_ema_decay == pytest.approx(0.99996 ** (1024 / 512), abs=1e-8)
    assert args.amp is not name.startswith('nalaformer') and args.sync_bn and args.clip_grad is None
    assert (args.opt, args.weight_decay, args.aa, args.aug_repeats) == ('adamw', 0.05, 'rand-m9-mstd0.5-inc1', 3)
    assert (args.mixup, args.cutmix, args.smoothing, args.reprob) == (0.8, 1.0, 0.1, 0.25)


@pytest.mark.parametrize('name', MODELS)
def test_headers_give_command_source_and_batch(name):
    text = Path(options.config_path(name)).read_text()
    header = text[:text.index('base:')]
    assert f'torchrun --nproc_per_node=8 -m zoo train --config {name} ' in header and 'Global batch 1024' in header
    assert all(word in header for word in SOURCES[name.split('_')[0]])
    top1 = zoo.registry.variant(name).top1.get('in1k')
    assert f'{top1} %' in header if top1 else 'not in its repository' in header
