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
        mixed: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int], prefix: int = 0,
        gate: Tensor | None = None) -> Tensor:
    """``mixed`` plus a depthwise convolution of the values, and that times a gate; all but pixels get no convolution.

    Args:
        mixed: ``[B, prefix + H * W, C]``, contiguous.
        v: Same shape, any strides with neighbouring channels.
        weight: ``[C, 1, k, k]``.
        bias: ``[C]`` or None.
        grid: (H, W).
        prefix: Tokens before those of the map.
        gate: Shaped like v, or None.
    """
    x, residual, factor = (None if t is None else t[:, prefix:].unflatten(1, grid) for t in (v, mixed, gate))
    local = depthwise_conv(x, weight, bias, residual=residual, gate=factor).flatten(1, 2)
    if not prefix:
        return local
    others = mixed[:, :prefix] if gate is None else mixed[:, :prefix] * gate[:, :prefix]
    return torch.cat([others, local], dim=1)
