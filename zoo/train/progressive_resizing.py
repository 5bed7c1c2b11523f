"""Image sizes that grow during a run: small images while there is most to learn, the full size at the end."""
import argparse
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..utils.errors import ZooError
from . import build


def check(args: argparse.Namespace) -> None:
    """Refuse sizes without as many epochs to end with.

    Raises:
        ZooError: two lists that do not go together.
    """
    sizes, milestones = args.progressive_sizes or [], args.size_milestones or []
    if len(sizes) != len(milestones):
        raise ZooError(f'--progressive-sizes and --size-milestones go together: {len(sizes)} sizes, '
                       f'{len(milestones)} epochs')
    if milestones != sorted(set(milestones)):
        raise ZooError(f'--size-milestones must rise, got {" ".join(map(str, milestones))}')


def size_at(args: argparse.Namespace, input_size: tuple[int, int, int], epoch: int) -> tuple[int, int, int]:
    """Channels, height and width of the training images of an epoch (from 0): ``input_size`` after the milestones."""
    for size, milestone in zip(args.progressive_sizes or [], args.size_milestones or []):
        if epoch < milestone:
            return input_size[0], size, size
    return input_size


class TrainBatches:
    """The training loader of an epoch, built anew where the size changes. Validation has the full size always.

    Args:
        args: Options.
        config: Data config with the full input_size.
        make: Builds a loader for a data config.
        model: Shown an image of every size, so that one it cannot take is reported at once.
        ctx: Its device.

    Raises:
        ZooError: the model refuses a size.
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
        """The loader for an epoch from 0; the same one as long as the size is the same."""
        size = tuple(size_at(self.args, self.config['input_size'], epoch))
        if size != self.size:
            self.loader, self.size = self.make(dict(self.config, input_size=size)), size
        return self.loader
