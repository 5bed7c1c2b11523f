"""Each family is what its paper's code says: facts in ``families/FAMILY.yaml``, about models that goldens cannot see.

Sizes, mixers and other arguments of every variant, initial weights, weight decay and learning rates, eps of norms.
"""
import math
import re
import sys
from collections import defaultdict
from itertools import cycle, islice

import pytest
import timm
import torch
from torch import nn

from tests import goldens
from tests.models import families
from tests.zoo_models import shallow, skeleton
from zoo.blocks.mixers import TokenMixer, mixer_class
from zoo.registry import modules, variant
from zoo.train import build, options
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError
from zoo.weights.sources import load as load_sources
from zoo.weights.sources import source, tags

SMALLEST = [pytest.param(family, name, id=name) for family in families.NAMES for name in families.smallest(family)]
FROM_FAN_OUT = 'fan_out', 'kaiming'


def facts(family, field):
    """What a family's data file says, {} where it says nothing."""
    return families.load(family).get(field, {})


def test_every_family_has_its_facts_and_all_of_them_mean_something():
    assert families.NAMES == sorted(modules())
    for family in families.NAMES:
        own, unknown = families.variants(family), set(families.load(family)) - families.FIELDS
        assert not unknown, f'{family}: {unknown}'
        for field in ('parameters', 'mixers', 'modules', 'kernels'):
            unknown = {name.partition('.')[0] for name in facts(family, field)} - {*own}
            assert not unknown, f'{family}: {field} of {unknown}, which are not its models'
        unproven = {name for name in own if not list(goldens.FOLDER.glob(f'{name}@*.json'))} - {
            *facts(family, 'parameters')}
        assert not unproven, f'{family}: no golden and no number of parameters for {unproven}'


@pytest.mark.parametrize('family', families.NAMES)
def test_the_reference_is_that_of_docstring_and_goldens(family):
    reference = families.load(family).get('reference')
    golden = families.any_golden(family)
    assert (reference is None) == (golden is None)
    if reference:
        repository, commit = reference.split(' @ ')
        frozen = goldens.load(golden)
        assert repository in frozen['source'] and frozen['commit'].startswith(commit)
        assert f'{repository} @ {frozen["commit"]}' in sys.modules[f'zoo.models.{family}'].__doc__


@pytest.mark.parametrize('family', [family for family in families.NAMES if facts(family, 'parameters')])
def test_numbers_of_parameters(family):
    for name, published in facts(family, 'parameters').items():
        count = sum(p.numel() for p in skeleton(name).parameters())
        if isinstance(published, int):
            assert count == published, name
        else:
            digits = len(str(published).partition('.')[2])
            assert count / 1e6 == pytest.approx(published, abs=0.6 * 10 ** -digits), name


def written_out(stages):
    """Classes of the mixers of all stages, as ``2 agent, 16 window`` and ``8 scale_aware/softmax`` mean them."""
    for stage in stages:
        runs = (run.split() for run in stage.split(', ') if run)
        yield [mixer_class(name) for count, names in runs for name in islice(cycle(names.split('/')), int(count))]


@pytest.mark.parametrize('family', [family for family in families.NAMES if facts(family, 'mixers')])
def test_mixers_of_every_block(family):
    for name, stages in facts(family, 'mixers').items():
        found = [[type(m) for m in stage.modules() if isinstance(m, TokenMixer)] for stage in skeleton(name).stages]
        if len(stages) == 1:  # isotropic
            found = [sum(found, [])]
        assert found == list(written_out(stages)), name


def plain(value):
    """Tuples as lists."""
    return [plain(x) for x in value] if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize('family', [family for family in families.NAMES if facts(family, 'modules')])
def test_attributes_of_modules(family):
    for name, patterns in facts(family, 'modules').items():
        for pattern, attributes in patterns.items():
            found = [module for at, module in skeleton(name).named_modules() if re.search(pattern, at)]
            assert found, f'{name} has no module {pattern}'
            for attribute, published in attributes.items():
                values = [plain(getattr(module, attribute)) for module in found]
                wanted = published if isinstance(published, list) else [published] * len(values)
                assert values == wanted, f'{name}: {attribute} of {pattern}'


@pytest.mark.parametrize('family', [family for family in families.NAMES if facts(family, 'eps')])
def test_eps_of_norms(family):
    used = defaultdict(set)
    for name in families.smallest(family):
        rules = families.eps_rules(family, name)
        for at, module in skeleton(name).named_modules():
            if 'Norm' in type(module).__name__ and hasattr(module, 'eps'):
                pattern = families.first_match(rules, at)
                assert pattern is not None and module.eps == rules[pattern], f'{name}: {at}'
                used[tuple(rules)].add(pattern)
    assert all(found == set(rules) for rules, found in used.items())


OTHER_SIZES = [name for name, row in load_sources().items() if row.size != source(
    f'{name.partition(".")[0]}.{next(iter(tags(name.partition(".")[0])))}').size]


@pytest.mark.parametrize('name_tag', OTHER_SIZES)
def test_weights_of_another_size_have_a_model_of_that_size(name_tag):
    """Bound to it where the shapes of some weights are."""
    name, _, tag = name_tag.partition('.')
    size = source(name_tag).size
    args = dict(shallow(name), **variant(name).tag_args.get(tag, {}), device='meta')
    model, native = timm.create_model(name_tag, **args), timm.create_model(name, **args)
    shapes = [{key: p.shape for key, p in m.named_parameters()} for m in (model, native)]
    assert model.pretrained_cfg['input_size'] == (3, *size)
    assert shapes[0] == shapes[1] or model.pretrained_cfg['fixed_input_size']
    if model.pretrained_cfg['fixed_input_size']:
        resized = timm.create_model(name, img_size=size, **args)
        assert shapes[0] == {key: p.shape for key, p in resized.named_parameters()}


# --- initial weights

def deviation(rule, model, name):
    """Standard deviation that a rule gives a parameter."""
    if rule.startswith('std '):
        return float(rule[4:])
    layer = model.get_submodule(name.rpartition('.')[0])
    if rule == 'torch':
        return (3 * layer.weight[0].numel()) ** -0.5
    groups = layer.groups if rule == 'fan_out' and isinstance(layer, nn.Conv2d) else 1
    assert rule in FROM_FAN_OUT, f'unknown rule {rule!r}'
    return math.sqrt(2 / (layer.weight[:, 0].numel() / groups))


def moments(values):
    """Number, sum and sum of squares."""
    if float(values.abs().max()) >= 10:  # one draw of trunc_normal_ in 2 ** 24 is its bound, 100 deviations away
        values = values[values.abs() < 10]
    return torch.tensor([len(values), values.sum(), values @ values], dtype=torch.float64)


def check_standardised(found, where):
    """That values of these moments have the mean 0 and the deviation 1, within five standard errors."""
    count, total, squares = found.tolist()
    assert abs(total / count) <= 5 * count ** -0.5, where
    assert count < 2 or abs((squares / count) ** 0.5 - 1) <= 5 * (2 * count) ** -0.5, where


@pytest.mark.parametrize('family, name', [
    pytest.param(family, name, id=name) for family in families.NAMES
    for name in dict.fromkeys([*families.smallest(family), *facts(family, 'initial')])
    if name in families.variants(family)])
def test_initial_weights(family, name):
    """By group and by parameter; every parameter is in a group, in a model of full width."""
    torch.manual_seed(0)
    model = timm.create_model(name, **shallow(name))
    rules, groups = families.initial_rules(family, name), defaultdict(list)
    for at, p in model.named_parameters():
        pattern = families.first_match(rules, at)
        assert pattern is not None, f'{at} is in no group'
        p, rule = p.detach(), rules[pattern]
        if not isinstance(rule, str):
            assert rule is None or torch.equal(p, torch.full_like(p, rule)), f'{at} is not {rule}'
            groups[pattern] += []
            continue
        values = p.flatten().double() / deviation(rule, model, at)
        assert rule != 'torch' or float(values.abs().max()) <= 3 ** 0.5 + 1e-6, f'{at}: beyond 1 / sqrt(fan in)'
        groups[pattern].append(moments(values))
        check_standardised(groups[pattern][-1], f'{at}, {rule}')
    for pattern, found in groups.items():
        if found:
            check_standardised(sum(found), f'{pattern}, {rules[pattern]}')
    own = {pattern for glob in facts(family, 'initial') if glob == name for pattern in facts(family, 'initial')[glob]}
    assert own <= set(groups)


@pytest.mark.parametrize('family', families.NAMES)
def test_every_group_of_initial_weights_is_some_parameters(family):
    names = {
        at for name in {*families.smallest(family), *facts(family, 'initial')} & {*families.variants(family)}
        for at, _ in skeleton(name).named_parameters()}
    for glob, rules in facts(family, 'initial').items():
        unused = [pattern for pattern in rules if not any(re.search(pattern, at) for at in names)]
        assert not unused, f'{glob}: {unused}'


# --- weight decay and learning rates

def published_training(name):
    """Options of a model's recipe, those of the trainer where it has none; with a decay that can be told from none."""
    try:
        args = options.merge(TRAIN, options.read_config(options.config_path(name), TRAIN))
    except ZooError:
        args = options.merge(TRAIN, dict(model=name, opt='adamw'))
    args.weight_decay = 0.5
    return args


@pytest.mark.parametrize('family, name', SMALLEST)
def test_weight_decay_and_learning_rates(family, name):
    """As the recipe groups the parameters."""
    data, model = families.load(family), skeleton(name)
    names = {id(p): at for at, p in model.named_parameters()}
    decay, rate = {}, {}
    for group in build.make_optimizer(published_training(name), model, lr=2.).param_groups:
        for p in group['params']:
            decay[names[id(p)]], rate[names[id(p)]] = group['weight_decay'], group['lr'] / 2
    assert decay.keys() == rate.keys() == {*names.values()} and set(decay.values()) <= {0., 0.5}
    pattern = data['no_weight_decay']
    assert {at for at in decay if decay[at] == 0} == {at for at in decay if pattern and re.search(pattern, at)}
    factors = data.get('learning_rates', {})
    assert rate == {at: factors.get(families.first_match(factors, at), 1.) for at in rate}
    assert set(factors) <= {families.first_match(factors, at) for at in rate}
    assert set(model.no_weight_decay()) <= set(rate) if hasattr(model, 'no_weight_decay') else True


def test_a_wrong_fact_is_found(monkeypatch):
    """The harness itself: wrong numbers, rules and names fail."""
    wrong = dict(
        families.load('van'), parameters=dict(van_b0=4.107), mixers=dict(van_b0=['3 linear'] * 4),
        modules=dict(van_b0={'mixer$': dict(training=False)}), eps={'norm': 1e-5}, no_weight_decay='bias$',
        initial={'*': {'': 'torch'}})
    monkeypatch.setattr(families, 'load', lambda family: wrong)
    for check in (
            test_numbers_of_parameters, test_mixers_of_every_block, test_attributes_of_modules, test_eps_of_norms):
        with pytest.raises(AssertionError):
            check('van')
    for check in (test_initial_weights, test_weight_decay_and_learning_rates):
        with pytest.raises(AssertionError):
            check('van', 'van_b0')
