"""CARE: mathematics, initialisation, weight decay and two heads as in zhouyuan888888/CARE-Transformer @ 400bf94."""
import re
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import TokenDistillationTask

from tests.models.rules import check_initial, decay_groups
from zoo.models import care
from zoo.models.care import CAREBlock, CrossConv, RawValueAttention
from zoo.train import build, options
from zoo.train.option_schema import TRAIN

SMALL = dict(depths=(1, 1, 1, 1))


def test_initialisation():
    torch.manual_seed(0)
    model = timm.create_model('care_s0')
    for pattern, mean, std in (
            (r'(proj|qk|fc1|fc2|fc|fc_dist|column|row|conv\d?)\.weight$', 0, 0.02),
            (r'(proj|qk|fc1|fc2|fc|fc_dist|column|row|conv\d?)\.bias$', 0, 0),
            (r'norm(s\.\d)?\.weight$', 1, 0), (r'norm(s\.\d)?\.bias$', 0, 0), (r'gamma$', 1e-6, 0)):
        check_initial(model, pattern, std, mean, rel=0.02)
    for module in model.modules():  # each kind of convolution by itself: trunc_normal_(std=.02), not torch's default
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.07)
    assert [norm.eps for norm in model.head.norms] == [1e-6, 1e-6]


def test_weight_decay_groups():
    """No decay: 1-d parameters, the layer scales among them, and biases."""
    model = timm.create_model('care_s0', device='meta')
    free, _ = decay_groups(model)
    assert free == {
        n for n, _ in model.named_parameters()
        if n.endswith(('.bias', '.gamma')) or re.search(r'norm(s\.\d)?\.weight$', n)}


def test_variants_match_the_published_table():
    """Parameters in millions of the reference's models, widths of heads and of the last map."""
    for name, millions, last in (('care_s0', 7.340, 1024), ('care_s1', 9.602, 1024), ('care_s2', 19.481, 1536)):
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0006), name
        kinds = [{type(block.mixer) for block in stage.blocks} for stage in model.stages]
        assert kinds == [{CrossConv}, {CrossConv}, {RawValueAttention}, {RawValueAttention}]
        mixers = [stage.blocks[0].mixer for stage in model.stages[2:]]
        assert [mixer.qk.in_features / mixer.num_heads for mixer in mixers] == [16, 32]
        assert model.num_features == model.feature_info[3]['num_chs'] == last
        assert [block.gamma is None for stage in model.stages for block in stage.blocks].count(True) == 1


@pytest.mark.parametrize('num_prefix_tokens', [0, 2])
def test_attention_is_the_formula(num_prefix_tokens):
    torch.manual_seed(0)
    mixer = RawValueAttention(12, 3).double()
    x = torch.randn(2, num_prefix_tokens + 20, 12, dtype=torch.float64)
    q, k = (F.elu(t) + 1 for t in mixer.qk(x).view(2, -1, 2, 3, 4).permute(2, 0, 3, 1, 4))
    weights = q @ k.transpose(2, 3) / k.shape[2]
    y = weights / (weights.sum(-1, keepdim=True) + 1e-6) @ x.view(2, -1, 3, 4).transpose(1, 2)
    torch.testing.assert_close(mixer.forward_tokens(x, (4, 5), num_prefix_tokens), y.transpose(1, 2).flatten(2))


def test_cross_of_convolutions():
    """A column and a row of 11 tokens are an 11x11 kernel that is zero elsewhere."""
    torch.manual_seed(0)
    mixer = CrossConv(4).double()
    weight = torch.zeros(4, 1, 11, 11, dtype=torch.float64)
    weight[..., 5] += mixer.column.weight[..., 0]
    weight[..., 5, :] += mixer.row.weight[..., 0, :]
    x = torch.randn(2, 9, 7, 4, dtype=torch.float64)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, mixer.column.bias + mixer.row.bias, padding=5, groups=4)
    torch.testing.assert_close(mixer(x), y.permute(0, 2, 3, 1))


@pytest.mark.parametrize('last', [False, True])
def test_block_is_the_formula(last):
    torch.manual_seed(0)
    block = CAREBlock(20, 5, torch.nn.Identity(), (2, 3), drop_path=0.5, last=last).double().eval()
    for norm in (block.inter1.norm, block.inter2.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(16, 4, 6, 20, dtype=torch.float64)

    def conv(layer, t):
        t = F.conv2d(t.permute(0, 3, 1, 2), layer.weight, layer.bias, padding=layer.kernel_size[0] // 2,
                     groups=layer.groups)
        return t.permute(0, 2, 3, 1)

    def interaction(layer, t):
        norm = layer.norm
        y = (t - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        y = conv(layer.conv, F.gelu(layer.fc1(y)))
        return y if layer.fc2 is None else layer.fc2(y) + t

    memory, first, second, third = x.split((5, 5, 5, 5), dim=-1)
    features = interaction(block.inter1, torch.cat([first, conv(block.conv3, second), conv(block.conv7, third)], -1))
    want = interaction(block.inter2, torch.cat([memory, features], -1))
    torch.testing.assert_close(block(x), want if last else x + 1e-6 * want)
    block.drop_path.train()  # the last block has no shortcut: a sample is dropped whole
    dropped = (block(x) == (torch.zeros_like(want) if last else x)).flatten(1).all(1)
    assert 0 < dropped.sum() < 16


@torch.inference_mode()
def test_in_pieces(monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model('care_s0', num_classes=10, **SMALL).eval()
    x = torch.randn(3, 3, 64, 64)
    monkeypatch.setattr(care, 'CHUNK_BYTES', 2 ** 30)
    y = model(x)
    monkeypatch.setattr(care, 'CHUNK_BYTES', 1)
    with mock.patch.object(care.Interaction, '_maps', autospec=True, side_effect=care.Interaction._maps) as maps:
        torch.testing.assert_close(model(x), y)
    assert maps.call_count == 4 * 2 * 3  # blocks, interactions, images


def test_two_heads():
    """One tensor, the mean, unless in training after timm's switch; a new classifier keeps switch and norms."""
    torch.manual_seed(0)
    model = timm.create_model('care_s0', num_classes=10, **SMALL).eval()
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
    model = timm.create_model('care_s0', num_classes=5, **SMALL)
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
        return timm.create_model('care_s0', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL, **kwargs)

    torch.manual_seed(0)
    source = timm.create_model('care_s0', num_classes=12, **SMALL)
    same, other = load(num_classes=12), load(num_classes=5)
    assert torch.equal(same.head.fc_dist.weight, source.head.fc_dist.weight)
    assert other.head.fc.weight.shape == other.head.fc_dist.weight.shape == (5, 1024)
    for model in (other, load(num_classes=0), load(num_classes=0, global_pool='')):
        assert torch.equal(model.stem.proj.weight, source.stem.proj.weight)
    maps = load(features_only=True)
    assert torch.equal(maps.model.stem.proj.weight, source.stem.proj.weight)
    with pytest.raises(ValueError, match='12 classes, the model 1000'):
        timm.create_model(
            'care_s0', pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()), **SMALL)
    args = options.merge(TRAIN, dict(model='care_s0', num_classes=12, model_kwargs=SMALL))
    tuned = build.create_model(args, source.state_dict(), adapt=True)
    assert torch.equal(tuned.head.fc_dist.weight, source.head.fc_dist.weight)
