"""Fetching official files from a local server that plays GitHub, HTTPS and cloud hosts: what goes wrong is told."""
import hashlib
import random
import sys
import time
import types
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from tests.weights.host import File
from zoo.weights import WeightsError
from zoo.weights.fetch import DELAYS, EXTRA, address, fetch
from zoo.weights.sources import Source

PLACES = {
    'github': 'https://github.com/org/repo/releases/download/v1/a.pth',
    'https': 'https://weights.example/files/a.safetensors',
    'tsinghua': 'https://cloud.tsinghua.edu.cn/f/5d1f01532b104da28e7b/?dl=1',
    'onedrive': 'https://api.onedrive.com/v1.0/shares/s!Ak/root/content',
}
CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = 'flatten_pvt_v2_b0.in1k'


def row(kind='github', **columns):
    return Source(**{**dict(name=NAME, kind=kind, location=PLACES.get(kind, ''), license='unknown', size=(224, 224),
                            crop=0.9), **columns})


def put(host, source, content=CONTENT, **kwargs):
    file = host.files[source.location.replace('https:/', '')] = File(content, **kwargs)
    return file


def refused(source, folder, match, known=None):
    with pytest.raises(WeightsError, match=match) as error:
        fetch(source, folder, known)
    assert '\n' not in str(error.value)
    assert not list(folder.glob('*.pth')) + list(folder.glob('*.safetensors'))
    return str(error.value)


@pytest.mark.parametrize('kind', PLACES)
def test_file_arrives(host, tmp_path, kind):
    put(host, row(kind))
    path, digest = fetch(row(kind, bytes=len(CONTENT)), tmp_path / 'new', DIGEST)
    assert path.read_bytes() == CONTENT and digest == DIGEST
    assert path.name == NAME + ('.safetensors' if kind == 'https' else '.pth')
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    fetch(row(kind), tmp_path / 'new', DIGEST)  # what is there is not fetched again
    assert len(host.asked) == 1


def test_cut_connection_is_resumed(host, tmp_path):
    put(host, row(), faults=[300_000, 200_000])
    path, digest = fetch(row(), tmp_path, None)
    assert host.got('a.pth') == [0, 300_000, 500_000] and path.read_bytes() == CONTENT and digest == DIGEST


def test_many_cuts_are_no_failure_while_something_arrives(host, tmp_path):
    put(host, row(), faults=[100_000] * 9)
    assert fetch(row(), tmp_path, DIGEST)[0].read_bytes() == CONTENT


def test_truncated_body_is_given_up_kept_and_continued(host, tmp_path):
    file = put(host, row(), faults=[300_000], forever=True, ranges=False)
    refused(row(), tmp_path, r'cannot be fetched \(the connection ended after 300000 of 1024000 bytes\); 300000 bytes '
            'are kept, the next call resumes from there')
    assert host.got('a.pth') == [0] + [300_000] * (len(DELAYS) + 1)
    file.faults, file.ranges = [], True
    assert fetch(row(), tmp_path, DIGEST)[0].read_bytes() == CONTENT
    assert host.got('a.pth')[-1] == 300_000


def test_part_of_another_file_is_thrown_away(host, tmp_path):
    put(host, row(), content=b'old' * 300_000, faults=[300_000] + [500] * 9)
    refused(row(), tmp_path, '300000 bytes are kept')
    put(host, row())  # replaced by the authors
    assert fetch(row(), tmp_path, DIGEST)[0].read_bytes() == CONTENT
    assert host.got('a.pth')[-2:] == [300_000, 0]


def test_same_size_without_validators_is_caught_by_the_hash(host, tmp_path):
    put(host, row(), content=CONTENT[::-1], faults=[300_000] + [500] * 9, etag='')
    refused(row(), tmp_path, 'bytes are kept')
    put(host, row(), etag='')
    refused(row(), tmp_path, 'is damaged or has been replaced', known=DIGEST)
    assert fetch(row(), tmp_path, DIGEST)[1] == DIGEST  # the next call starts anew


def test_whole_part_is_not_asked_for_again(host, tmp_path):
    put(host, row(), faults=[len(CONTENT) - 10] + [500] * 9)
    refused(row(), tmp_path, 'bytes are kept')
    part = next(tmp_path.glob('*.part'))
    part.write_bytes(CONTENT)  # a process that was killed between its last byte and the new name
    asked = len(host.asked)
    assert fetch(row(), tmp_path, DIGEST)[1] == DIGEST and len(host.asked) == asked


def test_longer_part_than_the_file_starts_anew(host, tmp_path):
    put(host, row(), faults=[300_000] + [500] * 9)
    refused(row(), tmp_path, 'bytes are kept')
    next(tmp_path.glob('*.part')).write_bytes(CONTENT + b'more')
    assert fetch(row(), tmp_path, DIGEST)[1] == DIGEST and host.got('a.pth')[-1] == 0


@pytest.mark.parametrize('status, match', [
    (401, r'requires a login \(HTTP 401 Unauthorized\)'), (403, r'refuses access \(HTTP 403'),
    (404, r'is gone \(HTTP 404 Not Found\)'), (410, r'is gone \(HTTP 410')])
def test_refusals_are_not_tried_again(host, tmp_path, status, match):
    put(host, row(), faults=[status])
    message = refused(row(), tmp_path, match)
    assert len(host.asked) == 1 and "pretrained_cfg_overlay=dict(file='...')" in message and PLACES['github'] in message


@pytest.mark.parametrize('status', [429, 500, 503])
def test_passing_statuses_are_tried_again(host, tmp_path, status):
    file = put(host, row(), faults=[status] * len(DELAYS))
    assert fetch(row(), tmp_path / 'a', DIGEST)[1] == DIGEST and len(host.asked) == len(DELAYS) + 1
    file.faults, file.forever = [status], True
    refused(row(), tmp_path / 'b', f'cannot be fetched .HTTP {status}.*Try again later')
    assert len(host.asked) == 2 * (len(DELAYS) + 1)


def test_waits_as_long_as_the_server_asks(host, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(time, 'sleep', waited.append)
    put(host, row(), faults=[(429, {'Retry-After': '7'}), (503, {'Retry-After': '9999'}), 500])
    fetch(row(), tmp_path, DIGEST)
    assert waited == [7, 60, DELAYS[2]]


def test_server_down(host, tmp_path):
    host.shutdown()
    host.server_close()
    refused(row(), tmp_path, r'cannot be fetched \(.*[Cc]onnection refused\)\. Try again later')


def test_offline(host, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    put(host, row())
    refused(row(), tmp_path, 'not in the cache and HF_HUB_OFFLINE is set: unset it to fetch them from https://github')
    assert not host.asked


@pytest.mark.parametrize('page, kind', [
    (b'<html>the link has expired</html>', 'text/html; charset=utf-8'),
    (b'\n <!DOCTYPE html><title>Sign in</title>', 'application/octet-stream')])
def test_web_page_instead_of_a_file(host, tmp_path, page, kind):
    put(host, row('tsinghua'), content=page, kind=kind)
    refused(row('tsinghua'), tmp_path, 'returned a web page instead of the file: the link has expired')


def test_flipped_byte(host, tmp_path):
    put(host, row(), content=CONTENT[:5000] + b'\xff' + CONTENT[5001:])
    assert CONTENT[5000] != 255
    refused(row(), tmp_path, rf'is damaged or has been replaced .*expected {DIGEST[:12]}', known=DIGEST)
    put(host, row())
    assert fetch(row(), tmp_path, DIGEST)[1] == DIGEST


def test_flipped_byte_at_first_use(host, tmp_path):
    """torch.load would not notice; the archive has check sums."""
    torch.save({'weight': torch.zeros(5000)}, tmp_path / 'a')
    content = (tmp_path / 'a').read_bytes()
    at = content.index(bytes(4000)) + 2000
    assert torch.load(tmp_path / 'a', weights_only=True)['weight'].sum() == 0
    damaged = content[:at] + b'\x01' + content[at + 1:]
    put(host, row(), content=damaged)
    refused(row(), tmp_path, r'arrived damaged \(a/data/0\); it was removed, try again')
    put(host, row(), content=content)
    assert fetch(row(), tmp_path, None)[0].read_bytes() == content


def test_damage_anywhere_in_an_archive_at_first_use(tmp_path):
    torch.save({'a': torch.zeros(40), 'b': torch.ones(3)}, tmp_path / 'a')
    content, draw, told = (tmp_path / 'a').read_bytes(), random.Random(0), 0
    for _ in range(600):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 2, 4))):
            damaged[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / f'{NAME}.pth').write_bytes(damaged)
        try:
            fetch(row(), tmp_path, None)
        except WeightsError as e:
            told += 'arrived damaged (' in str(e) and str(e).isprintable()
    assert told > 300  # in the others it is where nothing looks, in padding for example


def test_wrong_size(host, tmp_path):
    put(host, row(), content=CONTENT[:-1])
    refused(row(bytes=len(CONTENT)), tmp_path, 'has 1023999 bytes instead of 1024000; it was removed, try again')


def test_files_that_cannot_be_fetched(tmp_path):
    text = refused(row('none', note='not released'), tmp_path, r'no official weights of .* \(not released\)')
    assert "timm.create_model('flatten_pvt_v2_b0', pretrained=True, pretrained_cfg_overlay=dict(file='...'))" in text
    refused(row('none', name='inline_deit_small.in1k', note='x'), tmp_path, 'weights of inline_deit_small.in1k_288')
    refused(row('baidu', location='https://pan.baidu.com/s/1x', note='code abcd'), tmp_path,
            r'manually from https://pan\.baidu\.com/s/1x \(code abcd\)')


class Gdown(types.ModuleType):
    """Stands for gdown, whose addresses cannot be led elsewhere; it does as its documentation says."""

    def __init__(self, content=CONTENT, error=None):
        super().__init__('gdown')
        self.content, self.error = content, error

    def download(self, url=None, output=None, quiet=False, *, id=None, resume=False):
        assert url is None and len(id) == 33 and resume
        if self.error:
            raise self.error
        with open(output, 'wb') as file:
            file.write(self.content)
        return output


def test_google_drive_is_an_extra_of_the_package():
    text = (Path(__file__).parents[2] / 'pyproject.toml').read_text()
    assert EXTRA == 'pip install "backbone-zoo[gdrive]"'
    assert '\ngdrive = ["gdown>=5"]\n' in text and '\nname = "backbone-zoo"\n' in text


def test_google_drive(host, tmp_path, monkeypatch):
    source = row('gdrive', location='1tf4pD6VQlq2uTzuPHjzE1b8I5XU8mwsZ')
    assert address(source) == 'https://drive.google.com/uc?id=1tf4pD6VQlq2uTzuPHjzE1b8I5XU8mwsZ'
    monkeypatch.setitem(sys.modules, 'gdown', None)
    refused(source, tmp_path, r'on Google Drive \(https.*\): pip install "backbone-zoo\[gdrive\]", then try again')
    monkeypatch.setitem(sys.modules, 'gdown', Gdown(error=RuntimeError('Cannot retrieve\nToo many users have viewed')))
    refused(source, tmp_path, r'uc\?id=.* cannot be fetched \(Cannot retrieve Too many users have viewed\)')
    monkeypatch.setitem(sys.modules, 'gdown', Gdown(content=b'<!DOCTYPE html>sign in'))
    refused(source, tmp_path, 'web page instead of the file')
    monkeypatch.setitem(sys.modules, 'gdown', Gdown())
    assert fetch(source, tmp_path, DIGEST)[0].read_bytes() == CONTENT
