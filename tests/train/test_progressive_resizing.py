"""Image sizes that grow during a run."""
import pytest
import torch

from zoo.train import engine, options, progressive_resizing
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError


@pytest.fixture
def seen(monkeypatch):
    """Sides of the batches that come to the model: of training (True) and of validation."""
    sides, bring = [], engine.BatchMover.__call__

    def watched(self, images, target):
        sides.append((torch.is_grad_enabled(), tuple(images.shape[2:])))
        return bring(self, images, target)

    monkeypatch.setattr(engine.BatchMover, '__call__', watched)
    return sides


def test_sizes_end_at_their_milestones():
    args = options.merge(TRAIN, dict(progressive_sizes=[128, 192], size_milestones=[100, 280]))
    found = [progressive_resizing.size_at(args, (3, 224, 256), epoch) for epoch in (0, 99, 100, 279, 280, 299)]
    assert found == [(3, 128, 128)] * 2 + [(3, 192, 192)] * 2 + [(3, 224, 256)] * 2
    assert progressive_resizing.size_at(options.merge(TRAIN), (3, 224, 224), 0) == (3, 224, 224)


def test_batches_have_the_size_of_their_epoch_also_after_a_stop(zoo, small, tmp_path, seen):
    grow = dict(
        epochs=4, input_size='3 48 48', progressive_sizes='32 40', size_milestones='1 2', mixup=0.2, workers=0)
    assert zoo('train', *small(experiment='whole', **grow)).code == 0
    trained = [side for train, side in seen if train]
    assert trained == [(32, 32)] * 9 + [(40, 40)] * 9 + [(48, 48)] * 18  # 72 images, 8 per batch
    assert {side for train, side in seen if not train} == {(48, 48)}
    assert zoo('train', *small(experiment='parts', stop_epoch=1, **grow)).code == 0
    del seen[:]
    assert zoo('train', '--resume', tmp_path / 'out' / 'parts' / 'last.pth.tar', '--stop-epoch', '4').code == 0
    assert [side for train, side in seen if train] == [(40, 40)] * 9 + [(48, 48)] * 18
    whole, parts = (
        torch.load(tmp_path / 'out' / name / 'last.pth.tar', weights_only=True) for name in ('whole', 'parts'))
    assert all(torch.equal(value, parts['state_dict'][key]) for key, value in whole['state_dict'].items())
    assert whole['data_config']['input_size'] == [3, 48, 48]  # that of validation


@pytest.mark.parametrize('changes, message', [
    (dict(progressive_sizes='128 192', size_milestones='10'), 'go together: 2 sizes, 1 epochs'),
    (dict(progressive_sizes='128'), 'go together: 1 sizes, 0 epochs'),
    (dict(progressive_sizes='128 192', size_milestones='20 10'),
     '--size-milestones: must be in rising order, got [20, 10]'),
    (dict(model='test_vit', input_size='3 160 160', model_kwargs='dynamic_img_size=False', progressive_sizes='128',
          size_milestones='1'),
     '[3, 128, 128] images do not fit the model'),
])
def test_sizes_that_do_not_fit_are_told(zoo, small, changes, message):
    result = zoo('train', *small(**changes))
    assert result.code == 2 and message in result.err


def test_the_same_loader_serves_as_long_as_the_size_is_the_same():
    args = options.merge(TRAIN, dict(progressive_sizes=[32], size_milestones=[2]))
    config = dict(input_size=(3, 48, 48))
    made = []
    batches = progressive_resizing.TrainBatches(
        args, config, lambda config: made.append(config['input_size']) or len(made),
        torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        engine.build.DeviceContext(torch.device('cpu')))
    assert [batches.at(epoch) for epoch in range(4)] == [1, 1, 2, 2] and made == [(3, 32, 32), (3, 48, 48)]
    assert batches.at(0) == 3


def test_a_run_needs_both_lists():
    with pytest.raises(ZooError, match='0 sizes, 1 epochs'):
        progressive_resizing.check(options.merge(TRAIN, dict(size_milestones=[3])))
