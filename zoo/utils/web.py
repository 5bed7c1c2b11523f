"""Plain web addresses: opened without a redirect to another scheme, read within limits, named without secrets."""
import copy
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import IO, Any

from .errors import ZooError, format_error, printable

SLOWEST = 1000  # bytes per second that a server has to send ...
PATIENCE = 60  # ... on average over so many seconds
BLOCK = 1 << 18  # bytes read at once, at most
SHOWN = ('dl', 'id')  # parameters of a query that say what is asked for; any other may be a password or a signature
_REST = r'[^\s"\'<>]*[^\s"\'<>),.;:]'
_IN_TEXT = re.compile(rf'(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://{_REST}|[?#][^\s"\'<>]*={_REST}', re.I)


class WebError(ZooError):
    """Why an address or a server's answer is not accepted: words that fit in brackets behind the address."""


class TooLarge(WebError):
    """There is more of it than may be."""


class TooSlow(WebError):
    """It arrives at less than :data:`SLOWEST`."""


class SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to the same scheme, or from http to https, and no other."""

    def redirect_request(
            self, request: urllib.request.Request, answer: IO[bytes], code: int, reason: str,
            headers: http.client.HTTPMessage, place: str) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(place).scheme
        if scheme not in (request.type, 'https'):
            raise urllib.error.HTTPError(
                request.full_url, code, f'a redirect from {request.type} to {scheme}, which is not followed', headers,
                answer)
        _check(place)
        return super().redirect_request(request, answer, code, reason, headers, place)


def open_address(address: str, timeout: float, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The answer to a GET of an http(s) address, by the handlers of ``urllib.request.install_opener``.

    Args:
        address: Where.
        timeout: Seconds without a byte.
        headers: Of the request.

    Raises:
        urllib.error.HTTPError: a status that is no success, or a redirect to another scheme.
        WebError: the address, or the one that it redirects to, is not valid, or has a user name in it.
        OSError, http.client.HTTPException: the server does not answer, or not in HTTP.
    """
    _check(address)
    # a copy of each, because a handler knows the one opener that it belongs to
    installed: Any = getattr(urllib.request, '_opener', None) or urllib.request.OpenerDirector()
    kept = [copy.copy(handler) for handler in installed.handlers
            if not isinstance(handler, urllib.request.HTTPRedirectHandler)]
    opener = urllib.request.build_opener(SameScheme, *kept)
    opener.addheaders = installed.addheaders
    try:
        return opener.open(urllib.request.Request(address, headers=headers), timeout=timeout)
    except WebError:
        raise
    except (ValueError, http.client.InvalidURL) as e:
        raise WebError(reason(e)) from None


def declared_size(headers: Message) -> int | None:
    """Bytes of the body as the server declares them, None if it does not.

    Raises:
        WebError: that is not a number.
    """
    size = headers.get('Content-Length')
    if size is not None and not re.fullmatch('[0-9]{1,18}', size.strip()):
        raise WebError(f'its Content-Length is not a number: {reason(size)}')
    return None if size is None else int(size)


def read_blocks(response: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    """The body of an answer, as it arrives.

    Args:
        response: Of :func:`open_address`.
        most: Bytes that are accepted.

    Raises:
        TooLarge: there are more; the first ``most`` have been yielded, or none if the server declares more.
        TooSlow: it arrives at less than :data:`SLOWEST`, on average over :data:`PATIENCE`.
        WebError: the declared size is not a number.
        OSError, http.client.HTTPException: the connection fails.
    """
    declared = declared_size(response.headers)
    if declared is not None and declared > most:
        raise TooLarge(f'it declares {declared} bytes, more than the {most} that are accepted')
    left, waited, recent = most, 0., 0
    while True:
        start = time.monotonic()
        block = response.read1(BLOCK)  # read() would wait until the block is full
        waited += time.monotonic() - start
        if not block:
            return
        yield block[:left]
        left -= len(block)
        recent += len(block)
        if left < 0:
            raise TooLarge(f'it sends more than the {most} bytes that are accepted')
        if waited >= PATIENCE:
            if recent < SLOWEST * waited:
                raise TooSlow(f'less than {SLOWEST / 1000:g} kB/s arrive')
            waited, recent = 0., 0


def shown(address: str) -> str:
    """An address as it may be printed: without user name, password, and what may be a secret in its query."""
    place, query = (*re.split('[?#]', address, maxsplit=1), '')[:2]
    kept = [part if part.partition('=')[0] in SHOWN else '...' for part in query.split('&') if part]
    place = re.sub('(?<=://)[^/]*@', '', place)
    return printable(f'{place}?{"&".join(dict.fromkeys(kept))}' if kept else place)


def reason(error: BaseException | str) -> str:
    """The gist of an error or of what a server says, in one line without secrets."""
    text = str(error) if isinstance(error, str) else format_error(getattr(error, 'reason', None) or error)
    text = printable(_IN_TEXT.sub(lambda found: shown(found[0]), text[:2000]))
    return text if len(text) <= 200 else f'{text[:197]}...'


def _check(address: str) -> None:
    """Refuse what urllib would tell the user about in words that hold a password or a part of the query."""
    if re.match('[^/?#]*//[^/?#]*@', address):
        raise WebError('user names and passwords in an address are not sent')
    if re.search(r'[\s\x00-\x1f\x7f]', address):
        raise WebError('a space or a control character is in the address')
