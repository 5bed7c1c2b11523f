"""What hosts may ask of mixers and gates: names, initialisation, weight decay, maps and sequences, tables of mixers."""
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import zoo
from tests.zoo_models import narrow, small, smallest_hosts
from zoo.blocks.gates import Gate, GateContext, init_gates
from zoo.blocks.mixers import (
    BlockContext,
    MixerTable,
    TokenMixer,
    list_mixers,
    mixer_class,
    mixer_factory,
    register_mixer,
    registry,
)
from zoo.registry import FAMILIES
from zoo.utils.errors import ZooError

# One model of each host that takes mixers.
HOSTS = {
    family.host.__name__: next(v.name for v in family.variants) for family in FAMILIES if family.mixers is not None}

class Ones(TokenMixer):
    """A linear layer of ones, and a table."""

    def __init__(self, dim, device=None, dtype=None):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, dim, device=device, dtype=dtype))
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)

    def forward_tokens(self, x, grid, num_prefix_tokens=0):
        return self.proj(x)

    def init_weights(self):
        nn.init.ones_(self.proj.weight)
        nn.init.constant_(self.proj.bias, 2.)

    def no_weight_decay(self):
        return {'table', 'proj.weight'}


class OnesGate(Gate):
    """A convolution of ones, and a table."""

    def __init__(self, channels, device=None, dtype=None):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, channels, device=device, dtype=dtype))
        self.conv = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)

    def forward(self, x):
        return x * self.conv(x).sigmoid()

    def init_weights(self):
        nn.init.ones_(self.conv.weight)
        nn.init.constant_(self.conv.bias, 2.)

    def no_weight_decay(self):
        return {'table'}


def context(stage=0, index=0):
    return BlockContext(stage, index, 16, 2, (4, 4), window=2)


# --- names

MISSPELT = [
    ('init_weight', 'init_weights'), ('initweights', 'init_weights'), ('from_contex', 'from_context'),
    ('no_weight_decays', 'no_weight_decay'), ('noweight_decay', 'no_weight_decay'), ('foward', 'forward')]
MISSPELT_OF_MIXERS = [
    *MISSPELT, ('forward_token', 'forward_tokens'), ('set_grid_sizes', 'set_grid_size'),
    ('set_gridsize', 'set_grid_size'), ('set_windows_size', 'set_window_size'), ('resample_tables', 'resample_table'),
    ('needs_blockinput', 'needs_block_input'), ('need_guide', 'needs_guide'), ('take_sequences', 'takes_sequences')]
HONEST = [
    'attend', 'kernel', 'window', 'qkv', 'head_dim', 'local_kernel', 'predict', 'reset_parameters', 'dilation',
    'num_heads', 'init_bias', 'forward_map', 'grid_size', 'guide']


@pytest.mark.parametrize('base, name, meant', [
    *((TokenMixer, *pair) for pair in MISSPELT_OF_MIXERS), *((Gate, *pair) for pair in MISSPELT)])
def test_misspelt_overrides_are_errors(base, name, meant):
    with pytest.raises(
            TypeError, match=f'Mine.{name} is not part of {base.__name__}, but {meant} is: rename .*extra_api'):
        type('Mine', (base,), {name: lambda self: None})


def test_misspelt_annotations_are_errors_too():
    with pytest.raises(TypeError, match=r'needs_block_inputs is not part of TokenMixer, but needs_block_input is'):
        type('Mine', (TokenMixer,), {'__annotations__': {'needs_block_inputs': bool}})


@pytest.mark.parametrize('base', [TokenMixer, Gate])
@pytest.mark.parametrize('name', HONEST)
def test_honest_names_pass(base, name):
    assert name in vars(type('Mine', (base,), {name: lambda self: None}))


def test_a_name_of_ones_own_may_look_like_another():
    class Mine(TokenMixer):
        extra_api = ('init_weight',)

        def init_weight(self):
            return 1

    class Derived(Mine):  # it is still meant
        def init_weight(self):
            return 2

    assert Derived().init_weight() == 2
    with pytest.raises(TypeError, match='forward_token '):
        type('Other', (Mine,), {'forward_token': None})


def test_all_of_ours_are_token_mixers():
    assert all(issubclass(mixer_class(name), TokenMixer) for name in list_mixers())
    assert {name for name in list_mixers() if mixer_class(name).takes_sequences()} == set(list_mixers(class_token=True))


# --- registration

def test_register_mixer():
    try:
        assert register_mixer('of_a_test')(Ones) is Ones is mixer_class('of_a_test')
        register_mixer('of_a_test')(Ones)  # a module that is loaded twice
        assert 'of_a_test' in list_mixers(class_token=True) and 'of_a_test' not in list_mixers(class_token=False)
        with pytest.raises(ZooError, match="mixer 'of_a_test' is taken by Ones; choose another name"):
            register_mixer('of_a_test')(type('Twos', (Ones,), {}))
        with pytest.raises(ZooError, match=r"mixer 'linear': .*Linear.* is not a TokenMixer; derive it from"):
            register_mixer('linear')(nn.Linear)
    finally:
        registry._MIXERS.pop('of_a_test', None)
    with pytest.raises(ZooError, match="mixer 'of_a_test': use one of additive_recurrence, agent, "):
        mixer_class('of_a_test')


# --- initialisation and decay

def ones_in(model):
    found = {name: m for name, m in model.named_modules() if isinstance(m, Ones)}
    assert found and all(m.proj.weight.eq(1).all() and m.proj.bias.eq(2).all() for m in found.values())
    return found


@pytest.mark.parametrize('name', HOSTS.values(), ids=HOSTS)
def test_mixers_initialise_last_in_every_host(name):
    model = timm.create_model(name, mixer=Ones.from_context, num_classes=0, **small(name))
    ones = ones_in(model)
    assert model.no_weight_decay() >= {f'{at}.{own}' for at in ones for own in ('table', 'proj.weight')}
    assert model.no_weight_decay() <= {at for at, _ in model.named_parameters()}


@pytest.mark.parametrize('host', smallest_hosts())
def test_mixers_initialise_last_in_hybrids(host):
    model = zoo.create_hybrid(host, Ones.from_context, num_classes=3, **narrow(host))
    assert len(ones_in(model)) == len([  # latents of FIT have attention of their own
        name for name, _ in model.named_modules() if name.endswith('.mixer') and '.latent_blocks.' not in name])
    model.reset_classifier(5)
    ones_in(model)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize('name', ['ecanet_resnet18', 'ecanet_mobilenet_v2', 'bam_resnet18', 'emca_resnet18'])
def test_gates_initialise_last(name):
    place = 'stage_gate' if name.startswith('bam') else 'gate'
    model = timm.create_model(name, num_classes=0, **({} if 'emca' in name else {place: OnesGate.from_context}))
    if 'emca' in name:  # its gates are part of the host
        model.layer1[0].se = OnesGate(64)
        init_gates(model)
    gates = {at: m for at, m in model.named_modules() if isinstance(m, OnesGate)}
    assert gates and all(m.conv.weight.eq(1).all() and m.conv.bias.eq(2).all() for m in gates.values())
    assert model.no_weight_decay() == {f'{at}.table' for at in gates}


@pytest.mark.parametrize('name', ['resnet18', 'mobilenetv2_100'])
def test_added_gates_initialise_themselves(name):
    model = zoo.add_gates(timm.create_model(name, num_classes=0), OnesGate.from_context)
    gates = [m for m in model.modules() if isinstance(m, OnesGate)]
    assert gates and all(m.conv.weight.eq(1).all() and m.conv.bias.eq(2).all() for m in gates)
    assert all(m.weight.ne(1).any() for m in model.modules() if type(m) is nn.Conv2d and m.weight.shape[2:] == (3, 3))


def test_gates_are_built_with_channels():
    gate = OnesGate.from_context(GateContext(0, 0, 12, 2), dtype=torch.float64)
    assert gate.table.shape == (3, 12) and gate.table.dtype == torch.float64
    with pytest.raises(NotImplementedError):
        Gate()(torch.zeros(1, 1, 1, 1))


# --- maps and sequences

class Maps(TokenMixer):
    """Adds one to maps."""

    def forward(self, x):
        return x + 1


class Both(Maps):
    """And the prefix and the rows to sequences."""

    def forward_tokens(self, x, grid, num_prefix_tokens=0):
        return x + 10 * num_prefix_tokens + grid[0]


class Guided(TokenMixer):
    """The block's input alone."""

    needs_block_input = True

    def forward_tokens(self, x, grid, num_prefix_tokens=0, block_input=None):
        return block_input + grid[1]


class BothAtOnce(TokenMixer):
    def forward(self, x, block_input=None):
        return x + block_input

    def forward_tokens(self, x, grid, num_prefix_tokens=0, block_input=None):
        return x - block_input


def test_a_mixer_may_have_a_form_of_its_own_for_sequences():
    x, tokens = torch.zeros(1, 2, 3, 4), torch.zeros(1, 7, 4)
    assert Both.takes_sequences() and not Maps.takes_sequences()
    mixer = Both()
    assert mixer(x).eq(1).all() and mixer(tokens, grid=(2, 3), num_prefix_tokens=1).eq(12).all()
    assert type('Derived', (Both,), {})()(tokens, grid=(2, 3)).eq(2).all()
    mixer = BothAtOnce()
    assert mixer(x, block_input=x + 1).eq(1).all()
    assert mixer(tokens, block_input=tokens + 1, grid=(2, 3), num_prefix_tokens=1).eq(-1).all()


def test_a_mixer_of_sequences_takes_maps():
    seen = []

    class Seen(Ones):
        def forward_tokens(self, x, grid, num_prefix_tokens=0):
            seen.append((tuple(x.shape), grid, num_prefix_tokens))
            return x

    x = torch.randn(2, 3, 5, 8)
    assert torch.equal(Seen(8)(x), x)
    Seen(8)(torch.zeros(2, 16, 8), grid=(3, 5), num_prefix_tokens=1)
    assert seen == [((2, 15, 8), (3, 5), 0), ((2, 16, 8), (3, 5), 1)]
    assert torch.equal(Guided()(x, block_input=2 * x), 2 * x + 5)


def test_a_mixer_of_maps_says_so_beside_a_class_token():
    with pytest.raises(NotImplementedError, match='Maps takes maps only'):
        Maps().forward_tokens(torch.zeros(1, 7, 4), (2, 3), 1)
    with pytest.raises(ZooError, match='Maps mixes maps only, but this host has a class token; .*or another host'):
        zoo.create_hybrid('vit_tiny', lambda ctx, **dd: Maps(), depth=1)


# --- tables

def kinds(table, stage, count=4):
    return [type(table(context(stage, i))).__name__ for i in range(count)]


def test_a_table_by_stage_by_turns_and_one_after_the_other():
    table = MixerTable((
        'linear', ('linear', 'window'), ('window', 'linear', ...), None, ('linear', 'window', 'pooling', ...),
        Ones.from_context, ['pooling']))
    assert kinds(table, 0) == ['LinearAttention'] * 4
    assert kinds(table, 1) == ['LinearAttention', 'WindowAttention'] * 2
    assert kinds(table, 2) == ['WindowAttention'] + ['LinearAttention'] * 3
    assert kinds(table, 4) == ['LinearAttention', 'WindowAttention', 'AveragePooling', 'AveragePooling']
    assert kinds(table, 5) == ['Ones'] * 4 and kinds(table, 6) == ['AveragePooling'] * 4
    with pytest.raises(ZooError, match=r'the table of mixers .* has no mixer for stage 3 '):
        table(context(3))
    with pytest.raises(ZooError, match=r'the table of mixers .* has no mixer for stage 7 '):
        table(context(7))


def test_options_go_to_the_mixers_that_take_them():
    table = MixerTable(('linear', 'window', 'routing'), dict(rel_pos=False, topk=(1, 2, 3)))
    assert table(context(1)).rel_pos is None and table(context(2)).topk == 3
    assert repr(table) == "('linear', 'window', 'routing') with {'rel_pos': False, 'topk': (1, 2, 3)}"
    with pytest.raises(ZooError, match=r"no mixer of \('linear', 'window'\) takes the argument agents, topk"):
        MixerTable(('linear', 'window'), dict(rel_pos=False, topk=2, agents=3))
    with pytest.raises(ZooError, match="mixer 'ralla': use one of .*did you mean rala"):
        MixerTable(('rala', 'ralla'))
    more = mixer_factory(table, dict(n_win=3))
    assert more(context(2)).n_win == 3 and more(context(1)).rel_pos is None and 'n_win' not in table.options


class Scaled(Ones):
    """With an argument, built by the contract's own from_context."""

    def __init__(self, dim, scale=1., device=None, dtype=None):
        super().__init__(dim, device, dtype)
        self.scale = scale


def test_options_reach_mixers_that_have_no_from_context():
    assert mixer_factory(Scaled.from_context, dict(scale=3.))(context()).scale == 3.
    table = MixerTable((Scaled.from_context, 'window'), dict(scale=3., rel_pos=False))
    assert table(context()).scale == 3. and table(context(1)).rel_pos is None
    with pytest.raises(ZooError, match='takes the argument scales'):
        MixerTable((Scaled.from_context,), dict(scales=3.))


def test_dots_stand_behind_what_goes_on():
    for row in ((...,), ('linear', ..., 'window'), ('linear', ..., ...)):
        with pytest.raises(ZooError, match=r'\.\.\. must be the last entry of a row, after the mixer'):
            MixerTable(('linear', row))


def test_models_take_tables():
    model = timm.create_model('ravlt_t', mixers=('mala', ('rala', 'window'), 'linear', ('rala', 'softmax', ...)))
    names = [[type(block.mixer).__name__ for block in stage.blocks] for stage in model.stages]
    rala = 'RankAugmentedLinearAttention'
    assert names == [['MagnitudeAwareLinearAttention'] * 2, [rala, 'WindowAttention'], ['LinearAttention'] * 6,
                     [rala, 'SoftmaxAttention']]
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(ZooError, match='has no mixer for stage 2'):
        timm.create_model('ravlt_t', mixers=('mala', 'rala'), device='meta')


def test_families_say_their_mixers_in_a_table():
    told = {(family.module.rpartition('.')[2], family.host.__name__): str(family.mixers) for family in FAMILIES}
    assert told['ravlt', 'Pyramid'] == "('rala', 'rala', 'rope_softmax', 'rope_softmax')"
    assert told['flatten', 'Swin'] == "('focused', 'focused', 'window', 'window')"
    assert told['smt', 'SMT'] == "('scale_aware', 'scale_aware', ('scale_aware', 'softmax'), 'softmax')"
    assert told['overlock', 'OverLoCK'] == "(None, None, 'context_mixing', 'context_mixing')"
    assert told['biformer', 'BiFormer'] == "('routing', 'routing', 'routing', 'enhanced') with {'topk': (1, 4, 16)}"
    assert {table for (_, host), table in told.items() if host.startswith('Gated')} == {'None'}
    for family in FAMILIES:
        for row in getattr(family.mixers, 'mixers', family.mixers) or ():
            for name in (row,) if isinstance(row, str | None) else row:
                assert name in (None, ...) or name in list_mixers()


# --- docs/mixers.md

PAGE = (Path(__file__).parents[2] / 'docs/mixers.md').read_text()


def test_the_example_of_the_docs():
    text = PAGE.partition('\n## A mixer of your own\n')[2].partition('\n## ')[0]
    [code] = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert 'row_mean = "my_package:RowMean"' in text and f'[project.entry-points."{registry.GROUP}"]' in text
    found = {}
    try:
        exec(code, found)
        model = found['model']  # the last one: ravlt_t
        names = [type(stage.blocks[0].mixer).__name__ for stage in model.stages]
        assert names == ['RankAugmentedLinearAttention'] * 2 + ['RowMean', 'SoftmaxAttention']
        weight = model.stages[2].blocks[0].mixer.proj.weight
        assert torch.equal(weight, torch.eye(256))
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        assert weight.grad.abs().max() > 0
        x = torch.randn(1, 3, 4, 256)
        with torch.no_grad():
            torch.testing.assert_close(model.stages[2].blocks[0].mixer(x), x + x.mean(2, keepdim=True))
    finally:
        registry._MIXERS.pop('row_mean', None)
