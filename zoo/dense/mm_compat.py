"""mmdet 3.3 and mmsegmentation 1.2 beside today's torch: ``zoo.dense.mm_compat.install()``, before either is imported.

Nothing happens on import. ``install()`` does two things:

* Operators. Where mmcv has no compiled ones (mmcv-lite), ``mmcv.ops`` is served by torchvision: ``nms`` and with it
  ``batched_nms``, and ``roi_align`` with average pooling, forward and backward. RetinaNet, Faster, Mask and Cascade
  R-CNN and every segmentor without deformable operators run on these. All others (soft_nms, nms_match, rotated nms,
  deformable convolution and attention, CARAFE, point operators, ...) can be imported and raise NotImplementedError by
  name when they are called. A compiled mmcv always wins. Boxes that keep the same score come in another order than from
  compiled mmcv, so losses behind an RPN differ slightly between the two. Checked on CPUs only.

* Checkpoints. torch loads plain data only, which the checkpoints of mmengine are not: they carry its logs. These alone
  are let through, see :data:`PLAIN`; a file with anything else is refused before any of it runs. Only
  ``install(trust_checkpoints=True)`` loads such files, and runs the code in them.
"""
import contextlib
import functools
import importlib
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import ZooError, format_error
from ..weights import read_checkpoint

EXTRA = 'pip install "backbone-zoo[mm]"'
TRUST = '; install(trust_checkpoints=True) loads it all the same'
VERSIONS = (2, 0), (2, 2)  # of mmcv, from and below: what mmdet 3.3 and mmsegmentation 1.2 accept


def install(trust_checkpoints: bool = False) -> None:
    """Make mmdet and mmsegmentation run with today's torch. It can be called more than once.

    Args:
        trust_checkpoints: Load checkpoints that hold more than plain data, which runs the code in them. Use it only
            for files from people you trust.

    Raises:
        ZooError: mmengine or mmcv is missing, or mmcv has a version that mmdet refuses.
    """
    check_versions()
    _serve_operators()
    _guard_checkpoints(trust_checkpoints)


def check_versions() -> None:
    """Raise a ZooError unless there are an mmengine and an mmcv that fit."""
    for name in ('mmengine', 'mmcv'):
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise ZooError(f'{name} cannot be imported ({format_error(e)}); {EXTRA}') from None
    found = sys.modules['mmcv'].__version__
    if not VERSIONS[0] <= tuple(map(int, re.findall(r'\d+', found)[:2])) < VERSIONS[1]:
        raise ZooError(
            f'mmcv {found} does not fit mmdet 3.3 and mmsegmentation 1.2; pip uninstall mmcv mmcv-lite, then '
            f'pip install mmcv-lite==2.1.0 (or compile mmcv 2.1.0)')


# --- operators

class Operators(ModuleType):
    """Stands for ``mmcv._ext``: operators of torchvision's, and a refusal for every other name."""

    def __init__(self):
        super().__init__('mmcv._ext', __doc__)
        self.__spec__ = ModuleSpec('mmcv._ext', None)  # without a loader mmengine does not take it for compiled code
        self.nms, self.roi_align_forward, self.roi_align_backward = nms, roi_align_forward, roi_align_backward

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        return functools.partial(_refuse, name)


def _refuse(name: str, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(
        f'{name} needs a compiled mmcv: torchvision serves nms and roi_align alone; pip uninstall mmcv-lite and '
        f'compile mmcv 2.1.0 with MMCV_WITH_OPS=1')


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes ``[N, 4]`` that are kept, best first; ``offset`` 1 counts pixels instead of lengths."""
    boxes = bboxes.float()
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torch.ops.torchvision.nms(boxes, scores.float(), iou_threshold)


def _options(aligned_height: int, aligned_width: int, spatial_scale: float, pool_mode: int) -> tuple:
    if pool_mode != 1:
        _refuse("roi_align with pool_mode='max'")
    return spatial_scale, aligned_height, aligned_width


def roi_align_forward(
        input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, *, aligned_height: int,
        aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool) -> None:
    """Fill ``output`` ``[N, C, aligned_height, aligned_width]``; in float32 for 16-bit maps."""
    options = _options(aligned_height, aligned_width, spatial_scale, pool_mode)
    dtype = torch.promote_types(input.dtype, torch.float32)
    output.copy_(torch.ops.torchvision.roi_align(
        input.to(dtype).contiguous(), rois.to(dtype), *options, sampling_ratio, aligned))


def roi_align_backward(
        grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, *,
        aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int,
        aligned: bool) -> None:
    """Fill ``grad_input`` ``[B, C, H, W]``."""
    options = _options(aligned_height, aligned_width, spatial_scale, pool_mode)
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad_output.to(dtype), rois.to(dtype), *options, *grad_input.shape, sampling_ratio, aligned))


def _serve_operators() -> None:
    try:
        importlib.import_module('mmcv._ext')
    except ImportError:
        sys.modules['mmcv._ext'] = Operators()


# --- checkpoints

class Numbers(np.ndarray):
    """An array of numbers out of a checkpoint; pickled again as what it is."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, raw = state
        dtype = _number(dtype)
        if not isinstance(raw, bytes) or len(raw) != dtype.itemsize * int(np.prod(shape)):
            raise pickle.UnpicklingError('an array whose size is not that of its data')
        super().__setstate__((version, shape, dtype, bool(fortran), raw))

    def __reduce__(self) -> tuple:
        return np.asarray(self).__reduce__()


class Dtype:
    """Name and byte order of a numpy dtype."""

    def __init__(self, code: str, *_: Any):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = state[1].replace('|', '') + self.code


def _number(dtype: Dtype) -> np.dtype:
    if not isinstance(dtype, Dtype) or not re.fullmatch(r'[<>=]?[biufc]\d{1,2}', str(dtype.code)):
        raise pickle.UnpicklingError('an array of something else than numbers')
    return np.dtype(dtype.code)


def _array(kind: type, *_: Any) -> Numbers:
    return np.zeros(0).view(Numbers)


def _scalar(dtype: Dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, _number(dtype), count=1)[0]


def _statistic(owner: type, name: str) -> Callable:
    """What ``getattr`` is in a checkpoint: it names the statistics that a buffer of logs has, and nothing else."""
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {name}')
    return getattr(HistoryBuffer, name)


def plain_objects() -> list:
    """Objects that checkpoints of mmengine carry beside tensors, and what stands for each while a file is read."""
    from mmengine.logging import HistoryBuffer
    return [
        HistoryBuffer, *PLAIN,
        *((stand_in, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
          for name, stand_in in (('_reconstruct', _array), ('scalar', _scalar)))]


PLAIN = [  # beside mmengine's HistoryBuffer: numbers, configs, and the names of a buffer's statistics
    (_statistic, 'builtins.getattr'),
    (OrderedDict, 'mmengine.config.config.ConfigDict'),
    (Numbers, 'numpy.ndarray'),
    (Dtype, 'numpy.dtype'),
]


def _guard_checkpoints(trust: bool) -> None:
    """Wrap mmengine's loaders, each once, whatever they load from."""
    from mmengine.runner.checkpoint import CheckpointLoader
    for scheme, loader in list(CheckpointLoader._schemes.items()):
        loader = getattr(loader, '__wrapped__', loader)
        cli_main = _trusting(loader) if trust else _local(loader) if scheme == '' else _careful(loader)
        CheckpointLoader.register_scheme(scheme, cli_main, force=True)


def _local(loader: Callable) -> Callable:
    @functools.wraps(loader)
    def load(filename: str, map_location: Any = None) -> dict:
        try:
            with torch.serialization.safe_globals(plain_objects()):
                return read_checkpoint(filename)
        except ValueError as e:
            raise ZooError(f'{e}{TRUST if "is refused" in str(e) else ""}') from None
    return load


def _careful(loader: Callable) -> Callable:
    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with torch.serialization.safe_globals(plain_objects()):
                return loader(filename, *args, **kwargs)
        except pickle.UnpicklingError:
            raise ZooError(
                f'{filename} is refused: it holds more than plain data, and loading it would run code; nothing was '
                f'executed{TRUST}') from None
    return load


def _trusting(loader: Callable) -> Callable:
    @functools.wraps(loader)
    def load(*args: Any, **kwargs: Any) -> Any:
        with _full_unpickling():
            return loader(*args, **kwargs)
    return load


@contextlib.contextmanager
def _full_unpickling():
    load = torch.load
    torch.load = functools.partial(load, weights_only=False)
    try:
        yield
    finally:
        torch.load = load


# --- processes

def join_cpus(cfg: Any) -> None:
    """Let mmengine's Runner train in several processes that torchrun started on CPUs: its own way there needs GPUs.

    Args:
        cfg: The run's config; it gets a launcher, and a wrapper of the model without a device.
    """
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        cfg.get('model_wrapper_cfg') or {}, type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
