"""The recipes that come with the zoo: what their headers say is what the options make of them, and what tables say.

A header gives the published figures, which the authors' scripts and configurations have: the global batch and what it
makes of the learning rates, epochs, weight decay, the accuracy. The options below it are how the trainer gets there.
"""
import argparse
import copy
import functools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from PIL import Image
from timm.layers import DropPath

import zoo
from tests.models import families
from tests.zoo_models import small
from zoo.registry import family_of, family_table, modules, variant
from zoo.train import build, engine, options, report
from zoo.train.option_schema import TRAIN
from zoo.train.session import Trainer

FOLDER = options.config_path('quickstart').parent
OURS = dict(quickstart='flatten_pvt_v2_b0', quickstart_digits='flatten_pvt_v2_b0', arena='zoo_hybrid')  # no paper's
PUBLISHED = sorted(path.stem for path in FOLDER.glob('[!_]*.yaml') if path.stem not in OURS)
NUMBER = r'([\d.e-]*\d)'
RATES = re.compile(
    rf'# Learning rate {NUMBER}(?: \((?:warm-up from {NUMBER})?(?:, )?(?:down to {NUMBER})?\))?, {NUMBER} epochs; '
    rf'weight decay {NUMBER}, stochastic depth {NUMBER}\.\n')
NOT_PUBLISHED = (
    'not published', 'No accuracy is published', 'No accuracy of its own', 'not in its repository',
    'The repository has no accuracy', "off the repository's plot")


@functools.cache
def read(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def load(name):
    return copy.deepcopy(read(name))


@functools.cache
def header(name):
    text = Path(options.config_path(name)).read_text()
    return text[:text.index('base:')]


def devices(name):
    """As many as the command in the header starts processes."""
    nodes, processes = re.search(r'torchrun (?:--nnodes=(\d+) )?--nproc_per_node=(\d+) ', header(name)).groups()
    return int(nodes or 1) * int(processes)


def top1(name):
    """The accuracy that a header quotes, None without."""
    quoted = re.search(r'(\d\d\.\d+) %', header(name))
    return quoted and float(quoted[1])


TIMMS_OWN = [name for name in PUBLISHED if family_of(load(name).model) is None]
LACKING = {  # in the timm that is installed
    name for name in TIMMS_OWN if name.startswith('iformer') and Version(timm.__version__) < Version('1.0.30')}


@pytest.mark.parametrize('name', [*PUBLISHED, *OURS])
def test_every_recipe_parses_and_names_a_model(name):
    args = load(name)
    assert timm.is_model(args.model) is (name not in LACKING)
    assert args.model == OURS[name] if name in OURS else name.startswith(args.model)
    size = re.search(r'_(\d{3})$', name)
    if name not in OURS:
        assert args.img_size == (int(size[1]) if size else 224)
        assert args.model_kwargs.get('img_size') in (None, args.img_size)


def told_in_headers():
    """Models that are trained by another's recipe, with --model: its header says so."""
    return {word for name in PUBLISHED for word in re.findall(r'\w+', header(name))} - {*PUBLISHED}


def test_there_is_a_recipe_for_every_published_accuracy():
    """Whatever the table of weights has, but of models whose branches are folded, which are not trained as such."""
    quoted = {(load(name).model, top1(name)) for name in PUBLISHED}
    published = {
        (model, value) for model in zoo.list_models() if not model.endswith('_reparam')
        for value in variant(model).top1.values()}
    told = told_in_headers()
    assert {row for row in published - quoted if row[0] not in told} == set()
    assert {row for row in quoted if row[1] is not None and family_of(row[0])} <= published


def test_models_without_a_recipe_are_those_that_have_none_published():
    told = told_in_headers()
    trained = {load(name).model for name in PUBLISHED} | told
    for family, variants in modules().items():
        without = {v.name for v in variants if v.name not in trained and not v.name.endswith('_reparam')}
        assert without == set(families.load(family).get('untrained', {}))
        assert not any(variant(name).top1 for name in without)


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_figures(name):
    args, text = load(name), header(name)
    assert re.search(rf'torchrun .*-m zoo train --config {name} ', text)
    assert f'Global batch {args.batch_size * devices(name) * args.grad_accum_steps}:' in text
    paper, commit = re.search(r'arXiv (\d{4}\.\d{5})', text)[1], re.search(r'commit ([0-9a-f]{7})\b', text)[1]
    family = family_table(args.model)
    if family is not None:
        assert timm.get_pretrained_cfg(args.model).paper_ids == f'arXiv:{paper}'
        assert f'@ {commit}' in sys.modules[family.module].__doc__
    if top1(name) is None:
        assert any(words in text for words in NOT_PUBLISHED)
    assert ('--pretrained-path' in text) is bool(re.search('[Ff]ine-tun(ed|ing) (from|at|of)|fine-tuned,', text))


@pytest.mark.parametrize('name', PUBLISHED)
def test_rates_are_those_of_the_header(name):
    args, text = load(name), header(name)
    lr, warmup_lr, min_lr, length, weight_decay, drop_path = (
        value and float(value) for value in RATES.search(text).groups())
    rates = build.learning_rates(args, devices(name))
    assert rates['lr'] == pytest.approx(lr)
    assert bool(args.warmup_epochs) is (warmup_lr is not None) and (args.sched == 'step') is (min_lr is None)
    assert warmup_lr is None or rates['warmup_lr'] == pytest.approx(warmup_lr)
    assert min_lr is None or rates['min_lr'] == pytest.approx(min_lr)
    ahead = args.warmup_epochs if args.warmup_prefix else 0
    assert ahead + args.epochs + args.cooldown_epochs == length
    assert (args.weight_decay, args.drop_path or 0.) == (weight_decay, drop_path)


@pytest.mark.parametrize('name, scaled', [
    ('flatten_pvt_tiny', ('lr', 'warmup_lr', 'min_lr')), ('ravlt_t', ('lr',)), ('van_b0', ())])
def test_rates_on_half_the_devices(name, scaled):
    """As the authors' code scales them: all three, the highest alone, or none."""
    whole, half = (build.learning_rates(load(name), count) for count in (8, 4))
    assert half == pytest.approx({key: rate / 2 if key in scaled else rate for key, rate in whole.items()})


@pytest.mark.parametrize('name', [  # from scratch at the model's own size, with a rate that is published
    name for name in PUBLISHED if name in zoo.list_models() and 'not published for this size' not in header(name)])
def test_stochastic_depth_is_that_of_the_table(name):
    assert (load(name).drop_path or 0.) == variant(name).drop_path


def test_models_of_timms_own_are_no_one_elses():
    assert set(TIMMS_OWN) - LACKING - {name for name in TIMMS_OWN if name.endswith('_distilled')} <= set(
        timm.list_models()) - set(zoo.list_models())


def rates_of_updates(name, updates):
    """Learning rate of every update of a recipe, as the trainer goes through it, of so many updates per epoch."""
    args = load(name)
    rates = build.learning_rates(args, devices(name))
    optimizer = build.make_optimizer(args, torch.nn.Linear(2, 2), rates['lr'])
    schedule, epochs = build.make_schedule(args, optimizer, updates, rates)
    used = []
    for epoch in range(epochs):
        for _ in range(updates):
            used.append(optimizer.param_groups[0]['lr'])
            if args.sched_on_updates:
                schedule.step_update(len(used))
        schedule.step(epoch + 1)
    return used


@pytest.mark.parametrize(('name', 'length', 'rate'), [
    ('cbam_resnet50', 100, lambda epoch: 0.1 * 0.1 ** (epoch // 30)),
    ('bam_resnet50', 90, lambda epoch: 0.1 * 0.1 ** (epoch // 30)),
    ('ecanet_resnet50', 100, lambda epoch: 0.1 * 0.1 ** (epoch // 30)),
    ('triplet_resnet50', 100, lambda epoch: 0.1 * 0.1 ** (epoch // 30)),
    ('emca_resnet50', 200, lambda epoch: 0.1 * 0.1 ** (epoch // 30)),
    ('ecanet_mobilenet_v2', 400, lambda epoch: 0.045 * 0.98 ** epoch),
    ('triplet_mobilenet_v2', 400, lambda epoch: 0.045 * 0.98 ** epoch),
])
def test_gated_cnns_have_the_published_steps(name, length, rate):
    assert rates_of_updates(name, 2) == pytest.approx([rate(i // 2) for i in range(2 * length)])


@pytest.mark.parametrize(('name', 'length', 'peak'), [('fcanet_resnet50', 100, 0.2), ('resnest50d_1s1x64d', 270, 3.2)])
def test_gated_cnns_have_the_published_cosine(name, length, peak):
    """Warm-up from zero by updates, then half a cosine to zero; the authors' begin with the second of these rates."""
    ahead, whole = 5 * 4, length * 4
    rates = [peak * i / ahead for i in range(ahead)] + [
        peak * (1 + math.cos(math.pi * i / (whole - ahead))) / 2 for i in range(whole - ahead)]
    assert rates_of_updates(name, 4) == pytest.approx(rates)


def test_only_resnests_momentum_is_nesterovs():
    for name in ('cbam_resnet18', 'resnest50d_1s2x40d'):
        optimizer = build.make_optimizer(load(name), torch.nn.Linear(2, 2), 0.1)
        assert {group['nesterov'] for group in optimizer.param_groups} == {name.startswith('resnest')}


def smallest():
    """The recipe of each family's first model that has one, and the last, a small one, of each family of timm's."""
    for variants in modules().values():
        yield from [v.name for v in variants if v.name in PUBLISHED][:1]
    yield from {load(name).model.partition('_')[0]: name for name in TIMMS_OWN}.values()


SMALLEST = tuple(smallest())


@pytest.fixture(scope='module')
def four_pictures(tmp_path_factory):
    """Two of each of two classes to train on, one of each to validate."""
    root = tmp_path_factory.mktemp('four')
    random = np.random.default_rng(0)
    for split, count in (('train', 2), ('val', 1)):
        for kind in 'ab':
            (root / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (80, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def small_teacher(tmp_path_factory):
    """What stands in for RegNetY-160: an untrained model of a moment, as options."""
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(timm.create_model('test_resnet', num_classes=1000).state_dict(), path)
    return dict(kd_model_name='test_resnet', kd_teacher_checkpoint=str(path))


def published_loss(args, output, target, opinion):
    """The loss of a recipe, written out: on labels, on those of an auxiliary head too, from a teacher's outputs.

    And the loss that balances the heads of MoH, which comes beside the logits.
    """
    if args.model.startswith('moh_'):
        output, losses = output
        return published_loss(argparse.Namespace(**{**vars(args), 'model': ''}), output, target, opinion) + (
            0.01 * losses['load_balance'])
    logits = [x.detach().double().log_softmax(1) for x in (output if isinstance(output, tuple) else (output,))]
    if target.ndim == 1:  # smoothed here, where mixing does it otherwise
        target = torch.nn.functional.one_hot(target, 1000) * (1 - args.smoothing) + args.smoothing / 1000
    losses = [-(target.double() * x).sum(1).mean() for x in logits]
    if args.aux_loss_weight:
        return losses[0] + 0.4 * losses[1]
    if not args.kd_model_name:
        loss, = losses
        return loss
    opinion = opinion.detach().double().log_softmax(1)
    if args.kd_distill_type == 'logit':
        return 0.1 * losses[0] + 0.9 * (opinion.exp() * (opinion - logits[0])).sum(1).mean()
    return (losses[0] - logits[1].gather(1, opinion.argmax(1, keepdim=True)).mean()) / 2


@pytest.mark.parametrize('name', [
    *SMALLEST, *(pytest.param(name, marks=pytest.mark.full) for name in PUBLISHED if name not in SMALLEST)])
def test_models_train_by_their_recipes(name, four_pictures, small_teacher, tmp_path):
    """Two updates of a shallow model, its optimizer, schedule, clipping, mixing and loss, on two small images each."""
    args = load(name)
    if name in LACKING:
        pytest.skip('not in this timm')
    vars(args).update(
        data_dir=str(four_pictures), dataset='', img_size=64, batch_size=2, grad_accum_steps=1, aug_repeats=0,
        workers=0, amp_dtype='bfloat16' if args.amp else '', device='cpu')
    if name not in TIMMS_OWN:
        args.model_kwargs = {**(args.model_kwargs or {}), **small(args.model)}
    if args.kd_model_name:
        vars(args).update(small_teacher, amp=False)
    if args.aux_loss_weight:
        args.amp = False
    if args.progressive_sizes:
        args.progressive_sizes, args.img_size = [64], 96
    session = Trainer(args, build.DeviceContext(torch.device('cpu')), tmp_path / 'run', None)
    run, model = session.run, session.model
    assert (run.mixup is None) is (args.mixup == args.cutmix == 0)
    assert run.task.has_ema() is args.model_ema
    assert [group['lr'] for group in run.optimizer.param_groups][0] == pytest.approx(
        args.warmup_lr * (args.batch_size / args.lr_base_size if args.lr_scale_ends else 1)
        if args.warmup_epochs else build.learning_rates(args, 1)['lr'])
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
    family = family_of(args.model)
    if family is None or 'drop_path' not in families.load(family):
        assert max((path.drop_prob for path in paths), default=0.) == pytest.approx(args.drop_path or 0.)
    for path in paths:
        path.drop_prob = 0.  # it may leave a block out for all four images
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    seen = dict(output=[], target=[], opinion=[], sides=[])
    model.register_forward_pre_hook(lambda module, args: seen['sides'].append(args[0].shape[2:]))
    model.register_forward_hook(lambda module, args, output: seen['output'].append(output))
    run.task.criterion.register_forward_hook(lambda module, args, output: seen['target'].append(args[1]))
    if args.kd_model_name:
        run.task.teacher.model.register_forward_hook(lambda module, args, output: seen['opinion'].append(output))
    # norms that start at zero, at a rate of zero, hold back the gradients of what is before them until the third update
    for epoch in range(2 if name.startswith('resnest') else 1):
        for kind in seen.values():
            kind.clear()
        result = engine.train_epoch(run, epoch, report.Progress(2, '', shown=False))
    assert run.updates == (4 if name.startswith('resnest') else 2)
    assert seen['sides'] == [(64, 64)] * 2
    targets = seen['target'][::2] if args.aux_loss_weight else seen['target']
    losses = [published_loss(args, *parts) for parts in zip(seen['output'], targets, seen['opinion'] or [None] * 2)]
    assert result['loss'] == pytest.approx(float(sum(losses)) / 2, rel=5e-3 if args.amp else 1e-5)
    # in the warm-up, some move by less than float32 tells from one: they have a momentum at least
    moving = {p for p, state in run.optimizer.state.items() if any(
        state[key].any() for key in ('momentum_buffer', 'exp_avg') if key in state)}
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key]) and p not in moving]
    # the class token is read from the last block, whose convolution and some of whose biases are for the patches
    blind = rf'stages\.{args.model_kwargs["depth"] - 1}\.blocks\.0\.mixer\.' if '_deit_' in name else None
    if name.startswith('qformer'):  # a window that covers the map is not moved
        blind = r'stages\.[23]\..*\.transform\.'
    assert [key for key in still if not (blind and re.match(blind, key))] == []
