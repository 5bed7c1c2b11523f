"""Time and memory of calls, all in one process and interleaved, so that a busy machine is unfair to none of them."""
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler complains about CUDA builds without a GPU
CACHE_BYTES = 2 ** 28  # more than the caches of any device here
Call = Callable[[], Any]


class Timing(NamedTuple):
    """Milliseconds of one call: the median of the samples and their quartiles."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> 'Timing':
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0], len(samples))
        low, median, high = statistics.quantiles(samples, n=4, method='inclusive')
        return cls(median, low, high, len(samples))


def interleaved(calls: Mapping[str, Call], device: torch.device, repeats: int, warmup: int = 2) -> dict[str, Timing]:
    """Time calls in turns, A B A B.

    On CUDA the caches are overwritten before each call, as a model's other layers do, and events mark its begin and
    end; elsewhere the clock of the process does.

    Args:
        calls: By name; each has run without error before.
        device: That they run on.
        repeats: Timed rounds.
        warmup: Rounds before.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    clock = _cuda_round if device.type == 'cuda' else _cpu_round
    for turn in range(warmup + repeats):
        times = clock(calls, device)
        if turn >= warmup:
            for name, milliseconds in times.items():
                samples[name].append(milliseconds)
    return {name: Timing.of(times) for name, times in samples.items()}


def _cpu_round(calls: Mapping[str, Call], device: torch.device) -> dict[str, float]:
    times = {}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        times[name] = 1e3 * (time.perf_counter() - start)
    return times


def _cuda_round(calls: Mapping[str, Call], device: torch.device) -> dict[str, float]:
    filler = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device)
    marks = {}
    for name, call in calls.items():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        filler.zero_()  # also gives the CPU a head start, so that launches are not what is timed
        start.record()
        call()
        end.record()
        marks[name] = start, end
    torch.cuda.synchronize(device)
    return {name: start.elapsed_time(end) for name, (start, end) in marks.items()}


def bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Bytes per second that a copy on the device reads and writes: what the floor of an op is made from."""
    size = 2 ** 30 if device.type == 'cuda' else 2 ** 27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = interleaved({'copy': lambda: target.copy_(source)}, device, repeats)['copy']
    return 2 * size / (1e-3 * timing.median)


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
