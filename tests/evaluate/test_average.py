"""python -m zoo average: means of checkpoints, kept only where they validate better."""
import json

import pytest
import torch

from tests.train.test_errors import assert_refused
from zoo.evaluate.average import mean


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


@pytest.fixture
def run(zoo, small, tmp_path):
    """The folder of a run, and its three checkpoints: the first as it was trained, the last gone astray."""
    assert zoo('train', *small(epochs=1)).code == 0
    folder = tmp_path / 'out' / 'run'
    files = [folder / f'checkpoint-{epoch}.pth.tar' for epoch in range(3)]
    torch.manual_seed(0)
    for file, spoil in zip(files[1:], (0.01, -20)):
        content = read(files[0])
        for kind in ('weight', 'bias'):
            value = content['state_dict'][f'head.fc.{kind}']
            content['state_dict'][f'head.fc.{kind}'] = value * spoil if spoil < 0 else (
                value + spoil * torch.randn_like(value))
        torch.save(content, file)
    return folder, files


def test_mean_of_a_run(zoo, run, tmp_path):
    folder, files = run
    output = tmp_path / 'mean.pth.tar'
    result = zoo('average', folder, '--output', output)
    assert result.code == 0 and result.out.startswith('mean of 3 of 3 checkpoints: checkpoint-0.pth.tar, '), result.err
    content, states = read(output), [read(file)['state_dict'] for file in files]
    for name, value in content['state_dict'].items():
        want = sum(state[name].double() for state in states) / 3
        torch.testing.assert_close(value, want.to(value.dtype), rtol=1e-6, atol=1e-7)
    assert content['averaged'] == [file.name for file in files] and content['metric'] is None
    assert 'optimizer' not in content
    assert zoo('validate', '--checkpoint', output).code == 0
    assert_refused(zoo('train', '--resume', output), 'holds averaged weights, not a run', '--initial-checkpoint')


def test_greedy_leaves_out_what_does_harm(zoo, run, tmp_path):
    folder, files = run
    output = tmp_path / 'soup.pth.tar'
    result = zoo('average', folder, '--output', output, '--greedy', '--json')
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert str(files[2]) in told['left_out'] and len(told['used']) >= 1 and told['metric_name'] == 'top1'
    best = json.loads(zoo('validate', '--checkpoint', output, '--json').out)['top1']
    alone = [json.loads(zoo('validate', '--checkpoint', file, '--json').out)['top1'] for file in files]
    assert read(output)['metric'] == told['metric'] == best >= max(alone) > alone[2]


def test_mean_keeps_counts_and_prefers_averages():
    states = [dict(a=torch.tensor([1., 2.]), n=torch.tensor(5)), dict(a=torch.tensor([3., 2.]), n=torch.tensor(9))]
    found = mean(states)
    assert found['a'].tolist() == [2., 2.] and found['a'].dtype is torch.float32 and found['n'] == 5


def test_what_is_refused(zoo, small, run, tmp_path):
    folder, files = run
    assert zoo('train', *small(epochs=1, model='test_resnet', experiment='other')).code == 0
    other = tmp_path / 'out' / 'other' / 'last.pth.tar'
    output = '--output', tmp_path / 'a.pth.tar'
    assert_refused(zoo('average', files[0], other, *output), 'differ in arch (test_resnet, not test_convnext3)')
    assert_refused(zoo('average', files[0], *output), 'nothing to average: 1 checkpoint(s)', '--checkpoint-hist')
    assert_refused(zoo('average', files[0], files[0], *output), 'nothing to average: 1 checkpoint(s)')
    assert_refused(zoo('average', tmp_path / 'none', *output), 'no checkpoint or run')
    assert_refused(zoo('average', folder, '--output', files[0]), 'is there already')
    renamed = read(files[1])
    renamed['class_names'] = ['red', 'green', 'blue']
    torch.save(renamed, tmp_path / 'renamed.pth.tar')
    assert_refused(zoo('average', files[0], tmp_path / 'renamed.pth.tar', *output), 'differ in class_names')
    torch.save(renamed['state_dict'], tmp_path / 'bare.pth')
    assert_refused(zoo('average', files[0], tmp_path / 'bare.pth', *output), 'not a checkpoint of this program')
    assert not (tmp_path / 'a.pth.tar').exists()
