"""The recipes that come with the zoo, against the published figures (published.py)."""
from pathlib import Path

import pytest
import timm
import torch
from timm.task import ClassificationTask

import zoo
from tests.train.published import PUBLISHED, TIMMS_OWN
from zoo.train import build, data, engine, options, report
from zoo.train.table import TRAIN

FOLDER = options.config_path('quickstart').parent
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
    assert timm.is_model(args.model)
    assert args.model == 'flatten_pvt_v2_b0' if name.startswith('quickstart') else name.startswith(args.model)


def test_there_is_a_recipe_for_every_published_variant():
    assert sorted(PUBLISHED) == [name for name in RECIPES if not name.startswith('quickstart')]
    published = {  # a model whose branches are folded is not trained as such
        (model, tag) for model in zoo.list_models() if not model.endswith('_reparam')
        for tag in zoo.registry.variant(model).top1}
    assert published <= {(model_and_size(name)[0], tag(name)) for name in PUBLISHED}


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
    assert set(TIMMS_OWN) <= set(timm.list_models()) - set(zoo.list_models())


@pytest.mark.parametrize('name', [
    'mambaout_femto', *(pytest.param(name, marks=pytest.mark.full) for name in (
        'focalnet_tiny_srf', 'swiftformer_l1', 'iformer_t', 'swiftformer_xs'))])
def test_models_of_timms_own_train_by_their_recipes(name):
    """One update of the model, its optimizer, clipping, mixing and loss, on two small images."""
    args = load(name)
    args.grad_accum_steps, args.batch_size, args.no_prefetcher = 1, 2, True
    model = build.create_model(args, drop_path_rate=args.drop_path)
    mixup = data.make_mixup(args, args.num_classes)
    assert (mixup is None) is (name == 'swiftformer_xs')
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    place = build.Place(torch.device('cpu'))
    task = ClassificationTask(
        model, criterion=build.make_loss(args, mixed=mixup is not None), device=place.device, verbose=False)
    rates = build.learning_rates(args, world_size=8)
    batches = [(torch.randn(2, 3, 64, 64), torch.tensor([3, 999]))]
    run = engine.Run(
        args, engine.Feed.of(args, place), task, build.make_optimizer(args, model, rates['lr']), None, None,
        type('Batches', (list,), {'dataset': None, 'sampler': None})(batches), [], mixup, 1)
    result = engine.train_epoch(run, 0, report.Progress(2, '', shown=False))
    assert run.updates == 1 and 5 < result['loss'] < 10  # ln 1000 = 6.9
    still = [key for key, p in model.named_parameters() if torch.equal(p, before[key])]
    assert still == []
