"""Kernels under Triton's interpreter, on the CPU. TRITON_INTERPRET=1 must be set before a kernel is defined, so these
tests have a process of their own: tests/kernels/test_interpreter.py starts it. Every ``torch.empty`` is full of NaN.
"""
import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get('TRITON_INTERPRET') == '1' else ['test_*']


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel forgets to write stays NaN, and the test sees it."""
    def poison(allocate):
        def poisoned(*args, **kwargs):
            x = allocate(*args, **kwargs)
            return x.fill_(float('nan')) if x.is_floating_point() else x.fill_(torch.iinfo(x.dtype).max)
        return poisoned

    for name in ('empty', 'empty_like', 'empty_strided'):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, 'new_empty', poison(torch.Tensor.new_empty))


@pytest.fixture(autouse=True, scope='session')
def exact() -> None:
    """bfloat16 as on a GPU, or an error."""
    from tests.kernels.interpreter.exact import install

    install()
