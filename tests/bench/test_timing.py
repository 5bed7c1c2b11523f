"""How calls are timed; CUDA's part with a device that is made up."""
import pytest
import torch

from zoo.bench import timing

CPU, CUDA = torch.device('cpu'), torch.device('cuda')
FLUSH = 65e-6  # seconds


class Device:
    """The clock of a host, and a device that works off what it is given; times in seconds."""

    def __init__(self):
        self.now = 0.
        self.free = 0.  # when the device has done all that it was given
        self.rates = []  # cycles per second of the next sleeps; then 2e9
        self.sleeps = []
        self.queue = []  # when each launch will be done
        self.depth = 1024  # a launch waits for room

    def launch(self, seconds):
        if len(self.queue) >= self.depth:
            self.now = max(self.now, self.queue[-self.depth])
        self.free = max(self.free, self.now) + seconds
        self.queue.append(self.free)

    def sleep(self, cycles):
        self.sleeps.append(cycles / 2e9)
        self.launch(cycles / (self.rates.pop(0) if self.rates else 2e9))

    def synchronize(self, device=None):
        self.now = max(self.now, self.free)

    def call(self, host, work=20e-6, launches=4):
        """A call that launches so often, evenly over the host's time."""
        def call():
            for _ in range(launches):
                self.now += host / launches
                self.launch(work / launches)
        return call

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)

    def zero_(self):
        self.launch(FLUSH)


class Event:
    def __init__(self, device):
        self.device = device

    def record(self):
        self.reached = max(self.device.free, self.device.now)

    def query(self):
        return self.device.now >= self.reached

    def elapsed_time(self, other):
        return 1e3 * (other.reached - self.reached)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: device.now)
    monkeypatch.setattr(torch, 'empty', lambda *args, **kwargs: device)  # the filler
    for name in 'synchronize', 'event', 'sleep':
        monkeypatch.setattr(torch.cuda, {'event': 'Event', 'sleep': '_sleep'}.get(name, name), getattr(device, name))
    return device


def test_calls_are_interleaved():
    order = []
    times = timing.interleaved({name: lambda name=name: order.append(name) for name in 'ab'}, CPU, 3, warmup=1)
    assert ''.join(order) == 'ab' * 4
    assert times['a'].samples == 3


def test_quartiles():
    assert timing.Timing.of([5., 1., 2., 3., 4.]) == (3., 2., 4., 5, None, None)
    assert timing.Timing.of([7.]) == (7., 7., 7., 1, None, None)


def test_peak_memory_of_a_call():
    x = torch.zeros(1000)

    def call():
        y = x + 1  # 4000 bytes
        z = y.double()  # 8000 more
        del y
        return z * 2  # 8000 more, without y

    peak = timing.peak_bytes(call, CPU)
    assert 16_000 <= peak <= 16_100


def test_what_a_row_says():
    assert timing.Timing.of([5., 1., 3.], host=4., hidden=False).columns() == {
        'ms': {'median': 3., 'low': 2., 'high': 4., 'samples': 3}, 'host_ms': 4., 'host_hidden': False}
    assert timing.Timing.of([3.]).period == timing.Timing.of([3.], 2., True).period == 3.
    assert timing.Timing.of([3.], 4., True).period == 4.


def test_a_cpu_has_no_host_beside_it():
    times = timing.interleaved({'a': lambda: None}, CPU, 3)['a']
    assert times.host is None and times.hidden is None


@pytest.mark.parametrize('host', [10e-6, 200e-6, 30e-3])
def test_the_host_is_not_what_is_timed(device, host):
    """20 us of work stay 20 us, however long it takes to launch them."""
    times = timing.interleaved({'a': device.call(host), 'b': device.call(2 * host, 40e-6)}, CUDA, 5)
    for name, scale in (('a', 1), ('b', 2)):
        assert times[name].low == pytest.approx(scale * 20e-3) == times[name].high
        assert times[name].host == pytest.approx(scale * 1e3 * host) and times[name].hidden is True
        assert times[name].samples == 5
    assert device.sleeps[-2] > host and device.sleeps[-1] > 2 * host


def test_long_work_is_timed_whole(device):
    assert timing.interleaved({'a': device.call(200e-6, 5e-3)}, CUDA, 3)['a'].median == pytest.approx(5.)


def test_a_launch_that_outlasts_the_sleep_is_taken_again(device):
    """The sixth call is held up by something else; the sample is none, and there are as many as asked for."""
    calls = []

    def call():
        calls.append(1)
        device.call(10e-3 if len(calls) == 6 else 200e-6)()

    times = timing.interleaved({'a': call}, CUDA, 6)['a']
    assert times.low == pytest.approx(20e-3) == times.high
    assert times.host == pytest.approx(0.2) and times.hidden is True
    assert times.samples == 6 and len(calls) == 2 + 6 + 1
    assert device.sleeps[-1] > 10e-3


def test_without_rounds_before(device):
    times = timing.interleaved({'a': device.call(3e-3)}, CUDA, 2, warmup=0)['a']
    assert times.high == pytest.approx(20e-3) and times.hidden is True


def test_a_call_that_waits_for_the_device_is_told_from_others(device):
    def waits():
        device.call(100e-6)()
        device.synchronize()
        device.call(100e-6)()

    times = timing.interleaved({'waits': waits, 'not': device.call(200e-6)}, CUDA, 5)
    assert times['waits'].hidden is False and times['not'].hidden is True
    assert times['not'].median == pytest.approx(20e-3)
    # asleep for no one any more: it is timed from the flush on, and its host with what it waits for
    assert 0.1 < times['waits'].median < 0.21 and 0.2 < times['waits'].host < 0.3
    assert sum(sleep > 0 for sleep in device.sleeps[-10:]) == 5


def test_a_call_that_fills_the_queue(device):
    """No sleep can hide it, but the sleeps come to an end and work that takes longer than the host is timed rightly."""
    device.depth = 8
    times = timing.interleaved({'a': device.call(200e-6, 5e-3, launches=20)}, CUDA, 5)['a']
    assert times.hidden is False and times.median == pytest.approx(5., rel=0.01)
    assert max(device.sleeps) < 0.1


def test_cycles_are_those_of_an_awake_device(device):
    device.rates = [1e8, 5e8, 1.9e9, 1.8e9]
    assert timing.cycles_per_ms(CUDA, tries=4) == pytest.approx(1.9e6)
