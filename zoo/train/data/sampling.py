"""Chooses the images of a batch and everything random about them, as functions of the seed and of the batch's place.

Nothing depends on earlier random numbers. A run that starts in the middle of an epoch sees the same data as an
uninterrupted one, with any number of loading processes. Several processes together see the same data as one process
with the same global batch, except for mixup and random erasing, which each process draws for its own batch.
"""
import contextlib
import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data.loader import PrefetchLoader
from torch import Tensor
from torch.utils.data import Dataset, Sampler

ROUND = 256  # repeated augmentation sees a multiple of this many images in an epoch, as DeiT's does


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits that depends on each of the numbers and on their count; the same on every machine."""
    packed = struct.pack(f'<{len(numbers)}q', *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), 'little') >> 1


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seed the generators of python, numpy and torch (that of a CUDA device too, if it is given)."""
    random.seed(seed)
    np.random.seed(seed & 0xffffffff)
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == 'cuda':
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def random_state(device: torch.device | None = None) -> dict[str, Any]:
    """State of the generators that :func:`seed_all` seeds, as numbers and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = dict(python=[version, list(words), gauss], numpy=[kind, torch.from_numpy(keys.astype(np.int64)), *rest],
                 torch=torch.get_rng_state())
    if device is not None and device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def restore_random(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Set the generators to a state of :func:`random_state`."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if device is not None and device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)


@contextlib.contextmanager
def preserve_rng_state(device: torch.device | None = None) -> Iterator[None]:
    """Restore the state of the generators at the end of this context."""
    state = random_state(device)
    try:
        yield
    finally:
        restore_random(state, device)


class Batch(NamedTuple):
    """A request to a loading process: the images at some places in the order of an epoch."""

    epoch: int
    number: int  # of the batch in its epoch
    places: list[int]
    indices: list[int]  # of the images there


class ResumableBatchSampler(Sampler):
    """The batches of this process in an epoch, from a given one on; incomplete global batches are left out.

    An epoch is one shuffled sequence, the same in all processes; of each global batch, a process takes every
    ``world_size``-th place. With repeated augmentation an image has ``repeats`` consecutive places, so that its copies
    go to different processes, and the epoch is no longer than without.

    Args:
        count: Number of images.
        batch_size: Batch size of one process.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of processes.
        repeats: Places per image, 0 or 1 for one; it need not be an integer.
    """

    def __init__(
            self, count: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, repeats: float = 0.):
        self.count, self.batch_size, self.seed, self.rank, self.world_size = count, batch_size, seed, rank, world_size
        self.repeats = repeats or 1
        rounded = count // ROUND * ROUND if repeats and count >= ROUND else count
        self.batches = rounded // (batch_size * world_size)
        self.epoch = self.first = 0

    def seek(self, epoch: int, first: int = 0) -> None:
        """Go to the batch ``first`` of ``epoch``."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator).numpy()
        size = self.batch_size * self.world_size
        for number in range(self.first, self.batches):
            places = list(range(number * size + self.rank, (number + 1) * size, self.world_size))
            indices = [int(order[int(place // self.repeats) % self.count]) for place in places]
            yield Batch(self.epoch, number, places, indices)


class BatchedDataset(Dataset):
    """Collated batches of a data set, by :class:`Batch`.

    Args:
        dataset: Images with labels by index; random transforms must use the global generators of Python, numpy or
            torch.
        collate: Makes a batch of a list of samples; mixup may draw random numbers there.
        seed: Seed of the run.
        rank: Rank of this process.
    """

    def __init__(self, dataset: Dataset, collate: Callable[[list], Any], seed: int, rank: int = 0):
        self.dataset, self.collate, self.seed, self.rank = dataset, collate, seed, rank

    def __getitem__(self, batch: Batch) -> Any:
        samples = []
        with preserve_rng_state():  # without loading processes these generators are the model's too
            for place, index in zip(batch.places, batch.indices):
                seed_all(seed_of(self.seed, batch.epoch, place))
                samples.append(self.dataset[index])
            seed_all(seed_of(self.seed, batch.epoch, batch.number, self.rank))
            return self.collate(samples)


class Erasing:
    """Random erasing on the device, whose random numbers depend on the batch only.

    Args:
        erase: Called with images ``[B, C, H, W]``.
        order: The sampler that determines the order of the batches.
        device: Device of the images.
    """

    def __init__(self, erase: Callable[[Tensor], Tensor], order: ResumableBatchSampler, device: torch.device):
        self.erase, self.order, self.device = erase, order, device
        self.number = 0

    def __call__(self, images: Tensor) -> Tensor:
        order = self.order
        with preserve_rng_state(self.device):
            seed_all(seed_of(order.seed, order.epoch, self.number, order.rank, 1), self.device)
            self.number += 1
            return self.erase(images)


class Prefetcher(PrefetchLoader):
    """timm's prefetcher over a :class:`ResumableBatchSampler`: it reads a batch ahead, so its random erasing counts for
    itself."""

    def __init__(self, loader: Any, **settings: Any):
        super().__init__(loader, **settings)
        if self.random_erasing is not None:
            self.random_erasing = Erasing(self.random_erasing, loader.sampler, self.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.random_erasing is not None:
            self.random_erasing.number = self.sampler.first
        return super().__iter__()
