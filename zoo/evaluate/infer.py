"""``python -m zoo infer``: the most likely classes of pictures."""
import argparse
import functools
import http.client
import io
import json
import sys
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from torch import nn

from ..train import build, checks, options
from ..train.data import classes, decoding, folders
from ..utils import web
from ..utils.errors import Unreadable, ZooError, format_error, printable
from . import loading
from .option_schema import VALIDATE

ABOUT = ('Print the most likely classes of pictures: files, folders (and what is in them) or http(s) addresses. '
         'Preprocessing is that of the weights, the published ones or those of --checkpoint.')
TIMEOUT = 30  # seconds without a byte
MOST_BYTES = 64 << 20  # of a picture from the net


def infer(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Classify pictures as the command line says, print the classes and return them.

    Returns:
        For each picture ``image`` (its path, or its address without what may be a secret) and either ``classes``, the
        most likely first (dicts of ``index``, ``label``, None if it is not known, and ``probability``), or ``error``.

    Raises:
        ZooError: The input is invalid.
    """
    given = parser().parse_args(list(argv))
    if given.num_classes and not given.checkpoint:
        raise ZooError('--num-classes is for a --checkpoint; the published weights have their own')
    build.check_model_name(given.model)
    checks.device(given.device)
    names = read_labels(given.labels) if given.labels else None
    places = find_pictures(given.images)
    content, carried, own = loading.bring(vars(given))
    if names:
        _check_count(names, given.labels, _classes_of(given, content))
    check_some_open(places)
    chosen = {key: getattr(given, key) for key in ('model', 'checkpoint', 'num_classes') if getattr(given, key)}
    args = options.merge(VALIDATE, carried, chosen, dict(pretrained=content is None))
    model = loading.build_model(args, content, own)
    if not model.num_classes:
        raise ZooError(f'{args.model} has no classifier; its features have no classes')
    labels = labels_of(model, given.labels, classes.names_in(content) if own else None)
    config = build.data_config_of(args, model, test_size=not own)
    device = build.init_distributed(given.device).device
    found = []
    for pictures in predict(model.to(device), config, places, args.batch_size, given.topk):
        for picture in pictures:
            picture['image'] = _named(picture['image'])
            for row in picture.get('classes', ()):
                row['label'] = labels[row['index']] if labels else None
            _print(picture, as_text=not given.json)
        found += pictures
    _fetched.cache_clear()
    if given.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return found


def find_pictures(words: Sequence[str]) -> list[str]:
    """Paths and addresses of pictures; a folder stands for all pictures in it and below, in order.

    Raises:
        ZooError: A file does not exist, or a folder holds no pictures.
    """
    places = []
    for word in words:
        path = Path(word)
        if _is_address(word) or path.is_file():
            places.append(word)
        elif not path.is_dir():
            raise ZooError(f'no picture or folder {word}')
        else:
            found = folders.scan(path)
            if not found.images:
                raise ZooError('; '.join([f'no pictures in {word}', *found.notes()]))
            for line in found.refusals():
                print(f'note: {word}: {line}', file=sys.stderr, flush=True)
            places += sorted(str(path / name) for name in found.images)
    return places


def predict(
        model: nn.Module, config: dict[str, Any], places: Sequence[str], batch_size: int,
        topk: int) -> Iterator[list[dict[str, Any]]]:
    """The most likely classes of pictures, batch by batch.

    Args:
        model: A classifier, which is set to eval mode.
        config: timm's data config.
        places: Paths and addresses.
        batch_size: Number of pictures at once.
        topk: Largest number of classes per picture.

    Yields:
        For each picture of a batch ``image`` and ``classes`` (dicts of ``index`` and ``probability``), or ``error``.
    """
    model.eval()
    transform = create_transform(**config)
    device = next(model.parameters()).device
    for start in range(0, len(places), batch_size):
        pictures, inputs = [], []
        for place in places[start:start + batch_size]:
            try:
                inputs.append(transform(open_picture(place, 'L' if config['input_size'][0] == 1 else 'RGB')))
                pictures.append(dict(image=place, classes=[]))
            except ZooError as e:
                pictures.append(dict(image=place, error=str(e)))
        if inputs:
            with torch.inference_mode():
                probabilities = model(torch.stack(inputs).to(device)).float().softmax(-1)
            best = probabilities.topk(min(topk, probabilities.shape[-1]))
            for picture, *rows in zip((p for p in pictures if 'classes' in p), *(part.tolist() for part in best)):
                picture['classes'] = [dict(index=index, probability=round(p, 6)) for p, index in zip(*rows)]
        yield pictures


def open_picture(place: str, mode: str = 'RGB') -> Image.Image:
    """A picture from a file or an address, upright and in a PIL mode.

    Raises:
        ZooError: It cannot be fetched or read, or is not a picture.
    """
    source = io.BytesIO(_fetched(place)) if _is_address(place) else place
    try:
        return decoding.decode(source, mode)
    except Unreadable as e:
        raise ZooError(f'{_named(place)} cannot be read as a picture ({e})') from None


def check_some_open(places: Sequence[str]) -> None:
    """Check that some picture can be read, before a model is built.

    Raises:
        ZooError: None can be read; the message says why for the first.
    """
    reasons = []
    for place in places:
        try:
            open_picture(place)
            return
        except ZooError as e:
            reasons.append(str(e))
    others = f', nor can the {len(reasons) - 1} others' if len(reasons) > 1 else ''
    raise ZooError(f'{reasons[0]}{others}')


@functools.lru_cache(maxsize=1)
def _fetched(address: str) -> bytes:
    """The result of :func:`download`, cached for the picture that :func:`check_some_open` fetched already."""
    return download(address).getvalue()


def download(address: str) -> io.BytesIO:
    """The picture at an http(s) address.

    Raises:
        ZooError: The server does not respond, sends something other than a picture or a huge one, or is too slow.
    """
    place = _named(address)
    try:
        headers = {'User-Agent': 'backbone-zoo', 'Accept': 'image/*'}
        with web.open_address(address, TIMEOUT, headers) as response:
            kind = response.headers.get_content_type()
            # some stores of files do not say what they are
            if not kind.startswith('image/') and kind != 'application/octet-stream':
                raise ZooError(
                    f'{place} is not a picture but {web.reason(kind)}; give the address of the picture itself')
            return io.BytesIO(b''.join(web.read_blocks(response, MOST_BYTES)))
    except web.TooLarge:
        raise ZooError(f'{place} is larger than {MOST_BYTES >> 20} MB; fetch it and give the file') from None
    except urllib.error.HTTPError as e:
        raise ZooError(f'{place} cannot be fetched ({web.reason(f"HTTP {e.code} {e.reason}")})') from None
    except (OSError, http.client.HTTPException, web.WebError) as e:
        raise ZooError(f'{place} cannot be fetched ({web.reason(e)})') from None


def labels_of(
        model: nn.Module, file: str | None = None, names: classes.Names | None = None) -> Sequence[str | None] | None:
    """Names of a model's classes: those of a file, of its training data, of its pretrained cfg, or ImageNet's if it
    has as many classes.

    Args:
        model: A classifier.
        file: Text file with one name per line.
        names: Names in the model's checkpoint.

    Returns:
        None if they are not known.

    Raises:
        ZooError: The file cannot be read, or does not have one name per class.
    """
    if file:
        labels = read_labels(file)
        _check_count(labels, file, model.num_classes)
        return labels
    if names:
        return [name and printable(name) for name in classes.padded(names, model.num_classes)]
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    names = cfg.get('label_names') or ()
    if len(names) == model.num_classes:
        return [(cfg.get('label_descriptions') or {}).get(name, name) for name in names]
    subset = infer_imagenet_subset(dict(num_classes=model.num_classes))
    return ImageNetInfo(subset).label_descriptions() if subset else None


def read_labels(file: str) -> list[str]:
    """Read the names of classes, one per line.

    Raises:
        ZooError: The file cannot be read.
    """
    try:
        return Path(file).read_text(encoding='utf-8').rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ZooError(f'--labels {file} cannot be read ({format_error(e)})') from None


def _check_count(labels: Sequence[str], file: str, classes: int | None) -> None:
    if classes not in (None, len(labels)):
        raise ZooError(f'--labels {file} has {len(labels)} lines, the model {classes} classes; give one name per line')


def _classes_of(given: argparse.Namespace, content: dict[str, Any] | None) -> int | None:
    """Number of classes of a model that is not built yet; None if it is unknown."""
    if given.num_classes or content is not None:
        return given.num_classes or content.get('num_classes')
    cfg = timm.get_pretrained_cfg(given.model) if timm.is_model(given.model) else None
    return cfg.num_classes if cfg else None


def parser() -> options.Parser:
    """The command line's parser."""
    count = options.number(int, low=1)
    usage = 'python -m zoo infer MODEL IMAGE|FOLDER|URL... [options]'
    parser = options.Parser(prog='zoo infer', usage=usage, description=ABOUT, allow_abbrev=False)
    parser.add_argument('model', metavar='MODEL', help='name of a zoo or timm model')
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER|URL')
    parser.add_argument('--checkpoint', help='file with the weights; by default the published ones')
    parser.add_argument('--topk', type=count, default=5, metavar='K', help='classes per picture (default: 5)')
    parser.add_argument('--labels', metavar='FILE', help="file with one class name per line; default: those of the "
                                                        "checkpoint, or ImageNet's for as many classes")
    parser.add_argument('--num-classes', type=count, metavar='N', help='where a checkpoint does not tell')
    parser.add_argument('-b', '--batch-size', type=count, default=32, metavar='N', help='pictures at once '
                                                                                        '(default: 32)')
    parser.add_argument('--device', default='auto', help="default: cuda if there is one, else cpu")
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def _is_address(word: str) -> bool:
    return word.lower().startswith(('http://', 'https://'))


def _named(place: str) -> str:
    """A path, or an address without possible secrets."""
    return web.shown(place) if _is_address(place) else place


def _print(picture: dict[str, Any], as_text: bool) -> None:
    if 'error' in picture:
        print(f'error: {picture["error"]}', file=sys.stderr, flush=True)
    elif as_text:
        print(picture['image'])
        for row in picture['classes']:
            name = f'class {row["index"]}' if row['label'] is None else f'{row["label"]} ({row["index"]})'
            print(f'  {100 * row["probability"]:5.1f} %  {name}', flush=True)
