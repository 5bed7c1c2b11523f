"""``python -m zoo convert``: a checkpoint on disk becomes safetensors with our names, a config and a card."""
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..registry import checkpoint_filter
from ..train import checkpoint
from ..train.options import Parser
from ..utils.errors import ZooError, format_error
from ..utils.files import atomic_dir
from ..weights import state_dict_of
from ..weights.cache import Cache, sha256_of
from ..weights.convert import StateDictMismatch, check_all, classifier_names
from ..weights.fetch import address
from ..weights.official import provenance
from ..weights.sources import source
from . import card, package, reference_outputs, report, trained

ABOUT = ('Convert a checkpoint on disk to safetensors with the names of the zoo: one that "train" wrote, which brings '
         'model, classes and preprocessing along, or an official one. DIR gets model.safetensors, config.json and '
         'README.md; after "import zoo" timm.create_model("local-dir:DIR", pretrained=True) loads it, and "python -m '
         'zoo publish DIR" pushes it.')


def convert(argv: Sequence[str]) -> dict[str, Any]:
    """Convert as the command line says, print what became of the keys and return it.

    Raises:
        ZooError: The checkpoint cannot be read, would run code or does not fit, or other input is invalid.
            Nothing is written then.
    """
    args = parser().parse_args(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            content = _convert(args)
    except StateDictMismatch as e:
        if args.json:
            print(json.dumps(dict(error=format_error(e), problems=e.problems), indent=1))
        elif args.verbose:
            print('\n'.join(e.problems))
        raise
    if args.json:
        print(json.dumps(content, indent=1))
    return content


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo convert', description=ABOUT)
    parser.add_argument('checkpoint', type=Path, help='.pth, .pt, .pth.tar, .safetensors: of the authors, or our own')
    parser.add_argument('--model', metavar='NAME.TAG', help='whose weights they are; of a checkpoint of "train" only '
                                                            'the tag is yours to choose (default: custom)')
    parser.add_argument('--output', required=True, type=Path, metavar='DIR', help='folder to make')
    parser.add_argument('--check', metavar='PROBE.json', help='outputs of the authors\' code that have to come out')
    parser.add_argument('--license', '--licence', metavar='SPDX', help='of weights of your own, or where the authors '
                                                                       'told you')
    parser.add_argument('--verbose', action='store_true', help='name the keys')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def _convert(args) -> dict[str, Any]:
    content, ours = checkpoint.read(str(args.checkpoint))
    told = _of_train(args, content) if ours else _of_others(args, content)
    _print(told, args.verbose)
    if not ours and not told['official']:
        print('these are not taken for the weights that the authors released: their accuracy is not in the card')
    return told


def _of_train(args, content: dict[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of ``zoo train``, which describes its own model."""
    if args.check:
        raise ZooError('--check compares with the code of a paper\'s authors; leave it out for a checkpoint of "train"')
    name_tag = trained.name_of(content, args.checkpoint, args.model)
    with _output(args.output) as folder:
        metadata = trained.write(folder, name_tag, content, args.checkpoint, args.license)
    names = list(state_dict_of(content))
    return _told_of(args, name_tag, metadata, False, report.Report(names, {}, [], [], []))


def _of_others(args, content: dict[str, Any]) -> dict[str, Any]:
    """Convert weights whose model the user names."""
    if args.model is None:
        raise ZooError(f'{args.checkpoint} does not say what model it is of; give --model NAME.TAG')
    name_tag = package.named(args.model)
    probe = reference_outputs.read(args.check) if args.check else None
    if probe and probe['name'] != name_tag.partition('.')[0]:
        raise ZooError(f'{args.check} is a probe of {probe["name"]}, not of {name_tag}')
    state = state_dict_of(content)
    with _output(args.output) as folder:
        model, state, keys = _fit(name_tag, state)
        figures = reference_outputs.compare(probe, state) if probe else None
        if probe and not reference_outputs.agrees(figures):
            raise ZooError(f'the converted {name_tag} does not give what {args.check} says: {_told(figures)}; '
                           f'nothing was written')
        same = model.num_classes == source(name_tag).num_classes and not keys.resampled
        metadata, official = _origin(name_tag, same, args.checkpoint, args.license)
        package.write(folder, model, state, metadata, card.of_converted(name_tag, model, metadata, official))
    return _told_of(args, name_tag, metadata, official, keys, figures)


@contextlib.contextmanager
def _output(folder: Path) -> Iterator[Path]:
    try:
        with atomic_dir(folder) as draft:
            yield draft
    except OSError as e:
        raise ZooError(f'cannot write to {folder} ({e.strerror or e}); choose another --output') from None


def _told_of(
        args, name_tag: str, metadata: dict[str, str], official: bool, keys: report.Report,
        figures: dict[str, float] | None = None) -> dict[str, Any]:
    """The report of a conversion, for printing."""
    return dict(
        model=name_tag, checkpoint=str(args.checkpoint), sha256=metadata['source_sha256'], license=metadata['license'],
        official=official, keys=keys.counts(), names=vars(keys), check=figures,
        files=[str(args.output / name) for name in package.FILES])


def _fit(name_tag: str, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], report.Report]:
    """The model without weights, with as many classes as the weights have."""
    with torch.device('meta'):
        model = timm.create_model(name_tag)
        state, keys = report.fit(state, model, checkpoint_filter(model.pretrained_cfg['architecture']))
        bias = state.get(f'{classifier_names(model)[0]}.bias')
        if bias is not None and len(bias) != model.num_classes:
            model = timm.create_model(name_tag, num_classes=len(bias))
    check_all(state, model)
    return model, state, keys


def _origin(name_tag: str, same: bool, path: Path, license: str | None) -> tuple[dict[str, str], bool]:
    """Metadata of the weights, and whether they go as those that the authors released: not against the known hash, nor
    with a licence that the user has named, nor unless they are the ``same`` in classes and size.
    """
    row, sha256 = source(name_tag), sha256_of(path)
    known = row.sha256 or (Cache().recorded(row.location) if row.location else None)
    official = license is None and row.kind != 'none' and known in (None, sha256) and same
    place = address(row) if official else path.name
    return provenance(name_tag, place, sha256, license or (row.license if official else 'unknown')), official


def _told(figures: dict[str, float]) -> str:
    text = f'logits differ by {figures["logits"]:.1e} of their largest value'
    if 'gradient' in figures:
        text += f', the gradient by {figures["gradient"]:.1e}'
    return f'{text}, allowed {figures["gate"]:.0e}'


def _print(content: dict[str, Any], verbose: bool) -> None:
    counts = content['keys']
    print(f'{content["model"]}  SHA-256 of the checkpoint {content["sha256"][:12]}  licence {content["license"]}')
    print(f'keys: {counts["used"]} used ({counts["renamed"]} renamed), {counts["dropped"]} dropped, '
          f'{counts["resampled"]} resampled, {counts["missing"]} missing')
    if verbose:
        for theirs, ours in content['names']['renamed'].items():
            print(f'  {theirs} -> {", ".join(ours)}')
        for kind in ('dropped', 'resampled', 'missing'):
            for name in content['names'][kind]:
                print(f'  {kind}: {name}')
    if content['check']:
        print(f'check: {_told(content["check"])}')
    print(f'written: {" ".join(content["files"])}')
