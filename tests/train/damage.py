"""Damaged checkpoint files, the same for the same seed: what disks, downloads and other programs make of whole ones."""
import copy
import random

import torch
from safetensors.torch import save_file

ODD = (None, True, -7, 2.5, float('nan'), '', 'x' * 40, b'x', [], {}, [1], {'a': 1}, {3: 4}, (1, 2, 3), torch.zeros(2))


def _sparse(x):
    return x.reshape(-1, 1).to_sparse() if x.ndim else x.reshape(1, 1).to_sparse()


def _not_finite(value):
    def spoil(x):
        x = x.float().clone()
        x.reshape(-1)[0] = value
        return x
    return spoil


TENSORS = dict(
    sparse=_sparse, complex=lambda x: x.to(torch.complex64), meta=lambda x: x.to('meta'), scalar=lambda x: x.sum(),
    quantized=lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), more=lambda x: x[None],
    nested=lambda x: torch.nested.nested_tensor([x.reshape(-1), x.reshape(-1)]), integers=lambda x: x.to(torch.int32),
    booleans=lambda x: x > 0, nan=_not_finite(float('nan')), inf=_not_finite(float('inf')),
    flat=lambda x: torch.cat([x.reshape(-1)] * 2), word=lambda x: 'weight', numbers=lambda x: x.tolist())


def dicts_in(value, path=()):
    """All dicts in a checkpoint with the way to them."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from dicts_in(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from dicts_in(item, (*path, i))


def _entry(dice, content):
    """Leave out an entry, or put something odd in its place; those of the run as often as all others together."""
    places = [(path, node) for path, node in dicts_in(content) if node and 'rng' not in path]
    path, node = ((), content) if dice.random() < 0.5 else dice.choice(places)
    key = dice.choice(list(node))
    if dice.random() < 0.4:
        del node[key]
        return f'without {(*path, key)}'
    node[key] = dice.choice(ODD)
    return f'{(*path, key)} is {node[key]!r}'


def _tensor(dice, content):
    """Another kind of tensor among weights, averages or moments."""
    states = [state for name in ('state_dict', 'state_dict_ema') if (state := content.get(name))]
    if 'optimizer' in content and dice.random() < 0.2:
        states += content['optimizer']['state'].values()
    state = dice.choice(states or [content])
    key = dice.choice([key for key, value in state.items() if isinstance(value, torch.Tensor) and value.numel()])
    kind = dice.choice(list(TENSORS))
    state[key] = TENSORS[kind](state[key])
    return f'{kind} {key}'


def _name(dice, content):
    """Another name, or a second one, of a weight."""
    state = content[dice.choice([name for name in ('state_dict', 'state_dict_ema') if name in content])] if (
        'state_dict' in content) else content
    key = dice.choice([key for key in state if isinstance(state[key], torch.Tensor)])
    new = dice.choice([f'module.{key}', f'model.{key}', key.upper(), 7, (key,), key + '.'])
    state[new] = state[key] if dice.random() < 0.5 else state.pop(key)
    return f'{key} as {new!r}'


def _bytes(dice, whole, first=0, last=None):
    """Bits flipped, bytes lost, repeated or zeroed, anywhere between two places."""
    data, kind = bytearray(whole), dice.choice(['flip', 'flip', 'cut', 'zero', 'drop', 'repeat', 'append'])
    i = dice.randrange(first, last or len(data))
    count = dice.choice([1, 4, 60, 3000])
    if kind == 'flip':
        data[i] ^= 1 << dice.randrange(8)
    elif kind == 'cut':
        del data[i:]
    elif kind == 'zero':
        data[i:min(i + count, last or len(data))] = bytes(min(i + count, last or len(data)) - i)
    elif kind == 'drop':
        del data[i:i + count]
    elif kind == 'repeat':
        data[i:i] = data[i:i + count]
    else:
        data += data[:count]
    return bytes(data), f'{kind} at {i}'


def damage(seed, whole, path):
    """Write a damaged copy of a checkpoint.

    Args:
        seed: Of the dice.
        whole: Content of the checkpoint; it stays as it is.
        path: Without suffix.

    Returns:
        The file, and what was done to it.
    """
    dice = random.Random(seed)
    kind = dice.choice(['entry', 'entry', 'tensor', 'tensor', 'name', 'bytes', 'safetensors'])
    file = path.with_suffix('.safetensors' if kind == 'safetensors' else '.pth.tar')
    if kind == 'safetensors':
        save_file({key: value.contiguous() for key, value in whole['state_dict'].items()}, str(file))
        data = file.read_bytes()
        # there are no check sums of the weights behind the header
        data, told = _bytes(dice, data, 0, 8 + int.from_bytes(data[:8], 'little'))
        file.write_bytes(data)
        return file, f'{kind}: {told}'
    content = copy.deepcopy(whole)
    told = dict(entry=_entry, tensor=_tensor, name=_name).get(kind, lambda *_: '')(dice, content)
    torch.save(content, file)
    if kind == 'bytes':
        data, told = _bytes(dice, file.read_bytes())
        file.write_bytes(data)
    return file, f'{kind}: {told}'
