"""Image sizes that grow during a run: small images first, the full size at the end."""
import argparse
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..utils.errors import ZooError
from . import build


def check(args: argparse.Namespace) -> None:
    """Refuse lists of sizes and milestones of different lengths, and milestones that do not rise.

    Raises:
        ZooError: The lists do not go together.
    """
    sizes, milestones = args.progressive_sizes or [], args.size_milestones or []
    if len(sizes) != len(milestones):
        raise ZooError(f'--progressive-sizes and --size-milestones go together: {len(sizes)} sizes, '
                       f'{len(milestones)} epochs')
    if milestones != sorted(set(milestones)):
        raise ZooError(f'--size-milestones must rise, got {" ".join(map(str, milestones))}')


def size_at(args: argparse.Namespace, input_size: tuple[int, int, int], epoch: int) -> tuple[int, int, int]:
    """Channels, height and width of the training images in an epoch from 0: ``input_size`` after all milestones."""
    for size, milestone in zip(args.progressive_sizes or [], args.size_milestones or []):
        if epoch < milestone:
            return input_size[0], size, size
    return input_size


class TrainBatches:
    """The training loader of each epoch, rebuilt when the size changes. Validation always has the full size.

    Args:
        args: Options.
        config: Data config with the full ``input_size``.
        make: Builds a loader for a data config.
        model: Run on an image of every size first, so that an unsuitable size is reported at once.
        ctx: Device of the model.

    Raises:
        ZooError: The model refuses a size.
    """

    def __init__(
            self, args: argparse.Namespace, config: Mapping[str, Any], make: Callable[[dict[str, Any]], Any],
            model: nn.Module, ctx: build.DeviceContext):
        self.args, self.config, self.make = args, config, make
        self.size, self.loader = None, None
        channels = config['input_size'][0]
        for size in args.progressive_sizes or []:
            build.check_forward(
                model, dict(config, input_size=(channels, size, size)), build.DeviceContext(ctx.device),
                build.dtype_of(args))

    def at(self, epoch: int) -> Any:
        """The loader for an epoch from 0: the same object as long as the size is the same."""
        size = tuple(size_at(self.args, self.config['input_size'], epoch))
        if size != self.size:
            self.loader, self.size = self.make(dict(self.config, input_size=size)), size
        return self.loader
