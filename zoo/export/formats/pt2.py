"""torch.export's own archive, which torch loads without any code of the model."""
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ...utils.errors import require_packages
from .base import Facts, Format, Options, first_float, patterns, record

FACTS = 'facts.json'  # name in the archive


def write(model: nn.Module, images: Tensor, options: Options, facts: Facts, path: Path) -> None:
    """One file; ``int8`` by torchao, with inputs quantised as they come."""
    if options.int8:
        require_packages('torchao', extra='pip install torchao')
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.export.save(
        record(model, images, options), path, extra_files={FACTS: json.dumps(asdict(facts), ensure_ascii=False)})


def run(path: Path, images: Tensor) -> Tensor:
    """Logits by torch."""
    program = torch.export.load(path)
    kind = next((value.dtype for value in program.state_dict.values() if value.is_floating_point()), torch.float32)
    with torch.no_grad():
        return first_float([program.module()(images.to(kind))])


FORMAT = Format('PyTorch 2 archive', '.pt2', (), '', ('dynamic', 'half', 'int8'), write, run, patterns())
