"""TensorBoard and Weights & Biases: what a run writes there."""
import csv
import sys
import types

import pytest
import torch

from zoo.train import report


class Stub(types.ModuleType):
    """Stands for wandb: notes what is called."""

    class Error(Exception):
        pass

    def __init__(self, refuses=''):
        super().__init__('wandb')
        self.refuses, self.opened, self.logged, self.metrics, self.finished = refuses, {}, [], [], []

    def init(self, **options):
        if self.refuses:
            raise self.Error(self.refuses)
        self.opened = options
        return self

    def define_metric(self, name, **options):
        self.metrics.append((name, options))

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.finished.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    stub = Stub()
    monkeypatch.setitem(sys.modules, 'wandb', stub)
    return stub


def scalars(folder):
    """Events of all files in a run's folder: tag -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder / 'tensorboard'))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}


def summary(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_tensorboard_holds_points_and_epochs(zoo, small, tmp_path):
    pytest.importorskip('tensorboard')
    done = zoo('train', *small(log_tensorboard=True))
    assert done.code == 0, done.err
    folder = tmp_path / 'out' / 'run'
    found = scalars(folder)
    # 9 batches per epoch, a point every second one and at the end
    steps = [2, 4, 6, 8, 9, 11, 13, 15, 17, 18]
    assert [step for step, _ in found['train/loss']] == steps
    assert [step for step, _ in found['epoch/eval_top1']] == [9, 18]
    points = torch.load(folder / 'last.pth.tar', weights_only=True)['points']
    assert [value for _, value in found['train/loss']] == pytest.approx([point[1] for point in points], rel=1e-6)
    assert [value for _, value in found['train/lr']] == pytest.approx([point[3] for point in points], rel=1e-6)
    assert [value for _, value in found['epoch/eval_loss']] == pytest.approx(
        [float(row['eval_loss']) for row in summary(folder)], rel=1e-5)
    assert all(value > 0 for _, value in found['speed/images_per_second'])
    assert all(0 < value < 100 for _, value in found['speed/data_wait_percent'])
    assert 'speed/gpu_memory_gb' not in found and 'tensorboard' in done.out


def test_tensorboard_goes_on_where_a_resumed_run_does(zoo, small, tmp_path):
    pytest.importorskip('tensorboard')
    folder = tmp_path / 'out' / 'run'
    assert zoo('train', *small(log_tensorboard=True)).code == 0
    (first,) = [path.name for path in folder.glob('checkpoint-0*')]
    done = zoo('train', '--resume', folder / first, '--log-interval', '4')
    assert done.code == 0, done.err
    # what the first run wrote of the second epoch is hidden
    assert [step for step, _ in scalars(folder)['train/loss']] == [2, 4, 6, 8, 9, 13, 17, 18]


def test_wandb_gets_options_points_and_epochs(zoo, small, tmp_path, wandb):
    done = zoo('train', *small(log_wandb=True, wandb_project='zoo', wandb_tags='a 2', epochs=1))
    assert done.code == 0, done.err
    folder = tmp_path / 'out' / 'run'
    config = wandb.opened.pop('config')
    assert wandb.opened == dict(project='zoo', name='run', dir=str(folder), tags=['a', '2'], id=None, resume=None)
    assert config['lr'] == 2e-3 and config['model'] == 'test_convnext3'
    assert wandb.metrics == [('update', {}), ('*', dict(step_metric='update'))]
    assert [values['update'] for values in wandb.logged] == [2, 4, 6, 8, 9, 9]
    row, = summary(folder)
    assert wandb.logged[-1]['epoch/eval_top1'] == pytest.approx(float(row['eval_top1']), rel=1e-5)
    assert wandb.logged[0].keys() == {
        'train/loss', 'train/top1', 'train/lr', 'speed/images_per_second', 'speed/data_wait_percent', 'update'}
    assert wandb.finished == [0]


def test_wandb_hears_of_a_bad_end(zoo, small, wandb):
    done = zoo('train', *small(log_wandb=True, wandb_resume_id='abc', lr='1e30', opt='sgd'))
    assert done.code == 2 and 'the loss is' in done.err
    assert (wandb.opened['id'], wandb.opened['resume']) == ('abc', 'must') and wandb.finished == [1]


def test_wandb_may_refuse(zoo, small, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', Stub('no API key\nconfigured'))
    done = zoo('train', *small(log_wandb=True))
    assert done.code == 2
    assert done.err.endswith('error: --log-wandb: no API key configured; wandb login, or set WANDB_MODE=offline\n')


@pytest.mark.parametrize('name', ['tensorboard', 'wandb'])
def test_a_package_that_is_missing_is_named_first(zoo, small, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    done = zoo('train', *small(**{f'log_{name}': True}))
    assert (done.code, done.err) == (2, f'error: {name} is not installed; pip install "backbone-zoo[{name}]"\n')
    assert not (tmp_path / 'out').exists()


def test_waiting_for_data_is_told_apart(capsys, monkeypatch):
    now = [0.]
    monkeypatch.setattr(report.time, 'monotonic', lambda: now[0])

    def slow():
        for batch in range(4):
            now[0] += 3
            yield batch

    progress = report.Progress(4, 'epoch 1/1', interval=4)
    for batch in progress.waiting(slow()):
        now[0] += 1
        progress.step(8, loss=str(batch))
    assert capsys.readouterr().err == 'epoch 1/1 4/4  loss 3  2 img/s  ETA 0:00  data wait 75%\n'
    assert progress.data_wait() == 0.75 and progress.gpu_memory() is None


def test_memory_of_a_gpu_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda device: 12_340_000_000 * (device.index == 1))
    progress = report.Progress(1, 'epoch 1/1', device=torch.device('cuda:1'))
    progress.step(8)
    assert capsys.readouterr().err.endswith('  GPU 12.3 GB\n')
