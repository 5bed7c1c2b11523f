"""Files that are whole or absent, and folders that cannot be written to."""
import os

import pytest

from zoo.utils import files
from zoo.utils.errors import ZooError


def test_what_interrupts_a_write_is_not_taken_for_a_full_disk(tmp_path):
    """A signal tells of a dead loading process while torch.save writes; torch then adds an error of its own."""
    def write(file):
        try:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')
        finally:
            raise RuntimeError('[enforce fail at inline_container.cc:783] . unexpected pos 64 vs 0')

    with pytest.raises(RuntimeError, match='^DataLoader worker'):
        files.write_atomically(tmp_path / 'a', write)
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    files.check_writable(tmp_path / 'new' / 'deep')
    assert not (tmp_path / 'new').exists()
    with pytest.raises(ZooError, match='is not a folder; choose another `output`'):
        files.check_writable(tmp_path / 'file' / 'run')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(ZooError, match='no permission'):
        files.check_writable(tmp_path / 'new')


def test_errors_that_are_not_the_disks_are_not_blamed_on_it(tmp_path):
    def broken(file):
        raise RuntimeError('a bug')

    def full(file):
        raise OSError(28, 'No space left on device')

    with pytest.raises(RuntimeError, match='a bug'):
        files.write_atomically(tmp_path / 'a', broken)
    with pytest.raises(ZooError, match='cannot write .*No space left on device'):
        files.write_atomically(tmp_path / 'a', full)
