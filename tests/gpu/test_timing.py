"""What the benchmark times on a GPU: the device's work, not Python's."""
import pytest
import torch

from zoo.bench import timing

pytestmark = pytest.mark.gpu


def test_a_launch_is_hidden_unless_the_call_waits():
    device = torch.device('cuda')
    x = torch.zeros(8, device=device)

    def launches():
        for _ in range(50):
            x.add_(1)

    def waits():
        launches()
        x.sum().item()
        launches()

    times = timing.interleaved(dict(launches=launches, waits=waits), device, 5)
    assert times['launches'].hidden is True and times['waits'].hidden is False
    assert times['launches'].host > 0 and times['launches'].samples == times['waits'].samples == 5


def test_a_sleep_lasts_as_long_as_asked_for():
    device = torch.device('cuda')
    cycles = timing.cycles_per_ms(device)
    sleep = timing.interleaved({'sleep': lambda: torch.cuda._sleep(int(5 * cycles))}, device, 5)['sleep']
    assert 4 < sleep.median < 8
