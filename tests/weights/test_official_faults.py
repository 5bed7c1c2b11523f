"""Official weights that are damaged, of another model, or fetched where there is no room; processes that are killed."""
import hashlib
import sys
from pathlib import Path

import pytest
import torch

from tests import goldens
from tests.weights.client import Fork
from tests.weights.host import File
from tests.weights.official_file import MODEL, NAME, PATH, PLACE, READY, create, names, refused, stand_in
from tests.weights.test_checkpoint import Bomb
from zoo.weights.cache import FORMAT

# --- files that are not what they should be


def flipped(content):
    """The content with another byte inside a weight, and the check sum of the archive to match: size as before."""
    import io
    import zipfile
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith('/data/0'):
                data = data[:9] + bytes([data[9] ^ 1]) + data[10:]
            new.writestr(entry, data)
    return out.getvalue()


def test_known_hash_is_enforced(official_host, cache, monkeypatch, reference):
    stand_in(monkeypatch, sha256='0' * 64)
    refused(r'damaged or has been replaced \(SHA-256 .*expected 000000000000')
    assert names(cache) == []
    stand_in(monkeypatch, sha256=hashlib.sha256(reference).hexdigest())
    create()
    assert names(cache) == READY


def test_flipped_byte_is_caught_by_the_manifest(official_host, cache, reference):
    create()
    cache.converted_path(NAME).unlink()
    official_host.files[PATH] = File(flipped(reference))
    refused('damaged or has been replaced .*it was removed, try again')
    assert names(cache) == ['manifest.json']
    official_host.files[PATH] = File(reference)
    create()
    assert names(cache) == READY


def test_damaged_conversion_is_made_anew(official_host, cache, caplog):
    want = create().stem.proj.weight
    path = cache.converted_path(NAME)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert torch.equal(create().stem.proj.weight, want)
    assert 'is damaged; downloading the weights' in caplog.text and len(official_host.asked) == 2


def test_conversion_of_another_format_or_hash_is_made_anew(official_host, cache, monkeypatch, reference):
    create()
    monkeypatch.setattr('zoo.weights.cache.FORMAT', FORMAT + 1)
    create()
    create()
    assert len(official_host.asked) == 2
    other = flipped(reference)
    official_host.files[PATH] = File(other)
    stand_in(monkeypatch, sha256=hashlib.sha256(other).hexdigest())  # the table has learnt of another file
    create()
    create()
    assert len(official_host.asked) == 3


def test_pickle_that_runs_code(official_host, cache, tmp_path):
    torch.save({'model': {}, 'config': Bomb(str(tmp_path / 'exploded'))}, tmp_path / 'a.pth')
    official_host.files[PATH] = File((tmp_path / 'a.pth').read_bytes())
    refused('would run code.*nothing was executed', error=ValueError)
    assert not (tmp_path / 'exploded').exists()
    assert names(cache) == []


@pytest.mark.parametrize('change, match', [
    (lambda state: state.pop('head.bias'), r'does not fit flatten_pvt_v2_b0: head\.fc\.bias is missing'),
    (lambda state: state.update({'head.weight': torch.zeros(999, 256)}), r'head\.fc\.weight is \[999, 256\]'),
    (lambda state: state.update(extra=torch.zeros(1)), 'extra is not in the model')])
def test_weights_of_another_model(official_host, cache, tmp_path, change, match):
    state = goldens.reference_state(goldens.load(f'{MODEL}@224'), torch.float32)
    change(state)
    torch.save(state, tmp_path / 'a.pth')
    official_host.files[PATH] = File((tmp_path / 'a.pth').read_bytes())
    refused(match, error=ValueError)
    assert names(cache) == []  # and no hash that would pin the wrong file


def test_server_that_sends_a_short_file(official_host, cache, reference):
    official_host.files[PATH] = File(reference[:-1000])
    refused('truncated or not a checkpoint|not a plain checkpoint|arrived damaged', error=ValueError)
    assert names(cache) == []
    official_host.files[PATH] = File(reference)
    create()


@pytest.mark.parametrize('content', ['{"files": {', '[]', '{"files": []}'])
def test_damaged_manifest(official_host, cache, content):
    create()
    cache.manifest_path.write_text(content)
    refused('manifest.json cannot be read.*delete the folder')


def test_a_file_that_the_user_has_linked_stays(official_host, cache, tmp_path, reference):
    """Whoever has the file already can lay a link to it where the download would go."""
    own = tmp_path / 'mine.pth'
    for content, error in ((reference, None), (reference[:-1000], 'is damaged|arrived damaged|truncated'),
                           (b'<html>', 'web page')):
        own.write_bytes(content)
        cache.downloads.mkdir(parents=True, exist_ok=True)
        link = cache.downloads / f'{NAME}.pth'
        link.symlink_to(own)
        if error:
            refused(error, ValueError)
        else:
            create()
            assert names(cache) == READY
        assert own.read_bytes() == content and not link.is_symlink() and not official_host.asked
        cache.converted_path(NAME).unlink(missing_ok=True)


# --- processes of their own

CASE = f'{NAME} tsinghua {PLACE}'


def outcome(process):
    code, (found,) = process.end()
    assert code == 0
    return found


def test_killed_in_the_middle_of_conversion(official_host, cache):
    assert Fork(official_host, CASE, ZOO_TEST_KILL='').end() == (-9, None)
    assert names(cache) == [f'converted/.{NAME}.safetensors.tmp', f'downloads/{NAME}.pth']
    create()
    assert names(cache) == READY and len(official_host.asked) == 1


def test_two_processes_at_once(official_host, cache):
    processes = [Fork(official_host, CASE) for _ in range(2)]
    want = create().stem.proj.weight.double().sum().item()
    assert [outcome(process) for process in processes] == [want] * 2
    assert names(cache) == READY and len(official_host.asked) == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux says how to give up the powers of root')
def test_read_only_cache(official_host, cache):
    cache.folder.mkdir()
    cache.folder.chmod(0o555)
    text = outcome(Fork(official_host, CASE, ZOO_TEST_POWERLESS=''))
    assert text == (f'WeightsError: weights cannot be written to {cache.folder} (Permission denied); '
                    f'set ZOO_CACHE to a writable folder')
    cache.folder.chmod(0o755)
    want = create().stem.proj.weight.double().sum().item()
    for folder in (cache.folder, *filter(Path.is_dir, cache.folder.rglob('*'))):
        folder.chmod(0o555)
    assert outcome(Fork(official_host, CASE, ZOO_TEST_POWERLESS='')) == want
    for folder in (cache.folder, *filter(Path.is_dir, cache.folder.rglob('*'))):
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == 'win32', reason='no limit of file sizes')
@pytest.mark.parametrize('folder, left', [
    ('downloads', [f'downloads/{NAME}.pth.part', f'downloads/{NAME}.pth.part.json']),
    ('converted', [f'downloads/{NAME}.pth'])])
def test_full_disk(official_host, cache, folder, left):
    text = outcome(Fork(official_host, CASE, ZOO_TEST_FULL=folder))
    assert text == (f'WeightsError: no space for weights in {cache.folder / folder} (File too large); '
                    f'free some, or set ZOO_CACHE to a folder with more space')
    assert names(cache) == left
    create()
    assert names(cache) == READY
    assert official_host.got(PATH) == ([0, 5_000_000] if folder == 'downloads' else [0])  # what had arrived is used
