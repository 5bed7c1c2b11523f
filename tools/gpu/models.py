"""Whole models, eager: without the kernels and with them, forward and a training step, and what takes the time."""
from collections.abc import Callable
from functools import partial

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo  # noqa: F401
import zoo_kernels

from . import measure
from .part import Part

NAMES = ('flatten_pvt_tiny', 'flatten_swin_tiny', 'biformer_tiny', 'van_b1', 'ravlt_t')
DRY = ('van_b1',)  # the models of a dry run
PASSES = ('forward', 'training step')
BATCH, SIZE = 128, 224
TOP = 15  # rows of a profile


def main() -> None:
    part = Part('models')
    for name in DRY if part.dry else NAMES:
        part.check(name, rows, part, name, {'off': 'off', 'auto': 'auto'}, least=15 * (not part.dry))
        part.check(f'profile {name}', top, part, name, least=8 * (not part.dry))
    part.close()


def setting(part: Part, name: str, shallow: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with random weights, images and labels; ``shallow``: with one block per stage, for the same launches."""
    torch.manual_seed(0)
    options = dict(depths=(1, 1, 1, 1)) if shallow or part.dry else {}
    dtype = torch.float32 if part.dry else part.dtype
    model = timm.create_model(name, **options).to(part.device, dtype)
    batch, size = (2, 32) if part.dry else (BATCH, SIZE)
    images = torch.randn(batch, 3, size, size, device=part.device, dtype=dtype)
    return model, images, torch.randint(1000, (batch,), device=part.device)


def calls(part: Part, name: str, title: str, modes: dict[str, str], compiled: bool = False) -> dict[str, Callable]:
    """A pass of the model by the name of each mode."""
    model, images, labels = setting(part, name)
    model.train(title != PASSES[0])
    on_gpu = not part.dry
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=on_gpu, capturable=on_gpu)
    found = {}
    for key, mode in modes.items():
        function = model
        if compiled:
            torch.compiler.reset()

            def function(images: Tensor) -> Tensor:  # of its own for each mode: so is the compiled code
                return model(images)
            function = torch.compile(function, dynamic=False, backend='eager' if part.dry else 'inductor')
        if title == PASSES[0]:
            found[key] = partial(forward, function, mode, images)
        else:
            found[key] = partial(step, function, mode, images, labels, optimizer)
    return found


def forward(function: Callable, mode: str, images: Tensor) -> None:
    with zoo_kernels.set_mode(mode), torch.no_grad():
        function(images)


def step(function: Callable, mode: str, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Cross-entropy, gradients, AdamW."""
    with zoo_kernels.set_mode(mode):
        F.cross_entropy(function(images).float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def rows(part: Part, name: str, modes: dict[str, str], compiled: bool = False) -> None:
    """One line per pass and mode."""
    for title in PASSES:
        for mode, found in measure.times(calls(part, name, title, modes, compiled), part.device).items():
            period = found.get('ms') and max(found['ms'], found['host_ms'])
            part.line(name, model=name, **{'pass': title}, mode=mode, batch=BATCH,
                      images_per_second=period and round(1e3 * BATCH / period), **found)
        measure.free()


def top(part: Part, name: str) -> dict:
    """The kernels that take most of the time go into profile.txt; whether a batched product is among the operators."""
    found = {}
    for title in PASSES:
        call = calls(part, name, title, {'auto': 'auto'})['auto']
        events = measure.profile(call, part.device).key_averages()
        for kind, of_gpu in (('kernels', True), ('operators', False)):
            rows = measure.busiest(events, of_gpu)
            table = [f'{us:10.1f} us {count:5} x {key[:100]}' for key, us, count in rows[:TOP]]
            total = f'{sum(us for _, us, _ in rows):10.1f} us in all' if rows else 'none on a GPU'
            part.text(f'{name}, {title}, with our kernels: {kind}', '\n'.join([*table, total]))
        found[title] = 'aten::bmm' in {event.key for event in events}
        del call
        measure.free()
    return dict(bmm=found)


if __name__ == '__main__':
    main()
