"""Measures what each mixer costs in the arena's host, in one process and interleaved."""
import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..bench import timing
from ..bench.models import flops
from ..train import build
from ..utils.errors import format_error

REPEATS = 10


def measure(args: argparse.Namespace, mixers: list[str], device: torch.device, threads: int) -> dict[str, dict]:
    """Measure each mixer: time of a training step and of inference, memory of the step, parameters and FLOPs.

    A step is forward, loss and backward of one batch, without optimizer and data loading. A mixer that does not run
    has a ``reason`` instead.

    Args:
        args: The recipe, as options of ``train``.
        mixers: Names of the mixers.
        device: Device to measure on.
        threads: Number of torch's threads on a CPU, as in the runs.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measure(args, mixers, device)
    finally:
        torch.set_num_threads(before)


def model_of(args: argparse.Namespace, mixer: str) -> nn.Module:
    """The host of the recipe with a mixer in it.

    Raises:
        ZooError: It does not run in the host.
    """
    return build.create_model(argparse.Namespace(**{
        **vars(args), 'model_kwargs': {**args.model_kwargs, 'mixer': mixer}}))


def _measure(args: argparse.Namespace, mixers: list[str], device: torch.device) -> dict[str, dict]:
    found: dict[str, dict[str, Any]] = {}
    models, steps, passes = {}, {}, {}
    for mixer in mixers:
        try:
            torch.manual_seed(0)
            model = model_of(args, mixer)
            channels, *size = build.data_config_of(args, model)['input_size']
            layout = torch.channels_last if args.channels_last else torch.preserve_format
            model.to(device, build.dtype_of(args), memory_format=layout)
            images = torch.randn(args.batch_size, channels, *size).to(
                device, build.dtype_of(args), memory_format=layout)
            target = torch.randint(model.num_classes, (args.batch_size,), device=device)
            contexts = build.products_of(args, device), build.autocast_of(args, device)
            step = partial(_step, model, images, target, contexts)
            step()
            found[mixer] = dict(
                parameters=sum(p.numel() for p in model.parameters()),
                flops=flops(model.eval(), size, build.dtype_of(args), channels))
            models[mixer], steps[mixer], passes[mixer] = model, step, partial(_infer, model, images, contexts)
        except (RuntimeError, ValueError) as e:
            found[mixer] = dict(reason=format_error(e)[:300])
    for mixer, times in timing.interleaved(steps, device, REPEATS).items():
        models[mixer].zero_grad(set_to_none=True)  # what a step frees would be taken off its peak
        found[mixer].update(step_ms=times.quartiles(), peak_bytes=timing.peak_bytes(steps[mixer], device))
    for mixer, times in timing.interleaved(passes, device, REPEATS).items():
        found[mixer].update(ms=times.quartiles(), throughput=1e3 * args.batch_size / times.period)
    return found


def _step(model: nn.Module, images: Tensor, target: Tensor, contexts: tuple[Any, Any]) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    products, autocast = contexts
    with products():
        with autocast():
            loss = nn.functional.cross_entropy(model(images), target)
        loss.backward()


@torch.no_grad()
def _infer(model: nn.Module, images: Tensor, contexts: tuple[Any, Any]) -> None:
    model.eval()
    products, autocast = contexts
    with products(), autocast():
        model(images)
