"""The examples in docstrings (``>>>``) run and print what they say; they take a model or two each."""
import doctest
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import zoo
from zoo.blocks.mixers import registry
from zoo.dense import DenseBackbone, fpn

ROOT = Path(zoo.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob('*.py') if '>>> ' in path.read_text(encoding='utf-8'))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(path):
    return '.'.join(path.relative_to(ROOT.parent).with_suffix('').parts).removesuffix('.__init__')


@pytest.mark.parametrize('name', [name_of(path) for path in WITH_EXAMPLES])
def test_examples(name, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, '_MIXERS', dict(registry._MIXERS))  # an example may register one
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found = doctest.testmod(
        import_module(name), extraglobs=dict(nn=nn, timm=timm, torch=torch, zoo=zoo), optionflags=FLAGS)
    assert found.attempted > 0 and found.failed == 0, 'see the captured output'


def test_what_users_call_has_an_example():
    names = ('accelerate', 'add_gates', 'cam_target', 'create_hybrid', 'list_models')
    for public in (*(getattr(zoo, name) for name in names), fpn, DenseBackbone):
        assert '>>> ' in public.__doc__, public
