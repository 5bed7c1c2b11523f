"""What a format of exported models is made of."""
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
    """How a model is exported.

    Args:
        dynamic: For any batch, height and width.
        half: In float16.
        int8: With 8-bit weights of linear layers.
    """

    dynamic: bool = False
    half: bool = False
    int8: bool = False


@dataclass(frozen=True)
class Facts:
    """What a file says of its model: how to prepare images, and what the outputs mean.

    Args:
        model: Name.
        input_size: Channels, height and width.
        mean: Of each channel, of values in [0, 1].
        std: Of each channel.
        interpolation: Of resizing.
        crop_pct: Image size over resize size.
        crop_mode: 'center', 'squash' or 'border'.
        class_names: By index; None if they are not known.
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
        """Each fact as JSON, a name or mode as it is; what is not known is left out."""
        return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for key, value in asdict(self).items() if value is not None}


class Recording:
    """A model and images to record it for; each program is recorded once.

    Args:
        model: In eval mode.
        images: ``[B, C, H, W]``.
        dynamic: For any batch, height and width; otherwise for the shape of the images.
    """

    def __init__(self, model: nn.Module, images: Tensor, dynamic: bool = False):
        self.model, self.images, self.dynamic = model, images, dynamic
        self._programs: dict[tuple[bool, bool], ExportedProgram] = {}

    @torch.no_grad()
    def program(self, half: bool = False, int8: bool = False) -> ExportedProgram:
        """In float16 or with 8-bit linear layers if asked for; of a fixed size with constants folded."""
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
    """A format.

    Args:
        title: For people.
        suffix: Of its files.
        packages: Modules that it needs.
        extra: Of backbone-zoo that installs them.
        takes: Those of :class:`Options` that it has.
        write: Writes a recorded model to a path.
        run: Logits of a file, which takes images of that shape; None where its runtime does not run here.
        missing: Finds the operators that it lacks in the text of an error.
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
        """The operators that an error says the format lacks, in order."""
        found = [name for pattern in self.missing for match in pattern.finditer(text)
                 for name in re.split(r'[,\s]+', match[1]) if name]
        return list(dict.fromkeys(name.strip("'\"{}") for name in found))


def patterns(*texts: str) -> tuple[re.Pattern, ...]:
    """Regular expressions whose first group is an operator, or several."""
    return tuple(map(re.compile, texts))


def first_float(outputs: Sequence) -> Tensor:
    """The logits among what a runtime gives, in float32."""
    return torch.as_tensor(outputs[0]).float()
