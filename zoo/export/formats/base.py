"""The base of all export formats."""
import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...utils.errors import require_packages
from ..folding import fold_constants, without_in_place

LEAST, MOST = 64, 2048  # pixels of the sides of images of any size: torch takes a side of one token for a constant
DYNAMIC = {0: torch.export.Dim('batch', min=1, max=64), 2: torch.export.Dim('height', min=LEAST, max=MOST),
           3: torch.export.Dim('width', min=LEAST, max=MOST)}


@dataclass(frozen=True)
class Options:
    """Options of an export.

    Args:
        dynamic: Support any batch size, height and width.
        half: Convert to float16.
        int8: Quantise the weights of linear layers to 8 bits.
    """

    dynamic: bool = False
    half: bool = False
    int8: bool = False


@dataclass(frozen=True)
class Facts:
    """Metadata of an exported file: how to prepare images, and what the outputs mean.

    Args:
        model: Name of the model.
        input_size: Channels, height and width in pixels.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel, likewise.
        interpolation: Interpolation for resizing.
        crop_pct: Size of the image divided by the size that images are resized to.
        crop_mode: 'center', 'squash' or 'border'.
        class_names: Names of the classes by index; None if they are not known.
    """

    model: str
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    class_names: list[str] | None

    def texts(self) -> dict[str, str]:
        """The known fields as strings: names and modes as they are, anything else as JSON."""
        return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for key, value in asdict(self).items() if value is not None}


class Recording:
    """A model and example images for ``torch.export``; each program is recorded once.

    Args:
        model: A model in eval mode.
        images: ``[B, C, H, W]``.
        dynamic: Record for any batch size, height and width, not just for the shape of the images.
    """

    def __init__(self, model: nn.Module, images: Tensor, dynamic: bool = False):
        self.model, self.images, self.dynamic = model, images, dynamic
        self._programs: dict[tuple[bool, bool], ExportedProgram] = {}

    @torch.no_grad()
    def program(self, half: bool = False, int8: bool = False) -> ExportedProgram:
        """The program, in float16 or with 8-bit linear layers on request, with folded constants unless dynamic."""
        if (half, int8) not in self._programs:
            self._programs[half, int8] = self._record(half, int8)
        return self._programs[half, int8]

    def _record(self, half: bool, int8: bool) -> ExportedProgram:
        model, images = self.model, self.images
        if half:
            model, images = copy.deepcopy(model).half(), images.half()
        if int8:
            model = _quantized(model)
        if self.dynamic:  # a batch of one would be taken for a constant
            images = images.expand(max(len(images), 2), -1, -1, -1).contiguous()
            return without_in_place(torch.export.export(model, (images,), dynamic_shapes=(DYNAMIC,)))
        program = without_in_place(torch.export.export(model, (images,)))
        return program if int8 else fold_constants(program)


def _quantized(model: nn.Module) -> nn.Module:
    """A copy with 8-bit linear layers by torchao, whose inputs are quantised as they come."""
    require_packages('torchao', extra='pip install torchao')
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


class Format(NamedTuple):
    """An export format.

    Args:
        title: Name for people.
        suffix: Suffix of its files.
        packages: Modules that it needs.
        extra: The extra of backbone-zoo that installs them.
        takes: The fields of :class:`Options` that it supports.
        write: Writes a recorded model to a path.
        run: Computes the logits of a file for images of the recorded shape; None where its runtime does not run here.
        missing: Finds the names of unsupported operators in the text of an error.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    takes: tuple[str, ...]
    write: Callable[[Recording, Options, Facts, Path], None]
    run: Callable[[Path, Tensor], Tensor] | None
    missing: tuple[re.Pattern, ...]

    def operators_in(self, text: str) -> list[str]:
        """The operators that an error names as unsupported, in order."""
        found = [name for pattern in self.missing for match in pattern.finditer(text)
                 for name in re.split(r'[,\s]+', match[1]) if name]
        return list(dict.fromkeys(name.strip("'\"{}") for name in found))


def patterns(*texts: str) -> tuple[re.Pattern, ...]:
    """Regular expressions whose first group is an operator, or several."""
    return tuple(map(re.compile, texts))


def first_float(outputs: Sequence) -> Tensor:
    """The logits among the outputs of a runtime, in float32."""
    return torch.as_tensor(outputs[0]).float()
