"""The two stages in which Sparsifiner is trained: an update of each, by losses written out."""
import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from zoo.hosts import ViT
from zoo.train import build, options, task
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError

CPU = build.DeviceContext(torch.device('cpu'))
CONFIG = dict(input_size=(3, 64, 64), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
SMALL = dict(embed_dim=24, depth=3, num_heads=3, img_size=64)
NAME = 'sparsifiner_small_patch16_prune'
RATE = 0.1


def student(trained):
    """After the first, its blocks have 12 of the 16 tokens of a map, and 8 after the second."""
    torch.manual_seed(0)
    model = timm.create_model(
        NAME, **SMALL, num_classes=5, mixer_kwargs=dict(token_keep=(0.7, 0.5)), trained=trained).train()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.03 if '.basis.' in name else 0.3)
    return model


def update(model, **values):
    """A step of plain gradient descent by the trainer's task, whose result it returns."""
    args = options.merge(TRAIN, dict(
        model=NAME, opt='momentum', momentum=0., weight_decay=0., **values))
    task.check(args)
    made = task.make_task(args, model, nn.CrossEntropyLoss(), CPU, CONFIG)
    made.train()
    optimizer = build.make_optimizer(args, made.get_trainable_module(), RATE)
    images, target = pictures()
    result = made(images, target)
    result['loss'].backward()
    optimizer.step()
    return result


def pictures():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 4])


def check_update(before, after, loss):
    """What requires a gradient has moved by the rate times that of the loss, nothing else."""
    named = {name: p for name, p in before.named_parameters() if p.requires_grad}
    grads = dict(zip(named, torch.autograd.grad(loss, list(named.values()))))
    moved = 0
    for name, p in before.named_parameters():
        wanted = p - RATE * grads[name] if name in grads else p
        torch.testing.assert_close(after.get_parameter(name), wanted, rtol=1e-4, atol=1e-6, msg=name)
        moved += name in grads and not torch.equal(wanted, p)
    return moved


def reconstruction(model):
    """Sum of squared differences between the predictors' weights and those of a dense teacher, a mean over blocks."""
    teacher, inputs, total = ViT(**SMALL, num_classes=5).eval(), [], 0.
    teacher.load_state_dict({name: p for name, p in model.state_dict().items() if '.predictor.' not in name})
    for stage in teacher.stages:
        stage.blocks[0].mixer.register_forward_hook(lambda mixer, args, kwargs, y: inputs.append(args[0]),
                                                    with_kwargs=True)
    with torch.no_grad():
        teacher(pictures()[0])
    for x, stage, dense in zip(inputs, model.stages, teacher.stages):
        predictor = stage.blocks[0].mixer.predictor
        q, k, _ = dense.blocks[0].mixer.qkv(x).view(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4).detach()
        mix, basis = (torch.cat([t.prefix, t.weight.flatten(0, 2)]) for t in (predictor.mix, predictor.basis))
        low = predictor.proj_q(q) @ (predictor.proj_k(k).transpose(2, 3) @ mix) / 3 ** 0.5
        wanted = (q @ k.transpose(2, 3) / 8 ** 0.5).softmax(-1)
        total = total + (low.softmax(-1) @ basis.t() - wanted)[:, :, 1:].square().sum()
    return total / len(inputs)


def test_in_the_first_stage_the_predictor_learns_the_dense_weights():
    model = student('predictor')
    twin = copy.deepcopy(model)
    result = update(model, extra_loss_weights=dict(reconstruction=0.01))
    loss = reconstruction(twin)
    assert result['reconstruction_loss'].item() == pytest.approx(loss.item(), rel=1e-5)
    assert check_update(twin, model, 0.01 * loss) == 3 * 8  # two layers and two tables in two parts each


def test_in_the_second_stage_the_rest_learns_from_labels_logits_and_tokens(tmp_path):
    torch.manual_seed(5)
    teacher = timm.create_model('deit_small_patch16_224', num_classes=5, **SMALL).eval()
    nn.init.normal_(teacher.head.weight, std=2.)
    torch.save(dict(model=teacher.state_dict()), tmp_path / 'teacher.pth')
    statistics = dict(zip(('mean', 'std'), (teacher.pretrained_cfg[key] for key in ('mean', 'std'))))
    model = student('rest')
    twin = copy.deepcopy(model)
    result = update(
        model, kd_model_name='deit_small_patch16_224', kd_teacher_checkpoint=str(tmp_path / 'teacher.pth'),
        kd_model_kwargs=SMALL, kd_distill_type='sequence', kd_temperature=1., distill_loss_weight=0.5)
    images, target = pictures()
    seen = images
    for key, turn in (('std', torch.mul), ('mean', torch.add)):
        seen = turn(seen, torch.tensor(CONFIG[key]).view(3, 1, 1))
    seen = (seen - torch.tensor(statistics['mean']).view(3, 1, 1)) / torch.tensor(statistics['std']).view(3, 1, 1)
    with torch.no_grad():
        tokens, opinion = teacher.forward_features(seen)[:, 1:], teacher(seen)
    x = twin.forward_features(images)
    logits, kept = twin.forward_head(x), (x[:, 1:] != 0).any(-1)
    assert kept.sum(1).tolist() == [8, 8]
    divergence = (opinion.softmax(1) * (opinion.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    squares = (x[:, 1:][kept] - tokens[kept]).square().mean()
    loss = F.cross_entropy(logits, target) + 0.5 * divergence + 0.5 * squares
    assert result['loss'].item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(result['output'], logits)
    assert check_update(twin, model, loss) == sum(p.requires_grad for p in twin.parameters())


@pytest.mark.parametrize('values, message', [
    (dict(kd_model_name='vit_tiny_patch16_224', kd_model_kwargs=dict(SMALL, embed_dim=48)), 'same number of channels'),
    (dict(kd_model_name='vit_tiny_patch16_224', kd_model_kwargs=dict(SMALL, patch_size=8)), 'the teacher 64; give'),
    (dict(kd_model_name='flatten_pvt_v2_b0', kd_model_kwargs=dict(
        embed_dims=(8, 8, 16, 24), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))), 'a sequence of tokens, as ViT'),
])
def test_teachers_that_have_no_such_tokens(values, message, monkeypatch):
    create = build.create_model
    monkeypatch.setattr(build, 'create_model', lambda args, *rest: create(
        options.merge(TRAIN, dict(vars(args), pretrained=False, num_classes=5)), *rest))
    with pytest.raises(ZooError, match=message):
        update(student('rest'), kd_distill_type='sequence', **values)


def test_what_is_trained():
    with pytest.raises(ZooError, match="trained='masks': use 'all', 'predictor' or 'rest'"):
        timm.create_model(NAME, **SMALL, trained='masks')
    with pytest.raises(ZooError, match='no mixer has a predictor'):
        timm.create_model(NAME, **SMALL, mixer='softmax', trained='predictor')
