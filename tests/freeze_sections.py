"""The sections of freeze.py: what is recorded of models, commands, recipes, result files and training runs."""
import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

SETTINGS = dict(  # of this process and its children, before anything is imported
    OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', HF_HUB_OFFLINE='1', MPLBACKEND='Agg',
    COLUMNS='100', NO_COLOR='1', PYTHONHASHSEED='0')
os.environ.update(SETTINGS)
ROOT = Path(os.environ.get('FREEZE_ROOT') or Path(__file__).parents[1]).resolve()
FIXTURES = Path(__file__).resolve().parent / 'train' / 'fixtures' / 'interrupted_run'
sys.path[:0] = [str(ROOT), str(ROOT / 'kernels')]

MIXERS = (  # names that users give
    'agent', 'focused', 'inline', 'linear', 'mala', 'norm_aware', 'rala', 'softmax', 'context_mixing', 'hilo',
    'large_kernel', 'modulation', 'partial', 'pooling', 'reduction', 'routing', 'scale_aware')
COMMANDS = (
    'list', 'info', 'train', 'validate', 'infer', 'convert', 'publish', 'probe', 'train-det', 'train-seg', 'predict',
    'shapes', 'benchmark', 'benchmark ops', 'benchmark models', 'benchmark gates', 'benchmark loader', 'plot',
    'attention', 'arena', 'cards')
MISTAKES = (
    'trian', 'train --modle a', 'train --model ravlt', 'train --config quickstrat', 'list rvlt*', 'info ravlt_x',
    'validate --model ravlt_t --split', 'benchmark op', 'cards rvlt', 'infer ravlt_t nothing.png')
SIZES = ((224, 224), (97, 131))
TINY = ('--dataset digits --batch-size 256 --input-size 1 32 32 --mean 0.5 --std 0.5 --num-classes 10 --workers 0 '
        '--device cpu --epochs 1 --warmup-epochs 0 --seed 3 --log-interval 2 --output out --experiment run ')
RUNS = dict(
    train=f'train {TINY} --model test_resnet --opt adamw --lr 1e-3 --sched-on-updates --mixup 0.5 --cutmix 0.5 '
          f'--model-ema --aa rand-m5-mstd0.5 --reprob 0.3 --drop-path 0.2 --clip-grad 1 --grad-accum-steps 2',
    probe=f'probe {TINY} --model test_vit --pool ep --queries 4 --img-size 32',
    plateau=f'train {TINY} --model test_convnext --opt sgd --lr 0.1 --sched plateau --bce-loss --layer-decay 0.9')
WRITTEN = dict(  # result files
    ops='benchmark ops linear_attention depthwise_conv_3 --shapes n49 --output out/a',
    models='benchmark models van_b0 --sizes 32 --modes eager --kernels off --output out/a',
    gates='benchmark gates eca cbam --host resnet18 --size 32 --batch-size 2 --output out/a',
    loader='benchmark loader --workers 0 --size 32 --batch-size 4 --model test_convnext --output out/a',
    arena='arena --dataset digits --mixers linear --seeds 0 --epochs 1 -b 512 --output out --results out/a '
          '--model-kwargs embed_dims=(8,8,8) depths=(1,1,1) num_heads=(1,1,1)')
OLD = 'out/run/last.pth.tar'
RESUMED = {
    'checkpoint': f'train --resume {OLD}', 'recovery file': 'train --resume auto --output out',
    'args.yaml': f'train --config {FIXTURES / "args.yaml"} --experiment again',
    'weights': f'train --config {FIXTURES / "args.yaml"} --experiment again --pretrained-path {OLD}',
    'validate': f'validate --checkpoint {OLD} --json',
    'validate raw': f'validate --checkpoint {OLD} --json --no-use-ema',
    'infer': f'infer zoo_hybrid pictures/val/green --checkpoint {OLD} --json'}


# --- what is recorded

def digest(tensor) -> str:
    """Shape, type and a part of the SHA-256 of the bytes."""
    import torch

    if tensor is None:
        return 'none'
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    kind = str(tensor.dtype).removeprefix('torch.')
    return f'{kind}{list(tensor.shape)} {hashlib.sha256(data).hexdigest()[:20]}'


def digests(tensors) -> dict:
    """Of named tensors, in order."""
    return {name: digest(tensor) for name, tensor in dict(tensors).items()}


def outcome(call):
    """What a call gives, or the error that it raises."""
    try:
        return call()
    except Exception as e:
        return f'{type(e).__name__}: {e}'


class Namespaces:
    """The options that a command has resolved: the last namespace of many values that it made, by ``argparse``.

    If a command no longer makes one, look the values up here in another way.
    """

    def __enter__(self):
        self.seen, self.plain = [], argparse.Namespace.__init__

        def init(namespace, **values):
            self.plain(namespace, **values)
            if len(values) > 20:
                self.seen.append(dict(values))

        argparse.Namespace.__init__ = init
        return self

    def __exit__(self, *error):
        argparse.Namespace.__init__ = self.plain


def command(words, root=ROOT) -> dict:
    """``python -m zoo WORDS`` in this process: exit code, stdout and stderr."""
    words = words.split() if isinstance(words, str) else [str(word) for word in words]
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ['zoo', *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(root), \
                warnings.catch_warnings():
            warnings.simplefilter('ignore')
            runpy.run_module('zoo', run_name='__main__')
        code = 0
    except SystemExit as e:
        code = e.code
    finally:
        sys.argv = argv
    return dict(code=code, out=masked(out.getvalue()), err=masked(err.getvalue()))


def masked(text: str) -> str:
    """Without paths, times and the lines of progress, some of which are shown by the clock."""
    text = text.replace(str(FIXTURES), 'FIXTURES').replace(str(ROOT), 'ROOT')
    text = re.sub(r'(?m)^.*(\d+/\d+  .*ETA|\r).*\n', '', text)
    text = re.sub(r'\d+ img/s|\b\d+:\d\d\b|(?<=samples_per_sec": )[\d.]+|(?<=the model alone )\d+', '#', text)
    return re.sub(r'time +#', 'time #', text)


def of_registry(name) -> dict | list:
    import timm

    import zoo

    if name == 'names':
        return sorted(zoo.list_models())
    if name == 'pretrained':
        return zoo.list_models(pretrained=True)
    if name == 'smallest':
        return zoo.registry.smallest_models()
    if name == 'public':
        return sorted(zoo.__all__)
    cfgs = timm.models.get_arch_pretrained_cfgs(name)
    return {tag: vars(cfg) for tag, cfg in {name: timm.get_pretrained_cfg(name), **cfgs}.items()}


def create(name, **more):
    """``zoo_hybrid[rala]`` is that mixer in the default host."""
    import timm
    import torch

    import zoo  # noqa: F401

    name, _, mixer = name.rstrip(']').partition('[')
    torch.manual_seed(0)
    return timm.create_model(name, **({'mixer': mixer} if mixer else {}), **more)


def wake(model):
    """Move what is constant at first, so that no zero in front of a branch hides what is behind it."""
    import torch

    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        random = torch.Generator().manual_seed(zlib.crc32(key.removeprefix('model.').encode()))
        noise = torch.randn(tensor.shape, generator=random)
        with torch.no_grad():
            if key.endswith('running_mean') or isinstance(tensor, torch.nn.Parameter) and tensor.unique().numel() == 1:
                tensor.add_(noise, alpha=0.1)
            elif key.endswith('running_var'):
                tensor.add_(noise.abs(), alpha=0.1)
    return model


def of_model(name) -> dict:
    """State, logits, maps and gradients of a model, to the bit, and the names that users of timm deal with."""
    import timm
    import timm.optim
    import torch

    model = create(name, drop_path_rate=0.1).eval()
    found = dict(
        state=digests(model.state_dict()), parameters=[key for key, _ in model.named_parameters()],
        modules=[key for key, _ in model.named_modules()],
        types={key: type(module).__name__ for key, module in model.named_modules()},
        cfg=model.pretrained_cfg, sizes=dict(
            num_classes=model.num_classes, num_features=model.num_features,
            head_hidden_size=getattr(model, 'head_hidden_size', None)))
    spared = model.no_weight_decay() if hasattr(model, 'no_weight_decay') else ()
    names = {id(p): key for key, p in model.named_parameters()}
    groups = timm.optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=spared)
    found['no_weight_decay'] = sorted(spared)
    found['not_decayed'] = [names[id(p)] for group in groups if not group['weight_decay'] for p in group['params']]
    for coarse in (False, True):
        layers = outcome(lambda c=coarse: timm.models.group_parameters(model, model.group_matcher(coarse=c)))
        found[f'layers_{"coarse" if coarse else "fine"}'] = layers if isinstance(layers, str) else {
            key: i for i, keys in layers.items() for key in keys}
    wake(model)
    features = wake(create(name, features_only=True).eval())
    info = features.feature_info
    found['maps'] = dict(channels=info.channels(), strides=info.reduction(), modules=info.module_name())
    found['maps_state'] = list(features.state_dict())
    for size in SIZES:
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            found[f'logits@{size[0]}x{size[1]}'] = outcome(lambda x=x: digest(model(x)))
            found[f'maps@{size[0]}x{size[1]}'] = outcome(lambda x=x: [digest(y) for y in features(x)])
    found['logits_with_grad'] = outcome(lambda: digest(model(x)))
    found['step'] = outcome(lambda: step_of(model))
    return found


def step_of(model) -> dict:
    """Loss, gradients and buffers of one training step at the native size."""
    import torch

    model.train()
    torch.manual_seed(2)
    output = model(torch.randn(2, 3, *model.pretrained_cfg['input_size'][1:]))
    outputs = output if isinstance(output, (tuple, list)) else [output]
    loss = sum(torch.nn.functional.cross_entropy(y, torch.tensor([1, 7])) for y in outputs)
    loss.backward()
    return dict(loss=loss.item(), loss_bits=digest(loss), random=torch.rand(1).item(),
                gradients=digests((key, p.grad) for key, p in model.named_parameters()),
                buffers=digests((key, b) for key, b in model.named_buffers() if key in model.state_dict()))


def of_list(name) -> dict:
    return command(f'list {name}')


def of_info(name) -> dict:
    """The text for a GPU, of some also the JSON for a CPU; without class names."""
    text = command(f'info {name} --device cuda')
    head, title, rest = text['out'].partition('\nstages\n')
    stages, blank, rest = rest.partition('\n\n')
    found = dict(text=dict(text, out=head + title + re.sub(r'\b[A-Z]\w+', 'TYPE', stages) + blank + rest))
    if name in ('agent_deit_tiny', 'cbam_resnet18', 'overlock_xt', 'zoo_hybrid'):
        found['json'] = json.loads(command(f'info {name} --device cpu --json')['out'])
        for stage in found['json']['stages']:
            stage.update(mixers=sorted(stage['mixers'].values()), gate=stage['gate'] is not None)
    return found


def of_help(name) -> dict:
    if name.startswith('mistake: '):
        return command(name.removeprefix('mistake: '))
    if not name.startswith('tools/'):
        return command(['--help'] if name == 'zoo' else [*name.split(), '--help'])
    out, argv = io.StringIO(), sys.argv
    sys.argv = [name, '--help']
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(str(ROOT / name), run_name='__main__')
    except SystemExit as e:
        return dict(code=e.code, out=masked(out.getvalue()))
    finally:
        sys.argv = argv
    return dict(code=0, out=masked(out.getvalue()))


def resolved(words) -> dict:
    """The options of a command that stops at its device, and why it stopped."""
    with Namespaces() as made:
        stopped = command(f'{words} --device nowhere')
    return dict(stopped, options=made.seen[-1] if made.seen else None)


def of_recipe(name) -> dict:
    """What a recipe changes; ``--config`` itself aside."""
    if name.startswith('defaults of '):
        return resolved(f'{name.removeprefix("defaults of ")} --model ravlt_t')
    found, plain = resolved(f'train --config {name}'), resolved('train')['options']
    found['options'] = {key: value for key, value in found['options'].items()
                        if key not in plain or value != plain[key] or key == 'config'}
    return found


def of_mm(name) -> dict:
    """The values of a config file of mmengine, as Python."""
    values = runpy.run_path(str(ROOT / 'configs' / name))
    return {key: value for key, value in values.items() if not key.startswith('__')}


def keys(value, path='') -> list:
    """The paths of keys in JSON content, each once, with the kinds of values."""
    if isinstance(value, dict):
        inner = [line for key, item in value.items() for line in keys(item, f'{path}.{key}')]
        return sorted(set(inner or [path + ': {}']))
    if isinstance(value, list):
        return sorted({line for item in value for line in keys(item, f'{path}[]')} or {path + ': []'})
    kind = 'number' if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
    return [f'{path}: {kind}']


def of_results(name) -> dict | list:
    """Keys of a result file in the repository, or of what a command writes today."""
    if name.endswith('.json'):
        return keys(json.loads((ROOT / name).read_text()))
    words = WRITTEN[name] + ('' if name == 'arena' else ' --quick --repeats 1')
    with tempfile.TemporaryDirectory() as folder:
        os.environ['PYTHONPATH'] = os.pathsep.join(sys.path[:2])  # the arena starts processes
        done = command(f'{words} --device cpu', folder)
        files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('a.*'))
        written = Path(folder) / 'out' / 'a.json'
        if not written.exists():
            return dict(done, files=files)
        return dict(code=done['code'], files=files, keys=keys(json.loads(written.read_text())))


def of_training(name) -> dict:
    """A short run: what it says and all that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        return dict(command(RUNS[name], folder), **folder_of(Path(folder) / 'out' / 'run'))


def folder_of(run: Path) -> dict:
    """The files of a training run: options, figures, weights, and the layout of its checkpoint."""
    import torch
    import yaml

    if not (run / 'last.pth.tar').exists():
        return dict(files=None)
    with open(run / 'summary.csv', newline='') as file:
        rows = [{key: '#' if key == 'seconds' else value for key, value in row.items()} for row in csv.DictReader(file)]
    content = torch.load(run / 'last.pth.tar', map_location='cpu', weights_only=True)
    weights = {key: digests(content[key]) for key in ('state_dict', 'state_dict_ema') if key in content}
    moments = {f'{index}.{key}': digest(torch.as_tensor(value)) for index, state in
               content['optimizer']['state'].items() for key, value in state.items()}
    plain = {key: value for key, value in content.items() if key not in (*weights, 'optimizer')}
    plain = {key: digest(value) if isinstance(value, torch.Tensor) else value for key, value in plain.items()}
    return dict(
        files=sorted(path.name for path in run.iterdir()), summary=rows, content=plain, weights=weights,
        moments=moments, args=yaml.safe_load((run / 'args.yaml').read_text()),
        groups=content['optimizer']['param_groups'])


def make_pictures(root: Path) -> None:
    """Those of tests/train/conftest.py, which the old files were trained on."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (('train', 24), ('val', 8)):
        for name, color in dict(blue=(40, 60, 200), green=(50, 190, 70), red=(210, 50, 40)).items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(color, 70, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f'{i}.png')


def of_resumed(name) -> dict:
    """What comes of the old files (tests/train/fixtures), one way in each."""
    words = RESUMED[name]
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / 'pictures')
        shutil.copytree(FIXTURES, Path(folder) / 'out' / 'run')
        done = command(words, folder)
        again = Path(folder) / 'out' / ('again' if 'again' in words else 'run')
        return dict(done, **folder_of(again)) if words.startswith('train') else done


def of_cards(name) -> dict:
    return command('cards --check')


# --- the sections: what records an entry, and the entries there are

def entries_of(section: str) -> list:
    """Names of the entries of a section in this tree."""
    import zoo

    if not Path(zoo.__file__).is_relative_to(ROOT):
        sys.exit(f'zoo is imported from {zoo.__file__}, not from {ROOT}')
    smallest = zoo.registry.smallest_models()
    configs = ROOT / 'configs'
    return {
        'models': lambda: [*smallest, *(f'zoo_hybrid[{mixer}]' for mixer in MIXERS)],
        'registry': lambda: ['names', 'pretrained', 'smallest', 'public', *zoo.list_models()],
        'list': lambda: ['', '--json', '--pretrained', 'flatten_* --json'],
        'info': lambda: [*smallest, 'zoo_hybrid'],
        'help': lambda: ['zoo', *COMMANDS, *(f'mistake: {words}' for words in MISTAKES), *(
            f'tools/{path.name}' for path in sorted((ROOT / 'tools').glob('*.py')))],
        'recipes': lambda: [*(f'defaults of {command}' for command in ('train', 'validate', 'probe')), *sorted(
            path.stem for path in (configs / 'train').glob('[!_]*.yaml'))],
        'mm': lambda: sorted(str(path.relative_to(configs)) for path in configs.glob('mm*/**/*.py')),
        'results': lambda: [*WRITTEN, *sorted(
            str(path.relative_to(ROOT)) for path in (ROOT / 'results').rglob('*.json'))],
        'train': lambda: list(RUNS), 'resume': lambda: list(RESUMED), 'cards': lambda: ['check'],
    }[section]()


RECORD = dict(  # the slow ones first
    models=of_model, cards=of_cards, results=of_results, train=of_training, resume=of_resumed, info=of_info,
    recipes=of_recipe, help=of_help, list=of_list, registry=of_registry, mm=of_mm)
