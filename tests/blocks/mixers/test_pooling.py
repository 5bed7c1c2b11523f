"""Average pooling."""
import torch

from zoo.blocks.mixers import mixer_class


def test_pooling_is_the_mean_of_the_neighbours_less_the_token():
    x = torch.arange(12.).view(1, 3, 4, 1)
    y = mixer_class('pooling')()(x)[0, :, :, 0]
    assert (y[1, 1], y[0, 0], y[0, 1]) == (0, (0 + 1 + 4 + 5) / 4, (0 + 1 + 2 + 4 + 5 + 6) / 6 - 1)
