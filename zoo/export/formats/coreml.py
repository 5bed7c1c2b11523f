"""Core ML's model package, converted anywhere and executed on macOS alone."""
import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..decompositions import deformable_convolution
from .base import Facts, Format, Options, Recording, patterns


@functools.cache
def _add_operators() -> None:
    """Tell coremltools of operators that it has no rule for."""
    from coremltools.converters import mil
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY, register_torch_op
    from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes

    build: Any = mil.Builder  # it gets its methods when it is imported

    def alias(context, node):
        x = _get_inputs(context, node)[0]
        context.add(build.identity(x=x, name=node.name))

    def addcmul(context, node):
        total, x, y = _get_inputs(context, node)[:3]
        product = build.mul(x=x, y=y)
        for factor in _get_kwinputs(context, node, 'value', default=[]):
            product, factor = promote_input_dtypes([product, factor])
            product = build.mul(x=product, y=factor)
        context.add(build.add(x=total, y=product, name=node.name))

    def isfinite(context, node):
        x = _get_inputs(context, node)[0]
        context.add(build.less(x=build.abs(x=x), y=np.inf, name=node.name))

    def log_sigmoid(context, node):
        x = _get_inputs(context, node)[0]
        context.add(build.mul(x=build.softplus(x=build.mul(x=x, y=-1.)), y=-1., name=node.name))

    for rule in (alias, addcmul, isfinite, log_sigmoid):
        if rule.__name__ not in _TORCH_OPS_REGISTRY:
            register_torch_op(rule)
    # of booleans; it is known by its other names
    _TORCH_OPS_REGISTRY.set_func_by_name(_TORCH_OPS_REGISTRY.get_func('bitwise_and'), '__and__')


def write(recording: Recording, options: Options, facts: Facts, path: Path) -> None:
    """A folder, for iOS 18 and macOS 15 or newer, in float32 unless ``half``."""
    import coremltools

    _add_operators()
    program = recording.program().run_decompositions(deformable_convolution())
    with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
        package: Any = coremltools.convert(
            program, convert_to='mlprogram', minimum_deployment_target=coremltools.target.iOS18,
            compute_precision=coremltools.precision.FLOAT16 if options.half else coremltools.precision.FLOAT32)
    package.user_defined_metadata.update(facts.texts())
    package.save(str(path))


FORMAT = Format(
    'Core ML', '.mlpackage', ('coremltools',), 'coreml', ('half',), write, None,
    patterns(r'Unsupported fx node \S+, kind (\S+)'))
