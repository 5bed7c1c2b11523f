"""The recipes that come with the zoo, against the published figures (published.py)."""
import math
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.layers import DropPath

import zoo
from tests.train.published import LACKING, PUBLISHED, RESNEST, TIMMS_OWN, UNPUBLISHED
from zoo.train import build, engine, options, report
from zoo.train.option_schema import TRAIN
from zoo.train.session import Trainer

FOLDER = options.config_path('quickstart').parent
OURS = ('quickstart', 'arena')  # recipes that no paper has
RECIPES = sorted(path.stem for path in FOLDER.glob('[!_]*.yaml'))
TOLD = (  # what is no option of the trainer, or none as it is told
    'processes', 'nodes', 'batch', 'lr', 'warmup_lr', 'min_lr', 'scales', 'length', 'model_ema_decay', 'paper',
    'commit', 'model', 'built_for_size', 'tag', 'top1', 'header', 'starts_from')


def load(name):
    return options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))


def header(name):
    text = Path(options.config_path(name)).read_text()
    return text[:text.index('base:')]


def model_and_size(name):
    """Model and side of its images, as the name tells: ``<model>_<size>`` where the size is not 224."""
    model, _, size = name.rpartition('_')
    if 'model' in PUBLISHED[name]:
        model = PUBLISHED[name]['model']
        return model, int(size) if size.isdigit() else 224
    return (model, int(size)) if size.isdigit() else (name, 224)


def tag(name):
    size = model_and_size(name)[1]
    return PUBLISHED[name].get('tag', 'in1k' if size == 224 else f'in1k_{size}')


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_parses_and_names_a_model(name):
    args = load(name)
    assert timm.is_model(args.model) is (name not in LACKING)
    own = dict(quickstart='flatten_pvt_v2_b0', quickstart_digits='flatten_pvt_v2_b0', arena='zoo_hybrid')
    assert args.model == own[name] if name in own else name.startswith(args.model)


def test_there_is_a_recipe_for_every_published_variant():
    assert sorted(PUBLISHED) == [name for name in RECIPES if not name.startswith(OURS)]
    published = {  # a model whose branches are folded is not trained as such
        (model, tag) for model in zoo.list_models() if not model.endswith('_reparam')
        for tag in zoo.registry.variant(model).top1}
    told = told_in_headers()
    assert {row for row in published if row[0] not in told} <= {
        (model_and_size(name)[0], tag(name)) for name in PUBLISHED}


def told_in_headers():
    """Models that are trained by another's recipe, with --model: its header says so."""
    return {word for name in PUBLISHED for word in re.findall(r'\w+', header(name))} - {*PUBLISHED}


def test_models_without_a_recipe_are_those_that_have_none_published():
    told = told_in_headers()
    trained = {load(name).model for name in PUBLISHED} | told
    without = {name for name in zoo.list_models() if name not in trained and not name.endswith('_reparam')}
    assert without == set(UNPUBLISHED)
    assert not any(zoo.registry.variant(name).top1 for name in UNPUBLISHED)


@pytest.mark.parametrize('name', PUBLISHED)
def test_schedule_is_the_published_one(name):
    args, row = load(name), PUBLISHED[name]
    devices = row['processes'] * row.get('nodes', 1)
    assert args.batch_size * devices * args.grad_accum_steps == row['batch']
    ahead = args.warmup_epochs if args.warmup_prefix else 0
    assert ahead + args.epochs + args.cooldown_epochs == row['length']
    rates = {key: row[key] for key in ('lr', 'warmup_lr', 'min_lr')}
    assert build.learning_rates(args, devices) == pytest.approx(rates)
    half = {key: rate / 2 if key in row['scales'] else rate for key, rate in rates.items()}
    assert build.learning_rates(args, devices // 2) == pytest.approx(half)
    if 'model_ema_decay' in row:
        decay = row['model_ema_decay']
        assert args.model_ema is (decay is not None)
        assert decay is None or 1 - args.model_ema_decay == pytest.approx(1 - decay, rel=2e-3)


@pytest.mark.parametrize('name', PUBLISHED)
def test_options_are_the_published_ones(name):
    args, row = load(name), PUBLISHED[name]
    told = {key: value for key, value in row.items() if key not in TOLD}
    assert {key: getattr(args, key) for key in told} == told
    model, size = model_and_size(name)
    assert (args.model, args.img_size) == (model, size)
    sized = row.get('built_for_size', size != 224 and not model.endswith(str(size)))
    assert args.model_kwargs.get('img_size') == (size if sized else None)
    assert args.crop_pct == row.get('crop_pct')


@pytest.mark.parametrize('name', PUBLISHED)
def test_headers_give_command_source_and_batch(name):
    row, text = PUBLISHED[name], header(name)
    nodes = f'--nnodes={row["nodes"]} ' if 'nodes' in row else ''
    assert f'torchrun {nodes}--nproc_per_node={row["processes"]} -m zoo train --config {name} ' in text
    assert all(word in text for word in (row['paper'], row['commit'], f'Global batch {row["batch"]}'))
    assert row.get('header', '') in ' '.join(text.replace('#', '').split())
    top1 = row['top1'] if name in TIMMS_OWN else zoo.registry.variant(model_and_size(name)[0]).top1.get(tag(name))
    if top1:
        assert f'{top1} %' in text
    elif tag(name) != 'in22k':
        assert any(words in text for words in (
            'not published', 'No accuracy is published', 'not in its repository', 'The repository has no accuracy',
            "off the repository's plot"))
    assert ('--pretrained-path' in text) is row.get('starts_from', row['weight_decay'] == 1e-8)  # or fine-tuning


@pytest.mark.parametrize('name', [  # from scratch at the model's own size, with a rate that is published
    name for name, row in PUBLISHED.items()
    if name in zoo.list_models() and 'not published' not in row.get('header', '')])
def test_stochastic_depth_is_that_of_the_table(name):
    assert PUBLISHED[name]['drop_path'] == zoo.registry.variant(name).drop_path


def test_models_of_timms_own_are_no_one_elses():
    assert set(TIMMS_OWN) - LACKING <= set(timm.list_models()) - set(zoo.list_models())


def rates_of_updates(name, updates):
    """Learning rate of every update of a recipe, as the trainer goes through it, of so many updates per epoch."""
    args = load(name)
    rates = build.learning_rates(args, PUBLISHED[name]['processes'] * PUBLISHED[name].get('nodes', 1))
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


@pytest.mark.parametrize('name', ['cbam_resnet18', 'ecanet_mobilenet_v2', 'fcanet_resnet34', 'resnest50d_1s2x40d'])
def test_gated_cnns_decay_what_the_authors_decay(name):
    """All parameters; ResNeSt no norms and no biases."""
    args = load(name)
    model = build.create_model(args)
    optimizer = build.make_optimizer(args, model, 0.1)
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    for key, p in model.named_parameters():
        spared = name.startswith('resnest') and p.ndim == 1
        assert decays[id(p)] == (0. if spared else PUBLISHED[name]['weight_decay']), key
    assert {group['nesterov'] for group in optimizer.param_groups} == {name.startswith('resnest')}


SMALLEST = (  # of each family
    'flatten_pvt_v2_b0', 'agent_deit_tiny', 'inline_deit_tiny', 'ravlt_t', 'mavit_t', 'nalaformer_xt', 'l2vit_tiny',
    'care_s0', 'van_b0', 'efficientmod_xxs', 'smt_tiny', 'litv2_s', 'biformer_tiny', 'patnet_t0', 'overlock_xt',
    'cbam_resnet18', 'bam_resnet18', 'ecanet_mobilenet_v2', 'fcanet_resnet34', 'triplet_mobilenet_v2_k3',
    'emca_resnet18', 'resnest50d_1s2x40d', 'focalnet_tiny_srf', 'swiftformer_xs', 'mambaout_femto', 'iformer_t')


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


def published_loss(row, output, target, opinion):
    """The loss of a recipe, written out: on labels, on those of an auxiliary head too, from a teacher's outputs."""
    logits = [x.detach().double().log_softmax(1) for x in (output if isinstance(output, tuple) else (output,))]
    if target.ndim == 1:  # smoothed here, where mixing does it otherwise
        target = torch.nn.functional.one_hot(target, 1000) * (1 - row['smoothing']) + row['smoothing'] / 1000
    losses = [-(target.double() * x).sum(1).mean() for x in logits]
    if 'aux_loss_weight' in row:
        return losses[0] + 0.4 * losses[1]
    if 'kd_model_name' not in row:
        loss, = losses
        return loss
    opinion = opinion.detach().double().log_softmax(1)
    if row['kd_distill_type'] == 'logit':
        return 0.1 * losses[0] + 0.9 * (opinion.exp() * (opinion - logits[0])).sum(1).mean()
    return (losses[0] - logits[1].gather(1, opinion.argmax(1, keepdim=True)).mean()) / 2


@pytest.mark.parametrize('name', [
    *SMALLEST, *(pytest.param(name, marks=pytest.mark.full) for name in PUBLISHED if name not in SMALLEST)])
def test_models_train_by_their_recipes(name, four_pictures, small_teacher, tmp_path):
    """Two updates of the model, its optimizer, schedule, clipping, mixing and loss, on two small images each."""
    args, row = load(name), PUBLISHED[name]
    if args.model in LACKING:
        pytest.skip('not in this timm')
    vars(args).update(
        data_dir=str(four_pictures), dataset='', img_size=64, batch_size=2, grad_accum_steps=1, aug_repeats=0,
        workers=0, amp_dtype='bfloat16' if args.amp else '', device='cpu')
    if args.kd_model_name:
        vars(args).update(small_teacher, amp=False)
    if args.aux_loss_weight:
        args.amp = False
    if args.progressive_sizes:
        args.progressive_sizes, args.img_size = [64], 96
    session = Trainer(args, build.DeviceContext(torch.device('cpu')), tmp_path / 'run', None)
    run, model = session.run, session.model
    assert (run.mixup is None) is (row['mixup'] == row['cutmix'] == 0)
    assert run.task.has_ema() is args.model_ema
    assert [group['lr'] for group in run.optimizer.param_groups][0] == pytest.approx(
        args.warmup_lr * (args.batch_size / args.lr_base_size if args.lr_scale_ends else 1)
        if args.warmup_epochs else build.learning_rates(args, 1)['lr'])
    paths = [module for module in model.modules() if isinstance(module, DropPath)]
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
    for epoch in range(2 if name in RESNEST else 1):
        for kind in seen.values():
            kind.clear()
        result = engine.train_epoch(run, epoch, report.Progress(2, '', shown=False))
    assert run.updates == (4 if name in RESNEST else 2)
    assert seen['sides'] == [(64, 64)] * 2
    targets = seen['target'][::2] if args.aux_loss_weight else seen['target']
    losses = [published_loss(row, *parts) for parts in zip(seen['output'], targets, seen['opinion'] or [None] * 2)]
    assert result['loss'] == pytest.approx(float(sum(losses)) / 2, rel=5e-3 if args.amp else 1e-5)
    # in the warm-up, some move by less than float32 tells from one: they have a momentum at least
    moving = {p for p, state in run.optimizer.state.items() if any(
        state[key].any() for key in ('momentum_buffer', 'exp_avg') if key in state)}
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key]) and p not in moving]
    # the class token is read from the last block, whose convolution and some of whose biases are for the patches
    blind = 'stages.11.blocks.0.mixer.' if '_deit_' in name else None
    assert [key for key in still if not (blind and key.startswith(blind))] == []
