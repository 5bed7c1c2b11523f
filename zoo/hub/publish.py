"""``python -m zoo publish``: a model's weights, config and card to a repository of the hub."""
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open

from ..registry import checkpoint_filter
from ..train import checkpoint
from ..train.options import Parser
from ..utils import files
from ..utils.errors import ZooError
from ..utils.version import __version__
from ..utils.web import reason
from ..weights import read_checkpoint, resolve
from ..weights.sources import source
from . import card, package, trained

ABOUT = ('Push a model to the hub: safetensors, config and card, so that timm.create_model("hf-hub:ORG/NAME") loads it '
         'after "import zoo". SOURCE is a folder that "python -m zoo convert" has made, a checkpoint of "python -m zoo '
         'train", or a model of the zoo, whose official weights are taken. Log in before with `hf auth login`, or set '
         'HF_TOKEN.')
REDISTRIBUTABLE = (  # as the hub spells them
    'apache-2.0', 'mit', 'bsd-2-clause', 'bsd-3-clause', 'bsd-3-clause-clear', 'isc', 'unlicense', 'cc0-1.0',
    'cc-by-4.0', 'cc-by-sa-4.0', 'cc-by-nc-4.0', 'cc-by-nc-sa-4.0', 'gpl-3.0', 'lgpl-3.0', 'agpl-3.0', 'mpl-2.0')


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo publish', description=ABOUT)
    parser.add_argument('source', metavar='SOURCE', help='folder, checkpoint, or NAME.TAG')
    parser.add_argument('--repo', required=True, metavar='ORG/NAME', help='repository on the hub; made if need be')
    parser.add_argument('--model', metavar='NAME.TAG', help='what the weights of a checkpoint are called (default: the '
                                                            'model, with the tag custom)')
    parser.add_argument('--license', '--licence', metavar='SPDX', help='of the weights of a checkpoint')
    parser.add_argument('--dry-run', action='store_true', help='only say what would be pushed')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def publish(argv: Sequence[str]) -> dict[str, Any]:
    """Publish as the command line says; return repo, model, licence and the sizes of the files.

    Raises:
        ZooError: the licence does not allow it, the folder is not a package, or the hub refuses.
    """
    args = parser().parse_args(argv)
    if len(args.repo.split('/')) != 2 or not all(args.repo.split('/')):
        raise ZooError(f'--repo {args.repo!r} should be ORG/NAME')
    path = Path(args.source)
    if (args.model or args.license) and not path.is_file():
        raise ZooError('--model and --license are for a checkpoint; a folder and published weights have their own')
    if path.is_dir():
        return _publish(path, args.repo, args.dry_run)
    if path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            _of_checkpoint(path, args.model, args.license, Path(folder))
            return _publish(Path(folder), args.repo, args.dry_run)
    if '/' in args.source:
        raise ZooError(f'there is no folder {args.source}')
    name_tag = package.named(args.source)
    _check_license(source(name_tag).license, name_tag)
    with tempfile.TemporaryDirectory() as folder:
        _of_official(name_tag, Path(folder))
        return _publish(Path(folder), args.repo, args.dry_run)


def _publish(folder: Path, repo: str, dry_run: bool) -> dict[str, Any]:
    facts = package.read(folder)
    model, license = facts['architecture'], facts.get('license', 'unknown')
    _check_license(license, facts.get('model', model))
    with tempfile.TemporaryDirectory() as only:  # what does not load is not pushed; older timm reads stray files too
        for name in package.FILES:
            files.link((folder / name).resolve(), Path(only) / name)
        timm.create_model(f'local-dir:{only}', pretrained=True)
    readme = (folder / 'README.md').read_text(encoding='utf-8').replace(card.REPOSITORY, repo).encode()
    content = {name: folder / name for name in package.FILES} | {'README.md': readme}
    sizes = {name: len(x) if isinstance(x, bytes) else x.stat().st_size for name, x in content.items()}
    if not dry_run:
        _push(content, repo, facts.get('model', model))
    print(f'{"would push" if dry_run else "pushed"} {facts.get("model", model)} ({license}) to {repo}:')
    for name, size in sizes.items():
        print(f'  {name:<20} {size:>12,} bytes')
    print(f"load it with: import timm, zoo; timm.create_model('hf-hub:{repo}', pretrained=True)")
    return dict(repo=repo, model=model, license=license, files=sizes)


def _check_license(license: str, name: str) -> None:
    if license.lower() in REDISTRIBUTABLE:
        return
    why = f'the licence of the weights of {name} is unknown, so nobody else may redistribute them' \
        if license == 'unknown' else f'the licence of the weights of {name}, {license}, is not known to let others ' \
        f'redistribute them ({", ".join(REDISTRIBUTABLE[:4])}, ... are)'
    raise ZooError(f'not published: {why}. Ask the authors; with their leave, or for weights of your own, convert '
                   f'or publish the checkpoint with --license SPDX. Others get them by name, from the authors, '
                   f'without your copy')


def _of_checkpoint(path: Path, model: str | None, license: str | None, folder: Path) -> None:
    """A package of a trained model."""
    content, ours = checkpoint.read(str(path))
    if not ours:
        raise ZooError(f'{path} does not say what it is; python -m zoo convert {path} --model NAME.TAG makes a folder '
                       f'to publish')
    name_tag = trained.name_of(content, path, model)
    _check_license(license or 'unknown', name_tag)
    trained.write(folder, name_tag, content, path, license)


def _of_official(name_tag: str, folder: Path) -> None:
    """A package of the official weights."""
    with torch.device('meta'):
        model = timm.create_model(name_tag)
    path = resolve(name_tag, lambda: model, checkpoint_filter(name_tag.partition('.')[0]))
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    package.write(folder, model, read_checkpoint(path), metadata, card.of_converted(name_tag, model, metadata, True))


def _push(content: dict[str, Path | bytes], repo: str, model: str) -> None:
    """One commit with all files."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name='backbone-zoo', library_version=__version__)
    try:
        api.create_repo(repo, exist_ok=True)
        api.create_commit(
            repo, [CommitOperationAdd(name, x if isinstance(x, bytes) else str(x)) for name, x in content.items()],
            commit_message=f'{model} from backbone-zoo {__version__}')
    except HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else 0
        what = {401: 'wants a login: run `hf auth login`, or set HF_TOKEN',
                403: f'refuses: your token may not write to {repo}'}.get(status, f'refuses ({reason(e)})')
        raise ZooError(f'nothing was published: the hub {what}') from None
    except Exception as e:  # httpx's errors, OSErrors, the hub client's own for offline mode and wrong names
        raise ZooError(f'nothing was published: {reason(e)}') from None
