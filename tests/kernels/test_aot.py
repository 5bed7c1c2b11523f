"""What is launched compiles, without a GPU, for one of three generations: no spill, no overflow, no memory of its own.

Of what models launch (launches.json, see record_launches.py) and of every shipped configuration, all kernels with all
pairs of their constants.
"""
import functools
import os
import re
import subprocess
import warnings
from importlib import import_module
from itertools import combinations
from pathlib import Path
from zlib import crc32

import pytest

from zoo.registry import smallest_models

triton = pytest.importorskip('triton', reason='the kernels need triton')
record_launches = pytest.importorskip('tests.kernels.record_launches')
stub = pytest.importorskip('tests.kernels.stub')
pytestmark = pytest.mark.skipif(
    os.environ.get('TRITON_INTERPRET') == '1', reason='interpreted kernels cannot be compiled')

CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
QUICK = 112  # rows that `make test` compiles
SIZES = {'D', 'E', 'BN'}  # constants of which a value more is no other code
AGAIN = 'launches.json is of other kernels: run python -m tests.kernels.record_launches'


def shipped():
    """All configurations as rows of the record: pointers and strides are multiples of 16, as torch's mostly are."""
    for op in stub.OPS:
        for case in import_module(f'zoo_kernels.{op}.kernels').shipped():
            arguments = []
            for name in case.kernel.arg_names:
                if name not in case.constants:
                    pointer = name.endswith('_ptr')
                    kind = case.types.get(name, f'*{case.dtype}' if pointer else 'i32')
                    arguments.append(kind + ':16' * (pointer or name.startswith('stride')))
            yield dict(
                op=op, kernel=case.kernel.fn.__name__, arguments=' '.join(arguments), constants=case.constants,
                options=[case.num_warps, case.num_stages, case.maxnreg], model='shipped')


def every():
    """Rows, each once."""
    return {record_launches.key(row): row for row in [*record_launches.load(), *shipped()]}


def arch_of(name):
    """One of the generations, by a sum of the row's text."""
    archs = list(stub.SHARED)
    return archs[crc32(name.encode()) % len(archs)]


@functools.cache
def few(most=None):
    """Of these rows, few in which every kernel has each of its dtypes, widths, features and other constants.

    And all pairs of these, and of them and a generation; or as many as ``most`` rows that are quick to compile have.
    """
    def traits(name, together):
        row = rows[name]
        kept = (n for n in row['constants'] if n.isupper() and not (most and n in SIZES))
        pairs = {n: row['constants'][n] for n in kept}
        pairs.update(dtype=row['arguments'].split()[0], options=str(row['options']))
        if not most:
            pairs['arch'] = arch_of(name)
        return {(row['op'], row['kernel'], *these) for these in combinations(pairs.items(), together)}

    rows, chosen = every(), {}
    for together in (1, 2):
        owned = {name: traits(name, together) for name in rows}
        missing = set().union(*owned.values()).difference(*map(owned.get, chosen))
        while missing and len(chosen) < (most or len(rows)):
            name = max(rows, key=lambda name: len(owned[name] & missing))  # the first of equals
            chosen[name] = rows[name]
            missing -= owned[name]
        assert together == 2 or not missing, 'QUICK is too small'
    return chosen


def compile_for(row, arch):
    """Compile what a launch would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(f'zoo_kernels.{row["op"]}.kernels'), row['kernel'])
    names = [name for name in kernel.arg_names if name not in row['constants']]
    types = dict(zip(names, row['arguments'].split(), strict=True))
    signature = {name: types.get(name, 'constexpr').removesuffix(':16') for name in kernel.arg_names}
    divisible = {
        (i,): [['tt.divisibility', 16]] for i, name in enumerate(kernel.arg_names)
        if types.get(name, '').endswith(':16')}
    constants = {(kernel.arg_names.index(name),): value for name, value in row['constants'].items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # what triton says of coming defaults
        return triton.compile(
            ASTSource(kernel, signature, constants, divisible), target=GPUTarget('cuda', arch, 32),
            options=dict(zip(record_launches.OPTIONS, row['options'])))


def check(row, arch, folder):
    compiled = compile_for(row, arch)
    assert compiled.metadata.shared <= stub.SHARED[arch], row
    assert not compiled.metadata.global_scratch_size and not compiled.metadata.profile_scratch_size, row
    binary = folder / 'kernel.cubin'
    binary.write_bytes(compiled.asm['cubin'])
    report = subprocess.run([CUOBJDUMP, '-res-usage', binary], capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL):(\d+)', report)}
    assert usage['STACK'] == 0 and usage['LOCAL'] == 0, f'spills on sm_{arch}: {usage}, {row}'


@pytest.mark.parametrize('part', range(8))
def test_compiles(part, tmp_path):
    for row in list(few(QUICK).values())[part::8]:
        check(row, 90, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('part', range(16))
def test_every_pair_of_constants_compiles(part, tmp_path):
    """For one of the generations."""
    for name, row in list(few().items())[part::16]:
        check(row, arch_of(name), tmp_path)


def test_the_record_is_of_these_kernels():
    rows = record_launches.load()
    launched = {(row['op'], row['kernel']) for row in rows}
    assert launched == {(row['op'], row['kernel']) for row in shipped()}, AGAIN
    for row in rows:
        names = getattr(import_module(f'zoo_kernels.{row["op"]}.kernels'), row['kernel']).arg_names
        assert row['constants'].keys() <= set(names), AGAIN
        assert len(names) == len(row['constants']) + len(row['arguments'].split()), AGAIN


@pytest.mark.parametrize('name', ['flatten_pvt_v2_b0', 'biformer_tiny'])
def test_the_record_has_a_models_launches(name):
    recorder = record_launches.Recorder()
    recorder.run(name, record_launches.TRAINING[:1], ())
    assert recorder.rows
    assert recorder.rows.keys() <= {record_launches.key(row) for row in record_launches.load()}, AGAIN


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in record_launches.models() if name in smallest_models()])
def test_the_record_is_current(name):
    """Of the smallest models: nothing that they launch is missing, and nothing is there that they no longer launch."""
    rows = {record_launches.key(row): row['model'] for row in record_launches.load()}
    recorder = record_launches.Recorder()
    recorder.run(name)
    assert {key for key, model in rows.items() if model == name} <= recorder.rows.keys() <= rows.keys(), AGAIN
