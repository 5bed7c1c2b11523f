"""ONNX, run by onnxruntime."""
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import Facts, Format, Options, Recording, first_float, patterns

OPSET = 19  # the first with deformable convolutions


def write(recording: Recording, options: Options, facts: Facts, path: Path) -> None:
    """One file; 8-bit weights of linear layers, whose inputs are quantised as they come (onnxruntime's dynamic way)."""
    program: Any = torch.onnx.export(
        recording.program(half=options.half), dynamo=True, verbose=False, opset_version=OPSET, input_names=['images'],
        output_names=['logits'], optimize=True)
    program.model.metadata_props.update(facts.texts())
    if not options.int8:
        program.save(str(path))
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix('.float.onnx')
    program.save(str(whole))
    # convolutions of 8-bit weights are slower than in float32, and onnxruntime lacks those of signed weights
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, op_types_to_quantize=['MatMul', 'Gemm'])
    for leftover in path.parent.glob(f'{whole.name}*'):
        leftover.unlink()


def run(path: Path, images: Tensor) -> Tensor:
    """Logits by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    given, = session.get_inputs()
    if given.type == 'tensor(float16)':
        images = images.half()
    return first_float(session.run(None, {given.name: images.numpy()}))


FORMAT = Format(
    'ONNX', '.onnx', ('onnx', 'onnxruntime', 'onnxscript'), 'export', ('dynamic', 'half', 'int8'), write, run,
    patterns(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", r'NOT_IMPLEMENTED.*?for (\w+)\(\d+\)'))
