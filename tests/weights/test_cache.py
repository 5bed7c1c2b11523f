"""The cache takes nothing in it on trust: neither its manifest nor links that lead out of it."""
import json
import os

import huggingface_hub.constants
import pytest

from zoo.utils.files import atomic_write
from zoo.weights import WeightsError
from zoo.weights.cache import Cache, write_to_cache
from zoo.weights.fetch import remove

NAME, PLACE, SHA = 'a.in1k', 'https://h/a', 'a' * 64


@pytest.fixture
def cache(tmp_path):
    """A cache with one model in it, beside a file of the user."""
    cache = Cache(tmp_path / 'zoo')
    write_to_cache(cache.converted_path(NAME), lambda path: path.write_text('weights'))
    cache.record(NAME, PLACE, SHA, 7)
    assert cache.converted(NAME, PLACE, None) and cache.recorded(PLACE) == SHA
    (tmp_path / 'own').write_text('own')
    return cache


# --- the manifest

OTHERS = None, True, 1, 1.5, float('inf'), 'x', [], [['a', 1]], {}, KeyError  # the last: it is missing


def tampered(value):
    """A part of a manifest with something at every place in it that does not belong there."""
    for other in OTHERS:
        if type(other) is not type(value) or len(str(value)) == 64:
            yield other
    for key, inner in value.items() if isinstance(value, dict) else ():
        for other in tampered(inner):
            if other is not KeyError:
                yield {**value, key: other}
            elif key not in (PLACE, NAME):
                yield {name: rest for name, rest in value.items() if name != key}


def test_tampered_manifest(cache):
    manifests = [other for other in tampered(json.loads(cache.manifest_path.read_text())) if other is not KeyError]
    assert len(manifests) > 100
    for manifest in manifests:
        cache.manifest_path.write_text(json.dumps(manifest))
        refused(cache, json.dumps(manifest))


@pytest.mark.parametrize('content', [
    b'', b'\xff\xfe', b'{"files": {', b'[' * 20_000, b'\0' * 100, b'{"files": {}, "converted": {}} x', b'9' * 5000],
    ids=['empty', 'bytes', 'cut', 'deep', 'zeros', 'more', 'digits'])
def test_manifest_that_is_no_json(cache, content):
    cache.manifest_path.write_bytes(content)
    refused(cache, '')


def test_manifest_that_is_no_file(cache):
    cache.manifest_path.unlink()
    cache.manifest_path.mkdir()
    refused(cache, 'folder')
    cache.manifest_path.rmdir()
    os.mkfifo(cache.manifest_path)  # would be waited for
    refused(cache, 'pipe')


def refused(cache, what):
    for ask in (cache.manifest, lambda: cache.recorded(PLACE), lambda: cache.converted(NAME, PLACE, None),
                lambda: cache.record(NAME, PLACE, SHA, 7)):
        with pytest.raises(WeightsError) as caught:
            ask()
        assert str(caught.value) == (
            f'{cache.manifest_path} cannot be read, so the weights in the cache cannot be verified; delete the folder '
            f'{cache.folder} to download them again'), what


# --- links

@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_nothing_is_written_through_a_link(cache, link):
    own = cache.folder.parent / 'own'
    for place in (cache.manifest_path, cache.manifest_path.with_name('.manifest.json.tmp'), cache.converted_path(NAME),
                  cache.converted_path(NAME).with_name(f'.{NAME}.safetensors.tmp'),
                  cache.folder / 'locks' / 'manifest.lock'):
        content = place.read_text() if place.exists() and place.suffix == '.json' else '{"files": {}, "converted": {}}'
        own.write_text(content)
        place.unlink(missing_ok=True)
        link(own, place)
        write_to_cache(cache.converted_path(NAME), lambda path: path.write_text('weights'))
        cache.record(NAME, PLACE, SHA, 7)
        assert own.read_text() == content and cache.converted(NAME, PLACE, SHA).read_text() == 'weights'
        assert not place.exists() or not place.samefile(own)


@pytest.mark.parametrize('name', ['downloads', 'converted', 'locks'])
def test_folders_that_lead_out_of_the_cache_are_refused(tmp_path, name):
    cache = Cache(tmp_path / 'zoo')
    cache.folder.mkdir()
    (tmp_path / 'own').mkdir()
    (cache.folder / name).symlink_to('../own')
    with pytest.raises(WeightsError, match=f'zoo/{name} is a link that leads out of the cache; remove it, and set '):
        with cache.lock(NAME):
            pass
    assert not list((tmp_path / 'own').iterdir())


def test_a_cache_that_is_a_link_is_one(tmp_path):
    (tmp_path / 'large').mkdir()
    (tmp_path / 'zoo').symlink_to('large')
    cache = Cache(tmp_path / 'zoo')
    (cache.folder / 'more').mkdir()
    (cache.folder / 'downloads').symlink_to('more')  # inside
    with cache.lock(NAME):
        assert (tmp_path / 'large' / 'locks' / f'{NAME}.lock').exists()


def test_a_draft_is_not_written_through_a_link(tmp_path):
    (tmp_path / 'own').write_text('own')
    (tmp_path / f'.a.{os.getpid()}').symlink_to(tmp_path / 'own')
    with atomic_write(tmp_path / 'a') as draft:
        draft.write_text('new')
    assert (tmp_path / 'own').read_text() == 'own' and (tmp_path / 'a').read_text() == 'new'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache, itself behind a link, with a file as huggingface_hub puts it there."""
    (tmp_path / 'disk' / 'models--o--r' / 'blobs').mkdir(parents=True)
    (tmp_path / 'hub').symlink_to('disk')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    file = tmp_path / 'hub' / 'models--o--r' / 'snapshots' / 'c' / 'sub' / 'a.pth'
    file.parent.mkdir(parents=True)
    file.symlink_to('../../../blobs/123')
    (tmp_path / 'own').write_text('own')
    return file


def test_of_the_hubs_links_the_file_is_removed_too(hub, tmp_path):
    blob = tmp_path / 'disk' / 'models--o--r' / 'blobs' / '123'
    blob.write_text('damaged')
    remove(hub)
    assert not blob.exists() and not hub.is_symlink()


def test_links_out_of_the_hubs_cache_are_not_followed(hub, tmp_path, monkeypatch):
    blob = tmp_path / 'disk' / 'models--o--r' / 'blobs' / '123'
    blob.symlink_to(tmp_path / 'own')  # the hub's link to a link of the user
    remove(hub)
    assert not hub.is_symlink() and not blob.is_symlink() and (tmp_path / 'own').read_text() == 'own'
    hub.symlink_to(tmp_path / 'own')
    remove(hub)
    assert not hub.is_symlink() and (tmp_path / 'own').read_text() == 'own'
    link = tmp_path / 'downloads.pth'  # of the user, into the hub's cache
    blob.write_text('good')
    link.symlink_to(blob)
    remove(link)
    assert not link.is_symlink() and blob.read_text() == 'good'
