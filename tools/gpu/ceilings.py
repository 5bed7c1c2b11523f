"""What the machine is, and how fast it copies and multiplies: ``environment.json`` and three lines."""
import json
import os
import platform
import subprocess
import sys

import torch

from zoo.bench import report

from . import measure
from .part import Part


def main() -> None:
    part = Part('ceilings')
    part.check('environment', environment, part)
    part.check('copy', copy, part)
    part.check('matrix product', product, part)
    part.check('smallest graph', smallest, part)
    part.close()


def environment(part: Part) -> dict:
    found = report.header('gpu_check', part.device, part.dtype, sys.argv[1:], [])
    found.update(
        dry_run=part.dry, cpus=os.cpu_count(), machine=platform.platform(), devices=torch.cuda.device_count(),
        nvidia_smi=_smi())
    if not part.dry:
        properties = torch.cuda.get_device_properties(0)
        found.update(
            capability=list(torch.cuda.get_device_capability()), memory=properties.total_memory,
            multiprocessors=properties.multi_processor_count, l2=getattr(properties, 'L2_cache_size', None),
            cudnn=torch.backends.cudnn.version())
    (part.out / 'environment.json').write_text(json.dumps(found, indent=1) + '\n')
    return dict(device=found['device'], torch=torch.__version__)


def _smi() -> str | None:
    query = 'name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu'
    try:
        return subprocess.run(
            ['nvidia-smi', f'--query-gpu={query}', '--format=csv,noheader'], capture_output=True, text=True,
            timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def copy(part: Part) -> dict:
    """Bytes read and written; of random data, as all else."""
    size = 2 ** 20 if part.dry else 2 ** 31
    source = torch.randn(size, device=part.device, dtype=part.dtype)
    target = torch.empty_like(source)
    row = measure.times({'copy': lambda: target.copy_(source)}, part.device, graphs=False)['copy']
    bytes_ = 2 * source.numel() * source.element_size()
    return dict(row, bytes=bytes_, bytes_per_second=row['ms'] and 1e3 * bytes_ / row['ms'])


def product(part: Part) -> dict:
    size = 64 if part.dry else 8192
    a, b = torch.randn(2, size, size, device=part.device, dtype=part.dtype)
    row = measure.times({'product': lambda: a @ b}, part.device, graphs=False)['product']
    return dict(row, flops_per_second=row['ms'] and 1e3 * 2 * size ** 3 / row['ms'])


def smallest(part: Part) -> dict:
    """A graph of one kernel that does nothing to speak of: what every replayed time contains."""
    x = torch.zeros(1, device=part.device)
    return measure.times({'graph': x.zero_}, part.device)['graph']


if __name__ == '__main__':
    main()
