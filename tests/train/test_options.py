"""Flags, YAML files and their order."""
import argparse
import math

import pytest
import yaml

from zoo.arena.plan import ARENA
from zoo.evaluate.option_schema import PROBE, VALIDATE
from zoo.train import options
from zoo.train.option_schema import COMMON, TRAIN
from zoo.train.run import parser
from zoo.utils.errors import ZooError


def parse(*words):
    flags, config = options.parse(TRAIN, words, parser())
    return options.merge(TRAIN, config, flags)


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


def test_defaults_are_those_of_timm():
    args = parse()
    assert (args.model, args.opt, args.batch_size, args.epochs, args.lr_base) == ('resnet50', 'sgd', 128, 300, 0.1)
    assert (args.scale, args.smoothing, args.model_ema_decay) == ([0.08, 1.0], 0.1, 0.9998)


@pytest.mark.parametrize('table', [TRAIN, VALIDATE])
def test_every_row_is_consistent(table):
    names = [option.dest for option in table]
    assert len(set(names)) == len(names) and {option.dest for option in COMMON} <= set(names)
    for option in table:
        assert options.coerce(option, option.default, option.dest) == option.default
        assert 0 < len(option.help) < 90


def test_flags_have_their_types():
    args = parse('data', '-b', '4', '--lr', '3e-4', '--input-size', '1', '32', '48', '--amp', '--mean', '0.5',
                 '--model-kwargs', 'img_size=32', 'dims=[1,2]', 'pool=avg', '--torchcompile')
    assert (args.data_dir, args.batch_size, args.lr, args.input_size) == ('data', 4, 3e-4, [1, 32, 48])
    assert args.amp is True and args.mean == [0.5] and args.torchcompile == 'inductor'
    assert args.model_kwargs == dict(img_size=32, dims=[1, 2], pool='avg')


def test_flags_beat_the_file_and_the_file_beats_the_defaults(tmp_path):
    path = write(tmp_path / 'a.yaml', lr='3e-4', epochs=7, amp=True, no_aug=True, mean=[0.5],
                 model_kwargs=dict(img_size=32, depth=2))
    args = parse('--config', str(path), '--epochs', '9', '--no-amp', '--aug', '--model-kwargs', 'depth=3')
    assert args.lr == 3e-4 and isinstance(args.lr, float)  # a string in YAML 1.1
    assert (args.epochs, args.amp, args.no_aug, args.mean) == (9, False, False, [0.5])
    assert args.model_kwargs == dict(img_size=32, depth=3)


def test_base_files_are_followed_and_overridden(tmp_path):
    write(tmp_path / 'root.yaml', lr=1.0, epochs=3, opt='lamb')
    (tmp_path / 'sub').mkdir()
    write(tmp_path / 'sub' / 'middle.yaml', base='../root.yaml', epochs=4)
    path = write(tmp_path / 'sub' / 'leaf.yaml', base='middle.yaml', opt='adamw')
    args = parse('--config', str(path))
    assert (args.lr, args.epochs, args.opt) == (1.0, 4, 'adamw')
    assert options.read_config(path, TRAIN, inherit=False) == dict(opt='adamw')


def test_a_circle_of_bases_is_refused(tmp_path):
    write(tmp_path / 'a.yaml', base='b.yaml')
    write(tmp_path / 'b.yaml', base='a.yaml')
    with pytest.raises(ZooError, match='circle'):
        parse('--config', str(tmp_path / 'a.yaml'))


@pytest.mark.parametrize('values, message', [
    (dict(leraning_rate=1), "unknown key 'leraning_rate'"),
    (dict(weight_deacy=1), "unknown key 'weight_deacy'; did you mean weight_decay"),
    (dict(config='x.yaml'), "unknown key 'config'"),
    (dict(lr='fast'), "lr: expected a number, got 'fast'"),
    (dict(epochs=2.5), 'epochs: expected an integer'),
    (dict(epochs=None), 'epochs: expected an integer, got None'),
    (dict(epochs=0), 'epochs: must be at least 1'),
    (dict(amp='yes'), 'amp: expected true or false'),
    (dict(amp=1), 'amp: expected true or false'),
    (dict(input_size=224), 'input_size: expected 3 integers'),
    (dict(decay_milestones=[1, 'x']), 'decay_milestones: expected integers'),
    (dict(sched='cosin'), "sched: 'cosin' is not one of .*did you mean cosine"),
    (dict(model=5), 'model: expected a string'),
    (dict(model_kwargs='img_size'), 'model_kwargs: expected key=value'),
])
def test_wrong_keys_and_values_of_a_file(tmp_path, values, message):
    path = write(tmp_path / 'bad.yaml', **values)
    with pytest.raises(ZooError, match=message) as e:
        parse('--config', str(path))
    assert str(path) in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('words, message', [
    (['--modle', 'x'], 'unknown argument --modle; did you mean --model'),
    (['--lr', 'fast'], "--lr: expected a number, got 'fast'"),
    (['--lr'], 'expected one argument'),
    (['--input-size', '3', '32'], 'expected 3 arguments'),
    (['--sched', 'cosin'], 'did you mean cosine'),
    (['--model-kwargs', 'img_size'], 'expected key=value pairs'),
    (['--config', 'quikstart'], "no config 'quikstart'.*did you mean quickstart"),
    (['--config', 'folder/none.yaml'], 'no config'),
])
def test_wrong_flags(words, message):
    with pytest.raises(ZooError, match=message):
        parse(*words)


@pytest.mark.parametrize('words, message', [
    ('--smoothing nan', "--smoothing: expected a number, got 'nan'"),
    ('--smoothing 1', '--smoothing: must be at least 0 and below 1, got 1.0'),
    ('--drop-path nan', "expected a number, got 'nan'"), ('--drop-path 2', 'must be at least 0 and below 1, got 2.0'),
    ('--scale nan nan', "expected 2 numbers, got ['nan', 'nan']"), ('--scale 0.9 0.1', 'must be in rising order'),
    ('--ratio 0 0', 'must be at least 0.1 and at most 10, got [0.0, 0.0]'),
    ('--opt-betas .9', "expected 2 or 3 numbers, got ['.9']"), ('--opt-betas 0.9 1', 'must be at least 0 and below 1'),
    ('--crop-pct inf', "expected a number, got 'inf'"), ('--crop-pct 1e-9', 'must be at least 0.1 and at most 2'),
    ('--decay-epochs 0', 'must be above 0'), ('--decay-rate 0', 'must be above 0'),
    ('--color-jitter 1 2 3 4 5', 'expected 1, 3 or 4 numbers'), ('--color-jitter 1 2', 'expected 1, 3 or 4 numbers'),
    ('--model-ema-decay nan', "expected a number, got 'nan'"), ('--model-ema-decay 1', 'at least 0 and below 1'),
    ('--decay-milestones 5 3', 'must be in rising order, got [5, 3]'), ('--std 0', 'must be above 0'),
    ('--mean 124', 'must be at least 0 and at most 1'), ('--hflip 1.5', 'must be at least 0 and at most 1'),
    ('--seed 99999999999', 'must be at least 0 and at most 2147483647'), ('--workers 10000', 'at most 512'),
    ('--input-img-mode x', "'x' is not one of L, LA, RGB"), ('--experiment \udcff', 'expected a string'),
    ('--momentum 1', 'below 1'), ('--kd-temperature 0', 'above 0'), ('--clip-grad 0', 'above 0'),
])
def test_values_out_of_range(words, message):
    with pytest.raises(ZooError) as e:
        parse(*words.split(' '))
    assert message in str(e.value) and str(e.value).startswith(words.split()[0])


@pytest.mark.parametrize('table', [TRAIN, VALIDATE, PROBE, ARENA])
def test_every_number_is_finite_and_has_a_range(table):
    """Above, on and below the limits that an option names; NaN and infinities from flags and from YAML."""
    numbers = [option for option in table if option.kind in (int, float, 'ints', 'floats')]
    assert len(numbers) > 10
    for option in numbers:
        kind = int if option.kind in (int, 'ints') else float
        count = max(option.counts or (1,)) if isinstance(option.kind, str) else 0

        def value(number, count=count):
            return [number] * count if count else number

        for bad in (math.nan, math.inf, -math.inf, 'nan', '-inf', '1e400', 'x', ''):
            with pytest.raises(ZooError, match='expected'):
                options.coerce(option, value(bad), option.dest)
        step = 1 if kind is int else 1e-6
        lowest, highest = (option.low, option.above), (option.high, option.below)
        assert lowest != (None, None) and None in lowest and None in highest, option.dest
        for inclusive, exclusive, sign in ((*lowest, -1), (*highest, 1)):
            if inclusive is not None:
                assert options.coerce(option, value(kind(inclusive)), option.dest) == value(kind(inclusive))
            limit = exclusive if inclusive is None else inclusive + sign * step
            if limit is not None:
                with pytest.raises(ZooError, match=f'{option.dest}: must be '):
                    options.coerce(option, value(kind(limit)), option.dest)
        if kind is int:
            with pytest.raises(ZooError, match=f'{option.dest}: must be .*at most'):
                options.coerce(option, value(2 ** 31), option.dest)


def test_ranges_of_argparse_are_those_of_options():
    read = options.number(float, above=0, high=1)
    assert read('1') == 1. and read('0.25') == 0.25
    for text, message in (('0', 'must be above 0 and at most 1, got 0.0'), ('nan', "expected a number, got 'nan'")):
        with pytest.raises(argparse.ArgumentTypeError) as e:
            read(text)
        assert str(e.value) == message


@pytest.mark.parametrize('text', [
    'epochs: ' + '9' * 5000, 'a: !!int x', 'a: !!float ""', 'a: !!timestamp x', 'a: 2020-99-99', '[' * 1000,
    '!!python/name:os.system', 'epochs: .inf', 'base: 5', 'base: "a\\0b"', 'model_kwargs: [1]', 'model_kwargs: {1: 2}'])
def test_texts_that_yaml_stumbles_over(tmp_path, text):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ZooError) as e:
        parse('--config', str(path))
    assert str(e.value).startswith(f'{path}: ') and len(str(e.value)) < 1000


def test_long_values_are_cut_in_errors():
    with pytest.raises(ZooError) as e:
        parse('--lr', 'x' * 5000)
    assert len(str(e.value)) < 200


@pytest.mark.parametrize('text', ['- a\n- b\n', 'a: [1\n', '\tx: 1\n'])
def test_files_that_are_no_config(tmp_path, text):
    path = tmp_path / 'bad.yaml'
    path.write_text(text)
    with pytest.raises(ZooError, match='bad.yaml'):
        parse('--config', str(path))


def test_recipes_are_found_by_bare_name_with_or_without_ending():
    path = options.config_path('quickstart')
    assert path.name == 'quickstart.yaml' and options.config_path('quickstart.yaml') == path


def test_installed_recipes_come_from_the_package(tmp_path, monkeypatch):
    package = tmp_path / 'zoo'
    (package / 'configs' / 'train').mkdir(parents=True)
    (package / 'configs' / 'train' / 'mine.yaml').write_text('lr: 1.0\n')
    monkeypatch.setattr(options, '__file__', str(package / 'train' / 'options.py'))
    assert options.config_path('mine') == package.resolve() / 'configs' / 'train' / 'mine.yaml'


def test_a_file_in_the_way_wins_over_a_recipe(tmp_path, monkeypatch):
    write(tmp_path / 'quickstart', lr=0.7)
    monkeypatch.chdir(tmp_path)
    assert parse('--config', 'quickstart').lr == 0.7


def test_plain_leaves_only_what_yaml_holds():
    values = options.plain(dict(a=(1, 2.5), b=dict(c=None), d=True, e=complex(1)))
    assert values == dict(a=[1, 2.5], b=dict(c=None), d=True, e='(1+0j)')
    assert yaml.safe_load(yaml.safe_dump(values)) == values
