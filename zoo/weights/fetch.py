"""Bringing an official checkpoint to disk: from the hub, over HTTPS or from Google Drive, resumed and checked.

Each host has its own client: huggingface_hub for the hub (which heeds ``HF_HOME``, ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE``), gdown for Google Drive, and for all that is a plain address the small one below.
"""
import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cache import NO_ROOM, WeightsError, sha256_of, unwritable, writing
from .sources import Source, load

PLAIN = ('github', 'https', 'tsinghua', 'onedrive')
EXTRA = 'pip install "backbone-zoo[gdrive]"'
DELAYS = (1, 2, 4, 8)  # seconds before each new attempt that follows one in which nothing arrived
MOST_DELAY = 60  # seconds that a server may ask for
TIMEOUT = 30  # seconds without a byte
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be others the next time
_logger = logging.getLogger(__name__)


class TransientError(Exception):
    """A failure that may be gone the next time; ``delay`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, delay: float = 0):
        super().__init__(reason)
        self.delay = delay


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
        WeightsError: it cannot be had, or is damaged or another one (and then removed, so that the next call fetches
            it again). One line, with what to do.
    """
    if not fetchable(source):
        raise WeightsError(_unfetchable(source))
    if source.kind == 'hub':
        path = _from_hub(source)
        blob = path.resolve().name  # of large files the hub's cache and server know the SHA-256
        known = known or (blob if re.fullmatch('[0-9a-f]{64}', blob) else None)
    else:
        suffix = '.safetensors' if source.location.endswith('.safetensors') else '.pth'
        path = folder / f'{source.name}{suffix}'
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _refuse_offline(source)
            (_from_drive if source.kind == 'gdrive' else download)(source, path)
    try:
        return path, _verify(path, source, known)
    except WeightsError:
        remove(path)
        raise


def fetchable(source: Source) -> bool:
    """Whether :func:`fetch` knows a way to the file."""
    return source.kind in ('hub', 'gdrive', *PLAIN)


def hub_file(location: str) -> tuple[str, str, str | None]:
    """Repository, file and revision (None: the newest) of ``org/repo:file@revision``."""
    repo, _, file = location.partition(':')
    file, _, revision = file.partition('@')
    return repo, file, revision or None


def address(source: Source) -> str:
    """Where a person finds the file; '' if there is none."""
    if source.kind == 'hub':
        repo, file, revision = hub_file(source.location)
        return f'https://huggingface.co/{repo}/resolve/{revision or "main"}/{file}'
    return f'https://drive.google.com/uc?id={source.location}' if source.kind == 'gdrive' else source.location


def remove(path: Path) -> None:
    """Remove a fetched file; of one in the hub's cache what the link points to as well."""
    for file in (path.resolve(), path):
        try:
            file.unlink(missing_ok=True)
        except OSError:  # the cache of somebody else
            _logger.warning('%s could not be removed', file)


def manual_hint(source: Source) -> str:
    """How to go on with a file that one has got oneself."""
    model = source.name.partition('.')[0]
    return (f"With the file on disk, timm.create_model('{model}', pretrained=True, "
            f"pretrained_cfg_overlay=dict(file='...')) loads it")


def download(source: Source, path: Path) -> None:
    """Fetch a plain address to ``path``; what an earlier call has left in ``path.part`` is continued.

    Raises:
        WeightsError: the server refuses, answers with a web page, or cannot be reached in several attempts.
    """
    part = Path(f'{path}.part')
    best = failures = 0
    while True:
        try:
            _transfer(source, part)
            break
        except TransientError as e:
            got = part.stat().st_size if part.exists() else 0
            best, failures = max(best, got), 0 if got > best else failures + 1
            if failures > len(DELAYS):
                kept = f'; {got} bytes are kept, the next call goes on from there' if got else ''
                raise WeightsError(
                    f'{source.location} cannot be fetched ({e}){kept}. Try again later. '
                    f'{manual_hint(source)}') from None
            delay = min(max(e.delay, DELAYS[max(failures - 1, 0)]), MOST_DELAY)
            _logger.warning('%s: %s; next attempt in %g s', source.location, e, delay)
            time.sleep(delay)
    with writing(path.parent):
        part.replace(path)
        _sidecar(part).unlink(missing_ok=True)


def _transfer(source: Source, part: Path) -> None:
    """One attempt to complete ``part``.

    Raises:
        TransientError: try again; what has arrived is kept.
    """
    start, before = _resume_offset(part)
    if start and start == before['size']:
        return
    headers = {'User-Agent': 'backbone-zoo', **({'Range': f'bytes={start}-'} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(source.location, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code == 416 and start:
            part.unlink()
            raise TransientError('the file on the server has changed') from None
        raise _of_status(source, e.code, e.reason, e.headers) from None
    except (OSError, http.client.HTTPException) as e:
        raise TransientError(_reason(e)) from None
    with response:
        _refuse_page(source, response.headers.get_content_type() == 'text/html')
        now = _identity(response.headers)
        if start and response.status == 206 and (now != before or _first_byte(response.headers) != start):
            part.unlink()  # a part of another file
            raise TransientError('the file on the server has changed')
        if response.status != 206:
            start = 0
        with writing(part.parent):
            _sidecar(part).write_text(json.dumps(dict(now, url=source.location)))
        _receive(source, response, part, start, now['size'])


def _receive(source: Source, response: http.client.HTTPResponse, part: Path, start: int, size: int | None) -> None:
    """Write what the server sends behind the first ``start`` bytes of ``part``."""
    with writing(part.parent):
        file = open(part, 'ab' if start else 'wb', buffering=0)
    with file, tqdm(total=size, initial=start, unit='B', unit_scale=True, desc=source.name, disable=None) as bar:
        got = start
        while True:
            try:
                block = response.read(1 << 18)
            except (OSError, http.client.HTTPException) as e:
                raise TransientError(_reason(e)) from None
            if not block:
                break
            with writing(part.parent):
                file.write(block)
            got += len(block)
            bar.update(len(block))
    if size is not None and got < size:
        raise TransientError(f'the connection ended after {got} of {size} bytes')


def _resume_offset(part: Path) -> tuple[int, dict[str, Any]]:
    """Size of what an earlier attempt has left, and what the server said of the whole file; 0 if it is of no use."""
    try:
        before = json.loads(_sidecar(part).read_text())
        before.pop('url')
        whole = before['size'] is not None and before.keys() == {'etag', 'modified', 'size'}
        return (part.stat().st_size if whole else 0), before
    except (OSError, ValueError, KeyError, AttributeError):
        return 0, {}


def _identity(headers: Message) -> dict[str, Any]:
    """What tells whether the file on the server is the same as before."""
    ranged = re.search(r'/(\d+)$', headers.get('Content-Range', ''))
    size = ranged.group(1) if ranged else headers.get('Content-Length')
    return dict(etag=headers.get('ETag'), modified=headers.get('Last-Modified'), size=int(size) if size else None)


def _first_byte(headers: Message) -> int | None:
    ranged = re.match(r'bytes (\d+)-', headers.get('Content-Range', ''))
    return int(ranged.group(1)) if ranged else None


def _sidecar(part: Path) -> Path:
    return Path(f'{part}.json')


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
        why = f'{hub} is gone or private ({_reason(e)})'
    except errors.LocalEntryNotFoundError as e:
        if _offline():
            raise WeightsError(_offline_refusal(source)) from None
        why = f'{hub} cannot be reached and is not in the cache ({_reason(e.__cause__ or e)}); try again later'
    except Exception as e:  # httpx's errors of many classes, and OSErrors of disk and network
        if isinstance(e, OSError) and e.errno in NO_ROOM:
            raise WeightsError(f'{unwritable(Path(e.filename or "the cache of the hub"), e)}, or HF_HOME') from None
        why = f'{hub} cannot be fetched ({_reason(e)}); try again'
    raise WeightsError(f'{why}. {manual_hint(source)}')


def _from_drive(source: Source, path: Path) -> None:
    """A file of Google Drive, by gdown."""
    try:
        import gdown
    except ImportError:
        raise WeightsError(
            f'the weights of {source.name} are on Google Drive ({address(source)}): {EXTRA}, then try '
            f'again. {manual_hint(source)}') from None
    part = Path(f'{path}.part')
    try:
        gdown.download(id=source.location, output=str(part), resume=True)
    except Exception as e:  # gdown's own, those of requests, and OSErrors
        if isinstance(e, OSError) and e.errno in NO_ROOM:
            raise WeightsError(unwritable(path.parent, e)) from None
        raise WeightsError(f'{address(source)} cannot be fetched ({_reason(e)}); try again later. '
                           f'{manual_hint(source)}') from None
    with writing(path.parent):
        part.replace(path)


def _verify(path: Path, source: Source, known: str | None) -> str:
    """Check size and hash of a file; return its SHA-256."""
    with open(path, 'rb') as file:
        _refuse_page(source, bool(re.match(rb'\s*<(!doctype|html|\?xml)', file.read(200), re.I)))
    size = path.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise WeightsError(
            f'{address(source)} has {size} bytes instead of {source.bytes}; it was removed, try again. If that '
            f'does not help, the authors have replaced it. {manual_hint(source)}')
    digest = sha256_of(path)
    if known is not None and digest != known:
        raise WeightsError(
            f'{address(source)} is damaged or another file than before (SHA-256 {digest[:12]}..., expected '
            f'{known[:12]}...); it was removed, try again. If that does not help, the authors have replaced it')
    if known is None and zipfile.is_zipfile(path):
        _check_archive(path, source)
    return digest


def _check_archive(path: Path, source: Source) -> None:
    """torch.load does not look at the check sums that torch.save writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as e:
        damaged = _reason(e)
    if damaged:
        raise WeightsError(f'{address(source)} arrived damaged ({damaged}); it was removed, try again')


def _refuse_page(source: Source, is_page: bool) -> None:
    if is_page:
        raise WeightsError(
            f'{address(source)} answers with a web page instead of the file: the link has expired, or wants a login '
            f'or a click. Open it in a browser; {_lower(manual_hint(source))}')


def _of_status(source: Source, code: int, reason: str, headers: Message) -> Exception:
    """The error for an HTTP status."""
    said = f'HTTP {code} {reason}'.strip()
    if code in PASSING:
        delay = headers.get('Retry-After', '')
        return TransientError(said, delay=float(delay) if delay.isdigit() else 0)
    what = {401: 'wants a login', 403: 'refuses access', 404: 'is gone', 410: 'is gone'}.get(code, 'cannot be fetched')
    return WeightsError(f'{address(source)} {what} ({said}). {manual_hint(source)}')


def _unfetchable(source: Source) -> str:
    if source.kind == 'none':
        model = source.name.partition('.')[0]
        others = [name for name, row in load().items() if name.startswith(f'{model}.') and fetchable(row)]
        instead = f'There are weights of {", ".join(others)}' if others else 'pretrained=False makes the model without'
        return (f'there are no official weights of {source.name} to download ({source.note}). '
                f'{instead}; {_lower(manual_hint(source))}')
    note = f' ({source.note})' if source.note else ''
    return (f'the weights of {source.name} have to be fetched by hand from {source.location}{note}. '
            f'{manual_hint(source)}')


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _offline() -> bool:
    from huggingface_hub import constants
    return constants.HF_HUB_OFFLINE


def _offline_refusal(source: Source) -> str:
    return (f'the weights of {source.name} are not in the cache and HF_HUB_OFFLINE is set: unset it to fetch them from '
            f'{address(source)}. {manual_hint(source)}')


def _refuse_offline(source: Source) -> None:
    if _offline():
        raise WeightsError(_offline_refusal(source))


def _reason(error: BaseException) -> str:
    """The gist of an error, in one line."""
    error = getattr(error, 'reason', None) or error  # of a URLError
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f'{text[:197]}...'
