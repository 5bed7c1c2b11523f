"""Bad files, addresses, labels and devices are told at once: in one line, before a model is built or a line printed."""
import argparse
import json
import sys

import pytest
import timm
import torch

from zoo.train import checks
from zoo.utils.errors import ZooError

from ..train.conftest import MODEL

CPU = ('--device', 'cpu')
NOWHERE = 'http://127.0.0.1:9/a.png'  # nothing listens there
# By command: what is wrong, and what the line says. {names} are paths of the fixture `files`.
CASES = {
    'train': [
        ('{data} --device xpu:0', 'torch finds no XPU device here; use --device cpu'),
        ('{data} --device meta', 'torch finds no META device here'),
        ('{data} --device cpu:3', 'there is no such device; there are 1, from cpu:0 on'),
        ('{data} --aa nope', "--aa 'nope' is not known to timm"),
        ('{data} --aa rand-mx', "--aa 'rand-mx' is not known to timm"),
        ('{data} --aa rand-n99', "--aa 'rand-n99' is not known to timm"),
        ('{data} --color-jitter 1 1 1 0.6', 'of the hue, must be at most 0.5, got 0.6'),
        ('{data} --opt nope', "unknown optimizer 'nope'"),
        ('{data} --opt adan --opt-betas 0.9 0.99', 'adan takes 3 numbers, got 2'),
        ('{data} --opt sgd --opt-betas 0.9 0.99', 'sgd has none; leave it out'),
        ('{data} --sched step --decay-rate 2', 'must be at most 1 with --sched step'),
        ('{data} --dataset nope', "--dataset 'nope' is not known; give digits, quickstart or one of torch/NAME"),
        ('--dataset wds/x', 'needs the folder or the address of its shards; give --data-dir'),
        ('{data} --class-map none.txt', 'no file none.txt'),
        ('{data} --model-kwargs features_only=True', '--model-kwargs features_only: a classifier is needed here'),
        ('{data} --pretrained-path {weights} --pretrained-rows {text}', 'one number, from 0 on, per line'),
        ('{data} --kd-model-name resnet18 --kd-teacher-checkpoint none.pth', 'no checkpoint file none.pth'),
        ('{data} --kd-model-name resnet18 --kd-teacher-checkpoint {text}', 'text.txt is refused'),
        ('{data} --torchcompile inductor --torchcompile-mode x', "'x' is not one of default"),
        ('{data} --output {text}/x', 'text.txt is not a folder; choose another --output')],
    'validate': [
        ('{data} --pretrained --results-file {text}/a.csv', 'is not a folder; choose another --results-file'),
        ('{data} --pretrained --results-file {data}', 'is a folder; name a file'),
        ('{data} --valid-labels {text}', '--valid-labels {text}: expected a file with one number, from 0 on, per line'),
        ('{data} --num-classes 3 --valid-labels {numbers}', 'the classes of the model are 0 to 2, the file has 9'),
        ('{data} --real-labels {text}', '--real-labels {text} cannot be read as JSON'),
        ('{data} --real-labels {json}', '--real-labels {json} does not hold a list of lists'),
        ('{data} --device xpu', 'torch finds no XPU device'), ('{data} --torchcompile nope', "no backend 'nope'"),
        ('{data} --checkpoint {text}', 'text.txt is refused'),
        ('{data} --dataset x/y', "--dataset 'x/y' is not known")],
    'infer': [
        ('resnet18 {picture} --labels none.txt', '--labels none.txt cannot be read'),
        ('resnet18 {picture} --labels {numbers}', 'has 3 lines, the model 1000 classes; give one name per line'),
        (f'resnet18 {NOWHERE}', f'{NOWHERE} cannot be fetched'), ('resnet18 http://', 'no host given'),
        (f'resnet18 {{text}} {NOWHERE}', 'text.txt cannot be read as a picture (not a known image format), nor can'),
        ('resnet18 {picture} --device xpu:0', 'torch finds no XPU device')],
    'probe': [
        ('{data} --device nope', "unknown device 'nope'"), ('{data} --checkpoint {text}', 'text.txt is refused'),
        ('{data} --class-map {json}', 'must end in .txt or .pkl')],
    'arena': [
        ('{data} --device xpu', 'torch finds no XPU device'), ('{data} --output {text}', 'text.txt is not a folder'),
        ('none', 'no data folder'), ('{data} --results /', '--results /: name files in a folder')],
    'attention': [
        ('resnet18 {text}', 'text.txt cannot be read as a picture'), (f'resnet18 {NOWHERE}', 'cannot be fetched'),
        ('resnet18 {picture} --device xpu:0', 'torch finds no XPU device'),
        ('resnet18 --noise -1', 'must be at least 1'),
        ('resnet18 {picture} --output a.txt', '--output a.txt: end in .png'),
        ('resnet18 {picture} --output {text}/a.png', 'is not a folder; choose another --output')],
    'plot': [
        ('--output o.txt', '--output o.txt: end in .png, .svg, .pdf, or in no suffix at all'),
        ('--results {json}', 'foreign.json holds no results to draw; give files that "benchmark models"'),
        ('--results {list}', 'list.json holds no results to draw'), ('--results {text}', 'cannot be read as JSON'),
        ('--output {text}/a', 'is not a folder; choose another --output')],
    'benchmark': [
        ('', 'name what to measure: python -m zoo benchmark ops | models | gates | loader'),
        ('ops --device xpu', "--device: 'xpu' is none"), ('gates --size x', "'x' is not a size"),
        ('gates nope', "unknown gate 'nope'"), ('loader --model nope', "unknown model 'nope'"),
        ('ops --output /', '--output /: name files in a folder, such as /ops'),
        ('models resnet18 --output {text}/x', 'is not a folder; choose another --output')],
    'convert': [
        ('none.pth --model van_b0 --output x', 'no checkpoint file at none.pth'),
        ('{weights} --model van_b0 --output x --check {list}', 'name, input_size, logits is missing'),
        ('{weights} --model van_b0 --output x --check {probe}', 'is not a probe: input_size should be four numbers')],
    'publish': [
        ('{data} --repo a/b', 'has no model.safetensors'), ('none/x --repo a/b', 'there is no folder none/x')],
    'predict': [
        ('mask_rcnn_ravlt_t_1x {weights} {picture} --output o.png --device xpu', 'torch finds no XPU device'),
        ('mask_rcnn_ravlt_t_1x {weights} {text} --output o.png', 'text.txt cannot be read as an image'),
        ('mask_rcnn_ravlt_t_1x none.pth {picture} --output o.png', 'no checkpoint none.pth'),
        ('mask_rcnn_ravlt_t_1x {weights} {picture} --output o.png --score nan', "expected a number, got 'nan'")],
    'info': [('nope', "no model of the zoo is called 'nope'"), ('van_b0 --device xpu', "invalid choice: 'xpu'")],
    'shapes': [('{text}/x', 'text.txt is not a folder'), ('x --seed -1', '--seed: must be at least 0')],
}


@pytest.fixture
def files(pictures, tmp_path, monkeypatch):
    """Paths of what is whole and of what is not what it should be, by name."""
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'w.pth')
    (tmp_path / 'text.txt').write_text('no number')
    (tmp_path / 'numbers.txt').write_text('0\n9\n1\n')
    (tmp_path / 'foreign.json').write_text(json.dumps(dict(kind='models', rows=[dict(model='a')])))
    (tmp_path / 'list.json').write_text('[1]')
    (tmp_path / 'probe.json').write_text(json.dumps(dict(name='van_b0', input_size=[3, 32], logits='x')))
    monkeypatch.chdir(tmp_path)
    return dict(
        data=pictures, picture=pictures / 'val' / 'red' / '0.png', weights=tmp_path / 'w.pth',
        text=tmp_path / 'text.txt', numbers=tmp_path / 'numbers.txt', json=tmp_path / 'foreign.json',
        list=tmp_path / 'list.json', probe=tmp_path / 'probe.json')


@pytest.mark.parametrize('command', CASES)
def test_before_a_model_is_built(command, zoo, files, tmp_path, monkeypatch):
    def build(*args, **kwargs):
        raise AssertionError('a model was built')

    monkeypatch.setattr(timm, 'create_model', build)
    before = sorted(tmp_path.iterdir())
    for words, text in CASES[command]:
        result = zoo(command, *words.format(**files).split())
        assert (result.code, result.out, result.err.count('\n')) == (2, '', 1), (words, result)
        assert result.err.startswith('error: ') and text.format(**files) in result.err, (words, result.err)
    assert sorted(tmp_path.iterdir()) == before  # and nothing was written


def test_a_start_behind_the_end_is_an_error_and_a_finished_run_is_not(zoo, small, tmp_path):
    result = zoo('train', *small(start_epoch=9, epochs=3))
    assert result.code == 2 and result.err == (
        'error: --start-epoch 9 leaves nothing to do: epochs count from 0 and the run has 3; raise --epochs or '
        '--stop-epoch\n')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('words, text', [
    (['--gp', ''], 'gives [1, 3, 1, 1] instead of logits [1, classes]'),
    (['--opt', 'adam', '--opt-kwargs', 'betas=(0.9,)'], '--opt adam: '),
    (['--input-size', '3', '99999999', '99999999'], 'images do not fit the model'),
])
def test_what_only_the_model_tells_is_one_line_too(zoo, small, tmp_path, words, text):
    result = zoo('train', *small(), *words)
    assert (result.code, result.out, result.err.count('\n')) == (2, '', 1) and text in result.err
    assert not (tmp_path / 'out').exists()


def test_the_extra_of_a_kind_of_data_set_is_named(zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, 'webdataset', None)
    assert zoo('train', '--dataset', 'wds/x').err == (
        'error: webdataset is not installed; pip install "backbone-zoo[wds]"\n')


def test_a_benchmark_of_which_nothing_was_left_is_an_error(zoo, tmp_path):
    result = zoo('benchmark', 'models', MODEL, '--sizes', '32', '--repeats', '1', *CPU, '--model-kwargs', 'x=1',
                 '--output', tmp_path / 'b')
    last = result.err.splitlines()[-1]
    assert result.code == 2 and last.startswith('error: nothing could be measured: ') and "argument 'x'" in last
    assert (tmp_path / 'b.md').exists()


@pytest.mark.parametrize('aa', [
    'rand-m9-mstd0.5-inc1', 'rand-m15-n2-tweights', 'originalr', 'original-mstd0.5', 'v0', 'v0r', '3a',
    'augmix-m3-w3-d2', None])
def test_what_timm_knows_of_augmentation_is_taken(aa):
    args = argparse.Namespace(aa=aa, color_jitter=[0.4])
    checks.augmentation(args)
    args.color_jitter = [0.4, 0.4, 0.4, 0.9]
    with pytest.raises(ZooError, match='hue'):
        checks.augmentation(args)
