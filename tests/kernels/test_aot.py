"""What is launched compiles, without a GPU, for one of three generations: no spill, no overflow, no memory of its own.

That is what models launch (launches.json, see record_launches.py) and every shipped configuration.
"""
import os
import re
import subprocess
import warnings
from importlib import import_module
from itertools import combinations
from pathlib import Path
from zlib import crc32

import pytest

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


def few():
    """Of these rows, few in which every kernel has each of its dtypes, widths, features and other constants.

    The most that are quick to compile: the remaining ones have as many pairs of these as possible.
    """
    def traits(row, together):
        constants = {name: row['constants'][name] for name in row['constants'] if name not in SIZES and name.isupper()}
        pairs = {**constants, 'dtype': row['arguments'].split()[0], 'options': str(row['options'])}
        return {(row['op'], row['kernel'], *these) for these in combinations(pairs.items(), together)}

    rows, chosen = every(), {}
    for together in (1, 2):
        owned = {name: traits(row, together) for name, row in rows.items()}
        missing = set().union(*owned.values()).difference(*map(owned.get, chosen))
        while missing and len(chosen) < QUICK:
            name = max(rows, key=lambda name: len(owned[name] & missing))  # the first of equals
            chosen[name] = rows[name]
            missing -= owned[name]
        assert together == 2 or not missing, 'QUICK is too small'
    return chosen


def parameters(rows):
    """pytest parameters with readable ids."""
    found = []
    for row in rows.values():
        constants = '-'.join(
            name + str(value) for name, value in row['constants'].items() if name.isupper() and value is not False)
        name = f'{row["model"]}-{row["op"]}-{row["kernel"]}-{constants}-{row["arguments"][:5]}'
        found.append(pytest.param(row, id=name))
    return found


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
    assert compiled.metadata.shared <= stub.SHARED[arch]
    assert not compiled.metadata.global_scratch_size and not compiled.metadata.profile_scratch_size
    binary = folder / 'kernel.cubin'
    binary.write_bytes(compiled.asm['cubin'])
    report = subprocess.run([CUOBJDUMP, '-res-usage', binary], capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r'(REG|STACK|LOCAL):(\d+)', report)}
    assert usage['STACK'] == 0 and usage['LOCAL'] == 0, f'spills: {usage}'


@pytest.mark.parametrize('row', parameters(few()))
def test_compiles(row, tmp_path):
    check(row, 90, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('row', parameters(every()))
def test_everything_compiles(row, tmp_path):
    """Each row for one of the generations, by a sum of its text: every kernel meets all of them."""
    archs = list(stub.SHARED)
    check(row, archs[crc32(record_launches.key(row).encode()) % len(archs)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('arch', stub.SHARED)
@pytest.mark.parametrize('row', parameters(few()))
def test_every_generation(row, arch, tmp_path):
    check(row, arch, tmp_path)


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
@pytest.mark.timeout(3600)
def test_the_record_is_current():
    assert record_launches.text(record_launches.record()) == record_launches.FILE.read_text(), AGAIN
