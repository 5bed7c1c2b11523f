"""Reports in one line that a loading process was killed, has ended or hangs, whatever torch notices first."""
import contextlib
import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from ...utils.errors import ZooError, format_error

DIED = ('a data loading process has died, most often for lack of memory; lower --workers (in a container, raise its '
        'shared memory)')
ENDED_ITSELF = 'a data loading process has ended, for a reason that --workers 0 may show'
# What torch says of a process of its own, and of an error within one
KILLED = 'is killed by signal'
ENDED = re.compile(rf'DataLoader worker \(pid.*?\) ({KILLED}|exited unexpectedly)')
WITHIN = 'in DataLoader worker process'
NOTICE_SECONDS = 2  # a connection breaks before the process that held it has ended


class LoadingFailed(ZooError):
    """A loading process was killed, has ended or does not respond."""


class WatchedLoader(DataLoader):
    """torch's loader, which says so when a loading process is killed, ends or hangs.

    torch's own ``timeout`` does not notice a process that hangs while it passes on the memory of a batch.

    Attributes:
        patience: Seconds to wait for a batch, 0 for no limit.
    """

    patience = 0.

    def __iter__(self) -> Iterator[Any]:
        before = multiprocessing.active_children()
        batches = super().__iter__()
        return self._watch(batches, [process for process in multiprocessing.active_children() if process not in before])

    def _watch(self, batches: Iterator[Any], processes: Sequence[Any]) -> Iterator[Any]:
        watchdog = _Watchdog(processes, self.patience)
        with watchdog:
            while True:
                try:
                    watchdog.batch += 1
                    batch = next(batches)
                except StopIteration:
                    _end(process for process in processes if process.is_alive())
                    return
                except (RuntimeError, OSError, EOFError) as e:
                    told = watchdog.told()
                    if told is None and (explained(e) or not isinstance(e, RuntimeError) and WITHIN not in str(e)):
                        told = _of_ended(processes) or explained(e)
                    if told is None:
                        raise
                    raise told from e
                watchdog.batch += 1
                yield batch


class _Watchdog(threading.Thread):
    """Kills loading processes that deliver no batch in time.

    Time is counted in wake-ups of the thread, so that none passes while the whole program is stopped (Ctrl-Z).
    """

    wakings = 10

    def __init__(self, processes: Sequence[Any], patience: float):
        super().__init__(daemon=True)
        self.processes, self.patience = processes, patience
        self.batch = 0  # odd while one is waited for
        self.done, self.fired = threading.Event(), False

    def __enter__(self) -> None:
        if self.patience and self.processes:
            self.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        seen, count = 0, 0
        while not self.done.wait(min(self.patience / self.wakings, threading.TIMEOUT_MAX)):
            seen, count = self.batch, count + 1 if self.batch == seen and seen % 2 else 0
            if count >= self.wakings:
                self.fired = True
                _end(self.processes)
                return

    def told(self) -> LoadingFailed | None:
        """The message once it has killed them and they are gone."""
        if not self.fired:
            return None
        for process in self.processes:
            with contextlib.suppress(RuntimeError):  # torch's handler of their signals would raise it later
                process.join(NOTICE_SECONDS)
        return LoadingFailed(
            f'the data loading processes have brought no batch for {self.patience:g} s: they are stopped, or wait for '
            f'the storage of the data; look there, or raise --worker-timeout')


def watch(loader: Any, patience: float) -> Any:
    """Turn a loader of torch or timm, with or without a prefetcher, into a :class:`WatchedLoader`.

    Args:
        loader: The loader.
        patience: Seconds to wait for a batch, 0 for no limit.
    """
    inner = getattr(loader, 'loader', loader)
    inner.__class__ = WatchedLoader  # timm makes it, and has no argument for this
    inner.patience = patience
    return loader


def explained(error: BaseException) -> LoadingFailed | None:
    """Explain the error that torch raises, wherever the program is, when a loading process has ended.

    Returns:
        None for any other error, including one within a loading process.
    """
    if isinstance(error, LoadingFailed):
        return error
    found = ENDED.match(format_error(error)) if isinstance(error, RuntimeError) else None
    if found is None:
        return None
    what = DIED if found[1] == KILLED else ENDED_ITSELF
    return LoadingFailed(f'{format_error(error).partition(". ")[0].rstrip(".")}: {what}')


def _of_ended(processes: Sequence[Any]) -> LoadingFailed | None:
    """The same, by how a process has ended; after a broken connection, it may be about to."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while processes and time.monotonic() < deadline:
        for process in processes:
            name, code = f'DataLoader worker (pid {process.pid})', process.exitcode
            if code and code < 0:
                return LoadingFailed(f'{name} {KILLED}: {signal.strsignal(-code)}: {DIED}')
            if code:
                return LoadingFailed(f'{name} exited unexpectedly with exit code {code}: {ENDED_ITSELF}')
        time.sleep(0.02)
    return None


def _end(processes: Iterable[Any]) -> None:
    """Kill processes: one that is stopped hears of nothing else, and Python would wait for it at the end."""
    for process in processes:
        process.kill()
