"""Opens web addresses without redirects to another scheme, reads them within limits, prints them without secrets."""
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
    """An address or a server's response is not accepted; the message fits in brackets behind the address."""


class TooLarge(WebError):
    """The response is larger than allowed."""


class TooSlow(WebError):
    """The response arrives more slowly than :data:`SLOWEST`."""


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
    """GET an http(s) address, with the handlers of ``urllib.request.install_opener``, and return the response.

    Args:
        address: The address.
        timeout: Seconds to wait for data.
        headers: Headers of the request.

    Raises:
        urllib.error.HTTPError: The status is not a success, or a redirect leads to another scheme.
        WebError: The address, or one that it redirects to, is not valid or contains a user name.
        OSError, http.client.HTTPException: The server does not respond, or not in HTTP.
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
    """The size of the body in bytes that the server declares; None if it declares none.

    Raises:
        WebError: The declared size is not a number.
    """
    size = headers.get('Content-Length')
    if size is not None and not re.fullmatch('[0-9]{1,18}', size.strip()):
        raise WebError(f'its Content-Length is not a number: {reason(size)}')
    return None if size is None else int(size)


def read_blocks(response: http.client.HTTPResponse, most: int) -> Iterator[bytes]:
    """Yield the body of a response as it arrives.

    Args:
        response: The result of :func:`open_address`.
        most: Largest accepted number of bytes.

    Raises:
        TooLarge: There are more; the first ``most`` have been yielded, or none if the server declares more.
        TooSlow: Data arrives more slowly than :data:`SLOWEST`, on average over :data:`PATIENCE`.
        WebError: The declared size is not a number.
        OSError, http.client.HTTPException: The connection fails.
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
    """An address for printing, without user name, password and possible secrets in its query."""
    place, query = (*re.split('[?#]', address, maxsplit=1), '')[:2]
    kept = [part if part.partition('=')[0] in SHOWN else '...' for part in query.split('&') if part]
    place = re.sub('(?<=://)[^/]*@', '', place)
    return printable(f'{place}?{"&".join(dict.fromkeys(kept))}' if kept else place)


def reason(error: BaseException | str) -> str:
    """The essence of an error or of a server's message, in one line without secrets."""
    text = str(error) if isinstance(error, str) else format_error(getattr(error, 'reason', None) or error)
    text = printable(_IN_TEXT.sub(lambda found: shown(found[0]), text[:2000]))
    return text if len(text) <= 200 else f'{text[:197]}...'


def _check(address: str) -> None:
    """Refuse addresses for which urllib's error messages would contain a password or a part of the query."""
    if re.match('[^/?#]*//[^/?#]*@', address):
        raise WebError('user names and passwords in an address are not sent')
    if re.search(r'[\s\x00-\x1f\x7f]', address):
        raise WebError('a space or a control character is in the address')
