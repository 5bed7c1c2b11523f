"""``zoo export``: files of every format give the model's logits, say what they are, and are whole or absent."""
import itertools
import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.turns import in_turn
from tests.zoo_models import shallow
from zoo.export import export as program
from zoo.export.folding import fold_constants, without_in_place
from zoo.export.formats import FORMATS, Facts, Options, onnx
from zoo.registry import smallest_models
from zoo_cli import main

SMALL = ['--model-kwargs', 'depths=(1,1)', 'embed_dims=(16,16)', 'num_heads=(1,1)', 'num_classes=1000',
         '--size', '64']
NAME = 'flatten_pvt_v2_b0'


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'a picture.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)).save(path)
    return path


def run(*words, name=NAME):
    return main(['export', name, *SMALL, *map(str, words)])


def test_pt2(tmp_path, picture, capsys):
    path = tmp_path / 'new folder' / 'model.pt2'
    assert run('--format', 'pt2', '--output', path, '--image', picture, '--json') == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told['deviation'] < 1e-5 and told['same_top1'] and told['size'] == [1, 3, 64, 64]
    assert told['files'] == [str(path)] and told['bytes'] == path.stat().st_size
    assert 'the weights are random' in printed.err
    extra = {'facts.json': ''}
    torch.export.load(path, extra_files=extra)
    facts = json.loads(extra['facts.json'])
    assert facts['model'] == NAME and facts['input_size'] == [3, 64, 64] and facts['crop_pct'] == 0.875
    assert len(facts['class_names']) == 1000 and facts['class_names'][0] == 'tench, Tinca tinca'
    # nothing is replaced unasked, nor left behind
    before = path.read_bytes()
    assert run('--format', 'pt2', '--output', path) == 2
    assert 'is there already; choose another --output, or --force' in capsys.readouterr().err
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == ['model.pt2']
    assert run('--format', 'pt2', '--output', path, '--half', '--force') == 0
    assert 'logits differ by' in capsys.readouterr().out and path.stat().st_size < len(before)


def test_onnx(tmp_path, capsys):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    path = tmp_path / 'model.onnx'
    assert run('--format', 'onnx', '--output', path) == 0
    assert 'compared with the model on a drawn picture: logits differ by ' in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts['model'] == NAME and json.loads(facts['mean']) == [0.485, 0.456, 0.406]
    assert json.loads(facts['class_names'])[999].startswith('toilet tissue')
    assert [x.name for x in session.get_inputs()] == ['images'] and session.get_inputs()[0].shape == [1, 3, 64, 64]
    small = tmp_path / 'small.onnx'
    assert run('--format', 'onnx', '--output', small, '--int8') == 0
    assert small.stat().st_size < path.stat().st_size
    assert sorted(file.name for file in tmp_path.iterdir()) == ['model.onnx', 'small.onnx']


@pytest.mark.slow
@pytest.mark.parametrize('kind, options', [
    ('onnx', ['--dynamic']), ('onnx', ['--half']), ('openvino', []), ('openvino', ['--dynamic']),
    ('openvino', ['--half']), ('executorch', []), ('coreml', []), ('coreml', ['--half']), ('pt2', ['--dynamic']),
    ('pt2', ['--int8'])])
def test_all_formats_and_options(kind, options, tmp_path, capsys):
    for package in FORMATS[kind].packages:
        pytest.importorskip(package)
    path = tmp_path / f'model{FORMATS[kind].suffix}'
    code = run('--format', kind, '--output', path, '--json', *options)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    told = json.loads(printed.out)
    assert path.exists() and told['bytes'] > 10_000
    if kind == 'coreml':
        assert told['deviation'] is None
    else:
        assert told['deviation'] < (0.1 if '--int8' in options else 0.02 if '--half' in options else 1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize('name, kind', in_turn(smallest_models(each_host=False), ['openvino', 'coreml']))
def test_every_family_converts(name, kind, tmp_path):
    """To one of two formats, with a block or two per stage; `zoo compatibility` tries all, whole."""
    for package in FORMATS[kind].packages:
        pytest.importorskip(package)
    torch.manual_seed(0)
    model, images = timm.create_model(name, **shallow(name)).eval(), torch.randn(1, 3, 64, 64)
    facts = Facts(name, (3, 64, 64), (0.5,) * 3, (0.5,) * 3, 'bicubic', 0.9, 'center', None)
    path = tmp_path / f'model{FORMATS[kind].suffix}'
    FORMATS[kind].write(program.recorded(model, images), Options(), facts, path)
    if FORMATS[kind].run:
        torch.testing.assert_close(FORMATS[kind].run(path, images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('words, message', [
    (['--format', 'coreml', '--int8'], '--int8 is not for --format coreml; it is for onnx, pt2'),
    (['--format', 'pt2', '--half', '--int8'], '--half and --int8 exclude each other'),
    (['--format', 'pt2', '--output', 'a.onnx'], '--output a.onnx: a file of pt2 ends in .pt2'),
    (['--format', 'pt2', '--size', '8'], 'images of 8 x 8 do not fit flatten_pvt_v2_b0: images must be at least 32'),
    (['--format', 'pt2', '--image', 'nowhere.png'], 'nowhere.png cannot be read as a picture'),
    (['--format', 'pt2', '--pretrained', '--checkpoint', 'a'], 'exclude each other; give one'),
])
def test_mistakes(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, 'require_packages', lambda *names, extra: None)
    assert run(*words) == 2
    error = capsys.readouterr().err.replace(
        'note: the weights are random; give --pretrained or --checkpoint for others\n', '')
    assert message in error and error.count('\n') == 1
    assert not any(path.is_file() for path in tmp_path.rglob('*'))


@pytest.mark.parametrize('text, words', [
    ("Unsupported fx node __and__, kind __and__", 'Core ML has no __and__; '),
    ('it is \x1b[31m Tuesday', 'it cannot be converted to Core ML (it is \\x1b[31m Tuesday); '),
])
def test_what_a_format_lacks_is_named(text, words, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise NotImplementedError(text)

    monkeypatch.setitem(FORMATS, 'coreml', FORMATS['coreml']._replace(write=fail, packages=()))
    monkeypatch.setattr(program.result_files, 'compatibility', lambda model: dict(
        onnx=dict(result='runs'), coreml=dict(result='fails'), openvino=dict(result='not finished')))
    assert run('--format', 'coreml', '--output', tmp_path / 'a.mlpackage') == 2
    error = capsys.readouterr().err
    assert f'{NAME}: {words}these formats are known to take it: onnx' in error
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(recording, options, facts, path):
        path.write_bytes(b'half of it')
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, 'pt2', FORMATS['pt2']._replace(write=interrupt))
    assert run('--format', 'pt2', '--output', tmp_path / 'a.pt2') == 130
    assert 'interrupted' in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_other_outputs_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, 'pt2', FORMATS['pt2']._replace(run=lambda path, images: torch.ones(1, 1000)))
    assert run('--format', 'pt2', '--output', tmp_path / 'a.pt2') == 2
    assert 'the logits of the file differ from those of the model by' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_class_names_of_a_checkpoint(tmp_path, picture):
    data = tmp_path / 'my data'
    for split, name in itertools.product(('train', 'validation'), ('Ä ant', '<b>&bee')):
        (data / split / name).mkdir(parents=True)
        shutil.copy(picture, data / split / name)
    words = ['--model', 'test_convnext', '--img-size', '32', '-b', '2', '--epochs', '1', '--warmup-epochs', '0',
             '--workers', '0', '--device', 'cpu', '--output', str(tmp_path), '--experiment', 'run']
    assert main(['train', str(data), *words]) == 0
    path = tmp_path / 'bugs.pt2'
    assert main(['export', 'test_convnext', '--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '--format', 'pt2',
                 '--output', str(path)]) == 0
    extra = {'facts.json': ''}
    torch.export.load(path, extra_files=extra)
    facts = json.loads(extra['facts.json'])
    assert facts['class_names'] == ['<b>&bee', 'Ä ant'] and facts['input_size'] == [3, 32, 32]


# --- programs

def operators(graph):
    return {str(node.target) for node in graph.nodes if node.op == 'call_function'}


@torch.no_grad()
def test_tables_of_a_built_size_are_constants():
    """With ``img_size=`` nothing is resampled in a static program; without, it is."""
    model = timm.create_model('flatten_pvt_tiny', img_size=64, depths=(1, 1), embed_dims=(16, 32)).eval()
    x = torch.randn(1, 3, 64, 64)
    assert 'aten.upsample_bicubic2d.vec' not in operators(torch.export.export(model, (x,)).graph)
    other = torch.randn(1, 3, 96, 64)
    resampled = torch.export.export(model, (other,))
    assert 'aten.upsample_bicubic2d.vec' in operators(resampled.graph)
    expected = model(other)
    model.store_tables((96, 64))
    stored = torch.export.export(model, (other,))
    assert 'aten.upsample_bicubic2d.vec' not in operators(stored.graph)
    torch.testing.assert_close(stored.module()(other), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('name', [
    'agent_deit_tiny', *(pytest.param(name, marks=pytest.mark.slow) for name in ('fcanet_resnet34', 'van_b0'))])
def test_constants_are_folded(name):
    torch.manual_seed(0)
    args = shallow(name) if name != 'fcanet_resnet34' else {}
    model, x = timm.create_model(name, **args).eval(), torch.randn(2, 3, 64, 64)
    folded = fold_constants(without_in_place(torch.export.export(model, (x,))))
    assert {'aten.arange.default'} & operators(folded.graph) == set()
    for node in folded.graph.nodes:  # what is computed needs the images
        assert node.op != 'call_function' or node.all_input_nodes
    assert not {'aten.detach_.default', 'aten.alias.default'} & operators(folded.graph)
    torch.testing.assert_close(folded.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_constants_that_are_written_to_are_kept():
    class Layer(torch.nn.Module):
        def forward(self, x):
            both = torch.zeros(2, 3) + 1
            both[0].copy_(x)
            return both * 2, torch.ones(3).cumsum(0) + x

    x = torch.randn(3)
    folded = fold_constants(torch.export.export(Layer(), (x,)))
    for y, expected in zip(folded.module()(x), Layer()(x)):
        torch.testing.assert_close(y, expected)
    assert not any('cumsum' in name for name in operators(folded.graph))


def test_facts_are_texts():
    facts = Facts('m', (3, 8, 8), (0.5,) * 3, (1.,) * 3, 'bicubic', 0.9, 'center', ['ä', '"b"'])
    assert facts.texts() == dict(
        model='m', input_size='[3, 8, 8]', mean='[0.5, 0.5, 0.5]', std='[1.0, 1.0, 1.0]', interpolation='bicubic',
        crop_pct='0.9', crop_mode='center', class_names='["ä", "\\"b\\""]')
    assert onnx.FORMAT.operators_in("No ONNX function found for <OpOverload(op='aten.foo', overload='bar')>.") == [
        'aten.foo']
