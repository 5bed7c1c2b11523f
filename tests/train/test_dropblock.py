"""DropBlock with a chance that grows."""
import pytest
import timm
import torch

from zoo.train import engine, options
from zoo.train.build import DeviceContext
from zoo.train.dropblock import DropBlock, DropBlocks
from zoo.train.option_schema import TRAIN
from zoo.train.run import parser
from zoo.train.session import Trainer
from zoo.utils.errors import ZooError

NETWORK = torch.nn.Identity()


def test_squares_are_dropped_for_all_images_and_the_rest_scaled():
    drop = DropBlock()
    drop.chance.fill_(0.2)
    x = torch.rand(3, 64, 14, 14) + 1
    y = drop(NETWORK.train(), (), x)
    kept = y[0] != 0
    assert torch.equal(kept, y[1] != 0) and torch.equal(kept, y[2] != 0)
    assert torch.allclose(y, x * kept * (kept.numel() / kept.sum()))
    assert (kept[0] != kept[1]).any()  # channels have squares of their own
    dropped = torch.nn.functional.pad(~kept, (2, 2, 2, 2), value=True).unfold(1, 3, 1).unfold(2, 3, 1)
    whole = dropped.all(-1).all(-1)  # squares that are dropped wholly, by their upper left corners
    covered = torch.nn.functional.max_pool2d(whole[None].float(), 3, 1, 0)[0] > 0
    assert torch.equal(covered, ~kept)
    # seeds of a chance p (14 / 12) ** 2 / 9, each dropping what is around it
    seeds = 0.2 * (14 / 12) ** 2 / 9
    assert float((~kept)[:, 1:-1, 1:-1].float().mean()) == pytest.approx(1 - (1 - seeds) ** 9, abs=0.02)


@pytest.mark.parametrize('chance, training', [(0., True), (0.5, False)])
def test_nothing_is_dropped_without_a_chance_or_in_evaluation(chance, training):
    drop = DropBlock()
    drop.chance.fill_(chance)
    x = torch.rand(2, 8, 5, 5)
    assert torch.equal(drop(NETWORK.train(training), (), x), x)


@pytest.mark.parametrize('side', [1, 2, 3])
def test_small_maps_have_small_squares(side):
    drop = DropBlock()
    drop.chance.fill_(0.5)
    assert drop(NETWORK.train(), (), torch.rand(2, 512, side, side)).shape == (2, 512, side, side)


def test_the_chance_grows_in_the_last_two_stages():
    model = timm.create_model('test_resnet', num_classes=3)
    drops = DropBlocks(model, 0.1, 270)
    norms = [name for name, module in model.named_modules() if module._forward_hooks]
    assert norms == [f'layer3.0.bn{i}' for i in (1, 2, 3)] + [f'layer4.0.bn{i}' for i in (1, 2)]
    for epoch, chance in ((0, 0.1 / 270), (134, 0.05), (269, 0.1)):
        drops.begin(epoch)
        assert [float(hook.chance) for hook in drops.hooks] == pytest.approx([chance] * len(norms))


def test_it_is_refused_where_it_has_no_place_and_left_out_by_default():
    model = timm.create_model('test_convnext')
    with pytest.raises(ZooError, match='--drop-block is for ResNets; ConvNeXt has no layer3 and layer4'):
        DropBlocks(model, 0.1, 10)
    assert DropBlocks(model, 0., 10).hooks == []


def test_a_run_sets_it_for_each_epoch(small, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, 'train_epoch', lambda *_: dict(loss=1., top1=50.))
    monkeypatch.setattr(engine, 'evaluate', lambda *_: dict(loss=1., top1=50., top5=90., count=24))
    flags, _ = options.parse(TRAIN, small(model='test_resnet', drop_block=0.4, epochs=4, stop_epoch=3), parser())
    session = Trainer(options.merge(TRAIN, flags), DeviceContext(torch.device('cpu')), tmp_path / 'run', None)
    chances, begin = [], session.drop_blocks.begin
    session.drop_blocks.begin = lambda epoch: (begin(epoch), chances.append(float(session.drop_blocks.hooks[0].chance)))
    session.fit()
    assert chances == pytest.approx([0.1, 0.2, 0.3])
