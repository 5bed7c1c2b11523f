"""Test-time augmentation: averages a model's predictions over several views of an image."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..train import build
from ..utils.errors import ZooError, format_error


class Views(nn.Module):
    """Averages a classifier's probabilities over mirrored and scaled views of each image.

    Args:
        model: ``[B, C, H, W]`` -> logits ``[B, classes]``.
        flip: Add the mirror image of each view.
        sizes: Heights and widths in pixels to which images are scaled bicubically.
    """

    def __init__(self, model: nn.Module, flip: bool, sizes: Sequence[tuple[int, int]]):
        super().__init__()
        self.model, self.flip, self.sizes = model, flip, sizes
        self.num_classes = getattr(model, 'num_classes', None)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to the logarithms of the mean probabilities ``[B, classes]``, in float32."""
        total = 0.
        for size in self.sizes:
            view = images if images.shape[-2:] == size else F.interpolate(
                images.float(), size, mode='bicubic', antialias=True).to(images.dtype)
            for mirrored in (False, True)[:1 + self.flip]:
                total = total + self.model(view.flip(-1) if mirrored else view).float().softmax(-1)
        return torch.log(total / (len(self.sizes) * (1 + self.flip)))


def sizes_at(
        model: nn.Module, size: tuple[int, int], scales: Sequence[float], channels: int, device: torch.device,
        dtype: torch.dtype) -> tuple[list[tuple[int, int]], list[str]]:
    """Sizes in pixels of the views at some scales, and the reasons why a model refuses others.

    Raises:
        ZooError: The model refuses all of them.
    """
    taken, refused = [], []
    for scale in scales:
        height, width = (max(1, round(side * scale)) for side in size)
        config = dict(input_size=(channels, height, width))
        try:
            build.check_forward(model, config, build.DeviceContext(device), dtype)
        except ZooError as e:
            refused.append(f'scale {scale:g} is left out: {format_error(e)}')
        else:
            taken.append((height, width))
    if not taken:
        raise ZooError(f'the model takes images at none of the scales; {refused[0]}')
    return list(dict.fromkeys(taken)), refused
