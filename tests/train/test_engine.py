"""The loops: accumulation, clipping, averages and exact evaluation."""
import copy
import math

import pytest
import torch
from timm.task import ClassificationTask
from torch import nn

from zoo.train import build, engine, options, report
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError

CPU = build.DeviceContext(torch.device('cpu'))


class Net(nn.Module):
    """A few layers with names that layer decay can order."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.stem(x.flatten(1)).tanh())

    def group_matcher(self, coarse=False):
        return dict(stem='^stem', blocks=[('^head', (0,))])


class Batches(list):
    """A loader of prepared batches."""

    dataset = sampler = None


def make_run(batches=6, size=4, model=None, **values):
    args = options.merge(
        TRAIN, dict(opt='momentum', lr=0.1, momentum=0., smoothing=0., sched='none', log_interval=1), values)
    model = model or Net()
    task = ClassificationTask(model, criterion=build.make_loss(args, mixed=False), device=CPU.device, verbose=False)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    optimizer = build.make_optimizer(args, model, args.lr)
    random = torch.Generator().manual_seed(1)
    data = Batches((torch.randn(size, 3, 2, 2, generator=random), torch.randint(3, (size,), generator=random))
                   for _ in range(batches))
    schedule, epochs = build.make_schedule(args, optimizer, math.ceil(batches / args.grad_accum_steps), dict(
        min_lr=args.min_lr, warmup_lr=args.warmup_lr))
    return engine.TrainState(
        args, engine.BatchMover.of(args, CPU), task, optimizer, schedule, None, data, data, None, epochs)


def train(run, epoch=0):
    return engine.train_epoch(run, epoch, report.Progress(len(run.train_batches), '', shown=False))


def test_accumulated_batches_are_one_large_batch():
    model = Net()
    small = make_run(batches=5, size=4, model=copy.deepcopy(model), grad_accum_steps=2)
    large = make_run(batches=5, size=4, model=copy.deepcopy(model))
    pieces = list(small.train_batches)
    large.train_batches[:] = [
        tuple(torch.cat(part) for part in zip(*pieces[i:i + 2])) for i in (0, 2)] + [pieces[4]]  # the rest counts fully
    trained = train(small), train(large)
    assert small.updates == large.updates == 3 == small.updates_per_epoch
    assert trained[0] == pytest.approx(trained[1], rel=1e-6)
    for a, b in zip(small.task.trainable_module.parameters(), large.task.trainable_module.parameters()):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize('mode', ['norm', 'value', 'agc'])
def test_gradients_are_clipped_as_asked(mode):
    run = make_run(clip_grad=0.01, clip_mode=mode)
    norms, step = [], run.optimizer.step

    def watch():
        gradients = [p.grad for p in run.task.trainable_module.parameters()]
        norms.append([float(g.norm()) for g in gradients] + [max(float(g.abs().max()) for g in gradients)])
        step()

    run.optimizer.step = watch
    train(run)
    assert len(norms) == 6
    for stem_weight, stem_bias, head_weight, head_bias, largest in norms:
        total = math.hypot(stem_weight, stem_bias, head_weight, head_bias)
        if mode == 'norm':
            assert total == pytest.approx(0.01, rel=1e-3)
        elif mode == 'value':
            assert largest == pytest.approx(0.01)
        else:  # the classifier is left alone
            assert stem_weight < 0.05 < head_weight


def test_averaged_weights_follow_their_formula():
    run, weights = make_run(batches=3, model_ema=True, model_ema_decay=0.75), []
    update = run.task.update_ema

    def watch(step):
        weights.append(copy.deepcopy(run.task.trainable_module.state_dict()))
        update(step)

    run.task.update_ema = watch
    train(run)
    averaged = engine.eval_model(run.task, ema=True).module.state_dict()
    for name, value in averaged.items():  # timm starts the average at the weights after the first update
        first, second, third = (state[name] for state in weights)
        assert torch.allclose(value, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)
        assert not torch.allclose(value, third)


def test_layer_decay_scales_the_learning_rate_of_early_layers():
    run = make_run(layer_decay=0.5, sched='cosine', warmup_epochs=0., epochs=10)
    scales = {group['lr_scale'] for group in run.optimizer.param_groups}
    assert scales == {1.0, 0.5}
    run.schedule.step(5)
    assert sorted({group['lr'] for group in run.optimizer.param_groups}) == pytest.approx([0.025, 0.05])
    assert run.lr == pytest.approx(0.05)


def test_learning_rates_of_named_parameters_are_multiplied():
    """Their own rate at the start, the common ones at the ends of the schedule; layer decay stays in force."""
    run = make_run(lr_mult={'head.weight': 0.5}, sched='cosine', warmup_epochs=2., warmup_lr=0.01, epochs=10)
    weight, = (group for group in run.optimizer.param_groups if group['initial_lr'] == 0.05)
    assert weight['params'] == [run.task.trainable_module.head.weight]
    assert sum(len(group['params']) for group in run.optimizer.param_groups) == 4
    others = [group for group in run.optimizer.param_groups if group is not weight]
    for epoch, rate, other in ((0, 0.01, 0.01), (1, 0.03, 0.055), (5, 0.025, 0.05), (10, 0., 0.)):
        run.schedule.step(epoch)
        assert weight['lr'] == pytest.approx(rate)
        assert all(group['lr'] == pytest.approx(other) for group in others)
    run = make_run(lr_mult={'stem.weight': 0.5}, layer_decay=0.5, sched='cosine', warmup_epochs=0., epochs=10)
    run.schedule.step(5)
    assert sorted({group['lr'] for group in run.optimizer.param_groups}) == pytest.approx([0.0125, 0.025, 0.05])


@pytest.mark.parametrize('lr_mult, reason', [
    ({'ead.weight': 0.5}, 'no parameter'), ({'head.weight': 'slow'}, "expected a number from 0 on, got 'slow'"),
    ({'head.weight': -1}, 'expected a number')])
def test_multipliers_that_fit_nothing_are_refused(lr_mult, reason):
    with pytest.raises(ZooError, match=f'--lr-mult .*{reason}'):
        make_run(lr_mult=lr_mult)


@pytest.mark.parametrize('prefix, epochs, middle', [(False, 6, 3.), (True, 8, 5.)])
def test_the_schedule_begins_with_the_warm_up_or_after_it(prefix, epochs, middle):
    """Cosine from 0.1 to 0 over 6 epochs of 4 updates: half way it is 0.05; warm-up from 0.02 in 2 epochs."""
    run = make_run(
        batches=4, sched='cosine', sched_on_updates=True, epochs=6, warmup_epochs=2., warmup_lr=0.02,
        warmup_prefix=prefix)
    assert run.epochs == epochs and isinstance(run.epochs, int)
    for epoch, lr in ((0, 0.02), (1, 0.06), (2, 0.1 if prefix else 0.075), (middle, 0.05), (epochs, 0.)):
        run.schedule.step_update(int(epoch * 4))
        assert run.lr == pytest.approx(lr), epoch


def test_the_curve_has_a_point_per_interval_and_mean_values():
    run = make_run(batches=6, log_interval=4)
    trained = train(run, epoch=2)
    assert [point[0] for point in run.points] == pytest.approx([2 + 4 / 6, 3.])
    mean = (4 * run.points[0][1] + 2 * run.points[1][1]) / 6
    assert trained['loss'] == pytest.approx(mean) and [point[3] for point in run.points] == [0.1, 0.1]


def test_a_loss_that_is_no_number_stops_the_run():
    run = make_run(lr=1e30)
    with pytest.raises(ZooError, match='the loss is (nan|inf) in epoch 0.*lower --lr'):
        train(run)


def test_the_caller_is_heard_between_batches():
    run, calls = make_run(batches=4), []
    engine.train_epoch(run, 0, report.Progress(4, '', shown=False), calls.append)
    assert calls == [1, 2, 3]


def test_evaluation_counts_every_image_once():
    model = nn.Flatten()  # logits are the pixels
    logits = torch.randn(10, 7, 1, 1)
    target = torch.randint(7, (10,))
    batches = [(logits[i:i + 4], target[i:i + 4]) for i in (0, 4, 8)]
    flat = logits.flatten(1)
    for limit, count in ((None, 10), (9, 9), (5, 5), (0, 0)):
        found = engine.evaluate(model, batches, engine.BatchMover.of(make_run().args, CPU), limit)
        assert found['count'] == count
        if count:
            assert found['loss'] == pytest.approx(float(nn.functional.cross_entropy(flat[:count], target[:count])))
            assert found['top1'] == pytest.approx(100 * float((flat.argmax(1) == target)[:count].float().mean()))
            hits = (flat.topk(5).indices == target[:, None]).any(1)[:count].float().mean()
            assert found['top5'] == pytest.approx(100 * float(hits))


def test_evaluation_of_fewer_than_five_classes_and_with_a_head():
    logits, target = torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 2])
    feed = engine.BatchMover.of(make_run().args, CPU)
    assert engine.evaluate(nn.Flatten(), [(logits, target)], feed)['top5'] == 100
    flipped = engine.evaluate(nn.Flatten(), [(logits, target)], feed, head=lambda x: x.flip(1))
    assert flipped['top1'] == pytest.approx(100 / 3)


@pytest.mark.parametrize('values, mixed, target, expected', [
    (dict(smoothing=0.), False, torch.tensor([1]), math.log(1 + math.e)),
    (dict(smoothing=0.2), False, torch.tensor([1]), math.log(1 + math.e) - 0.1),
    (dict(smoothing=0.2), True, torch.tensor([[0.5, 0.5]]), math.log(1 + math.e) - 0.5),
    (dict(bce_loss=True, smoothing=0.2), False, torch.tensor([1]), None),
    (dict(bce_loss=True, bce_target_thresh=0.4), True, torch.tensor([[0.5, 0.5]]), None),
])
def test_losses(values, mixed, target, expected):
    args = options.merge(TRAIN, values)
    logits = torch.tensor([[1., 0.]])
    if expected is None:
        soft = torch.tensor([[0.1, 0.9]]) if target.ndim == 1 else torch.ones(1, 2)
        expected = float(nn.functional.binary_cross_entropy_with_logits(logits, soft))
    assert float(build.make_loss(args, mixed)(logits, target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('opt, scale, expected', [
    ('sgd', '', 0.4), ('adamw', '', 0.2), ('lamb', '', 0.2), ('adamw', 'linear', 0.4), ('sgd', 'sqrt', 0.2)])
def test_the_learning_rate_follows_the_global_batch(opt, scale, expected):
    args = options.merge(TRAIN, dict(opt=opt, lr_base_scale=scale, batch_size=64, grad_accum_steps=2, warmup_lr=0.01))
    rates = build.learning_rates(args, world_size=8)  # 4 times lr_base_size
    assert rates == pytest.approx(dict(lr=expected, warmup_lr=0.01, min_lr=0.))
    args.lr = 7.
    assert build.learning_rates(args, world_size=8)['lr'] == 7.


@pytest.mark.parametrize('device, amp, dtype, expected', [
    ('cpu', False, '', torch.float32), ('cpu', True, '', torch.bfloat16), ('cpu', True, 'float16', torch.float16)])
def test_mixed_precision(device, amp, dtype, expected):
    args = options.merge(TRAIN, dict(amp=amp, amp_dtype=dtype))
    with build.autocast_of(args, torch.device(device))():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == expected
    assert (build.scaler_of(args, torch.device(device)) is not None) == (dtype == 'float16')
