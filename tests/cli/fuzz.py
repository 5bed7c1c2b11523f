"""Command lines and configs with random mistakes, each a function of its seed."""
import argparse
import random
from collections.abc import Sequence
from typing import Any

import yaml

# What stands where a value belongs: numbers in range and out of any, text that is none, what names something else
NUMBERS = (
    'nan', 'inf', '-inf', '-1', '-0.5', '0', '1', '2', '3', '4', '8', '32', '0.1', '0.5', '0.9', '1.5', '1e-9',
    '1e-320', '1e308', '1e400', '99999999999999999999', '2147483647')
WORDS = (
    '', ' ', 'x', 'nope', 'é', '\udcff', '--', '%s', '{}', '*', '[', 'a=b', 'a=[', '=', 'None', 'x' * 3000, '9' * 5000,
    '((' * 3000, 'a=' + '((' * 3000, '../nope', '/', '.', 'rand-m9', 'hf-hub:', 'digits', 'wds/x', 'torch/nope',
    'cpu:1', 'xpu:0', 'meta', 'test_resnet', 'test_vit', 'http://', 'http://127.0.0.1:9/a.png')
OBJECTS = (
    None, True, False, 0, 1, -1, 2, 0.5, float('nan'), float('inf'), 10 ** 400, 1e308, '', 'x', 'nope', [], {}, [1],
    [0.5, 2], [[1]], ['a', 1], [None], {'a': 1}, {1: 2}, {'features_only': True}, '2020-01-01', 'a\0b', 'x' * 3000,
    [1, 2, 3, 4, 5])
TEXTS = (
    '\t', ':', '- ', '{', '[', '&a', '*a', '!!int x', '!!float ""', '!!timestamp x', '!!python/name:os.system', '"',
    '\0', '#', '\n', '? ', '<<: ', '%', '---\n', '9' * 5000, '[' * 1000, '.inf', '0x', '1:60', '2020-99-99')
# Options whose right values may take long, or that show tracebacks
NOT_TRIED = {
    'help', 'debug', 'workers', 'torchcompile', 'dataset_download', 'jobs', 'repeats', 'train', 'val', 'measure',
    'log_tensorboard', 'stop_epoch'}


def command_line(
        parser: argparse.ArgumentParser, words: Sequence[str], files: Sequence[str], rng: random.Random) -> list[str]:
    """A command line that works, with one to three mistakes: options with other values, or damage to its words.

    Args:
        parser: Of the command.
        words: After the command's name.
        files: Paths to put in, too.
        rng: Draws the mistakes.
    """
    words = list(words)
    actions = [action for action in parser._actions if action.option_strings and action.dest not in NOT_TRIED]
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.75:
            action = rng.choice(actions)
            words += [rng.choice(action.option_strings), *_values(action, files, rng)]
        else:
            place = rng.randrange(len(words))
            change = rng.choice(('drop', 'double', 'misspell', 'replace'))
            if change == 'drop':
                del words[place]
            elif change == 'double':
                words.insert(place, words[place])
            elif change == 'misspell':
                words[place] += rng.choice('axs-_=')
            else:
                words[place] = rng.choice((*NUMBERS, *WORDS, *files))
        words = words or ['x']
    return words


def _values(action: argparse.Action, files: Sequence[str], rng: random.Random) -> list[str]:
    if action.nargs == 0:
        return []
    count = action.nargs if isinstance(action.nargs, int) else 1
    if rng.random() < 0.3 or action.nargs in ('*', '+'):
        count = rng.randrange(5)
    pool = rng.choice((NUMBERS, [*WORDS, *files]))
    if action.choices and rng.random() < 0.5:
        pool = list(action.choices)
    return [str(rng.choice(pool)) for _ in range(count)]


def config(values: dict[str, Any], keys: Sequence[str], rng: random.Random) -> str:
    """The text of a config that works, with one to three mistakes: other values, other keys, damage to the text.

    Args:
        values: Of the config that works.
        keys: That there are.
        rng: Draws the mistakes.
    """
    values = dict(values)
    keys = [key for key in keys if key not in NOT_TRIED]
    for _ in range(rng.choice((1, 1, 2))):
        values[rng.choice((rng.choice(keys), rng.choice(('base', 'lerning_rate', 1, None))))] = rng.choice(OBJECTS)
    text = yaml.safe_dump(values)
    if rng.random() < 0.4:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(TEXTS) + text[place + rng.randrange(3):]
    return text
