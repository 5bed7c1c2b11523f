"""The examples in docstrings (``>>>``) run and print what they say; they take a model or two each."""
import doctest
import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import timm
import torch
from torch import nn

import zoo
import zoo_kernels
from zoo.dense import DenseBackbone, fpn

ROOTS = Path(zoo.__file__).parent, Path(zoo_kernels.__file__).parent


def run_examples():
    """Print the name of each module with examples, how many of them fail, and why."""
    names = dict(nn=nn, timm=timm, torch=torch, zoo=zoo, zoo_kernels=zoo_kernels)
    for root in ROOTS:
        for path in sorted(path for path in root.rglob('*.py') if '>>> ' in path.read_text(encoding='utf-8')):
            module = '.'.join(path.relative_to(root.parent).with_suffix('').parts).removesuffix('.__init__')
            found = doctest.testmod(import_module(module), extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
            print(f'{module}: {found.failed} of {found.attempted} fail')


def test_examples(tmp_path):
    """In a process of their own: what they register, write and differentiate is not there for other tests."""
    result = subprocess.run(
        [sys.executable, '-c', f'from {__name__} import run_examples; run_examples()'], cwd=tmp_path, text=True,
        capture_output=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path))))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) > 10 and all(': 0 of ' in line and ': 0 of 0 ' not in line for line in lines), result.stdout


def test_what_users_call_has_an_example():
    names = ('accelerate', 'add_gates', 'cam_target', 'create_hybrid', 'list_models')
    ops = (op for op in vars(zoo_kernels).values() if inspect.isfunction(op))
    for public in (*(getattr(zoo, name) for name in names), fpn, DenseBackbone, *ops):
        assert '>>> ' in public.__doc__, public
