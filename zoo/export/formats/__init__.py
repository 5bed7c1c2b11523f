"""The formats that a model can be exported to, one per module, each with ``FORMAT``."""
from . import coreml, executorch, onnx, openvino, pt2
from .base import Facts, Format, Options, Recording

FORMATS: dict[str, Format] = {
    'onnx': onnx.FORMAT, 'openvino': openvino.FORMAT, 'executorch': executorch.FORMAT, 'coreml': coreml.FORMAT,
    'pt2': pt2.FORMAT}

__all__ = ['FORMATS', 'Facts', 'Format', 'Options', 'Recording']
