"""Models with a second classifier: for distillation (CARE), for an auxiliary loss (OverLoCK)."""
import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import TokenDistillationTask

from tests.formulas import batch_norm
from tests.models.weights import scatter
from tests.zoo_models import shallow
from zoo.train import build, options
from zoo.train.option_schema import TRAIN

CARE, OVERLOCK = shallow('care_s0'), shallow('overlock_xt')


def test_two_heads():
    """One tensor, the mean, unless in training after timm's switch; a new classifier keeps switch and norms."""
    torch.manual_seed(0)
    model = timm.create_model('care_s0', num_classes=10, **CARE).eval()
    for norm in model.head.norms:
        torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 64, 64)
    pooled = F.gelu(model.forward_features(x).mean((2, 3)))
    both = [
        fc(F.layer_norm(pooled, (1024,), norm.weight, norm.bias, 1e-6))
        for fc, norm in zip(model.get_classifier(), model.head.norms)]
    torch.testing.assert_close(model(x), (both[0] + both[1]) / 2)
    assert model.get_classifier() == (model.head.fc, model.head.fc_dist)
    assert model.train()(x).shape == (2, 10)
    model.set_distilled_training()
    assert model.eval()(x).shape == (2, 10)
    norms = model.head.norms
    model.reset_classifier(7)
    y, dist = model.train()(x)
    assert y.shape == dist.shape == (2, 7) and not torch.equal(y, dist) and model.head.norms is norms
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 1024)
    model.reset_classifier(7, 'catavgmax')
    assert model(x)[0].shape == (2, 7)
    model.reset_classifier(7, '')
    with pytest.raises(ValueError, match="global_pool=''.*num_classes=0"):
        model(x)


def test_hard_distillation_by_timm():
    """The paper's loss: half cross entropy, half cross entropy of the second head with the teacher's labels."""
    torch.manual_seed(0)
    model = timm.create_model('care_s0', num_classes=5, **CARE)
    teacher = timm.create_model('resnet10t', num_classes=5).eval()
    task = TokenDistillationTask(
        model, teacher, torch.nn.CrossEntropyLoss(), distill_type='hard', task_loss_weight=0.5, verbose=False)
    task.train()
    x, target = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    result = task(x, target)
    result['loss'].backward()
    assert all(p.grad is not None for p in model.parameters())
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 0.
    y, dist = model(x)
    want = F.cross_entropy(y, target) + F.cross_entropy(dist, teacher(x).argmax(1))
    torch.testing.assert_close(result['loss'], want / 2)


def test_weights_with_two_classifiers():
    """Both are dropped for other classes, kept for the same, and not needed without a classifier."""
    def load(**kwargs):
        overlay = dict(state_dict=source.state_dict(), num_classes=12)
        return timm.create_model('care_s0', pretrained=True, pretrained_cfg_overlay=overlay, **CARE, **kwargs)

    torch.manual_seed(0)
    source = timm.create_model('care_s0', num_classes=12, **CARE)
    same, other = load(num_classes=12), load(num_classes=5)
    assert torch.equal(same.head.fc_dist.weight, source.head.fc_dist.weight)
    assert other.head.fc.weight.shape == other.head.fc_dist.weight.shape == (5, 1024)
    for model in (other, load(num_classes=0), load(num_classes=0, global_pool='')):
        assert torch.equal(model.stem.proj.weight, source.stem.proj.weight)
    maps = load(features_only=True)
    assert torch.equal(maps.model.stem.proj.weight, source.stem.proj.weight)
    with pytest.raises(ValueError, match='12 classes, the model 1000'):
        timm.create_model(
            'care_s0', pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()), **CARE)
    args = options.merge(TRAIN, dict(model='care_s0', num_classes=12, model_kwargs=CARE))
    tuned = build.create_model(args, source.state_dict(), adapt=True)
    assert torch.equal(tuned.head.fc_dist.weight, source.head.fc_dist.weight)


def test_two_heads_in_training():
    torch.manual_seed(0)
    model = timm.create_model('overlock_xt', num_classes=10, **OVERLOCK)
    x = torch.randn(2, 3, 64, 64)
    assert model.eval()(x).shape == (2, 10)
    model.set_auxiliary_training()
    y, aux = model.train()(x)
    assert y.shape == aux.shape == (2, 10) and not torch.equal(y, aux)
    (y + aux).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.set_auxiliary_training(False)
    assert model(x).shape == (2, 10)
    norm = model.aux_head.norm
    model.reset_classifier(7)
    model.set_auxiliary_training()
    assert [logits.shape for logits in model(x)] == [(2, 7)] * 2 and model.aux_head.norm is norm
    assert model.get_classifier() is model.head.fc
    model.reset_classifier(0)
    assert model.aux_head is None and model(x).shape == (2, 1024)
    model.reset_classifier(3)
    assert [logits.shape for logits in model(x)] == [(2, 3)] * 2


def test_auxiliary_head_sees_the_overview():
    model = scatter(timm.create_model('overlock_xt', num_classes=10, **OVERLOCK).double())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    seen = {}
    model.stages[2].context.register_forward_hook(lambda module, args, out: seen.update(overview=args[0]))
    model.train().set_auxiliary_training()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eval()
    _, aux = model(x)
    pooled = batch_norm(model.aux_head.norm, seen['overview']).mean((1, 2))
    torch.testing.assert_close(aux, model.aux_head.fc(pooled))


def test_the_trainer_has_one_loss():
    """A step on the main logits, as in anybody's loop: the auxiliary classifier rests, with gradients of zero."""
    args = options.merge(TRAIN, dict(model='overlock_xt', num_classes=5, model_kwargs=dict(OVERLOCK)))
    model = build.create_model(args).train()
    x, state = torch.randn(2, 3, 64, 64), copy.deepcopy(model.state_dict())
    y = model(x)
    build.make_loss(args, mixed=False)(y, torch.tensor([1, 2])).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert {name for name, grad in grads.items() if not grad.any()} == {
        name for name in grads if name.startswith('aux_head.')}
    model.load_state_dict(state)  # keys are the same either way
    model.set_auxiliary_training()
    assert torch.equal(model(x)[0], y)
