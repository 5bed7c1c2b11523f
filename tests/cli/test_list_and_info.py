"""``python -m zoo list`` and ``info``."""
import csv
import json

import pytest
import timm
import torch

import zoo
import zoo_kernels
from zoo.analysis import catalog
from zoo.cli import info
from zoo.weights.fetch import fetchable
from zoo.weights.sources import load
from zoo_cli import main
from zoo_kernels import cpu, dispatch


@pytest.fixture
def no_model(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('a model is built')
    monkeypatch.setattr(timm, 'create_model', refuse)


# --- list

def test_list_has_every_tag_and_builds_nothing(no_model):
    names = [row['name'] for row in catalog.rows()]
    assert sorted(names) == sorted([*load(), 'zoo_hybrid'])
    assert {row['name'] for row in catalog.rows(pretrained=True)} == {
        name for name, row in load().items() if fetchable(row)} == set(zoo.list_models(pretrained=True))


def test_list_takes_globs_of_models_and_tags():
    assert [row['name'] for row in catalog.rows(['ravlt_[ts]', '*.cifar100', 'ravlt_t'])] == [
        'ravlt_s.in1k', 'ravlt_t.in1k', 'cbam_resnet18_cifar.cifar100']
    assert catalog.rows(['emca*'], pretrained=True) == []
    [row] = catalog.rows(['ravlt_s'])
    assert (row['parameters'], row['top1'], row['host'], row['license'], row['size'], row['linear']) == (
        25591208, 84.4, 'Hugging Face', 'MIT', (224, 224), False)


def test_list_within_limits_and_sorted(capsys):
    every = catalog.rows()
    limits = '--max-params', '30', '--max-macs', '4.5', '--min-top1', '82'
    assert main(['list', *limits, '--sort', 'top1', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    want = {row['name'] for row in every if None not in (row['parameters'], row['macs'], row.get('top1')) and (
        row['parameters'] <= 30e6 and row['macs'] <= 4.5e9 and row['top1'] >= 82)}
    assert {row['name'] for row in found} == want and 5 < len(want) < len(every)
    assert [row['top1'] for row in found] == sorted((row['top1'] for row in found), reverse=True)
    for sort, key in (('params', 'parameters'), ('macs', 'macs')):
        assert main(['list', '--sort', sort, '--json']) == 0
        values = [row[key] for row in json.loads(capsys.readouterr().out) if row[key] is not None]
        assert values == sorted(values) and len(values) > 100
    assert main(['list', '--min-top1', '0']) == 0
    unknown = sum(row.get('top1') is None for row in every)
    assert f'; {unknown} left out whose figures are not known; ' in capsys.readouterr().err and unknown


def test_list_as_csv(capsys):
    assert main(['list', 'ravlt_s', '--csv']) == 0
    head, row = csv.reader(capsys.readouterr().out.splitlines())
    assert dict(zip(head, row)) == dict(
        name='ravlt_s.in1k', parameters='25591208', macs=row[2], size='224x224', top1='84.4', host='Hugging Face',
        license='MIT') and row[2].isdecimal()
    assert main(['list', '--csv', '--json']) == 2
    assert 'exclude each other' in capsys.readouterr().err


def test_list_in_a_terminal(capsys):
    assert main(['list']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(load()) + 1 and max(map(len, lines)) <= info.WIDTH
    assert main(['list', 'ravlt_s', '--pretrained']) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        '  model         M params  GMACs  size  top-1  weights       licence',
        '  ravlt_s.in1k     25.59   4.88   224   84.4  Hugging Face  MIT']
    assert err.startswith('1 model; top-1')


def test_list_as_json(capsys):
    assert main(['list', 'ravlt*', '--json']) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(catalog.rows(['ravlt*'])))


@pytest.mark.parametrize('command', ['list', 'info'])
def test_unknown_names(command, capsys):
    for name, text in (
            ('ravlt_x', "'ravlt_x'; did you mean ravlt_t"), ('0', "'0'; python -m zoo list shows all"),
            ('resnet50', "'resnet50'; did you mean")):
        assert main([command, name]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f'error: no model of the zoo is called {text}') and error.count('\n') == 1


# --- info

def test_info_of_a_pyramid(capsys):
    with zoo_kernels.set_gemm('mkl'):
        found = info.describe('ravlt_t', 'cpu')
    assert found['parameters'] == sum(p.numel() for p in timm.create_model('ravlt_t').parameters())
    assert (found['macs'], found['height'], found['width']) == (2612107776, 224, 224)
    assert [(s['channels'], s['stride'], s['depth'], s['mixers']) for s in found['stages']] == [
        (64, 4, 2, dict(RankAugmentedLinearAttention=2)), (128, 8, 2, dict(RankAugmentedLinearAttention=2)),
        (256, 16, 6, dict(RotaryAttention=6)), (512, 32, 2, dict(RotaryAttention=2))]
    assert found['mixers'] == ['rala', 'rala', 'rope_softmax', 'rope_softmax']
    assert found['weights']['in1k']['address'].endswith('/RAVLT_T.pth') and found['recipes'] == ['ravlt_t']
    assert found['kernels'] == dict(device='cpu', dtype='float32', ops=[
        dict(op='depthwise_conv', calls=36, backend='torch', reason='the input is on cpu; the kernels need CUDA'),
        dict(op='linear_attention', calls=4, backend='torch',
             reason='torch.float32 is not one of torch.float16, torch.bfloat16')])


@pytest.mark.skipif(not cpu.has_onednn(), reason='this build of torch has no linear layer of oneDNN')
def test_info_tells_which_library_multiplies():
    with zoo_kernels.set_gemm('onednn'):
        ops = info.describe('ravlt_t', 'cpu')['kernels']['ops']
    linear = [dict(op, calls=0) for op in ops if op['op'] == 'linear' and op['calls'] > 12]
    assert linear == [dict(op='linear', calls=0, backend='onednn', reason='ZOO_CPU_GEMM=onednn')]


def test_info_of_kernels_on_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(dispatch, 'unavailable', lambda index: '')
    ops = info.describe('biformer_tiny', 'cuda')['kernels']['ops']
    routed = {(op['backend'], op['reason']): op['calls'] for op in ops if op['op'] == 'routed_attention'}
    assert routed == {
        ('triton', 'a kernel takes it'): 2, ('torch', 'fewer than 1024 tokens in the batch'): 10}


def test_info_of_a_tag(capsys):
    assert main(['info', 'agent_deit_small.in1k_448', '--device', 'cpu']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'agent_deit_small.in1k_448' and max(map(len, lines)) <= info.WIDTH
    assert 'GMACs        17.64 at 448 x 448' in lines
    assert '       384      16  1 AgentAttention (12 such stages)' in lines
    assert any(line.split() == ['in1k_448', 'Tsinghua', 'Cloud', 'unknown', '448', '0.875', 'squash', '83.1']
               for line in lines)
    assert main(['info', 'agent_deit_small.in22k']) == 2
    assert capsys.readouterr().err == "error: agent_deit_small has no weights 'in22k'; use one of in1k, in1k_448\n"


@pytest.mark.parametrize('name, mixers, gate', [
    ('bam_resnet18', [dict(BasicBlock=2)] * 4, 'BAM'),
    ('ecanet_resnet18', [{'BasicBlock + ECA': 2}] * 4, None),
    ('triplet_mobilenet_v2', [{'DepthwiseSeparableConv + TripletAttention': 1}] + [
        {'InvertedResidual + TripletAttention': n} for n in (2, 3, 7, 4)], None),
    ('overlock_xt', [dict(OverviewBlock=2), dict(OverviewBlock=2), dict(OverviewBlock=5, ContextMixing=6),
                     dict(ContextMixing=2)], None)])
def test_stages(name, mixers, gate):
    with torch.device('meta'):
        found = info.stages(timm.create_model(name))
    assert [stage['mixers'] for stage in found] == mixers
    assert [stage['gate'] for stage in found][:-1] == [gate] * (len(mixers) - 1)


@pytest.mark.parametrize('name, told, line', [
    ('smt_tiny', ['scale_aware', 'scale_aware', ['scale_aware', 'softmax'], 'softmax'],
     'mixers       scale_aware, scale_aware, (scale_aware, softmax), softmax'),
    ('agent_swin_base', ['agent', 'agent', ['agent', 'agent', 'window', '...'], 'window'],  # a table of its own
     'mixers       agent, agent, (agent, agent, window, ...), window'),
    ('overlock_xt', [None, None, 'context_mixing', 'context_mixing'],
     'mixers       none, none, context_mixing, context_mixing'),
    ('litv2_s_alpha05', [None, None, 'hilo', 'hilo'], 'mixers       none, none, hilo, hilo'),
    ('cbam_resnet18', None, None)])
def test_mixers(name, told, line, monkeypatch):
    monkeypatch.setattr(info, 'kernels', lambda *_: [])
    monkeypatch.setattr(info.result_files, 'count', lambda *_: dict(parameters=1, macs=1, height=1, width=1))
    assert info.mixers(name) == told
    found = info.describe(name, 'cpu')
    assert [text for text in info._text(found) if text.startswith('mixers')] == [line] * bool(line)
    assert json.loads(json.dumps(found))['mixers'] == told


def test_info_of_what_no_paper_has(capsys):
    assert main(['info', 'zoo_hybrid', '--json', '--device', 'cpu']) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found['name'], found['family'], found['weights']) == ('zoo_hybrid', None, {})
    assert found['mixers'] is None  # the user's choice
    assert [stage['mixers'] for stage in found['stages']] == [dict(LinearAttention=2)] * 4


def test_recipes(capsys):
    assert main(['recipes', 'van_b4', 'fpn_ravlt_t_80k', '--json']) == 0
    found = {row['name']: row for row in json.loads(capsys.readouterr().out)}
    assert found['van_b4_in22k_ft_in1k']['figures'] == '85.7 % top-1' and found['van_b4_in22k']['figures'] is None
    assert found['fpn_ravlt_t_80k'] == dict(
        name='fpn_ravlt_t_80k', command='train-seg', model='ravlt_t', method='Semantic FPN 80k', figures='47.9 mIoU')
    assert main(['recipes']) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + int(printed.err.split()[0])
    assert 'quickstart' not in printed.out and 'arena' not in printed.out
    assert main(['recipes', '--command', 'train-det', 'ravlt*']) == 0
    assert all(' train-det ' in line for line in capsys.readouterr().out.splitlines()[1:])
    assert main(['recipes', 'ravlt_q']) == 2
    assert "no recipe or model with one is called 'ravlt_q'; did you mean ravlt_" in capsys.readouterr().err


def test_figures_that_the_authors_do_not_state_have_a_source():
    from zoo.weights.sources import source
    assert source('cbam_resnet18.in1k').top1_source and not source('ravlt_t.in1k').top1_source
