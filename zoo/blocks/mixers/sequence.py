"""What the mixers that see a whole map at once have in common."""
import torch
from torch import Tensor, nn

from zoo_kernels import depthwise_conv


class GlobalMixer(nn.Module):
    """A token mixer over all tokens of an image: those of a map, row by row, behind tokens that are no pixels.

    A subclass defines :meth:`mix`. Hosts of maps call the mixer with ``[B, H, W, C]``; hosts with a class token call
    ``mix`` with the whole sequence.
    """

    def mix(self, x: Tensor, grid: tuple[int, int], prefix: int = 0) -> Tensor:
        """Mix a sequence.

        Args:
            x: ``[B, prefix + H * W, C]``.
            grid: (H, W).
            prefix: Tokens before those of the map; they take part in the attention, not in what is local.

        Returns:
            The same shape.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` -> ``[B, H, W, C]``."""
        return self.mix(x.flatten(1, 2), x.shape[1:3]).view(x.shape)


def add_local(
        mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int], prefix: int = 0) -> Tensor:
    """``mixed`` plus a depthwise convolution of the values; tokens that are no pixels get nothing.

    Args:
        mixed: ``[B, prefix + H * W, C]``, contiguous.
        v: Same shape, any strides with neighbouring channels.
        weight: ``[C, 1, k, k]``.
        bias: ``[C]`` or None.
        grid: (H, W).
        prefix: Tokens before those of the map.
    """
    local = depthwise_conv(
        v[:, prefix:].unflatten(1, grid), weight, bias, residual=mixed[:, prefix:].unflatten(1, grid)).flatten(1, 2)
    return torch.cat([mixed[:, :prefix], local], dim=1) if prefix else local
