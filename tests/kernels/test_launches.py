"""What reaches a GPU, seen without one: on which device and stream, on what grid, and that nothing waits for it."""
import os
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from tests.kernels.cases import CASES
from zoo_kernels import (
    depthwise_conv,
    focal_level,
    gated_linear_attention,
    linear_attention,
    neighborhood_attention,
    neighborhood_sum,
    routed_attention,
    set_mode,
)

stub = pytest.importorskip('tests.kernels.stub', reason='the kernels need triton')
pytestmark = pytest.mark.skipif(
    os.environ.get('TRITON_INTERPRET') == '1', reason='interpreted kernels are not launched')

DEVICE = torch.device('cuda:1')  # while 0 is current
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # of operators whose results the CPU awaits


def make(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device=DEVICE)


def launch(op, leaves, arguments):
    """Launches of a call and of its gradients, what torch does within them, and the device that is current then."""
    with stub.recorded() as launches, stub.Bodies() as bodies, set_mode('force'):
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        out = op(**arguments(leaves))
        grads = stub.gradients(out.sum())
        assert all(grads[leaf].shape == leaf.shape for leaf in leaves.values())
        return launches, bodies.inside, torch.cuda.current_device()


@pytest.fixture(scope='module', params=CASES, ids=str)
def launched(request):
    """A case of the interpreter's tests, in its last dtype."""
    case = request.param
    with FakeTensorMode(allow_non_fake_inputs=True):  # routes of a case may be numbers
        leaves = case.leaves(lambda *shape: make(*shape, dtype=case.dtypes[-1]))
        yield launch(case.op, leaves, case.arguments)


def test_launches_on_the_device_of_the_tensors(launched):
    launches, _, current = launched
    assert launches and current == 0
    for call in launches:
        devices = {x.device for x in call.arguments.values() if isinstance(x, torch.Tensor)}
        assert devices == {DEVICE}
        assert (call.device, call.stream) == (1, stub.stream_of(1)), call.name


def check_grids(launches):
    assert launches
    for call in launches:
        x, y, z = call.grid
        assert 1 <= x < 2 ** 31 and y == z == 1, f'{call.name}: {call.grid}'


def test_grids_have_one_axis(launched):
    check_grids(launched[0])


def test_nothing_waits_for_the_gpu(launched):
    """No result is read by the CPU, and no tensor comes from there: a copy of pageable memory waits as well."""
    launches, inside, _ = launched
    assert launches and inside
    for operator, out in inside:
        assert not READS & set(operator.tags), operator
        assert all(x.device == DEVICE for x in tree_leaves(out) if isinstance(x, torch.Tensor)), operator


ROUTES = dict(regions=(2, 2), scale=0.2)
MANY = {  # more programs than the axes y and z of a grid have room for
    'linear': (linear_attention, dict(q=(8192, 49, 8, 16), k=(8192, 49, 8, 16), v=(8192, 49, 8, 16)), {}),
    'linear-rows': (linear_attention, dict(q=(1, 2 ** 23, 1, 16), k=(1, 2 ** 23, 1, 16), v=(1, 2 ** 23, 1, 16)), {}),
    'linear-two-parts': (
        linear_attention, dict(q=(4096, 16, 8, 32), k=(4096, 16, 8, 32), v=(4096, 16, 8, 32)),
        dict(feature='norm_aware')),
    'focus': (
        linear_attention, dict(q=(70000, 4, 2, 16), k=(70000, 4, 2, 16), v=(70000, 4, 2, 16), focus_scale=(32,)),
        dict(feature='focus')),
    'gated': (
        gated_linear_attention,
        dict.fromkeys(('q', 'k', 'v', 'forward_gate', 'backward_gate'), (8192, 65, 8, 16)), {}),
    'routed': (routed_attention, dict.fromkeys('qkv', (70000, 2, 4, 2, 16)), ROUTES),
    'routed-heads': (routed_attention, dict.fromkeys('qkv', (1, 4, 4, 70000, 16)), ROUTES),
    'neighborhood': (neighborhood_attention, dict.fromkeys('qkv', (70000, 4, 4, 2, 16)), dict(kernel_size=3)),
    'neighborhood-heads': (
        neighborhood_attention, dict.fromkeys('qkv', (1, 4, 4, 70000, 16)), dict(kernel_size=3)),
    'sum': (neighborhood_sum, dict(weights=(70000, 2, 4, 4, 9), v=(70000, 2, 4, 4, 16)), dict(kernel_size=3)),
    'conv': (depthwise_conv, dict(x=(70000, 28, 28, 64), weight=(64, 1, 3, 3)), dict(activation='gelu')),
    'level': (
        lambda **given: focal_level(**given)[1],
        dict(x=(70000, 28, 28, 64), weight=(64, 1, 5, 5), gate=(70000, 28, 28, 1)), {}),
}


@pytest.mark.parametrize('name', MANY)
def test_grids_of_many_programs(name):
    op, shapes, options = MANY[name]
    with FakeTensorMode():
        routes = torch.empty(shapes['q'][0], 4, 2, dtype=torch.long, device=DEVICE) if op is routed_attention else None
        more = {} if routes is None else dict(routes=routes)
        leaves = {key: make(*shape) for key, shape in shapes.items()}
        launches, _, _ = launch(op, leaves, lambda leaves: leaves | options | more)
    check_grids(launches)
    assert max(call.grid[0] for call in launches) > 65535


def test_every_kernel_is_launched():
    names = set()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for case in CASES:
            leaves = case.leaves(lambda *shape: make(*shape, dtype=case.dtypes[-1]))  # noqa: B023
            names |= {(call.op, call.name) for call in launch(case.op, leaves, case.arguments)[0]}
    kernels = {(op, case.kernel.fn.__name__) for op in stub.OPS
               for case in import_module(f'zoo_kernels.{op}.kernels').shipped()}
    assert names == kernels
