"""Times of calls by replays of CUDA graphs, of their launches by the host's clock, and of their kernels one by one.

A graph holds one call. ``zoo.bench.timing`` replays it between two events, behind an overwriting of the caches and a
sleep that hides the launch: what is timed is the GPU's work. What cannot be captured is timed the same way, launch by
launch, and its row says why.
"""
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from zoo.bench import timing

Call = Callable[[], Any]
REPEATS, HOST_REPEATS, PROFILED = 15, 10, 3


def capture(call: Call) -> tuple[Call, Any]:
    """A replay of the call, and the dictionary of tensors that it writes into.

    Without a GPU, the call itself, whose results are copied there.

    Raises:
        RuntimeError: It cannot be captured.
    """
    if not torch.cuda.is_available():
        results = call()

        def again() -> None:
            for name, x in call().items():
                results[name].copy_(x)
        return again, results
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries choose and allocate
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph.replay, results


def times(calls: Mapping[str, Call], device: torch.device, graphs: bool = True) -> dict[str, dict[str, Any]]:
    """Fields of a row for each call, taken in turns: ``ms`` with quartiles, ``how``, ``host_ms``.

    ``hidden``: the launch was over before the GPU began, so that ``ms`` has none of it. ``first_s`` are the seconds of
    the first call, compilation included. A call that fails has a ``reason`` instead. Without a GPU every call is made
    once, and all times are None: what a clock says there is no speed of a kernel.
    """
    rows, ready = {}, {}
    for name, call in calls.items():
        rows[name] = {}
        try:
            begin = time.perf_counter()
            call()
            if device.type == 'cuda':
                torch.cuda.synchronize()
                rows[name]['first_s'] = round(time.perf_counter() - begin, 3)
        except Exception as e:  # out of memory, or a library that does not take it: the others go on
            rows[name]['reason'] = f'{type(e).__name__}: {" ".join(str(e).split())}'[:300]
            continue
        if device.type != 'cuda':
            rows[name].update(ms=None, how='dry run', host_ms=None)
            continue
        rows[name].update(host_ms=host_ms(call), how='graph')
        ready[name] = call
        if graphs:
            try:
                ready[name] = capture(call)[0]
            except Exception as e:
                torch.cuda.synchronize()
                rows[name]['no_graph'] = f'{type(e).__name__}: {" ".join(str(e).split())}'[:300]
        if ready[name] is call:
            rows[name]['how'] = 'launches'
    if ready:
        for name, found in timing.interleaved(ready, device, REPEATS).items():
            rows[name].update(ms=found.median, quartiles=[found.low, found.high], hidden=found.hidden)
    return rows


def host_ms(call: Call) -> float:
    """What the CPU needs until a call returns, with nothing queued on the GPU."""
    samples = []
    for _ in range(HOST_REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        samples.append(1e3 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return statistics.median(samples)


def profile(call: Call, device: torch.device) -> torch.profiler.profile:
    """A profile of PROFILED calls."""
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        torch.cuda.synchronize()
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as found:
        for _ in range(PROFILED):
            call()
        if device.type == 'cuda':
            torch.cuda.synchronize()
    return found


def busiest(events: Sequence[Any], of_gpu: bool) -> list[tuple[str, float, int]]:
    """Names, microseconds and numbers in a call of a profile's kernels, or of the operators that launch them."""
    kind = torch.autograd.DeviceType.CUDA if of_gpu else torch.autograd.DeviceType.CPU
    chosen = [(event.key, event.self_device_time_total / PROFILED, event.count // PROFILED) for event in events
              if event.device_type == kind and event.self_device_time_total and not event.is_user_annotation
              and event.key != 'Activity Buffer Request']  # of the profiler itself
    return sorted(chosen, key=lambda row: -row[1])


def kernels(call: Call, device: torch.device) -> dict[str, float]:
    """Microseconds of a call by kernel, longest first; nothing without a GPU."""
    return {name[:80]: round(us, 2) for name, us, _ in busiest(profile(call, device).key_averages(), of_gpu=True)}


def free() -> None:
    """Give the memory of captured graphs back."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
