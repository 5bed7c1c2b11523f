"""ExecuTorch's pte, with XNNPACK for what it takes and portable kernels for the rest."""
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..decompositions import for_xnnpack
from .base import Facts, Format, Options, Recording, first_float, patterns


def write(recording: Recording, options: Options, facts: Facts, path: Path) -> None:
    """One file, whose methods besides ``forward`` give the facts."""
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        from executorch.runtime import Runtime

        # each check interprets the whole program, after every pass; operators are checked below
        config = EdgeCompileConfig(_check_ir_validity=False)
        plain = recording.program(half=options.half).run_decompositions(for_xnnpack())
        program = to_edge_transform_and_lower(
            plain, partitioner=[XnnpackPartitioner()], compile_config=config,
            constant_methods={f'get_{key}': text for key, text in facts.texts().items()}).to_executorch()
        used = {'.'.join(filter(None, [operator.name, operator.overload]))
                for method in program.executorch_program.execution_plan for operator in method.operators}
        lacking = used - Runtime.get().operator_registry.operator_names
        if lacking:  # the runtime would tell their names in its log alone
            raise NotImplementedError(f'no kernels for {", ".join(sorted(lacking))}')
        path.write_bytes(program.buffer)


def run(path: Path, images: Tensor) -> Tensor:
    """Logits by the runtime that comes with the package."""
    from executorch.runtime import Runtime

    method: Any = Runtime.get().load_program(path).load_method('forward')
    half = method.metadata.input_tensor_meta(0).dtype() == 5  # of ScalarType
    return first_float([method.execute([images.half() if half else images])[0].clone()])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what its packages tell about themselves on import."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


FORMAT = Format(
    'ExecuTorch', '.pte', ('executorch',), 'executorch', ('half',), write, run,
    patterns(r'Missing out variants: \{([^}]+)\}', r'no kernels for ([\w:., ]+)'))
