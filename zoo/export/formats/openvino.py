"""OpenVINO's intermediate representation: an xml file with a bin file beside it."""
from pathlib import Path

from torch import Tensor

from ..decompositions import attention_by_head
from .base import Facts, Format, Options, Recording, first_float, patterns


def write(recording: Recording, options: Options, facts: Facts, path: Path) -> None:
    """Both files. ``half`` keeps the weights in float16; arithmetic is up to the device."""
    import openvino

    program = recording.program()
    if not options.dynamic:
        program = program.run_decompositions(attention_by_head())
    converted = openvino.convert_model(program)
    for key, text in facts.texts().items():
        converted.set_rt_info(text, ['model_info', key])
    openvino.save_model(converted, path, compress_to_fp16=options.half)


def run(path: Path, images: Tensor) -> Tensor:
    """Logits on the CPU, in float32 on processors with bfloat16 too, where OpenVINO prefers that."""
    import openvino

    compiled = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return first_float([compiled(images.numpy())[compiled.output(0)]])


FORMAT = Format(
    'OpenVINO', '.xml', ('openvino',), 'openvino', ('dynamic', 'half'), write, run,
    patterns(r'No conversion rule found for operations: ([\w.:, ]+)'))
