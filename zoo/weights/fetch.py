"""Download and verification of official checkpoints from the Hugging Face hub, HTTPS or Google Drive.

The clients are huggingface_hub for the hub (which respects ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``), gdown
for Google Drive, and :mod:`.download` for plain addresses.
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
    """Download the official file of a model and verify it.

    Args:
        source: Location of the file, and its size if known.
        folder: Folder for files from plain addresses and Google Drive; the hub has its own cache.
        known: Expected SHA-256, if known; otherwise damage is detected by the checksums of zip archives and of the hub.

    Returns:
        The file and its SHA-256.

    Raises:
        WeightsError: The file is not available, or is damaged or not the expected one. In the latter cases it is
            removed, so that the next call downloads it again.
    """
    if not fetchable(source):
        raise WeightsError(why_unfetchable(source))
    if source.kind == 'hub':
        path = _from_hub(source)
        blob = path.resolve().name  # the hub names large files by their SHA-256
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
    """Remove a downloaded file. The target of a link is only removed in the hub's cache, which consists of links."""
    if path.is_symlink() and _in_hub_cache(path):
        _unlink(path.parent / path.readlink())
    _unlink(path)


def _in_hub_cache(link: Path) -> bool:
    """Whether a link and its target, which may be another link, are in the cache of huggingface_hub."""
    from huggingface_hub import constants
    return all(is_inside(file.parent, Path(constants.HF_HUB_CACHE)) for file in (link, link.parent / link.readlink()))


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # another user's cache
        _logger.warning('%s could not be removed', file)


def _from_hub(source: Source) -> Path:
    """Download a file from the hub to the cache of huggingface_hub."""
    from huggingface_hub import errors, hf_hub_download

    repo, file, revision = hub_file(source.location)
    hub = f'{file} of {repo} on the hub'
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except errors.GatedRepoError:
        why = f'{hub} is restricted by its authors; request access there, then log in with `hf auth login`'
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as e:
        why = f'{hub} does not exist or is private ({reason(e)})'
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
    """Download a file from Google Drive with gdown."""
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
    """Verify size and hash of a file; return its SHA-256."""
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
            f'{shown_address(source)} is damaged or has been replaced (SHA-256 {digest[:12]}..., expected '
            f'{known[:12]}...); it was removed, try again. If that does not help, the authors have replaced it')
    if known is None:
        _check_archive(path, source)
    return digest


def _check_archive(path: Path, source: Source) -> None:
    """Verify the checksums of a zip archive, which torch.load ignores."""
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
