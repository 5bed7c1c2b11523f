"""Probes: what they train, what they leave alone, what their checkpoints hold."""
import csv
import math

import pytest
import timm
import torch
from torch import nn

from zoo.blocks.pooling import EfficientProbing
from zoo.evaluate import probe, validate
from zoo.evaluate.option_schema import PROBE
from zoo.train import build, options, session
from zoo.train.data import fashion_mnist
from zoo.train.option_schema import TRAIN
from zoo.utils.errors import ZooError

from ..train.conftest import MODEL
from ..train.processes import launch


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def summary(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def flags(small, tmp_path):
    """Flags of a probe of seconds on the pictures."""
    def words(**changes):
        return small(**dict(dict(num_classes=None, sched_on_updates=None, warmup_epochs=None, lr='3e-2', scale='0.6 1'),
                            **changes))
    return words


@pytest.fixture
def probed(monkeypatch):
    """The sessions of the runs, so that their models can be looked at."""
    sessions = []
    fit = session.Trainer.fit
    monkeypatch.setattr(session.Trainer, 'fit', lambda self: (sessions.append(self), fit(self))[1])
    return sessions


@pytest.mark.parametrize('pool', ['linear', 'ep'])
def test_only_the_probe_learns(zoo, flags, probed, tmp_path, monkeypatch, pool):
    before = {}
    load = probe.load_backbone

    def noted(args):
        backbone = load(args)
        backbone.train()  # freezing is the probe's own business
        before.update({key: value.clone() for key, value in backbone.state_dict().items()})
        return backbone

    monkeypatch.setattr(probe, 'load_backbone', noted)
    more = dict(pool=pool, model='test_resnet', queries=8, epochs=4, model_ema=True, model_ema_decay=0.5)
    result = zoo('probe', *flags(**more))
    assert result.code == 0, result.err
    backbone = probed[0].model.frozen.model
    assert any('running_mean' in key for key in before) and same(before, backbone.state_dict())
    assert not backbone.training and not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    last = read(tmp_path / 'out' / 'run' / 'last.pth.tar')
    own = {'norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked', 'classifier.weight', 'classifier.bias'}
    own |= {'pool.queries', 'pool.v.weight'} if pool == 'ep' else set()
    assert set(last['state_dict']) == set(last['state_dict_ema']) == own
    assert sum(len(group['params']) for group in last['optimizer']['param_groups']) == len(own) - 3
    assert probed[0].run.task.get_trainable_module(ema=True).module.frozen is probed[0].model.frozen  # not a copy
    rows = summary(tmp_path / 'out' / 'run')
    assert float(rows[-1]['eval_top1']) > 70 and len(rows) == 4  # chance is 33
    assert 'test_resnet, ' + ('EP with 8 queries' if pool == 'ep' else 'linear probe') in result.out
    assert 'features of random weights' in result.out and 'best top1' in result.out
    count = sum(value.numel() for key, value in last['state_dict'].items() if not key.startswith('norm.'))
    assert f'parameters  {count if pool == "linear" else "0.01 M"}\n' in result.out


def test_the_published_recipe_learns_too(zoo, flags, tmp_path):
    result = zoo('probe', *flags(opt=None, lr=None, blr='30', epochs=12, scale='1 1', val_interval=12))
    assert result.code == 0, result.err
    rows = summary(tmp_path / 'out' / 'run')
    assert float(rows[-1]['eval_top1']) > 70
    rate = 30 * 8 / 256
    assert float(rows[0]['lr']) == pytest.approx(rate * 9 / 12, rel=1e-4)  # a ninth of the 108 updates warms up
    assert float(rows[-1]['lr']) == pytest.approx(0, abs=1e-3 * rate)


def test_the_recipe_is_that_of_the_paper():
    args = options.merge(TRAIN, {option.dest: option.default for option in PROBE})
    probe._settle(args)
    assert (args.opt, args.weight_decay, args.momentum, args.epochs, args.warmup_epochs) == ('lars', 0, 0.9, 90, 10)
    args.batch_size = 512
    assert build.learning_rates(args, 8) == dict(lr=pytest.approx(0.1 * 4096 / 256), warmup_lr=0, min_lr=0)
    assert (args.smoothing, args.mixup, args.color_jitter, args.hflip, args.aa) == (0, 0, [0], 0.5, None)


def test_a_step_of_lars(zoo, flags, probed):
    """Matrices move by 0.001 of their norm per unit of learning rate, vectors by their gradient."""
    zoo('probe', *flags(opt=None, pool='ep', queries=4, epochs=1, weight_decay=0.1))
    run = probed[0]
    optimizer = run._make_optimizer(0.5)
    parameters = dict(run.model.named_parameters())
    torch.manual_seed(0)
    before = {key: p.detach().clone() for key, p in parameters.items()}
    for p in parameters.values():
        p.grad = torch.randn_like(p)
    grads = {key: p.grad.clone() for key, p in parameters.items()}
    optimizer.step()
    assert len(before) == 4
    for key, old in before.items():
        grad = grads[key]
        if old.ndim > 1:
            grad = grad + 0.1 * old
            grad = grad * 0.001 * old.norm() / grad.norm()
        # timm takes the norms of gradient and decay one by one, hence the tolerance
        assert torch.allclose(parameters[key], old - 0.5 * grad, rtol=0, atol=0.02 * (0.5 * grad).abs().max()), key


@pytest.mark.parametrize('extra', [dict(), dict(pool='ep', queries=16, model_ema=True, mixup=0.5, opt='lars', lr='2')],
                         ids=['linear', 'ep'])
def test_a_resumed_probe_is_the_unbroken_one(zoo, flags, tmp_path, extra):
    assert zoo('probe', *flags(experiment='whole', **extra)).code == 0
    assert zoo('probe', *flags(experiment='parts', stop_epoch=1, **extra)).code == 0
    parts = tmp_path / 'out' / 'parts'
    result = zoo('probe', '--resume', parts / 'last.pth.tar')
    assert result.code == 0, result.err
    a, b = read(tmp_path / 'out' / 'whole' / 'last.pth.tar'), read(parts / 'last.pth.tar')
    for key in ('state_dict', 'state_dict_ema'):
        assert (key in a) == (key in b) and (key not in a or same(a[key], b[key]))
    assert a['points'] == b['points'] and a['best'] == b['best'] and len(summary(parts)) == 2
    assert zoo('probe', '--config', parts / 'args.yaml', '--experiment', 'again').code == 0  # it is a config
    assert same(a['state_dict'], read(tmp_path / 'out' / 'again' / 'last.pth.tar')['state_dict'])


def test_ctrl_c_tells_how_to_go_on(zoo, flags, tmp_path, monkeypatch):
    step, calls = probe.Frozen.tokens, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 16:  # 2 to build, 9 batches and 3 validations in the first epoch
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(probe.Frozen, 'tokens', interrupted)
    result = zoo('probe', *flags())
    last = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert result.code == 130 and f'zoo probe --resume {last}' in result.err and read(last)['epoch'] == 0


def test_validate_loads_a_probe(zoo, flags, small, pictures, tmp_path):
    """Also one on the features of a model that was trained here, for other classes and with arguments of its own."""
    trained = zoo('train', *small(epochs=1, num_classes=5, img_size=48, input_size=None, output=tmp_path / 'model',
                                  model_kwargs='drop_path_rate=0.1'))
    assert trained.code == 0, trained.err
    weights = tmp_path / 'model' / 'run' / 'last.pth.tar'
    result = zoo('probe', *flags(checkpoint=weights, model=None, input_size=None, pool='ep', queries=4))
    assert result.code == 0, result.err
    path = tmp_path / 'out' / 'run' / 'model_best.pth.tar'
    content = read(path)
    assert content['arch'] == MODEL and content['data_config']['input_size'] == [3, 48, 48]
    assert content['model_kwargs'] == dict(drop_path_rate=0.1) and content['num_classes'] == 3
    assert f'zoo validate --checkpoint {path}' in result.out
    found = validate.validate(['--checkpoint', str(path)])
    assert found['top1'] == pytest.approx(content['metric'], abs=1e-4) and found['count'] == 24
    model = probe.rebuild(content, content['state_dict'], 'it')
    backbone = timm.create_model(MODEL, num_classes=5)
    backbone.load_state_dict(read(weights)['state_dict'])
    image = torch.randn(2, 3, 48, 48)
    tokens = backbone.eval().forward_features(image).flatten(2).transpose(1, 2)
    pooled = EfficientProbing(tokens.shape[-1], 4)
    pooled.load_state_dict({key[5:]: value for key, value in content['state_dict'].items() if key.startswith('pool.')})
    state = content['state_dict']
    x = (pooled(tokens) - state['norm.running_mean']) / (state['norm.running_var'] + 1e-6).sqrt()
    expected = x @ state['classifier.weight'].T + state['classifier.bias']
    assert torch.allclose(model.eval()(image), expected, rtol=1e-4, atol=1e-4)

    other = read(weights)
    other['state_dict']['stem.0.weight'] *= 2
    torch.save(other, weights)
    for words in (('validate', '--checkpoint', path), ('probe', '--resume', path, '--epochs', '3')):
        failed = zoo(*words)
        assert failed.code == 2 and 'is a probe of other weights of test_convnext' in failed.err


@pytest.mark.parametrize('extra', [
    dict(torchcompile='eager', amp=True, channels_last=True, grad_accum_steps=2), dict(model_dtype='bfloat16'),
], ids=['compiled', 'bfloat16'])
def test_other_ways_to_compute(zoo, flags, tmp_path, extra):
    result = zoo('probe', *flags(pool='ep', **extra))
    assert result.code == 0, result.err
    path = tmp_path / 'out' / 'run' / 'last.pth.tar'
    last = read(path)
    assert last['state_dict']['pool.queries'].dtype == (torch.bfloat16 if 'model_dtype' in extra else torch.float32)
    assert validate.validate(['--checkpoint', str(path)])['top1'] == pytest.approx(last['metric'], abs=1e-4)


def test_published_weights_are_loaded_again(zoo, flags, tmp_path, monkeypatch):
    create = timm.create_model

    def with_weights(*args, pretrained=False, **kwargs):
        with torch.random.fork_rng():
            if pretrained:
                torch.manual_seed(11)  # whatever seed the run has
            return create(*args, **kwargs)

    monkeypatch.setattr(timm, 'create_model', with_weights)
    result = zoo('probe', *flags(pretrained=True, epochs=1, seed=5))
    assert result.code == 0 and 'random weights' not in result.out
    path = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert read(path)['backbone'] == probe.fingerprint(timm.create_model(MODEL, pretrained=True, num_classes=0))
    assert validate.validate(['--checkpoint', str(path)])['top1'] == pytest.approx(read(path)['metric'], abs=1e-4)
    assert zoo('probe', '--resume', path, '--epochs', '2').code == 0 and len(summary(path.parent)) == 2
    refused = zoo('probe', '--resume', path, '--epochs', '3', '--no-pretrained')
    assert refused.code == 2 and 'its own are the published ones' in refused.err


@pytest.mark.parametrize('dataset', ['digits', 'quickstart'])
def test_built_in_data(zoo, tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(fashion_mnist, 'obtain', lambda *_: None)
    result = zoo('probe', '--dataset', dataset, '--model', MODEL, '--in-chans', '1', '--img-size', '32', '-b', '64',
                 '--epochs', '2', '--opt', 'adamw', '--lr', '1e-2', '--workers', '0', '--output', tmp_path,
                 '--experiment', 'run', '--device', 'cpu')
    assert result.code == 0, result.err
    rows = summary(tmp_path / 'run')
    assert float(rows[-1]['eval_top1']) > 40  # chance is 10
    assert read(tmp_path / 'run' / 'last.pth.tar')['num_classes'] == 10


class Features(nn.Module):
    """A model whose features are given."""

    def __init__(self, features, **more):
        super().__init__()
        self.features = features
        vars(self).update(more)

    def forward_features(self, images):
        return self.features


def test_tokens_of_all_layouts():
    grid = torch.randn(2, 6, 3, 5)
    tokens = grid.flatten(2).transpose(1, 2)
    classes = torch.randn(2, 2, 6)
    image = torch.zeros(2, 3, 8, 8)
    for model in (Features(grid), Features(grid.permute(0, 2, 3, 1), output_fmt='NHWC'), Features(tokens),
                  Features(torch.cat([classes, tokens], 1), num_prefix_tokens=2)):
        assert torch.equal(probe.Frozen(model).tokens(image), tokens)
    for features in ([tokens], tokens[:, 0]):
        with pytest.raises(ZooError, match='Features cannot be probed: its features are neither a map nor a sequence'):
            probe.Frozen(Features(features)).tokens(image)


@pytest.mark.parametrize(('name', 'size', 'count', 'width', 'kwargs'), [
    ('swin_tiny_patch4_window7_224', 64, 4, 32, dict(img_size=64, window_size=2, embed_dim=4, depths=(1, 1, 1, 1),
                                                     num_heads=(1, 1, 1, 1))),
    ('test_vit3', 160, 100, 96, dict()), ('volo_d1_224', 64, 16, 384, dict(img_size=64)),
    ('agent_deit_tiny', 64, 16, 192, dict(img_size=64, depth=1)), ('test_resnet', 64, 4, 96, dict()),
    ('mambaout_femto', 64, 4, 288, dict()), ('mixer_s32_224', 224, 49, 512, dict()),
    ('flatten_pvt_v2_b0', 64, 4, 256, dict()),
])
def test_patch_tokens_of_real_models(name, size, count, width, kwargs):
    import zoo  # noqa: F401  (registers the models)

    model = timm.create_model(name, num_classes=0, **kwargs).eval()
    image = torch.randn(1, 3, size, size)
    tokens = probe.Frozen(model).tokens(image)
    assert tokens.shape == (1, count, width) and not tokens.requires_grad
    features = model.forward_features(image)
    if features.ndim == 3:  # what is left out stands in front
        torch.testing.assert_close(tokens, features[:, features.shape[1] - count:])


@pytest.mark.parametrize(('changes', 'expected'), [
    (dict(pool='ep', queries=7), '--queries 7 does not divide the 128 channels of the model; use one of '
                                 '1, 2, 4, 8, 16, 32, 64, 128'),
    (dict(pool='cls'), "--pool: 'cls' is not one of linear, ep"),
    (dict(queries=0), '--queries: must be at least 1'),
    (dict(model='pit_ti_224', input_size='3 224 224'), 'PoolingVisionTransformer cannot be probed'),
    (dict(model='coat_tiny', input_size='3 224 224'), 'cannot be probed'),
    (dict(model='test_convnex'), "unknown model 'test_convnex'; did you mean test_convnext"),
    (dict(num_classes=2), 'the data has 3 classes, the model 2; give --num-classes 3'),
    (dict(batch_size=1), '--batch-size must be at least 2'),
    (dict(batch_size=None), '--batch-size 1024 is too large for 72 training images'),
    (dict(checkpoint='nowhere.pth'), 'no checkpoint file at nowhere.pth'),
    (dict(checkpoint='nowhere.pth', pretrained=True), 'exclude each other'),
    (dict(layer_decay='0.5'), 'unknown argument --layer-decay'),
    (dict(data_dir='nowhere'), 'no data folder nowhere'),
])
def test_bad_input(zoo, flags, tmp_path, changes, expected):
    result = zoo('probe', *flags(**changes))
    assert result.code == 2 and expected in result.err and result.err.count('\n') == 1, result.err
    assert not (tmp_path / 'out').exists()


def test_bad_checkpoints(zoo, flags, small, tmp_path):
    zoo('train', *small(epochs=1, output=tmp_path / 'model'))
    zoo('probe', *flags(epochs=1))
    model, own = tmp_path / 'model' / 'run' / 'last.pth.tar', tmp_path / 'out' / 'run' / 'last.pth.tar'
    state = read(model)['state_dict']
    torch.save(state, tmp_path / 'bare.pth')
    torch.save({key: value for key, value in state.items() if key != 'stem.0.weight'}, tmp_path / 'part.pth')
    for words, expected in (
            (('train', '--resume', own), 'is a checkpoint of a probe; python -m zoo probe --resume goes on with it'),
            (('probe', '--resume', model), 'is not a checkpoint of a probe; --checkpoint probes the features in it'),
            (('probe', *flags(checkpoint=own, experiment='a')), 'holds a probe, not a model'),
            (('probe', *flags(checkpoint=model, model='test_vit', experiment='a')), f'a checkpoint of {MODEL}, not of'),
            (('probe', *flags(checkpoint=tmp_path / 'bare.pth', model=None, experiment='a')), 'give --model'),
            (('probe', *flags(checkpoint=tmp_path / 'part.pth', experiment='a')), 'stem.0.weight'),
            (('probe', *flags(checkpoint=tmp_path / 'bare.pth', model='test_vit', experiment='a')), 'test_vit: '),
            (('probe', '--resume', own, '--seed', '3', '--epochs', '2'), 'its own are random'),
            (('probe', *flags()), 'holds a run already')):
        result = zoo(*words)
        assert result.code == 2 and expected in result.err and result.err.count('\n') == 1, (words, result.err)
    bare = zoo('probe', *flags(checkpoint=tmp_path / 'bare.pth', epochs=1, experiment='bare'))
    assert bare.code == 0, bare.err
    assert read(tmp_path / 'out' / 'bare' / 'last.pth.tar')['backbone'] == probe.fingerprint(
        _headless(state))


def _headless(state):
    model = timm.create_model(MODEL, num_classes=0)
    model.load_state_dict(state, strict=False)
    return model


def test_the_fingerprint_sees_every_number():
    model = timm.create_model('test_resnet', num_classes=0)
    first = probe.fingerprint(model)
    assert probe.fingerprint(timm.create_model('test_resnet', num_classes=0)) != first
    model.to(memory_format=torch.channels_last)
    assert probe.fingerprint(model) == first
    name, value = list(model.state_dict().items())[-2]
    assert value.ndim <= 1 and math.isfinite(value.sum())
    value.view(-1)[0] += 1e-3
    assert probe.fingerprint(model) != first


def test_two_processes_train_one_probe(flags, tmp_path):
    words = flags(data_dir='', dataset='digits', input_size='1 32 32', model='test_resnet', batch_size=64, mean=0.3,
                  std=0.4, pool='ep', queries=8, epochs=6)
    run = launch(['probe', *words], tmp_path / 'log', processes=2)
    assert run.codes == [0, 0], run.text
    assert '2 process(es)' in run.text and run.text.count('validate it:') == 1
    path = tmp_path / 'out' / 'run' / 'last.pth.tar'
    assert read(path)['metric'] > 30  # chance is 10
    # one process with the weights that the first one drew finds what both found together: both had those weights
    assert validate.validate(['--checkpoint', str(path)])['top1'] == pytest.approx(read(path)['metric'], abs=1e-4)
