"""What the choice of a backend asks of torch."""
import pytest
import torch
from torch._subclasses import FakeTensorMode, fake_tensor

from zoo_kernels import (
    agent_attention,
    depthwise_conv,
    dispatch,
    explain,
    linear_attention,
    record,
    routed_attention,
    set_mode,
)
from zoo_kernels.dispatch import exporting


class Teller(torch.nn.Module):
    """Adds 1 in an exported graph, 2 elsewhere."""

    def forward(self, x):
        return x + (1 if exporting() else 2)


def test_only_exported_graphs_are_exported():
    x = torch.zeros(2)
    assert torch.equal(Teller()(x), x + 2)
    assert torch.equal(torch.compile(Teller(), fullgraph=True, backend='aot_eager')(x), x + 2)
    assert torch.equal(torch.export.export(Teller(), (x,)).module()(x), x + 1)
    assert torch.equal(torch.export.export(Teller(), (x,), strict=True).module()(x), x + 1)
    assert torch.equal(torch.jit.trace(Teller(), x)(x), x + 2)


def test_transforms_are_plain_torch():
    q = torch.randn(3, 1, 2048, 1, 16)
    seen = []

    def attend(q):
        seen.append(explain(linear_attention, q.half(), q.half(), q.half()).reason)
        return linear_attention(q, q, q)

    want = torch.stack([linear_attention(each, each, each) for each in q])
    torch.testing.assert_close(torch.func.vmap(attend)(q), want)
    torch.func.jvp(attend, (q[0],), (q[0],))
    assert seen == ['a transform of torch.func runs, and the kernels know none'] * 2
    assert not dispatch.transforming() and not dispatch.can_overwrite_inputs()
    with torch.no_grad():
        assert dispatch.can_overwrite_inputs()


def test_a_record_tells_what_ran():
    q, agents = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 1, 8)
    with record() as calls:
        linear_attention(q, q, q)
        with set_mode('off'):
            linear_attention(q, q, q)
        agent_attention(q, q, q, agents)
    linear_attention(q, q, q)
    assert [op for op, _ in calls] == ['linear_attention', 'linear_attention', 'agent_attention']
    assert [choice.backend for _, choice in calls] == ['torch'] * 3
    assert calls[1][1].reason == 'ZOO_KERNELS=off' and 'there is no kernel' in calls[2][1].reason


@pytest.fixture
def two_gpus(monkeypatch):
    """A new GPU, which is the current one, and an old one."""
    pytest.importorskip('triton')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda index=0: [(9, 0), (7, 5)][index])
    monkeypatch.setattr(fake_tensor, 'init_gpu_context', lambda device: None)  # it would ask for a real one
    dispatch._probe.cache_clear()
    yield
    dispatch._probe.cache_clear()


def test_the_inputs_device_is_asked(two_gpus):
    with FakeTensorMode():
        new, old = (torch.empty(2, 1024, 2, 32, device=device, dtype=torch.bfloat16) for device in ('cuda:0', 'cuda:1'))
        assert explain(linear_attention, new, new, new) == ('triton', 'a kernel takes it')
        assert explain(linear_attention, old, old, old) == (
            'torch', 'the GPU (cuda:1) is older than compute capability 8.0')
        assert explain(linear_attention, new, new, new).backend == 'triton'


def test_more_programs_than_a_launch_takes(two_gpus):
    with FakeTensorMode():
        one = torch.empty(1, device='cuda:0', dtype=torch.bfloat16)
        choices = [
            explain(linear_attention, *[one.expand(2 ** 20, 2, 2 ** 11, 1)] * 3),
            explain(
                routed_attention, *[one.expand(2 ** 20, 2, 2, 2 ** 9, 1)] * 3,
                torch.empty(1, device='cuda:0', dtype=torch.int64).expand(2 ** 20, 4, 1), (2, 2)),
            explain(depthwise_conv, one.expand(2 ** 20, 2 ** 11, 1, 1), one.expand(1, 1, 3, 3))]
    for choice in choices:
        assert choice == (
            'torch', 'it would take 2147483648 programs; a launch has at most 2147483647')


def test_what_is_written_may_span_more_than_what_is_read(two_gpus):
    with FakeTensorMode():
        one = torch.empty(1, device='cuda:0', dtype=torch.bfloat16)
        maps = [one.expand(1, 2 ** 12, 2 ** 12, 2, 64)] * 3
        routes = torch.empty(1, 4, 1, device='cuda:0', dtype=torch.int64)
        assert explain(routed_attention, *maps, routes, (2, 2)) == (
            'torch', 'a sample spans more than 2 ** 31 elements')
        x = torch.empty(128, device='cuda:0', dtype=torch.bfloat16).expand(1, 2 ** 12, 2 ** 12, 128)
        assert explain(depthwise_conv, x, torch.empty(128, 1, 3, 3, device='cuda:0', dtype=torch.bfloat16)) == (
            'torch', 'an image of the result spans more than 2 ** 31 elements')
