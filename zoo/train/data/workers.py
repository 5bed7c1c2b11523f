"""Loading processes that are killed, end or stop: told in a line, whatever it is that torch notices first."""
import multiprocessing
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from ...utils.errors import ZooError, format_error

MEMORY = 'most often for lack of memory; lower --workers (in a container, raise its shared memory)'
# How torch begins what it says of a process of its own; what an error within one says begins otherwise
ENDED = re.compile(r'DataLoader worker \(pid.*?\) (is killed by signal|exited unexpectedly)')
TIMED_OUT = 'DataLoader timed out'
NOTICE_SECONDS = 2  # a connection breaks before the process that held it has ended


class LoadingFailed(ZooError):
    """A loading process was killed, has ended or does not answer."""


class WatchedLoader(DataLoader):
    """torch's loader; when a loading process is killed, ends or stops, that is what it says.

    ``timeout`` is waited for in two halves: when the whole program was stopped for longer (Ctrl-Z), the second finds
    that the processes have gone on too.
    """

    def __iter__(self) -> Iterator[Any]:
        before = multiprocessing.active_children()
        batches = super().__iter__()
        return self._watch(batches, [process for process in multiprocessing.active_children() if process not in before])

    def _watch(self, batches: Iterator[Any], processes: Sequence[Any]) -> Iterator[Any]:
        waited = 0
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as e:
                if str(e).startswith(TIMED_OUT):
                    waited += 1
                    if waited < 2:
                        continue
                    _kill(processes)
                    raise LoadingFailed(
                        f'the data loading processes have brought no batch for {2 * self.timeout:g} s: they are '
                        f'stopped, or wait for the storage of the data; look there, or raise --worker-timeout') from e
                told = explained(e) or _of_ended(processes if isinstance(e, (OSError, EOFError)) else ())
                if told is None:
                    raise
                raise told from e
            waited = 0
            yield batch


def watch(loader: Any, timeout: float) -> Any:
    """Let a loader of timm, with or without its prefetcher, be a :class:`WatchedLoader`.

    Args:
        loader: The loader.
        timeout: Seconds to wait for a batch, 0 for ever.
    """
    inner = getattr(loader, 'loader', loader)
    inner.__class__ = WatchedLoader  # timm makes it, and has no argument for this
    inner.timeout = timeout_of(inner.num_workers, timeout)
    return loader


def timeout_of(workers: int, timeout: float) -> float:
    """What a :class:`WatchedLoader` takes for a limit on a batch: only loading processes can be waited for."""
    return timeout / 2 if workers else 0


def explained(error: BaseException) -> LoadingFailed | None:
    """What to say about the error that torch raises, wherever the program is, when a loading process has ended.

    Returns:
        None for any other error, one within a loading process too.
    """
    if isinstance(error, LoadingFailed):
        return error
    found = ENDED.match(format_error(error)) if isinstance(error, RuntimeError) else None
    return found and LoadingFailed(
        f'{format_error(error)[:200].rstrip(". ")}: a data loading process has died, {MEMORY}')


def _of_ended(processes: Sequence[Any]) -> LoadingFailed | None:
    """The same of a broken connection, if one of the processes has ended meanwhile."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while processes and time.monotonic() < deadline:
        for process in processes:
            if process.exitcode:
                how = f'is killed by signal {-process.exitcode}' if process.exitcode < 0 else (
                    f'exited with code {process.exitcode}')
                return LoadingFailed(
                    f'DataLoader worker (pid {process.pid}) {how}: a data loading process has died, {MEMORY}')
        time.sleep(0.02)
    return None


def _kill(processes: Sequence[Any]) -> None:
    """End processes for good: one that is stopped hears of nothing else, and Python waits for it at the end."""
    for process in processes:
        process.kill()
