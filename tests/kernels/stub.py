"""A Triton driver for machines without a GPU: launches are recorded instead of run, on devices that need not exist.

    with recorded() as launches, FakeTensorMode(), Bodies(), zoo_kernels.set_mode('force'):
        x = torch.empty(2, 64, 8, 32, device='cuda:1', dtype=torch.bfloat16, requires_grad=True)
        gradients(linear_attention(x, x, x).sum())

Triton specialises the arguments as on a GPU. By default nothing is compiled: a launch takes microseconds.
"""
import functools
import importlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import zoo_kernels

OPS = sorted(path.parent.name for path in Path(zoo_kernels.__file__).parent.glob('*/kernels.py'))
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may use, by compute capability


class Launch(NamedTuple):
    """A recorded launch.

    ``signature`` says ``'constexpr'`` of whatever is compiled in, integers that are 1 among them; ``constants`` are
    their values. ``divisible`` names the arguments that are compiled as multiples of 16. ``options`` are those of the
    call over Triton's defaults: ``num_warps``, ``num_stages``, ``maxnreg`` and others. ``metadata`` is that of the
    compiled kernel, None where nothing was compiled.
    """

    kernel: JITFunction
    grid: tuple[int, int, int]
    device: int
    stream: int
    arguments: dict[str, Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    options: dict[str, Any]
    metadata: Any

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    @property
    def op(self) -> str:
        return self.kernel.fn.__module__.split('.')[-2]


class _Device(NamedTuple):
    """What kernels are cached by: never a number, so that a real GPU is not given a kernel from here."""

    index: int
    arch: int
    compiles: bool


def stream_of(index: int) -> int:
    """Handle of the current stream of a device, while a context is open."""
    return 1000 + index


class _Driver:
    """What Triton asks of a driver between a call and its launch."""

    def __init__(self, arch: int, compiles: bool):
        self.arch, self.compiles, self.current = arch, compiles, 0
        self.launches: list[Launch] = []
        self.utils = self

    def get_current_device(self) -> _Device:
        return _Device(self.current, self.arch, self.compiles)

    def get_current_stream(self, device: _Device) -> int:
        return stream_of(device.index)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget('cuda', self.arch, 32)

    def get_device_properties(self, device: _Device) -> dict[str, int]:
        return {'max_shared_mem': SHARED[self.arch]}

    def load_binary(self, name, kernel, shared, device):
        return 1, 1, 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module):
        pass

    def launcher_cls(self, src, metadata):
        return functools.partial(_launch, src, metadata, metadata)

    def exchange(self, index: int) -> int:
        """Of ``torch.cuda``: make a device current and return the one before; negative numbers change nothing."""
        if index < 0:
            return -1
        before, self.current = self.current, index
        return before


def _launch(src, options, metadata, x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
    active = driver.active
    names = src.fn.arg_names
    options = options._asdict() if hasattr(options, '_asdict') else vars(options)
    divisible = tuple(names[path[0]] for path, attributes in sorted(src.attrs.items()) if attributes)
    active.launches.append(Launch(
        src.fn, (x, y, z), active.current, stream, dict(zip(names, arguments)), dict(src.signature),
        {names[path[0]]: value for path, value in src.constants.items()}, divisible, dict(options), metadata))


class _Uncompiled:
    """Stands for a compiled kernel."""

    function = packed_metadata = None

    def __init__(self, src, options):
        self.run = functools.partial(_launch, src, options, None)

    def launch_metadata(self, *_):
        return None


def _skip_compilation(self, key, signature, device, constexprs, options, attrs, warmup):
    kernel = self.device_caches[device][0][key] = _Uncompiled(
        self.ASTSource(self, signature, constexprs, attrs), options)
    return kernel


def _address(x: FakeTensor) -> int:
    """Of a tensor without memory: storages begin at multiples of 16, as torch's do."""
    return (x.untyped_storage()._cdata << 4) + x.storage_offset() * x.itemsize


@contextmanager
def recorded(arch: int = 90, compiles: bool = False) -> Iterator[list[Launch]]:
    """The launches of a block, for GPUs of a compute capability (80, 90 or 100); device 0 is current at its start.

    Fake tensors on any CUDA device can be given to kernels. ``compiles`` also compiles what is launched.
    """
    stub = _Driver(arch, compiles)
    before = driver._active  # not .active, which asks for a GPU
    replaced = [
        (FakeTensor, 'data_ptr', _address),
        (torch.cuda, '_exchange_device', stub.exchange),
        (torch.cuda, '_maybe_exchange_device', stub.exchange),
        (torch.cuda, 'current_device', lambda: stub.current),
        (torch.cuda, 'get_device_capability', lambda device=None: divmod(arch, 10)),
    ] + ([] if compiles else [(JITFunction, '_do_compile', _skip_compilation)])
    with ExitStack() as stack:
        for where, name, replacement in replaced:
            stack.enter_context(mock.patch.object(where, name, replacement))
        driver.set_active(stub)
        try:
            yield stub.launches
        finally:
            driver.set_active(before)


@functools.cache
def _bodies() -> dict[Any, Any]:
    modules = [importlib.import_module(f'zoo_kernels.{op}.op') for op in OPS]
    ops = [op for module in modules for op in vars(module).values() if isinstance(op, torch.library.CustomOpDef)]
    return {op._opoverload: op._init_fn for op in ops}


class Bodies(TorchDispatchMode):
    """Runs what our custom ops run on a GPU, where a FakeTensorMode outside of it would only ask for shapes.

    ``calls`` are the calls of our ops, each with its arguments; ``inside`` is what torch does in them: operators with
    their results.
    """

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Any, tuple]] = []
        self.inside: list[tuple[Any, Any]] = []
        self.depth = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        body = _bodies().get(func)
        if body is None:
            out = func(*args, **(kwargs or {}))
            if self.depth:
                self.inside.append((func, out))
            return out
        self.calls.append((func, args))
        self.depth += 1
        with self:
            out = body(*args, **(kwargs or {}))
        self.depth -= 1
        return out


def gradients(out: Tensor) -> dict[Tensor, Tensor]:
    """Gradients of all leaves of a number, without autograd's engine: that one asks the GPU for streams."""
    waits, order = Counter(), [out.grad_fn]
    for node in order:
        for following, _ in _edges(node):
            order += [] if following in waits else [following]
            waits[following] += 1
    received = defaultdict(dict, {out.grad_fn: {0: torch.ones_like(out)}})
    leaves, ready = {}, [out.grad_fn]
    while ready:
        node = ready.pop()
        grads = received.pop(node, {})
        if hasattr(node, 'variable') and grads:
            leaves[node.variable] = grads[0]
        for (following, place), grad in zip(_edges(node), _applied(node, grads)):
            if grad is not None:
                inputs = received[following]
                inputs[place] = inputs[place] + grad if place in inputs else grad
            waits[following] -= 1
            if not waits[following]:
                ready.append(following)
    return leaves


def _edges(node) -> list[tuple[Any, int]]:
    return [edge for edge in node.next_functions if edge[0] is not None]


@torch.no_grad()
def _applied(node, grads: dict[int, Tensor]) -> list[Tensor | None]:
    """What a node sends along its edges, in the shapes and dtypes that are expected there."""
    edges = _edges(node)
    if not edges or not grads:
        return [None] * len(edges)
    given = [grads.get(i) for i in range(len(node._input_metadata))]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # it has no edges for what is not a tensor
        found = [grad for grad, needed in zip(node.apply(*given), node.needs_input_grad) if needed]
    else:
        found = node(*given)
        found = found if isinstance(found, tuple) else (found,)
        found = [grad for grad, edge in zip(found, node.next_functions) if edge[0] is not None]
    for i, ((following, place), grad) in enumerate(zip(edges, found)):
        if grad is not None:
            expected = following._input_metadata[place]
            found[i] = (grad if grad.shape == expected.shape else grad.sum_to_size(expected.shape)).to(expected.dtype)
    return found
