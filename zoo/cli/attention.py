"""``python -m zoo attention``: draw what a token of a model depends on, or where the evidence for a class is."""
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor, nn

from ..analysis import attribution, cam, token_matrix
from ..analysis.attribution_figure import draw, draw_cams
from ..evaluate import loading
from ..evaluate.infer import find_pictures, labels_of, open_picture
from ..evaluate.option_schema import VALIDATE
from ..train import build, checks, options
from ..train.data import classes
from ..train.options import Parser, number
from ..utils.errors import ZooError, cli_main, require_packages
from ..utils.figures import FORMATS, write_figure
from ..utils.files import check_writable, write_atomically

WHAT = {  # the quantities of zoo.analysis.attribution, and of zoo.analysis.cam
    'erf': 'effective receptive field',
    'influence': 'influence on a token through a mixer',
    'weights': 'attention weights of a query',
    'cam': 'class activation map',
}
MOST_PICTURES = 24  # with maps in one figure
PATIENCE = 2  # seconds before a bar shows how far it is
SHARES = (0.5, 0.9, 0.99)  # of a receptive field, whose squares are printed


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo attention``; returns the exit code."""
    return cli_main(_run, argv, parser)


def _run(argv: Sequence[str]) -> None:
    given = parser().parse_intermixed_args(list(argv))  # options may stand before names, too
    require_packages('matplotlib', 'tqdm')
    path = Path(given.output or f'output/attention/{given.model.replace("/", "_")}-{given.what}.png')
    if path.suffix not in FORMATS:
        raise ZooError(f'--output {path}: end in {", ".join(FORMATS)}')
    check_writable(path.parent)
    _check(given)
    device = checks.device(given.device)
    places = find_pictures(given.images)
    if places:
        open_picture(places[0])
    model, config, names = _build(given)
    model.to(device)
    images = _images(given, places, config).to(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = _cam if given.what == 'cam' else _attribution
    figure, found, lines = work(given, model, config, images, places, names)
    write_figure(path, figure)
    numbers = io.BytesIO()
    np.save(numbers, found.numpy())
    write_atomically(path.with_suffix('.npy'), lambda file: file.write(numbers.getvalue()))
    print('\n'.join([*lines, f'wrote {path}, {path.with_suffix(".npy")}']))


def _check(given: Any) -> None:
    """Check the options that do not depend on the model."""
    if given.checkpoint and given.pretrained:
        raise ZooError('--checkpoint and --pretrained exclude each other; give one')
    if bool(given.noise) == bool(given.images):
        raise ZooError('give pictures, or --noise 16 for random ones')
    of_cam, of_others = (given.number, given.method), (given.noise or None, given.block, given.query)
    if given.what == 'cam':
        require_packages('pytorch_grad_cam', extra=cam.EXTRA)
        if of_others != (None, None, None):
            raise ZooError('--noise, --block and --query are not for --what cam, which explains pictures as a whole')
    elif of_cam != (None, None):
        raise ZooError('--class and --method are for --what cam')
    build.check_model_name(given.model)


def _attribution(
        given: Any, model: nn.Module, config: dict[str, Any], images: Tensor, places: Sequence[str],
        names: classes.Names | None) -> tuple[Any, Tensor, list[str]]:
    """Figure, maps ``[maps, h, w]`` and lines to print of a quantity of zoo.analysis.attribution."""
    from tqdm import tqdm

    block = -1 if given.block is None else given.block
    query = tuple(given.query) if given.query else None
    if given.what == 'influence':
        part, mixes = attribution.find_mixer(model, given.stage, block)
        if not mixes:
            print(f'note: {type(part).__name__} has no token mixer: this is the influence through all of it',
                  file=sys.stderr, flush=True)
    with _fitting(given, images):
        grid = tuple(attribution.feature_map(model, images[:1], given.stage).shape[2:])
    query = attribution.token(grid, query)
    progress = partial(tqdm, desc=given.what, delay=PATIENCE, leave=False)
    if given.what == 'erf':
        found = attribution.receptive_field(model, images, given.stage, query, progress=progress)[None]
    elif given.what == 'influence':
        found = attribution.influence(model, images, given.stage, block, query, progress)[None]
    else:
        found = attribution.attention_weights(model, images, given.stage, block, query)
    found = found.float().cpu()
    if not found.isfinite().all() or not found.any():
        raise ZooError('the map is zero or not finite: the token does not depend on the image with these weights')
    lines = _describe(given, found, grid, query, images)
    if given.what == 'weights':
        for matrix in attribution.token_matrices(model, images, given.stage, block):
            lines.append('token matrix of {} x {}: rank {:.0f}, effective rank {:.1f}, entropy of a row {:.2f}'.format(
                *matrix.shape[1:], *token_matrix.spectrum(matrix)))
    picture = None if given.noise else _picture(images[0], config)
    size = tuple(images.shape[2:])
    return draw(found, grid, query, '\n'.join(lines), size, picture, given.what != 'weights'), found, lines


def _cam(
        given: Any, model: nn.Module, config: dict[str, Any], images: Tensor, places: Sequence[str],
        names: classes.Names | None) -> tuple[Any, Tensor, list[str]]:
    """Figure, maps ``[B, H, W]`` and lines to print of class activation maps."""
    method = given.method or 'gradcam'
    if len(images) > MOST_PICTURES:
        raise ZooError(f'{len(images)} pictures are too many for a figure; give up to {MOST_PICTURES}')
    with _fitting(given, images):
        probabilities = model(images).float().softmax(-1).cpu()
    numbers = probabilities.argmax(1).tolist() if given.number is None else [given.number] * len(images)
    found = cam.class_activation_map(model, images, numbers, method, given.stage)
    labels = labels_of(model, names=names) or [None] * probabilities.shape[1]
    titles = [
        f'{labels[number] or f"class {number}"}, probability {100 * row[number]:.1f} %'
        for number, row in zip(numbers, probabilities.tolist())]
    lines = [f'{given.model}, {_weights_of(given)}: {cam.METHODS[method]} at stage {given.stage}',
             *(f'{Path(place).name}: {title}' for place, title in zip(places, titles))]
    if not found.isfinite().all() or not found.any():
        raise ZooError('the map is zero or not finite: nothing in that stage speaks for the class with these weights; '
                       'try another --stage or --method')
    pictures = [_picture(image, config) for image in images]
    return draw_cams(found, pictures, titles, lines[0]), found, lines


def _build(given: Any) -> tuple[nn.Module, dict[str, Any], classes.Names | None]:
    """The model, its preprocessing, and the names of the classes that its checkpoint brings."""
    torch.manual_seed(0)  # what is not given is drawn, always alike
    content, carried, own = loading.bring(vars(given))
    chosen = {key: getattr(given, key) for key in ('model', 'checkpoint', 'pretrained') if getattr(given, key)}
    args = options.merge(VALIDATE, carried, chosen)
    if given.img_size:
        args.in_chans, args.input_size, args.img_size = build.channels_of(args), None, given.img_size
    model = loading.build_model(args, content, own).eval()
    config = build.data_config_of(args, model)
    return model, config, classes.names_in(content) if own else None


def _images(given: Any, places: Sequence[str], config: dict[str, Any]) -> Tensor:
    """Images ``[B, C, H, W]``, preprocessed as for validation, or noise with the same statistics."""
    if given.noise:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(given.noise, *config['input_size'], generator=generator)
    transform = create_transform(**config)
    mode = 'L' if config['input_size'][0] == 1 else 'RGB'
    return torch.stack([transform(open_picture(place, mode)) for place in places])


@contextlib.contextmanager
def _fitting(given: Any, images: Tensor) -> Iterator[None]:
    """Within this context, report in one line that a model refuses images."""
    try:
        with torch.no_grad():
            yield
    except build.MISFITS as e:
        if isinstance(e, ZooError):
            raise
        raise ZooError(f'images of {" x ".join(map(str, images.shape[2:]))} do not fit {given.model}: {e}') from e


def _describe(
        given: Any, found: Tensor, grid: tuple[int, int], query: tuple[int, int], images: Tensor) -> list[str]:
    block = '' if given.what == 'erf' else f', block {-1 if given.block is None else given.block}'
    lines = [
        f'{given.model}, {_weights_of(given)}: {WHAT[given.what]}',
        f'stage {given.stage}{block}, token {query[0]}, {query[1]} of {grid[0]} x {grid[1]}, {len(images)} '
        f'{"noise images" if given.noise else "image(s)"} of {images.shape[2]} x {images.shape[3]} pixels']
    if given.what == 'erf':
        center = attribution.middle(query, grid, images.shape[2:])
        sides = attribution.extent(found[0], center, SHARES)
        lines.append('held by squares around it: ' + ', '.join(
            f'{100 * share:.0f} % by {side:.0f} pixels' for share, side in zip(SHARES, sides)))
    return lines


def _weights_of(given: Any) -> str:
    return 'published weights' if given.pretrained else given.checkpoint or 'random weights'


def _picture(image: Tensor, config: dict[str, Any]) -> np.ndarray:
    """An image as the model sees it, ``[H, W, 3]`` from 0 to 1."""
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ('mean', 'std'))
    picture = (image.cpu() * std + mean).clamp(0, 1)
    if len(picture) != 3:
        picture = picture.mean(0, keepdim=True).expand(3, -1, -1)
    return picture.permute(1, 2, 0).numpy()


def parser() -> Parser:
    """The command line's parser."""
    count = number(int, low=1)
    usage = 'python -m zoo attention MODEL [IMAGE|FOLDER|URL...] [--noise N] [options]'
    parser = Parser('zoo attention', usage=usage, allow_abbrev=False, description=(
        'Draw what a token of a feature map depends on, as a picture and as numbers (.npy) beside it: the effective '
        'receptive field in pixels of the image (any model), the influence of other tokens through one mixer (any '
        'mixer), the weights of attention over the whole map, or what in a picture speaks for a class (any classifier; '
        'extra "explain"). zoo/analysis/attribution.py and cam.py have the formulas.'))
    parser.add_argument('model', metavar='MODEL', help='name of a zoo or timm model')
    parser.add_argument('images', nargs='*', metavar='IMAGE|FOLDER|URL')
    parser.add_argument('--noise', type=count, default=0, metavar='N', help='N images of normal noise instead')
    parser.add_argument('--what', choices=WHAT, default='erf', help='default: erf')
    parser.add_argument('--stage', type=int, default=-1, metavar='N', help='feature map, from 0 (default: the last)')
    parser.add_argument('--block', type=int, metavar='N', help='of the stage, for influence and weights (default: the '
                                                               'last)')
    parser.add_argument('--query', type=number(int, low=0), nargs=2, metavar=('ROW', 'COLUMN'),
                        help='the token (default: the middle)')
    parser.add_argument('--class', dest='number', type=number(int, low=0), metavar='N',
                        help='number of the class, for cam (default: the one that the model predicts)')
    parser.add_argument('--method', choices=cam.METHODS, help='for cam (default: gradcam)')
    parser.add_argument('--pretrained', action='store_true', help='with the published weights')
    parser.add_argument('--checkpoint', help='with the weights in this file')
    parser.add_argument('--img-size', type=count, metavar='N', help="side of the images (default: the model's)")
    parser.add_argument('--device', default='auto', help='default: cuda if there is one, else cpu')
    parser.add_argument('--output', metavar='FILE', help='a png, svg or pdf file (default: '
                                                         'output/attention/MODEL-WHAT.png)')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser
