"""Bringing an official checkpoint to disk: from the hub, over HTTPS or from Google Drive, resumed and checked.

Each host has its own client: huggingface_hub for the hub (which heeds ``HF_HOME``, ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE``), gdown for Google Drive, and for all that is a plain address the small one of :mod:`.download`.
"""
import logging
import re
import zipfile
from pathlib import Path

from ..utils.web import reason
from .cache import NO_ROOM, WeightsError, is_inside, own_file, sha256_of, unwritable, writing
from .download import DELAYS, download
from .places import address, fetchable, hub_file, manual_hint, refuse_page, shown_address, why_unfetchable
from .sources import Source

__all__ = ['DELAYS', 'EXTRA', 'address', 'fetch', 'fetchable', 'hub_file', 'remove']

EXTRA = 'pip install "backbone-zoo[gdrive]"'
_logger = logging.getLogger(__name__)


def fetch(source: Source, folder: Path, known: str | None) -> tuple[Path, str]:
    """Fetch the official file of a model, and check it.

    Args:
        source: Where it is, and its size if that is known.
        folder: Where files of plain addresses and of Google Drive go; the hub has a cache of its own.
        known: SHA-256 that the file must have, if it is known; otherwise any damage that its own check sums (those
            of a zip archive) and the hub's show is found.

    Returns:
        The file and its SHA-256.

    Raises:
        WeightsError: It cannot be had, or is damaged or another one (and then removed, so that the next call fetches
            it again). One line, with what to do.
    """
    if not fetchable(source):
        raise WeightsError(why_unfetchable(source))
    if source.kind == 'hub':
        path = _from_hub(source)
        blob = path.resolve().name  # of large files the hub's cache and server know the SHA-256
        known = known or (blob if re.fullmatch('[0-9a-f]{64}', blob) else None)
    else:
        suffix = '.safetensors' if source.location.endswith('.safetensors') else '.pth'
        path = folder / f'{source.name}{suffix}'
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            _refuse_offline(source)
            (_from_drive if source.kind == 'gdrive' else download)(source, path)
    try:
        return path, _verify(path, source, known)
    except WeightsError:
        remove(path)
        raise


def remove(path: Path) -> None:
    """Remove a fetched file. What a link points to goes with it only in the hub's cache, whose own links they are."""
    if path.is_symlink() and _in_hub_cache(path):
        _unlink(path.parent / path.readlink())
    _unlink(path)


def _in_hub_cache(link: Path) -> bool:
    """Whether a link and what it points to, which may be another link, lie in the cache of huggingface_hub."""
    from huggingface_hub import constants
    return all(is_inside(file.parent, Path(constants.HF_HUB_CACHE)) for file in (link, link.parent / link.readlink()))


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # the cache of somebody else
        _logger.warning('%s could not be removed', file)


def _from_hub(source: Source) -> Path:
    """A file of the hub, in the cache of huggingface_hub."""
    from huggingface_hub import errors, hf_hub_download

    repo, file, revision = hub_file(source.location)
    hub = f'{file} of {repo} on the hub'
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except errors.GatedRepoError:
        why = f'{hub} is open only to those whom its authors admit; ask there, then log in with `hf auth login`'
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as e:
        why = f'{hub} is gone or private ({reason(e)})'
    except errors.LocalEntryNotFoundError as e:
        if _offline():
            raise WeightsError(_offline_refusal(source)) from None
        why = f'{hub} cannot be reached and is not in the cache ({reason(e.__cause__ or e)}); try again later'
    except Exception as e:  # httpx's errors of many classes, and OSErrors of disk and network
        if isinstance(e, OSError) and e.errno in NO_ROOM:
            raise WeightsError(f'{unwritable(Path(e.filename or "the cache of the hub"), e)}, or HF_HOME') from None
        why = f'{hub} cannot be fetched ({reason(e)}); try again'
    raise WeightsError(f'{why}. {manual_hint(source)}')


def _from_drive(source: Source, path: Path) -> None:
    """A file of Google Drive, by gdown."""
    try:
        import gdown
    except ImportError:
        raise WeightsError(
            f'the weights of {source.name} are on Google Drive ({shown_address(source)}): {EXTRA}, then try '
            f'again. {manual_hint(source)}') from None
    part = Path(f'{path}.part')
    with writing(path.parent):
        own_file(part)
    try:
        gdown.download(id=source.location, output=str(part), resume=True)
    except Exception as e:  # gdown's own, those of requests, and OSErrors
        if isinstance(e, OSError) and e.errno in NO_ROOM:
            raise WeightsError(unwritable(path.parent, e)) from None
        raise WeightsError(f'{shown_address(source)} cannot be fetched ({reason(e)}); try again later. '
                           f'{manual_hint(source)}') from None
    with writing(path.parent):
        part.replace(path)


def _verify(path: Path, source: Source, known: str | None) -> str:
    """Check size and hash of a file; return its SHA-256."""
    with open(path, 'rb') as file:
        refuse_page(source, bool(re.match(rb'\s*<(!doctype|html|\?xml)', file.read(200), re.I)))
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise WeightsError(
            f'{shown_address(source)} has {size} bytes instead of {source.bytes}; it was removed, try again. If that '
            f'does not help, the authors have replaced it. {manual_hint(source)}')
    digest = sha256_of(path)
    if known is not None and digest != known:
        raise WeightsError(
            f'{shown_address(source)} is damaged or another file than before (SHA-256 {digest[:12]}..., expected '
            f'{known[:12]}...); it was removed, try again. If that does not help, the authors have replaced it')
    if known is None:
        _check_archive(path, source)
    return digest


def _check_archive(path: Path, source: Source) -> None:
    """torch.load does not look at the check sums that torch.save writes."""
    damaged: Exception | str | None = None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
    except Exception as e:  # zipfile raises a dozen types for damaged files
        damaged = e
    if damaged:
        raise WeightsError(f'{shown_address(source)} arrived damaged ({reason(damaged)}); it was removed, try again')


def _offline() -> bool:
    from huggingface_hub import constants
    return constants.HF_HUB_OFFLINE


def _offline_refusal(source: Source) -> str:
    return (f'the weights of {source.name} are not in the cache and HF_HUB_OFFLINE is set: unset it to fetch them from '
            f'{shown_address(source)}. {manual_hint(source)}')


def _refuse_offline(source: Source) -> None:
    if _offline():
        raise WeightsError(_offline_refusal(source))
