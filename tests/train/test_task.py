"""What a model learns from: the losses of teachers and auxiliary classifiers, written out."""
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from zoo.blocks.extra_loss import ExtraLoss
from zoo.train import build, options, task
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError

ROOT = Path(__file__).parents[2]
CPU = build.DeviceContext(torch.device('cpu'))
CONFIG = dict(input_size=(3, 32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
TINY = dict(dims=[8, 8, 16, 16], widths=[2, 2, 4, 4], depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])  # of CARE
TEACHER = 'test_resnet'
TEACHERS_MEAN, TEACHERS_STD = timm.get_pretrained_cfg_value(TEACHER, 'mean'), timm.get_pretrained_cfg_value(
    TEACHER, 'std')


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
    """A teacher of five classes whose opinions differ, and the file with its weights."""
    torch.manual_seed(3)
    model = timm.create_model(TEACHER, num_classes=5)
    nn.init.normal_(model.get_classifier().weight, std=30)
    with torch.no_grad():
        model.get_classifier().bias -= model.eval()(pictures()[1]).mean(0)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(model=model.state_dict()), path)  # as DeiT's file has it
    return model.eval(), path


def student(name='care_s0', **kwargs):
    return timm.create_model(name, num_classes=5, **(TINY if name == 'care_s0' else {}), **kwargs)


def make(path, pupil, config=CONFIG, **values):
    values = dict(model='care_s0', kd_model_name=TEACHER, kd_teacher_checkpoint=str(path or '')) | values
    args = options.merge(TRAIN, values)
    task.check(args)
    return task.make_task(args, pupil, nn.CrossEntropyLoss(), CPU, config)


def watch(module):
    """What the module will return, last call last."""
    seen = []
    module.register_forward_hook(lambda module, args, output: seen.append(output))
    return seen


def softly(logits, temperature):
    """Logarithms of probabilities in float64."""
    logits = logits.detach().double() / temperature
    return logits - logits.exp().sum(1, keepdim=True).log()


def labels_loss(logits, target):
    return -softly(logits, 1)[torch.arange(len(target)), target].mean()


def divergence(logits, teachers, temperature):
    """Kullback-Leibler, teacher first, mean over images, times the temperature squared."""
    p, q = softly(teachers, temperature), softly(logits, temperature)
    return temperature ** 2 * (p.exp() * (p - q)).sum(1).mean()


def pictures():
    """Images as the student sees them, as the teacher does, and labels."""
    images = torch.rand(4, 3, 1, 1) * torch.rand(4, 3, 32, 32)
    normalised = [
        (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        for mean, std in ((CONFIG['mean'], CONFIG['std']), (TEACHERS_MEAN, TEACHERS_STD))]
    return *normalised, torch.tensor([0, 4, 2, 2])


@pytest.mark.parametrize('weights, task_weight, distill_weight', [
    ({}, 1, 1), (dict(task_loss_weight=0.1), 0.1, 0.9), (dict(distill_loss_weight=5.), 1, 5),
    (dict(task_loss_weight=0.25, distill_loss_weight=2.), 0.25, 2)])
def test_logits_are_compared_by_their_divergence(taught, weights, task_weight, distill_weight):
    teacher, path = taught
    model = student().train()
    made = make(path, model, kd_temperature=2., **weights)
    logits = watch(model)
    images, teachers, target = pictures()
    result = made(images, target)
    expected = task_weight * labels_loss(logits[0], target)
    expected += distill_weight * divergence(logits[0], teacher(teachers), 2)
    assert result['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    assert result['output'] is logits[0]


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_a_second_classifier_learns_from_the_teacher(taught, kind):
    teacher, path = taught
    model = student().train()
    made = make(
        path, model, kd_distill_type='token', kd_token_distill_type=kind, kd_temperature=3., task_loss_weight=0.5)
    logits = watch(model)
    images, teachers, target = pictures()
    result = made(images, target)
    (first, second), opinion = logits[0], teacher(teachers)
    assert len(set(opinion.argmax(1).tolist())) > 1 and not torch.equal(opinion.argmax(1), target)
    learned = labels_loss(second, opinion.argmax(1)) if kind == 'hard' else divergence(second, opinion, 3)
    expected = 0.5 * labels_loss(first, target) + 0.5 * learned
    assert result['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    assert result['output'] is first
    assert model.eval()(images).shape == (4, 5)  # one output again


def test_features_are_compared_by_their_squares(taught):
    teacher, path = taught
    torch.manual_seed(0)
    model = student('test_convnext').train()
    made = make(path, model, model='test_convnext', kd_distill_type='feature', distill_loss_weight=5.)
    images, teachers, target = pictures()
    result = made(images, target)
    trained = made.get_trainable_module()
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert features.shape[1] != teacher.num_features and trained.projection.weight.shape == (
        teacher.num_features, features.shape[1])
    projected = features.double() @ trained.projection.weight.double().T + trained.projection.bias.double()
    wanted = teacher.forward_head(teacher.forward_features(teachers), pre_logits=True)
    expected = labels_loss(model(images), target) + 5 * ((projected - wanted) ** 2).mean()
    assert result['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    optimizer = build.make_optimizer(options.merge(TRAIN, dict(opt='adamw')), trained, 0.1)
    assert any(p is trained.projection.weight for group in optimizer.param_groups for p in group['params'])


def test_a_teacher_with_the_same_normalisation_is_handed_the_images_as_they_are(taught):
    teacher, path = taught
    same = dict(CONFIG, mean=TEACHERS_MEAN, std=TEACHERS_STD)
    made = make(path, student(), config=same)
    got = []
    made.teacher.model.register_forward_pre_hook(lambda module, args: got.append(args[0]))
    images = torch.rand(2, 3, 32, 32)
    made(images, torch.tensor([0, 1]))
    assert torch.equal(got[0], images)


def test_a_teacher_learns_nothing(taught):
    _, path = taught
    model = student().train()
    made = make(path, model)
    before = copy.deepcopy(made.teacher.state_dict())
    made.get_trainable_module().train()
    images, _, target = pictures()
    made(images, target)['loss'].backward()
    assert not made.teacher.model.training and all(p.grad is None for p in made.teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in made.teacher.state_dict().items())
    assert all(p.grad is not None for p in model.parameters())
    assert set(made.get_checkpoint_state()) == {'state_dict'}  # the teacher is not saved


def test_an_auxiliary_classifier_adds_its_weighted_loss():
    tiny = dict(dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), focus_depths=(1, 1), num_heads=(2, 2))
    args = options.merge(TRAIN, dict(
        model='overlock_xt', num_classes=5, model_kwargs=tiny, aux_loss_weight=0.4, smoothing=0.))
    model = build.create_model(args).train()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)  # without a weight, one output
    made = task.make_task(args, model, build.make_loss(args, mixed=False), CPU, CONFIG)
    logits = watch(model)
    images, _, target = pictures()
    result = made(images, target)
    main, auxiliary = logits[0]
    expected = labels_loss(main, target) + 0.4 * labels_loss(auxiliary, target)
    assert result['loss'].item() == pytest.approx(expected.item(), rel=1e-6)
    assert result['output'] is main and float(labels_loss(main, target)) != float(labels_loss(auxiliary, target))
    result['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())


class Balance(nn.Module):
    """Hands on what it sees; its loss is the mean square of that, times a weight of its own."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.))
        self.loss = ExtraLoss('balance')

    def forward(self, x):
        if self.loss.wanted:
            self.loss(self.factor * x.square().mean())
        return x


@pytest.mark.parametrize('kind', [None, 'logit', 'feature', 'token'])
def test_losses_of_layers_are_added_to_those_of_any_task(taught, kind):
    torch.manual_seed(0)
    model = student('care_s0' if kind == 'token' else 'test_convnext').train()
    values = dict(kd_distill_type=kind) if kind else dict(kd_model_name=None, kd_teacher_checkpoint='')
    plain = make(taught[1], copy.deepcopy(model), **values)
    model.stem = nn.Sequential(Balance(), model.stem)
    made = make(taught[1], model, extra_loss_weights=dict(balance=0.01), **values)
    if kind == 'feature':
        made.trainable_module.projection.load_state_dict(plain.trainable_module.projection.state_dict())
    images, _, target = pictures()
    result, expected = made(images, target), plain(images, target)
    balance = images.square().mean().item()
    assert result['balance_loss'].item() == pytest.approx(3 * balance, rel=1e-6)
    assert result['loss'].item() == pytest.approx(expected['loss'].item() + 0.03 * balance, rel=1e-6)
    assert torch.equal(result['output'], expected['output']) and {*expected, 'balance_loss'} == {*result}
    result['loss'].backward()
    assert model.stem[0].factor.grad.item() == pytest.approx(0.01 * balance, rel=1e-6)
    assert model.eval()(images).shape == (4, 5)  # one output again


def test_a_checkpoint_of_ours_brings_the_teachers_own_preprocessing_and_arguments(zoo, small, tmp_path):
    assert zoo('train', *small(epochs=1, mean='0.3 0.3 0.3', std='0.2 0.2 0.2', model_kwargs='drop_path_rate=0.1',
                               )).code == 0
    path = tmp_path / 'out' / 'run' / 'last.pth.tar'
    args = options.merge(TRAIN, dict(kd_model_name='test_convnext3', kd_teacher_checkpoint=str(path)))
    teacher, config = task.make_teacher(args, 3, CPU, CONFIG)
    assert (config['mean'], config['std']) == ((0.3,) * 3, (0.2,) * 3) and teacher.num_classes == 3
    weights = torch.load(path, weights_only=True)['state_dict']
    assert all(torch.equal(weights[key], value) for key, value in teacher.state_dict().items())
    args.kd_model_name = TEACHER
    with pytest.raises(ZooError, match='is a checkpoint of test_convnext3, not of test_resnet; give --kd-model-name'):
        task.make_teacher(args, 3, CPU, CONFIG)


@pytest.mark.parametrize('values, message', [
    (dict(kd_model_name='resnet5O'), "unknown model 'resnet5O'; did you mean resnet50"),
    (dict(kd_model_name=None), '--kd-teacher-checkpoint needs the name of its model'),
    (dict(aux_loss_weight=0.4), '--kd-model-name and --aux-loss-weight exclude each other'),
    (dict(model='test_convnext', kd_distill_type='token'), 'test_convnext has no second classifier to learn from a '
                                                           'teacher; give --kd-distill-type logit or feature'),
    (dict(kd_model_name='test_vit', kd_teacher_checkpoint=''), 'may be given with --kd-teacher-checkpoint'),
    (dict(kd_model_name=None, kd_teacher_checkpoint='', model='test_convnext', aux_loss_weight=0.4),
     'test_convnext has no auxiliary classifier'),
    (dict(extra_loss_weights=dict(balance=-1)), '--extra-loss-weights balance: must be a number of at least 0, got -1'),
    (dict(extra_loss_weights=dict(balance=True)), 'must be a number of at least 0, got True'),
    (dict(extra_loss_weights=dict(balance=1)), '--extra-loss-weights balance: care_s0 has no such loss of its own; '
                                               'leave the option out'),
])
def test_mistakes_are_told(taught, values, message):
    values = dict(model='care_s0') | values
    with pytest.raises(ZooError, match=message):
        make(taught[1], student(values['model']), **values)


def test_a_teacher_of_other_classes_is_refused(taught):
    model = student()
    model.reset_classifier(4)
    with pytest.raises(ZooError, match='the teacher test_resnet has 5 classes, the model 4'):
        make(taught[1], model)
    assert make(taught[1], model, kd_distill_type='feature').get_trainable_module().student is model


def test_a_teacher_that_cannot_take_the_images_is_refused(tmp_path):
    fixed = dict(dynamic_img_size=False)
    torch.save(timm.create_model('test_vit', num_classes=5).state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(ZooError, match='the teacher test_vit: .*do not fit the model.*--kd-model-kwargs'):
        make(tmp_path / 'vit.pth', student(), kd_model_name='test_vit', kd_model_kwargs=fixed)
    made = make(tmp_path / 'vit.pth', student(), kd_model_name='test_vit', kd_model_kwargs=dict(fixed, img_size=32))
    assert made.teacher.model.pos_embed.shape[1] == 5  # resampled to 2 x 2 patches


@pytest.mark.parametrize('extra', [
    dict(kd_distill_type='feature', distill_loss_weight=2., model_ema=True, model_ema_decay=0.5),
    pytest.param(dict(kd_temperature=1.), marks=pytest.mark.slow)])
def test_a_taught_run_goes_on_as_if_it_had_not_stopped(zoo, small, tmp_path, extra):
    torch.save(timm.create_model(TEACHER, num_classes=3).state_dict(), tmp_path / 'teacher.pth')
    extra = dict(extra, kd_model_name=TEACHER, kd_teacher_checkpoint=tmp_path / 'teacher.pth')
    assert zoo('train', *small(experiment='whole', **extra)).code == 0
    assert zoo('train', *small(experiment='parts', stop_epoch=1, **extra)).code == 0
    result = zoo('train', '--resume', tmp_path / 'out' / 'parts' / 'last.pth.tar')
    assert result.code == 0, result.err
    whole, parts = (torch.load(tmp_path / 'out' / name / 'last.pth.tar', weights_only=True)
                    for name in ('whole', 'parts'))
    kinds = [key for key in whole if key.startswith(('state_dict', 'task_state'))]
    assert len(kinds) == (4 if 'model_ema' in extra else 1)
    for kind in kinds:
        a, b = (content[kind].get('projection', content[kind]) for content in (whole, parts))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), kind
    assert parts['args']['kd_teacher_checkpoint'] == str(tmp_path / 'teacher.pth')
    assert zoo('validate', '--checkpoint', tmp_path / 'out' / 'parts' / 'last.pth.tar').code == 0


@pytest.mark.slow
@pytest.mark.parametrize('values', [
    dict(model='care_s0', kd_distill_type='token', kd_token_distill_type='hard', task_loss_weight=0.5,
         model_kwargs='dims=[8,8,16,16] widths=[2,2,4,4] depths=[1,1,1,1] num_heads=[1,1,1,1]'),
    dict(model='test_convnext', kd_distill_type='feature'),
    dict(model='overlock_xt', aux_loss_weight=0.4, kd_model_name=None, kd_teacher_checkpoint=None,
         model_kwargs='dims=[16,16,32,32] depths=[1,1,1,1] focus_depths=[1,1] num_heads=[2,2]')])
def test_two_processes_learn_together(small, tmp_path, values):
    torch.save(timm.create_model(TEACHER, num_classes=3).state_dict(), tmp_path / 'teacher.pth')
    values = dict(kd_model_name=TEACHER, kd_teacher_checkpoint=tmp_path / 'teacher.pth', epochs=1, no_aug=True) | values
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
        [str(ROOT), str(ROOT / 'kernels'), os.environ.get('PYTHONPATH', '')]))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    result = subprocess.run(
        [*torchrun, '-m', 'zoo', 'train', *small(experiment='two', **values)], capture_output=True, text=True,
        env=environment, cwd=tmp_path, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    last = torch.load(tmp_path / 'out' / 'two' / 'last.pth.tar', weights_only=True)
    assert last['updates'] == 4 and last['epoch'] == 0  # 36 images each, 8 per batch
    if values.get('kd_distill_type') == 'feature':
        assert last['task_state']['projection']['weight'].shape == (96, 64)
    assert all(value.isfinite().all() for value in last['state_dict'].values())
