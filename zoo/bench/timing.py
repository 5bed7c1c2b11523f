"""Time and memory of calls, all in one process and interleaved, so that a busy machine affects all of them equally."""
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoo_kernels import cpu

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler complains about CUDA builds without a GPU
PRODUCT_SIDE = {'cpu': 1024, 'cuda': 8192}
CACHE_BYTES = 2 ** 28  # more than the caches of any device here
TRIES = 4  # of a sample, each after a sleep twice as long, before a launch counts as one that cannot be hidden
Call = Callable[[], Any]


class Timing(NamedTuple):
    """Milliseconds of one call: the median of the samples and their quartiles.

    On CUDA it is the time of the device; ``host`` is the median time in which the CPU launches the call, and ``hidden``
    whether all of it was launched before the device began. Elsewhere both are None.
    """

    median: float
    low: float
    high: float
    samples: int
    host: float | None = None
    hidden: bool | None = None

    @classmethod
    def of(cls, samples: list[float], host: float | None = None, hidden: bool | None = None) -> 'Timing':
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0], len(samples), host, hidden)
        low, median, high = statistics.quantiles(samples, n=4, method='inclusive')
        return cls(median, low, high, len(samples), host, hidden)

    @property
    def period(self) -> float:
        """Milliseconds from call to call when they follow each other: the longer of the device's and the host's."""
        return max(self.median, self.host or 0.)

    def quartiles(self) -> dict[str, float]:
        """Median, quartiles and number of samples by name."""
        return dict(median=self.median, low=self.low, high=self.high, samples=self.samples)

    def columns(self) -> dict[str, Any]:
        """The columns of a result: ``ms``, ``host_ms`` and ``host_hidden``."""
        return dict(ms=self.quartiles(), host_ms=self.host, host_hidden=self.hidden)


def interleaved(calls: Mapping[str, Call], device: torch.device, repeats: int, warmup: int = 2) -> dict[str, Timing]:
    """Time calls in turns, A B A B.

    On CUDA the caches are overwritten before each call, as a model's other layers do, then the device sleeps until the
    CPU has launched the whole call, and events mark the call's begin and end: Python is not what is timed. Elsewhere
    the clock of the process is read before and after.

    Args:
        calls: By name; each has run without error before.
        device: That they run on.
        repeats: Timed rounds.
        warmup: Rounds before.
    """
    make = _cuda_stopwatch(device) if device.type == 'cuda' else _Stopwatch
    watches = {name: make(call) for name, call in calls.items()}
    for turn in range(warmup + repeats):
        for watch in watches.values():
            if turn < warmup:
                watch.warm_up()
            else:
                watch.sample()
    return {name: watch.timing() for name, watch in watches.items()}


class _Stopwatch:
    """Times a call that returns when its work is done."""

    def __init__(self, call: Call):
        self.call = call
        self.samples: list[float] = []  # milliseconds

    def warm_up(self) -> None:
        self.call()

    def sample(self) -> None:
        start = time.perf_counter()
        self.call()
        self.samples.append(1e3 * (time.perf_counter() - start))

    def timing(self) -> Timing:
        return Timing.of(self.samples)


def _cuda_stopwatch(device: torch.device) -> Callable[[Call], '_CudaStopwatch']:
    filler = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device)
    return partial(_CudaStopwatch, filler=filler, device=device, cycles=cycles_per_ms(device))


class _CudaStopwatch:
    """Times what a call has the device do, launched as a whole while the device sleeps.

    A sample counts if the device was still asleep when the call had been launched; else it is taken again after a
    longer sleep. A call that outlasts every sleep waits for the device, or launches more than the device's queue holds:
    it is timed without sleep, and ``hidden`` is False.
    """

    def __init__(self, call: Call, filler: torch.Tensor, device: torch.device, cycles: float):
        self.call, self.filler, self.device, self.cycles = call, filler, device, cycles
        self.sleep = 0.  # milliseconds
        self.hidden = True
        self.samples: list[float] = []
        self.hosts: list[float] = []

    def warm_up(self) -> None:
        """Call once, and let the next sleep be as long as this call's launch asks for."""
        self.sleep = 0.
        _, host, _ = self._run()
        self.sleep = _sleep_for(host)

    def sample(self) -> None:
        for _ in range(TRIES if self.hidden else 0):
            ms, host, asleep = self._run()
            if asleep:
                break
            self.sleep = max(2 * self.sleep, _sleep_for(host))
        else:
            self.sleep, self.hidden = 0., False
            ms, host, _ = self._run()
        self.samples.append(ms)
        self.hosts.append(host)

    def timing(self) -> Timing:
        return Timing.of(self.samples, statistics.median(self.hosts), self.hidden)

    def _run(self) -> tuple[float, float, bool]:
        """Milliseconds of the device and of the host, and whether the device had not begun when the host was done."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)  # the work of an earlier call would be a head start, or fill the queue
        self.filler.zero_()
        torch.cuda._sleep(int(self.sleep * self.cycles))
        start.record()
        before = time.perf_counter()
        self.call()
        host = 1e3 * (time.perf_counter() - before)
        end.record()
        asleep = not start.query()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end), host, asleep


def _sleep_for(host: float) -> float:
    """Milliseconds that hide a launch which has taken so many: it varies, and the events are recorded too."""
    return 1.5 * host + 0.05


def cycles_per_ms(device: torch.device, tries: int = 10, cycles: int = 1_000_000) -> float:
    """Cycles of ``torch.cuda._sleep`` in a millisecond: the most of some tries, as a device that was idle is slow."""
    found = []
    for _ in range(tries):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        torch.cuda.synchronize(device)
        found.append(cycles / start.elapsed_time(end))
    return max(found)


def bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Bytes per second that a copy on the device reads and writes: what the floor of an op is made from."""
    size = 2 ** 30 if device.type == 'cuda' else 2 ** 27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = interleaved({'copy': lambda: target.copy_(source)}, device, repeats)['copy']
    return 2 * size / (1e-3 * timing.median)


@contextmanager
def set_threads(threads: int) -> Iterator[None]:
    """Run a block with another number of torch's threads on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations per second of a large matrix product, by the faster library: what a model's floor is made from.

    On a CPU the library that torch takes by itself and oneDNN are tried: both keep to torch's number of threads.
    """
    side = PRODUCT_SIDE[device.type]
    x, weight = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    calls: dict[str, Call] = {'torch': partial(torch.nn.functional.linear, x, weight)}
    if device.type == 'cpu' and dtype == torch.float32 and cpu.has_onednn():
        calls['onednn'] = partial(cpu.onednn_linear, x, weight, None)
    with torch.inference_mode():
        timings = interleaved(calls, device, repeats, warmup=1)
    return 2 * side ** 3 / (1e-3 * min(timing.median for timing in timings.values()))


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most bytes that a call holds at any moment beyond what was there before it.

    On CUDA the allocator's own peak; elsewhere the running sum over the profiler's record of every allocation, which
    sees the scratch space of library calls too. (The resident size of a process would count what allocators keep.)
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
            call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'trace.json')
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    changes = sorted((e['ts'], e['args']['Ev Idx'], e['args']['Bytes']) for e in events if e.get('name') == '[memory]')
    held = peak = 0
    for _, _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
