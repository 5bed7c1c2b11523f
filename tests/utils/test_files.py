"""Files that are whole or absent, folders that cannot be written to, and folders that are in use."""
import os
import signal
import threading
import time

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


def test_a_folder_has_one_user_and_is_free_when_that_one_is_killed(tmp_path):
    """Also where a loading process, forked from the user, lives a little longer."""
    folder = tmp_path / 'new' / 'run'
    user = os.fork()
    if not user:
        with files.folder_lock(folder):
            if not os.fork():
                os.close(1)
                time.sleep(2)
                os._exit(0)
            (folder / 'taken').write_text('')
            time.sleep(60)
        os._exit(1)
    while not (folder / 'taken').exists():
        time.sleep(0.01)
    with pytest.raises(ZooError, match='in use by another run; wait for its end, or choose another `experiment`'):
        with files.folder_lock(folder):
            pass
    os.kill(user, signal.SIGKILL)
    os.waitpid(user, 0)
    with files.folder_lock(folder), pytest.raises(ZooError), files.folder_lock(folder):
        pass
    assert sorted(path.name for path in folder.iterdir()) == [files.LOCK, 'taken']


def test_a_lock_of_another_machine_is_waited_for(tmp_path, monkeypatch, caplog):
    """A file server may notice late that a machine is gone."""
    lock = files.FileLock(tmp_path / files.LOCK, thread_local=False)
    lock.acquire()
    (tmp_path / files.LOCK).write_text('another-host')
    monkeypatch.setattr(files, 'LEASE', 0)
    with pytest.raises(ZooError, match='in use by another run'), files.folder_lock(tmp_path):
        pass
    monkeypatch.setattr(files, 'LEASE', 30)
    freed = threading.Timer(0.1, lock.release)
    freed.start()
    with files.folder_lock(tmp_path):
        assert 'is in use on another-host; waiting up to 30 s' in caplog.text
    freed.join()


def test_errors_that_are_not_the_disks_are_not_blamed_on_it(tmp_path):
    def broken(file):
        raise RuntimeError('a bug')

    def full(file):
        raise OSError(28, 'No space left on device')

    with pytest.raises(RuntimeError, match='a bug'):
        files.write_atomically(tmp_path / 'a', broken)
    with pytest.raises(ZooError, match='cannot write .*No space left on device'):
        files.write_atomically(tmp_path / 'a', full)
