"""Download of official files from plain addresses: resumable, with limits of size and time."""
import http.client
import json
import logging
import re
import time
import urllib.error
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..utils import web
from .cache import WeightsError, own_file, write_to_cache, writing
from .places import manual_hint, refuse_page, shown_address
from .sources import Source

DELAYS = (1, 2, 4, 8)  # seconds before a retry after an attempt that received too little
MOST_DELAY = 60  # seconds; limit of the delay that a server may request
TIMEOUT = 30  # seconds without data
MOST_BYTES = 4 << 30  # limit for files whose size is not in the table of sources
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that are retried
_logger = logging.getLogger(__name__)


class TransientError(Exception):
    """A failure that is worth a retry; ``delay`` is the delay that the server requests, in seconds."""

    def __init__(self, reason: str, delay: float = 0):
        super().__init__(reason)
        self.delay = delay


def download(source: Source, path: Path) -> None:
    """Download a file from a plain address to ``path``, resuming from ``path.part`` of an earlier call.

    If either is a link, it is replaced; its target does not change.

    Args:
        source: The official file.
        path: Where to save it.

    Raises:
        WeightsError: The server refuses, returns a web page, sends too much or too slowly, or cannot be reached in
            several attempts. The partial file is kept.
    """
    part = Path(f'{path}.part')
    with writing(path.parent):
        own_file(part)
        own_file(_sidecar(part))
    best = failures = 0
    while True:
        try:
            _transfer(source, part)
            break
        except TransientError as e:
            got = _size(part)
            enough = got - best >= web.SLOWEST * web.PATIENCE  # else a byte per attempt would suffice
            best, failures = max(best, got), 0 if enough else failures + 1
            if failures > len(DELAYS):
                raise _given_up(source, part, e) from None
            delay = min(max(e.delay, DELAYS[max(failures - 1, 0)]), MOST_DELAY)
            _logger.warning('%s: %s; next attempt in %g s', shown_address(source), e, delay)
            time.sleep(delay)
        except web.TooLarge as e:
            with writing(path.parent):
                _sidecar(part).unlink(missing_ok=True)  # not the beginning of the right file: do not resume
            raise _given_up(source, part, e, how='in the cache') from None
        except web.WebError as e:
            raise _given_up(source, part, e) from None
    with writing(path.parent):
        part.replace(path)
        _sidecar(part).unlink(missing_ok=True)


def _given_up(source: Source, part: Path, error: Exception, how: str = '') -> WeightsError:
    got = _size(part)
    kept = f'; {got} bytes are kept{f" {how}" if how else ", the next call resumes from there"}' if got else ''
    return WeightsError(
        f'{shown_address(source)} cannot be fetched ({error}){kept}. Try again later. {manual_hint(source)}')


def _transfer(source: Source, part: Path) -> None:
    """One attempt to complete ``part``.

    Raises:
        TransientError: The attempt may be repeated; the partial file is kept.
        web.WebError: Another attempt would not help; the partial file is kept.
    """
    start, before = _resume_offset(part)
    if start and start == before['size']:
        return
    headers = {'User-Agent': 'backbone-zoo', **({'Range': f'bytes={start}-'} if start else {})}
    try:
        response = web.open_address(source.location, TIMEOUT, headers)
    except urllib.error.HTTPError as e:
        if e.code == 416 and start:
            part.unlink()
            raise TransientError('the file on the server has changed') from None
        raise _of_status(source, e.code, e.reason, e.headers) from None
    except (OSError, http.client.HTTPException) as e:
        raise TransientError(web.reason(e)) from None
    with response:
        refuse_page(source, response.headers.get_content_type() == 'text/html')
        now = _identity(response.headers)
        partial = response.status == 206
        if partial and (start and now != before or _first_byte(response.headers) != start):
            part.unlink(missing_ok=True)  # part of another file
            raise TransientError('the file on the server has changed')
        start, size, most = start if partial else 0, now['size'], source.bytes or MOST_BYTES
        if size is not None and size > most:
            raise web.TooLarge(f'it declares {size} bytes, more than the {most} that are accepted')
        blocks = web.read_blocks(response, (most if size is None else size) - start)
        record = json.dumps(dict(now, url=source.location))
        write_to_cache(_sidecar(part), lambda draft: draft.write_text(record))
        _receive(source, blocks, part, start, size)


def _receive(source: Source, blocks: Iterator[bytes], part: Path, start: int, size: int | None) -> None:
    """Write the received data to ``part``, after its first ``start`` bytes."""
    with writing(part.parent):
        file = open(part, 'ab' if start else 'wb', buffering=0)
    with file, tqdm(total=size, initial=start, unit='B', unit_scale=True, desc=source.name, disable=None) as bar:
        got = start
        while True:
            try:
                block = next(blocks, b'')
            except (OSError, http.client.HTTPException) as e:
                raise TransientError(web.reason(e)) from None
            if not block:
                break
            with writing(part.parent):
                file.write(block)
            got += len(block)
            bar.update(len(block))
    if size is not None and got < size:
        raise TransientError(f'the connection ended after {got} of {size} bytes')


def _resume_offset(part: Path) -> tuple[int, dict[str, Any]]:
    """Return the size of a partial file and what the server reported of the whole file; 0 if it cannot be resumed."""
    try:
        before = json.loads(_sidecar(part).read_text())
        before.pop('url', None)
        size = before['size']
        useful = type(size) is int and _size(part) <= size and before.keys() == {'etag', 'modified', 'size'}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):  # any content
        return 0, {}
    return (_size(part), before) if useful else (0, {})


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _identity(headers: Message) -> dict[str, Any]:
    """Return the headers that identify the version of the file on the server."""
    ranged = re.search(r'/([0-9]{1,18})$', headers.get('Content-Range', ''))
    size = int(ranged.group(1)) if ranged else web.declared_size(headers)
    return dict(etag=headers.get('ETag'), modified=headers.get('Last-Modified'), size=size)


def _first_byte(headers: Message) -> int | None:
    ranged = re.match(r'bytes ([0-9]{1,18})-', headers.get('Content-Range', ''))
    return int(ranged.group(1)) if ranged else None


def _sidecar(part: Path) -> Path:
    return Path(f'{part}.json')


def _of_status(source: Source, code: int, reason: str, headers: Message) -> Exception:
    """Return the error for an HTTP status."""
    said = web.reason(f'HTTP {code} {reason}')
    if code in PASSING:
        delay = headers.get('Retry-After', '')
        return TransientError(said, delay=float(delay) if re.fullmatch('[0-9]+', delay) else 0)
    what = {401: 'requires a login', 403: 'refuses access', 404: 'is gone', 410: 'is gone'}.get(
        code, 'cannot be fetched')
    return WeightsError(f'{shown_address(source)} {what} ({said}). {manual_hint(source)}')
