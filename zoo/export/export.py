"""``python -m zoo export``: a model as a file for another runtime, compared with the model before it is kept."""
import argparse
import copy
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from ..analysis import result_files
from ..backbone import Backbone
from ..evaluate import loading
from ..evaluate.infer import labels_of, open_picture
from ..evaluate.option_schema import VALIDATE
from ..train import build, checks, options
from ..train.data import classes
from ..utils.errors import ZooError, format_error, printable, require_packages
from ..utils.files import check_writable
from .formats import FORMATS, Facts, Format, Options, Recording

ABOUT = ('Write a model as a file for another runtime, for one image of a fixed size (or --dynamic), with names of '
         'classes, mean and std in its metadata. Its logits for a picture are compared with those of the model before '
         'the file is kept; Core ML is executed on macOS alone.')
# Largest difference of a logit that a file may have, over the largest logit
TOLERANCES = dict(float32=1e-3, half=0.05, int8=0.5)


def parser() -> options.Parser:
    """The command line's parser."""
    count = options.number(int, low=1)
    parser = options.Parser(
        'zoo export', usage=f'python -m zoo export MODEL --format {"|".join(FORMATS)} [options]', description=ABOUT,
        allow_abbrev=False)
    parser.add_argument('model', metavar='MODEL', help='name of a zoo or timm model')
    parser.add_argument('--format', required=True, choices=FORMATS, help='the file to write')
    parser.add_argument('--pretrained', action='store_true', help='with the published weights')
    parser.add_argument('--checkpoint', help='with the weights in this file; without either they are random')
    parser.add_argument('--model-kwargs', nargs='*', default=[], metavar='KEY=VALUE', help='arguments of the model')
    parser.add_argument('--output', type=Path, metavar='FILE', help='default: output/export/MODEL.SUFFIX')
    parser.add_argument('--size', type=count, nargs='+', metavar='N', help="height and width, or one for both "
                                                                          "(default: the model's)")
    parser.add_argument('--batch-size', type=count, default=1, metavar='N', help='images of a call (default: 1)')
    parser.add_argument('--dynamic', action='store_true', help='any batch, height and width (onnx, openvino, pt2)')
    parser.add_argument('--half', action='store_true', help='float16')
    parser.add_argument('--int8', action='store_true', help='8-bit linear layers (onnx, pt2)')
    parser.add_argument('--image', metavar='PICTURE', help='picture to compare by (default: a drawn one)')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def export(argv: Sequence[str]) -> dict[str, Any]:
    """Export as the command line says, print what was written and return it.

    Returns:
        model, format, files, bytes, size, deviation (largest difference of a logit over the largest logit; None if the
        file was not executed) and same_top1.

    Raises:
        ZooError: The format lacks an operator, the outputs differ, or other input is invalid.
    """
    args = parser().parse_intermixed_args(list(argv))
    form = FORMATS[args.format]
    path = _check(args, form)
    model, config, names = _build(args)
    images = _images(args, config)
    with torch.no_grad():
        expected = _logits(model, images, args)
    facts = Facts(
        args.model, tuple(images.shape[1:]), tuple(config['mean']), tuple(config['std']), config['interpolation'],
        config['crop_pct'], config['crop_mode'], names)
    chosen = Options(args.dynamic, args.half, args.int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.export-', dir=path.parent) as draft:
        written = Path(draft, path.name)
        _write(form, model, images, chosen, facts, written, args.debug)
        deviation, same = _compare(form, written, images, expected, chosen)
        files = _move(sorted(Path(draft).iterdir()), path.parent, args.force)
    told = dict(
        model=args.model, format=args.format, files=[str(file) for file in files],
        bytes=sum(_bytes(file) for file in files), size=list(images.shape), deviation=deviation, same_top1=same)
    print(json.dumps(told, indent=1) if args.json else '\n'.join(_lines(told, args, form)))
    return told


def _check(args: argparse.Namespace, form: Format) -> Path:
    """Check the options that do not depend on the model; return the path of the file."""
    for name in ('dynamic', 'half', 'int8'):
        if getattr(args, name) and name not in form.takes:
            others = ', '.join(key for key, other in FORMATS.items() if name in other.takes)
            raise ZooError(f'--{name} is not for --format {args.format}; it is for {others}')
    if args.half and args.int8:
        raise ZooError('--half and --int8 exclude each other; give one')
    if args.checkpoint and args.pretrained:
        raise ZooError('--checkpoint and --pretrained exclude each other; give one')
    if args.size and len(args.size) > 2:
        raise ZooError('--size takes height and width, or one number for both')
    require_packages(*form.packages, extra=f'pip install "backbone-zoo[{form.extra}]"')
    build.check_model_name(args.model)
    checks.model_kwargs(options.pairs(args.model_kwargs))
    path = args.output or Path('output/export', re.sub(r'[^\w.-]', '_', args.model) + form.suffix)
    if path.suffix != form.suffix:
        raise ZooError(f'--output {path}: a file of {args.format} ends in {form.suffix}')
    check_writable(path.parent)
    if path.exists() and not args.force:
        raise ZooError(f'{path} is there already; choose another --output, or --force to replace it')
    if args.image:
        open_picture(args.image)
    return path


def _build(args: argparse.Namespace) -> tuple[nn.Module, dict[str, Any], list[str] | None]:
    """The model in eval mode, its preprocessing and the names of its classes."""
    torch.manual_seed(0)  # what is not given is drawn, always alike
    chosen = {key: getattr(args, key) for key in ('model', 'checkpoint', 'pretrained') if getattr(args, key)}
    kwargs = options.pairs(args.model_kwargs)
    content, carried, own = loading.bring(dict(chosen, model_kwargs=kwargs))
    settled = options.merge(VALIDATE, carried, chosen, dict(model_kwargs=kwargs))
    model = loading.build_model(settled, content, own).eval()
    if not args.pretrained and content is None:
        print('note: the weights are random; give --pretrained or --checkpoint for others', file=sys.stderr)
    config = build.data_config_of(settled, model, test_size=not own)
    if args.size:
        config['input_size'] = (config['input_size'][0], args.size[0], args.size[-1])
    labels = labels_of(model, names=classes.names_in(content) if own else None)
    names = labels and [name or f'class {number}' for number, name in enumerate(labels)]
    return model, config, names


def _images(args: argparse.Namespace, config: dict[str, Any]) -> Tensor:
    """The preprocessed picture ``[B, C, H, W]``, repeated for the batch size of a call."""
    mode = 'L' if config['input_size'][0] == 1 else 'RGB'
    picture = open_picture(args.image, mode) if args.image else drawn_picture().convert(mode)
    image = create_transform(**config)(picture)
    return image.expand(args.batch_size, *config['input_size']).contiguous()


def drawn_picture() -> Image.Image:
    """Smooth shapes and some grain, as photographs have and white noise does not; the same every time."""
    y, x = np.mgrid[0:1:256j, 0:1:256j]
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x ** 2), np.sin(12 * np.hypot(x - 0.4, y - 0.6))]
    grain = np.random.default_rng(0).normal(0, 8, (256, 256, 3))
    return Image.fromarray((127.5 + 100 * np.stack(waves, -1) + grain).clip(0, 255).astype(np.uint8))


def _logits(model: nn.Module, images: Tensor, args: argparse.Namespace) -> Tensor:
    try:
        return model(images)
    except build.MISFITS as e:
        size = ' x '.join(map(str, images.shape[2:]))
        raise ZooError(f'images of {size} do not fit {args.model}: {format_error(e)}; choose another --size') from e


def _write(
        form: Format, model: nn.Module, images: Tensor, chosen: Options, facts: Facts, path: Path, debug: bool) -> None:
    try:
        form.write(recorded(model, images, chosen.dynamic), chosen, facts, path)
    except ZooError:
        raise
    except Exception as e:  # of torch and the converters, each of its own kind
        if debug:
            raise
        text = str(e)
        lacking = form.operators_in(text)
        reason = f'{form.title} has no {", ".join(lacking)}' if lacking else (
            f'it cannot be converted to {form.title} ({printable(text)[-300:] or type(e).__name__})')
        others = works_for(facts.model)
        raise ZooError(f'{facts.model}: {reason}; ' + (
            f'these formats are known to take it: {", ".join(others)}' if others else
            'try another --format; --debug shows the traceback')) from e


def recorded(model: nn.Module, images: Tensor, dynamic: bool = False) -> Recording:
    """A copy of a model to record for images ``[B, C, H, W]``, with position tables of their size."""
    model = copy.deepcopy(model)
    if isinstance(model, Backbone) and not dynamic:
        model.store_tables(tuple(images.shape[2:]))
    return Recording(model, images, dynamic)


def works_for(model: str) -> list[str]:
    """The formats that the model, or the smallest of its family, is known to convert to."""
    row = result_files.compatibility(model) or {}
    return [name for name in FORMATS if row.get(name, {}).get('result') in ('runs', 'converts')]


def _compare(
        form: Format, path: Path, images: Tensor, expected: Tensor,
        chosen: Options) -> tuple[float | None, bool | None]:
    """How far the logits of a file are from the model's, over the largest of them, and whether the top class is the
    same; None for what does not run here."""
    if form.run is None:
        return None, None
    try:
        logits = form.run(path, images)
    except Exception as e:  # of the runtimes, each of its own kind
        lacking = form.operators_in(str(e))
        raise ZooError(f'{form.title} does not run the file ({", ".join(lacking) or printable(str(e))[-300:]}); '
                       f'nothing was written') from e
    deviation = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    allowed = TOLERANCES['int8' if chosen.int8 else 'half' if chosen.half else 'float32']
    if not deviation <= allowed:
        raise ZooError(f'the logits of the file differ from those of the model by {deviation:.1e} of the largest, '
                       f'more than {allowed:g}; nothing was written')
    return deviation, bool((logits.argmax(1) == expected.argmax(1)).all())


def _move(files: Sequence[Path], folder: Path, force: bool) -> list[Path]:
    """Move the written files to their place."""
    targets = [folder / file.name for file in files]
    for target in targets:
        if target.exists() and not force:
            raise ZooError(f'{target} is there already; choose another --output, or --force to replace it')
    for file, target in zip(files, targets):
        if target.is_dir():
            shutil.rmtree(target)
        file.replace(target)
    return targets


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob('*')) if file.is_file())


def _lines(told: dict[str, Any], args: argparse.Namespace, form: Format) -> list[str]:
    size = 'any batch, height and width' if args.dynamic else ' x '.join(map(str, told['size']))
    lines = [f'written: {" ".join(told["files"])}  ({told["bytes"] / 1e6:.1f} MB, images {size})']
    if told['deviation'] is None:
        return [*lines, f'not executed: {form.title} runs on macOS alone']
    same = 'the same top class' if told['same_top1'] else 'but another top class'
    return [*lines, f'compared with the model on {args.image or "a drawn picture"}: logits differ by '
                    f'{told["deviation"]:.1e} of the largest, {same}']
