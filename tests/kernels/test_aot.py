"""Every kernel in every shipped configuration compiles, without a GPU, for three generations: no spill, no overflow."""
import os
import re
import subprocess
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import zoo_kernels

triton = pytest.importorskip('triton', reason='the kernels need triton')
pytestmark = pytest.mark.skipif(
    os.environ.get('TRITON_INTERPRET') == '1', reason='interpreted kernels cannot be compiled')

OPS = sorted(path.parent.name for path in Path(zoo_kernels.__file__).parent.glob('*/kernels.py'))
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may use
CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'


def shipped():
    """All configurations, with readable ids."""
    for op in OPS:
        for case in import_module(f'zoo_kernels.{op}.kernels').shipped():
            name = case.kernel.fn.__name__ + '-' + '-'.join(
                f'{k}{v}' for k, v in case.constants.items() if isinstance(v, (int, str))) + f'-{case.dtype}'
            yield pytest.param(case, id=f'{op}-{name}')


def compile_for(case, arch):
    """Compile as the launcher would: pointers and strides are multiples of 16, as torch's allocations are."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, divisible = {}, {}
    for i, name in enumerate(case.kernel.arg_names):
        pointer = name.endswith('_ptr')
        kind = case.types.get(name, f'*{case.dtype}' if pointer else 'i32')
        signature[name] = 'constexpr' if name in case.constants else kind
        if name not in case.constants and (pointer or name.startswith('stride')):
            divisible[(i,)] = [['tt.divisibility', 16]]
    constants = {(case.kernel.arg_names.index(name),): value for name, value in case.constants.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what triton says of coming defaults
        return triton.compile(
            ASTSource(case.kernel, signature, constants, divisible), target=GPUTarget('cuda', arch, 32),
            options=dict(num_warps=case.num_warps, num_stages=case.num_stages, maxnreg=case.maxnreg))


@pytest.mark.parametrize('arch', SHARED)
@pytest.mark.parametrize('case', list(shipped()))
def test_compiles_without_spill(case, arch, tmp_path):
    compiled = compile_for(case, arch)
    assert compiled.metadata.shared <= SHARED[arch]
    binary = tmp_path / 'kernel.cubin'
    binary.write_bytes(compiled.asm['cubin'])
    report = subprocess.run([CUOBJDUMP, '-res-usage', binary], capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL):(\d+)', report)}
    assert usage['STACK'] == 0 and usage['LOCAL'] == 0, f'spills: {usage}'
