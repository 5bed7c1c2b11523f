"""A service that runs for days: threads, images of every size, and memory that does not grow."""
import ctypes
import gc
import itertools
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

import zoo
from zoo.blocks import tables
from zoo.blocks.gates import fca
from zoo.blocks.mixers import partial, rotary

FORWARDS, THREADS = 2000, 8
SIZES = list(itertools.product((32, 48, 64, 80, 96), (32, 48, 64, 96)))  # more than any cache keeps
TINY = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), num_classes=2)
# by what depends on the size: computed tables, resampled parameters, padded and shifted windows
MODELS = dict(
    rotary=lambda: zoo.create_hybrid('pvt_v2_b0', 'rala', **TINY),
    distances=lambda: zoo.create_hybrid('pvt_v2_b0', 'partial_attention', stages=(2, 3), **TINY),
    frequencies=lambda: zoo.add_gates(timm.create_model('test_resnet', num_classes=2), 'fca'),
    resampled=lambda: zoo.create_hybrid('pvt_tiny', 'agent', **TINY),
    windows=lambda: zoo.create_hybrid(
        'swin_tiny', 'focused', stages=(0,), embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1,) * 4, num_classes=2))
CACHES = {
    'rotary': [table.cache for table in vars(rotary).values() if hasattr(table, 'cache')],
    'frequencies': [table.cache for table in vars(fca).values() if hasattr(table, 'cache')],
    'distances': [partial._kept_buckets]}
GROWTH = 12 << 20  # bytes of resident memory: allocators round and split, threads keep some


def resident():
    """Bytes, after the allocator has handed back what nothing uses any more."""
    getattr(ctypes.CDLL(None), 'malloc_trim', int)(0)  # of glibc
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.fixture(autouse=True)
def one_thread_per_forward():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='Linux says how much memory a process holds')
def test_memory_stays_flat_over_forwards_at_changing_sizes_in_threads():
    models = {name: build().eval() for name, build in MODELS.items()}
    images = {size: torch.randn(1, 3, *size) for size in SIZES}
    cases = list(itertools.product(models, SIZES))

    def forward(name, size):
        with torch.inference_mode():
            return models[name](images[size])

    wanted = {case: forward(*case) for case in cases}
    ready = threading.Barrier(THREADS)

    def serve(number, forwards):
        """What one thread does: every case once, or ``forwards`` of them at random."""
        ready.wait()  # or one thread could take the work of two
        draw = random.Random(number)
        for case in draw.choices(cases, k=forwards) if forwards else draw.sample(cases, len(cases)):
            torch.testing.assert_close(forward(*case), wanted[case], atol=1e-5, rtol=1e-4)

    held = []
    with ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        # until each has met every case the backend's caches grow, which it has per thread
        for forwards in (0, *[FORWARDS // THREADS // 2] * 2):
            list(threads.map(serve, range(THREADS), [forwards] * THREADS))
            held.append((resident(), tensors()))
    warm, _, end = held
    print('bytes resident and tensors', held)
    assert end[0] <= warm[0] + GROWTH and end[1] <= warm[1]
    for name, kept in CACHES.items():
        assert kept, name
        for cache in kept:
            info = cache.cache_info()
            assert info.currsize == info.maxsize <= tables.KEPT and info.misses > info.maxsize, name
