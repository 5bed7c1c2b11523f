"""Whole models by other runtimes, exported for images of one size."""
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..utils.errors import ZooError, require_packages

INSTALL = 'pip install "backbone-zoo[bench]"'
Function = Callable[[Tensor], Tensor]


def _export(model: nn.Module, images: Tensor, folder: str) -> Path:
    """An ONNX file of a model in eval mode, for a batch as it is given."""
    path = Path(folder, 'model.onnx')
    torch.onnx.export(model, (images,), path, dynamo=True, external_data=False, verbose=False)
    return path


def _onnxruntime(model: nn.Module, images: Tensor) -> Function:
    require_packages('onnxruntime', 'onnxscript', extra=INSTALL)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3  # errors
    # its threads would go on looking for work while others are timed
    options.add_session_config_entry('session.force_spinning_stop', '1')
    with tempfile.TemporaryDirectory() as folder:
        session = onnxruntime.InferenceSession(
            _export(model, images, folder), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _openvino(model: nn.Module, images: Tensor) -> Function:
    require_packages('openvino', 'onnxscript', extra=INSTALL)
    import openvino

    settings = {'INFERENCE_NUM_THREADS': torch.get_num_threads(), 'INFERENCE_PRECISION_HINT': 'f32',
                'PERFORMANCE_HINT': 'LATENCY'}
    with tempfile.TemporaryDirectory() as folder:
        compiled = openvino.Core().compile_model(_export(model, images, folder), 'CPU', settings)
    return lambda images: torch.from_numpy(compiled([images.numpy()])[0])


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Function]] = {'onnxruntime': _onnxruntime, 'openvino': _openvino}


def prepare(name: str, model: nn.Module, images: Tensor, backward: bool) -> Function:
    """A model as a function of images by a runtime of ``RUNTIMES``.

    Args:
        name: Name of the runtime.
        model: A model on a CPU, in eval mode and float32.
        images: ``[B, 3, H, W]``: the batch and size that the function is for.
        backward: Whether gradients are needed, which these runtimes do not compute.

    Raises:
        ZooError: Gradients are needed, device or dtype are not supported, or a package is not installed.
    """
    if backward:
        raise ZooError('it runs forward passes only')
    if images.device.type != 'cpu' or images.dtype != torch.float32:
        raise ZooError(f'it is measured in float32 on a CPU, not in {images.dtype} on {images.device.type}')
    return RUNTIMES[name](model, images)
