"""Servers that send too much, too slowly, from elsewhere or nonsense: one line, and what has arrived is kept.

On disk: links and other things at the places of downloads, that are not to be followed.
"""
import logging
import os
import sys

import pytest

from tests.weights.host import File
from tests.weights.test_fetch import CONTENT, DIGEST, Gdown, put, refused, row
from zoo.utils import web
from zoo.weights import download
from zoo.weights.fetch import DELAYS, fetch

PART = f'{row().name}.pth.part'
ENDLESS = {'Content-Length': ''}  # without its size


# --- size

def test_larger_than_the_table_says_is_not_begun(host, tmp_path):
    put(host, row())
    text = refused(row(bytes=1000), tmp_path, 'it declares 1024000 bytes, more than the 1000 that are accepted')
    assert 'are kept' not in text and not list(tmp_path.iterdir()) and len(host.asked) == 1


def test_larger_than_the_table_says_without_its_size(host, tmp_path):
    put(host, row(), headers=ENDLESS)
    refused(row(bytes=1000), tmp_path, 'sends more than the 1000 bytes .*; 1000 bytes are kept in the cache')
    assert (tmp_path / PART).read_bytes() == CONTENT[:1000]
    put(host, row(), content=CONTENT[::-1][:1000])
    assert fetch(row(bytes=1000), tmp_path, None)[0].read_bytes() == CONTENT[::-1][:1000]  # nothing goes on from there
    assert host.got('a.pth') == [0, 0] and not (tmp_path / PART).exists()


def test_larger_than_any_weights(host, tmp_path, monkeypatch):
    assert download.MOST_BYTES == 4 * 2**30
    monkeypatch.setattr(download, 'MOST_BYTES', len(CONTENT) - 1)
    put(host, row(), headers=ENDLESS)
    refused(row(), tmp_path, 'sends more than the 1023999 bytes that are accepted')
    put(host, row())
    refused(row(), tmp_path, 'it declares 1024000 bytes, more than the 1023999')
    assert (tmp_path / PART).stat().st_size == len(CONTENT) - 1
    monkeypatch.setattr(download, 'MOST_BYTES', len(CONTENT))
    assert fetch(row(), tmp_path, None)[1] == DIGEST


def test_larger_than_declared(host, tmp_path):
    """Of the rest that was asked for, the server sends more than the whole has left."""
    for size, text in (('', 'sends more than the 724000 bytes'), ('800000', 'declares 800000 bytes, more than')):
        put(host, row(), faults=[300_000] + [500] * 9)
        refused(row(), tmp_path, '300000 bytes are kept')
        put(host, row(), content=CONTENT + b'more' * 20_000, headers={
            'Content-Range': 'bytes 300000-1023999/1024000', 'Content-Length': size, 'ETag': f'"{DIGEST}"'})
        refused(row(), tmp_path, text)
        assert host.got('a.pth')[-1] == 300_000 and (tmp_path / PART).read_bytes()[:300_000] == CONTENT[:300_000]
    chunks = b'5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n'
    put(host, row(), content=chunks, headers={'Transfer-Encoding': 'chunked', 'Content-Length': '7'})
    refused(row(), tmp_path, 'sends more than the 7 bytes that are accepted.; 7 bytes are kept')


@pytest.mark.parametrize('size', ['abc', '-5', '1e9', '5, 5', '1_000', '9' * 5000, '0x10', '\x1b[2J'])
def test_content_length_that_is_no_number(host, tmp_path, size):
    put(host, row(), faults=[300_000] + [500] * 9)
    refused(row(), tmp_path, '300000 bytes are kept')
    put(host, row(), ranges=False, headers={'Content-Length': size})
    text = refused(row(), tmp_path, 'its Content-Length is not a number: .*300000 bytes are kept, the next')
    assert text.isprintable() and len(text) < 700
    put(host, row())
    assert fetch(row(), tmp_path, None)[1] == DIGEST and host.got('a.pth')[-1] == 300_000


@pytest.mark.parametrize('headers', [
    {'Content-Range': 'bytes x-y/z'}, {'Content-Range': f'bytes 300000-1/{"9" * 5000}'},
    {'Content-Range': '\x1b'}])
def test_content_range_that_is_none(host, tmp_path, headers):
    put(host, row(), faults=[300_000] + [500] * 9)
    refused(row(), tmp_path, '300000 bytes are kept')
    put(host, row(), headers=headers)
    assert fetch(row(), tmp_path, None)[1] == DIGEST and host.got('a.pth')[-2:] == [300_000, 0]


@pytest.mark.parametrize('delay', ['²', '9' * 5000, '-1', '1e999'])
def test_delay_that_is_none(host, tmp_path, delay):
    put(host, row(), faults=[(503, {'Retry-After': delay})])
    assert fetch(row(), tmp_path, None)[1] == DIGEST


# --- time

@pytest.fixture
def impatient(monkeypatch):
    assert (web.SLOWEST, web.PATIENCE) == (1000, 60)
    monkeypatch.setattr(web, 'SLOWEST', 10_000)
    monkeypatch.setattr(web, 'PATIENCE', 0.2)


def test_dripping_body_is_given_up_kept_and_continued(host, tmp_path, impatient):
    put(host, row(), drip=0.03)  # 3.3 kB/s
    text = refused(row(), tmp_path, r'fetched \(less than 10 kB/s arrive\); \d+ bytes are kept, the next call')
    got = (tmp_path / PART).stat().st_size
    assert 0 < got < len(CONTENT) and f'; {got} bytes' in text and len(host.asked) == 1
    put(host, row())
    assert fetch(row(), tmp_path, None)[1] == DIGEST and host.got('a.pth') == [0, got]


def test_a_few_bytes_per_attempt_are_not_progress(host, tmp_path):
    """Or a server that cuts every connection could keep a download busy for ever."""
    put(host, row(), faults=[300] * 99)
    refused(row(), tmp_path, r'the connection ended after 1500 of 1024000 bytes\); 1500 bytes are kept')
    assert host.got('a.pth') == [300 * i for i in range(len(DELAYS) + 1)]


# --- redirects

@pytest.mark.parametrize('scheme', ['http', 'ftp', 'file'])
def test_redirect_to_another_scheme_is_not_followed(host, tmp_path, scheme):
    put(host, row(), faults=[(302, {'Location': f'{scheme}://user:pw@{host.address[7:]}/b.pth?sig=SECRET'})])
    host.files['/b.pth?sig=SECRET'] = File(CONTENT)
    text = refused(row(), tmp_path, r'cannot be fetched \(HTTP 302 ')
    assert scheme in text and 'not' in text and 'SECRET' not in text and 'pw@' not in text and len(host.asked) == 1


def test_redirects_of_one_scheme_are_followed(host, tmp_path):
    put(host, row(), faults=[(302, {'Location': 'https://elsewhere.example/b.pth?sig=SECRET'})])
    host.files['/elsewhere.example/b.pth?sig=SECRET'] = File(CONTENT, faults=[(307, {'Location': '/c.pth'})])
    host.files['/elsewhere.example/c.pth'] = File(CONTENT)
    assert fetch(row(), tmp_path, DIGEST)[0].read_bytes() == CONTENT and len(host.asked) == 3


@pytest.mark.parametrize('place', ['https://[bad/b', 'https://user:pw@host.example/b'])
def test_redirect_to_no_address(host, tmp_path, place):
    put(host, row(), faults=[(302, {'Location': place})], forever=True)
    text = refused(row(), tmp_path, r'cannot be fetched \(')
    assert 'user:pw' not in text and 'pw@' not in text


# --- words

SIGNED = 'https://user:hunter2@weights.example/a.pth?X-Amz-Signature=SECRET&dl=1&token=SECRET'


def test_passwords_and_signatures_are_not_told(host, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    plain = SIGNED.replace('user:hunter2@', '')
    texts = [refused(row('https', location=SIGNED), tmp_path, 'user names and passwords in an address are not sent')]
    for fault in (404, 500, 429, (302, {'Location': 'ftp://h/a?sig=SECRET'}), (302, {'Location': plain})):
        put(host, row('https', location=plain), faults=[fault], forever=True)
        texts.append(refused(row('https', location=plain), tmp_path, r'https://weights\.example/a\.pth\?\.\.\.&dl=1'))
    put(host, row('https', location=plain), kind='text/html')
    texts.append(refused(row('https', location=plain), tmp_path, 'web page'))
    put(host, row('https', location=plain))
    texts.append(refused(row('https', location=plain, bytes=2), tmp_path, 'declares'))
    texts.append(refused(row('https', location=plain), tmp_path, 'damaged or has been replaced', known='0' * 64))
    texts.append(refused(row('baidu', location=plain), tmp_path, 'manually'))
    said = '\n'.join([*texts, caplog.text])
    assert 'SECRET' not in said and 'hunter2' not in said and 'next attempt in 8 s' in caplog.text


def test_what_a_server_says_does_not_control_a_terminal(host, tmp_path, monkeypatch, caplog):
    escape = '\x1b]0;title\x07\x1b[2J\x9b31m'
    monkeypatch.setattr('tests.weights.host.Answer.responses', dict.fromkeys((403, 503), (f'no{escape}', '')))
    for fault, match in ((403, r'refuses access \(HTTP 403 no\\x1b'), (503, r'HTTP 503 no\\x1b')):
        put(host, row(), faults=[fault], forever=True)
        assert refused(row(), tmp_path, match).isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records) and len(caplog.records) == len(DELAYS)
    source = row('gdrive', location='1tf4pD6VQlq2uTzuPHjzE1b8I5XU8mwsZ')
    monkeypatch.setitem(sys.modules, 'gdown', Gdown(error=RuntimeError(f'see https://u:p@h/a?key=SECRET {escape}')))
    text = refused(source, tmp_path, r'uc\?id=1tf4.* cannot be fetched \(see https://h/a\?\.\.\. \\x1b')
    assert text.isprintable()


# --- links

@pytest.fixture
def own(tmp_path):
    """A file of the user outside the folder of downloads."""
    (tmp_path / 'downloads').mkdir()
    (tmp_path / 'own.pth').write_bytes(CONTENT)
    return tmp_path / 'own.pth'


@pytest.mark.parametrize('link', [os.symlink, os.link])
@pytest.mark.parametrize('suffix', ['.part', '.part.json'])
def test_links_at_the_place_of_a_part_are_not_written_through(host, tmp_path, own, link, suffix):
    put(host, row(), content=CONTENT[::-1], faults=[300_000])
    folder = tmp_path / 'downloads'
    link(own, folder / f'{row().name}.pth{suffix}')
    path, _ = fetch(row(), folder, None)
    assert path.read_bytes() == CONTENT[::-1] and own.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == [path.name] and not path.is_symlink()


def test_link_at_the_place_of_a_part_for_google_drive(tmp_path, own, host, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gdown', Gdown(content=CONTENT[::-1]))
    (tmp_path / 'downloads' / PART).symlink_to(own)
    path, _ = fetch(row('gdrive', location='1tf4pD6VQlq2uTzuPHjzE1b8I5XU8mwsZ'), tmp_path / 'downloads', None)
    assert path.read_bytes() == CONTENT[::-1] and own.read_bytes() == CONTENT and not path.is_symlink()


def test_a_file_that_the_user_has_linked_is_used_and_not_removed(host, tmp_path, own):
    link = tmp_path / 'downloads' / f'{row().name}.pth'
    link.symlink_to(own)
    assert fetch(row(), link.parent, DIGEST)[1] == DIGEST and not host.asked
    with pytest.raises(ValueError, match='damaged or has been replaced'):
        fetch(row(), link.parent, '0' * 64)
    assert own.read_bytes() == CONTENT and not link.is_symlink()  # the link made room for a download
    put(host, row(), content=CONTENT[::-1])
    assert fetch(row(), link.parent, None)[0].read_bytes() == CONTENT[::-1] and own.read_bytes() == CONTENT


@pytest.mark.parametrize('content', [
    '[]', '5', '{}', '{"size": "5", "etag": 1}', '[' * 20_000, '{"size": 1e999}', '\0'])
def test_tampered_record_of_a_part_starts_anew(host, tmp_path, content):
    put(host, row(), faults=[300_000] + [500] * 9)
    refused(row(), tmp_path, '300000 bytes are kept')
    (tmp_path / f'{PART}.json').write_text(content)
    assert fetch(row(), tmp_path, None)[1] == DIGEST and host.got('a.pth')[-1] == 0


def test_pipes_are_not_waited_for(host, tmp_path):
    put(host, row())
    for suffix in ('', '.part', '.part.json'):
        os.mkfifo(tmp_path / f'{row().name}.pth{suffix}')
    assert fetch(row(), tmp_path, None)[0].read_bytes() == CONTENT
