"""Reading checkpoint files: whatever is in them, no code runs, and every refusal is one line with the fix."""
import argparse
import os
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from zoo.utils.errors import NotFinite
from zoo.weights import read_checkpoint, state_dict_of, without_prefix

WEIGHTS = {'a.weight': torch.arange(6.).reshape(2, 3), 'a.bias': torch.ones(2)}


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        read_checkpoint(path)
    assert '\n' not in str(error.value)


def same(state):
    assert list(state) == list(WEIGHTS)
    for key, value in WEIGHTS.items():
        assert torch.equal(state[key], value)


def test_reads_torch_and_safetensors_files(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    save_file(WEIGHTS, str(tmp_path / 'a.safetensors'))
    same(state_dict_of(read_checkpoint(tmp_path / 'a.pth')))
    read = state_dict_of(read_checkpoint(tmp_path / 'a.safetensors'))
    same({key: read[key] for key in WEIGHTS})


@pytest.mark.parametrize('key', ['state_dict_ema', 'model_ema', 'state_dict', 'model'])
def test_unwraps(tmp_path, key):
    wrapped = {key: {f'module._orig_mod.{k}': v for k, v in WEIGHTS.items()}, 'epoch': 3}
    torch.save(wrapped, tmp_path / 'a.pth')
    same(state_dict_of(read_checkpoint(tmp_path / 'a.pth')))


def test_averaged_weights_come_first():
    zeros = {key: torch.zeros_like(value) for key, value in WEIGHTS.items()}
    checkpoint = {'model': zeros, 'state_dict_ema': WEIGHTS}
    same(state_dict_of(checkpoint))
    assert state_dict_of(checkpoint, use_ema=False)['a.bias'].sum() == 0


def test_reads_a_file_with_a_yacs_config(tmp_path, monkeypatch):
    """LeapLab's files carry their config, an object of yacs; it is read as data, yacs is not needed."""
    yacs, config = types.ModuleType('yacs'), types.ModuleType('yacs.config')

    class CfgNode(dict):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.__dict__['__immutable__'] = True
    CfgNode.__module__, CfgNode.__qualname__ = 'yacs.config', 'CfgNode'
    config.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', yacs)
    monkeypatch.setitem(sys.modules, 'yacs.config', config)
    node = CfgNode(MODEL=CfgNode(NAME='flatten', DROP=0.1), OPTS=[1, 'x'])
    torch.save({'model': WEIGHTS, 'config': node, 'max_accuracy': 82.1, 'lr': argparse.Namespace(x=1)},
               tmp_path / 'a.pth')
    monkeypatch.delitem(sys.modules, 'yacs.config')
    monkeypatch.delitem(sys.modules, 'yacs')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert type(checkpoint['config']) is OrderedDict and checkpoint['config']['MODEL']['NAME'] == 'flatten'
    same(state_dict_of(checkpoint))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('save', [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))], ids=['torch', 'pickle'])
def test_code_is_refused_and_not_run(tmp_path, save):
    save({'model': WEIGHTS, 'config': Bomb(str(tmp_path / 'exploded'))}, tmp_path / 'a.pth')
    refused(tmp_path / 'a.pth', 'would run code.*nothing was executed')
    assert not (tmp_path / 'exploded').exists()


def test_foreign_classes_are_refused(tmp_path):
    torch.save({'model': WEIGHTS, 'optimizer': torch.nn.Linear(1, 1)}, tmp_path / 'a.pth')
    refused(tmp_path / 'a.pth', r'torch\.nn\.modules\.linear\.Linear')


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_cut_off_files(tmp_path, name):
    path = tmp_path / name
    (save_file(WEIGHTS, str(path)) if 'safe' in name else torch.save(WEIGHTS, path))
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        refused(path, 'truncated or not a checkpoint|not a plain checkpoint')


def test_a_flipped_bit_is_found_by_the_check_sums(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    data = bytearray((tmp_path / 'a.pth').read_bytes())
    place = data.index(WEIGHTS['a.weight'].numpy().tobytes())
    data[place + 9] ^= 4
    (tmp_path / 'a.pth').write_bytes(data)
    assert not torch.equal(torch.load(tmp_path / 'a.pth')['a.weight'], WEIGHTS['a.weight'])  # torch does not see it
    refused(tmp_path / 'a.pth', r'truncated or not a checkpoint \(a/data/\d has a wrong checksum\)')


@pytest.mark.parametrize('name, kind', [
    ('sparse', lambda x: x.to_sparse()), ('complex', lambda x: x.to(torch.complex64)), ('meta', lambda x: x.to('meta')),
    ('quantized', lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
    ('nested', lambda x: torch.nested.nested_tensor([x[0], x[1]]))])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_tensors_that_are_no_weights(name, kind):
    with pytest.raises(ValueError, match=f'a.weight in the checkpoint is a {name} tensor'):
        state_dict_of(dict(WEIGHTS, **{'a.weight': kind(WEIGHTS['a.weight'])}))


def test_names_that_are_none_or_the_same():
    with pytest.raises(ValueError, match='a tensor under 3, which is not a name'):
        state_dict_of({**WEIGHTS, 3: torch.zeros(1)})
    with pytest.raises(ValueError, match=r'a\.bias twice, once as module\.a\.bias'):
        state_dict_of({**WEIGHTS, 'module.a.bias': torch.zeros(2)})


def test_weights_that_are_not_finite_are_refused():
    for value in (float('nan'), float('inf')):
        with pytest.raises(NotFinite, match=r'a\.bias in the checkpoint is not finite \(1 of 2 tensors'):
            state_dict_of(dict(WEIGHTS, **{'a.bias': torch.tensor([1., value])}))
    for kind in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        large = torch.full((9,), torch.finfo(kind).max).to(kind)  # whose sum is infinite
        assert state_dict_of(dict(a=large))['a'] is large


def test_a_prefix_of_all_names_is_left_out_and_told(caplog):
    names = ['stem.a', 'head.b']
    for prefix in ('model.', 'backbone.', 'model.module.net.'):
        caplog.clear()
        state = {f'{prefix}{name}': i for i, name in enumerate(names)}
        assert without_prefix(state, names) == {'stem.a': 0, 'head.b': 1}
        assert f'all names in the checkpoint begin with {prefix!r}' in caplog.text
    caplog.clear()
    for state in ({'model.stem.a': 0, 'loss.b': 1}, {'stem.a': 0}, {'stem.a': 0, 'stem.c': 0}, {}):
        assert without_prefix(state, names) == state
    assert not caplog.text


def test_what_is_no_checkpoint(tmp_path):
    refused(tmp_path / 'missing.pth', 'no checkpoint file at .*missing.pth')
    (tmp_path / 'page.pth').write_text('<html>sign in</html>')
    refused(tmp_path / 'page.pth', 'not a plain checkpoint|no checkpoint')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    refused(tmp_path / 'tensor.pth', 'holds a Tensor, not a state dict')
    torch.save({'epoch': 3, 'model': {'name': 'x'}}, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='holds no tensors'):
        state_dict_of(read_checkpoint(tmp_path / 'empty.pth'))
