"""Memory that a computation takes, counted from the results of its operators."""
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """Most bytes that the results of operators hold at a time, and how many they write: a measure of time."""

    def __init__(self):
        super().__init__()
        self.held, self.bytes, self.written = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        self.held = {at: entry for at, entry in self.held.items() if not entry[0].expired()}
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.written += 0 if func.is_view else x.nbytes
                storage = x.untyped_storage()
                self.held[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.bytes = max(self.bytes, sum(size for _, size in self.held.values()))
        return out
