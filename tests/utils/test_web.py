"""Addresses and what servers say, as they may be printed."""
import re

import pytest

from zoo.utils import web
from zoo.utils.errors import cli_main, format_error


@pytest.mark.parametrize('address, want', [
    ('https://h.example/a/b.pth', 'https://h.example/a/b.pth'),
    ('https://cloud.tsinghua.edu.cn/f/5d1f/?dl=1', 'https://cloud.tsinghua.edu.cn/f/5d1f/?dl=1'),
    ('https://drive.google.com/uc?id=1tf4-x', 'https://drive.google.com/uc?id=1tf4-x'),
    ('https://me:pw@h:8080/a?token=S&id=3&X-Sig=S', 'https://h:8080/a?...&id=3'),
    ('https://me@h/a@b', 'https://h/a@b'), ('https://a:b@c:d@h/x', 'https://h/x'),
    ('https://h/a?SECRET', 'https://h/a?...'), ('https://h/a#access_token=S', 'https://h/a?...'),
    ('https://h/a?', 'https://h/a'), ('https://h/\x1b[2J?id=\x07', r'https://h/\x1b[2J?id=\x07')])
def test_addresses_are_shown_without_secrets(address, want):
    assert web.shown(address) == want == web.shown(web.shown(address))


@pytest.mark.parametrize('text, want', [
    ("403 Forbidden for url 'https://u:p@h/a?X-Amz-Signature=S&x=1' (Request ID: 1)",
     "403 Forbidden for url 'https://h/a?...' (Request ID: 1)"),
    ('see (https://h/a?k=S).\n  Then HTTP://h/b?S, or ftp://u:p@h/c', 'see (https://h/a?...). Then HTTP://h/b?..., or '
                                                                     'ftp://h/c'),
    ('cannot open /a.pth?token=S&dl=1', 'cannot open /a.pth?...&dl=1'), ('are you online? x=1', 'are you online? x=1'),
    ('\x1b[31mred\u202e\x9b', r'\x1b[31mred\u202e\x9b'), ('a' * 300, f'{"a" * 197}...')])
def test_texts_of_others_are_told_without_secrets_in_one_line(text, want):
    assert web.reason(text) == web.reason(OSError(text)) == want


def test_long_texts_take_no_time():
    for text in ('a' * 1_000_000, '?' * 1_000_000, 'a.' * 500_000 + '://'):
        assert len(web.reason(text)) == 200


def test_no_error_controls_a_terminal(capsys):
    error = OSError(2, 'No such file', 'a\x1b[2J\nb\udcff\u202e.png')
    assert format_error(ValueError('a\x1b[2J\n  b\udcff\u202e')) == r'a\x1b[2J b\udcff\u202e'

    def program(argv):
        raise error

    assert cli_main(program, []) == 2
    text = capsys.readouterr().err
    assert text.startswith('error: ') and text[:-1].isprintable() and text.encode()


class Steady:
    """An answer that goes on for ever, at so many bytes per second of a clock that only it moves on."""

    def __init__(self, monkeypatch, rate, seconds):
        self.headers, self.rate, self.seconds, self.now = {}, rate, seconds, 0.
        monkeypatch.setattr(web.time, 'monotonic', lambda: self.now)

    def read1(self, size):
        self.now += self.seconds
        return bytes(int(self.rate * self.seconds))


@pytest.mark.parametrize('seconds', [0.5, 7, 59])
def test_bodies_slower_than_a_kilobyte_per_second_over_a_minute(monkeypatch, seconds):
    for rate in (1100, 1000):
        body = Steady(monkeypatch, rate, seconds)
        with pytest.raises(web.TooLarge, match='sends more than the 1000000 bytes that are accepted'):
            assert sum(map(len, web.read_blocks(body, 1_000_000))) == 1_000_000
        assert body.now > 900
    body = Steady(monkeypatch, 990, seconds)
    with pytest.raises(web.TooSlow, match='less than 1 kB/s arrive'):
        list(web.read_blocks(body, 1_000_000))
    assert 60 <= body.now < 60 + seconds
    body = Steady(monkeypatch, 99_000, seconds)  # what was fast before does not count
    blocks = web.read_blocks(body, 1 << 40)
    while body.now < 600:
        next(blocks)
    body.rate = 990
    with pytest.raises(web.TooSlow):
        list(blocks)
    assert body.now < 600 + 2 * (60 + seconds)


@pytest.mark.parametrize('address, want', [
    ('http://u:SECRET@h/a', 'user names and passwords'), ('http://h/a b?k=SECRET', 'a space or a control character'),
    ('http://h/\n?SECRET', 'a space or a control character'), ('http://h:x/a?SECRET', 'nonnumeric port'),
    ('http://[h/a?SECRET', 'Invalid IPv6 URL'), ('http://u:SECRET@[h/a', 'user names'),
    ('http://h\u2100/?SECRET', 'netloc|idna|characters'), ('http:///a?SECRET', 'no host')])
def test_addresses_that_are_none(address, want):
    with pytest.raises((web.WebError, OSError)) as caught:
        web.open_address(address, 1, {})
    assert re.search(want, web.reason(caught.value)) and 'SECRET' not in web.reason(caught.value)
