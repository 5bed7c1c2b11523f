"""torch.export's own archive, which torch loads without any code of the model."""
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .base import Facts, Format, Options, Recording, first_float, patterns

FACTS = 'facts.json'  # name in the archive


def write(recording: Recording, options: Options, facts: Facts, path: Path) -> None:
    """One file."""
    told = json.dumps(asdict(facts), ensure_ascii=False)
    torch.export.save(recording.program(options.half, options.int8), path, extra_files={FACTS: told})


def run(path: Path, images: Tensor) -> Tensor:
    """Logits by torch."""
    program = torch.export.load(path)
    kind = next((value.dtype for value in program.state_dict.values() if value.is_floating_point()), torch.float32)
    with torch.no_grad():
        return first_float([program.module()(images.to(kind))])


FORMAT = Format('PyTorch 2 archive', '.pt2', (), '', ('dynamic', 'half', 'int8'), write, run, patterns())
