"""What the papers' code says of each family: facts as data, one file ``FAMILY.yaml`` per family file of ``zoo/models``.

``reference``: repository and commit that the figures are from, as in the family's docstring; absent without code.
``checkpoint``: how the authors' programs write files of weights, one of ``FORMATS`` in tests/weights/test_official.py;
    absent where nothing is known.
``parameters``: of models (or ``model.tag``), in millions if not whole; all models that have no golden must be there.
``mixers``: by model, for each stage the number and names of its blocks' mixers: ``2 agent, 16 window`` one after the
    other, ``8 scale_aware/softmax`` by turns.
``modules``: by model, attributes of all modules whose name matches a pattern; in a list, one value per module.
``initial``: by model or glob of models, the rule of the parameters whose name matches a pattern and none before it. A
    number: every value is that. ``std X``: normal with this deviation. ``torch``: as torch's layers start, uniform in
    +-1 / sqrt(fan in), biases too. ``fan_out``: normal with the variance 2 / fan out, counted per group.
    ``kaiming``: the same by ``torch.nn.init.kaiming_normal_``, which counts the channels of all groups. ``null``: not
    published, or nothing that these rules say.
``no_weight_decay``: pattern of all parameters that the published training does not decay; '' for none.
``learning_rates``: pattern -> factor of the parameters that learn at a rate of their own.
``eps``: pattern of modules' names -> eps of the norms among them; or such rules by glob of models.
``drop_path``: how the authors' code hands out stochastic depth, where it does not rise linearly over all blocks.
``untrained``: models that have no recipe in configs/train, each with the reason.
``no_dense_config``: why there is none in configs/mmdet and configs/mmseg, in families without.
``kernels``: by model, calls of our custom ops in a forward pass on a GPU, at 224 pixels in 16 bits.
"""
import functools
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from tests import goldens
from zoo.registry import FAMILIES, modules

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('*.yaml'))
FIELDS = {'reference', 'checkpoint', 'parameters', 'mixers', 'modules', 'initial', 'no_weight_decay', 'learning_rates',
          'eps', 'drop_path', 'untrained', 'no_dense_config', 'kernels'}


@functools.cache
def load(family: str) -> dict[str, Any]:
    """The facts of a family."""
    return yaml.safe_load((FOLDER / f'{family}.yaml').read_text())


def variants(family: str) -> list[str]:
    """Names of its models."""
    return [variant.name for variant in modules()[family]]


def smallest(family: str) -> list[str]:
    """The smallest model of each of its tables, that is in each host."""
    return [table.variants[0].name for table in FAMILIES if table.module.rpartition('.')[2] == family]


def initial_rules(family: str, model: str) -> dict[str, Any]:
    """Pattern -> rule of a model's parameters, in the order in which they are tried."""
    entries = load(family)['initial'].items()
    return {pattern: rule for glob, rules in entries if fnmatch(model, glob) for pattern, rule in rules.items()}


def eps_rules(family: str, model: str) -> dict[str, float]:
    """Pattern -> eps of a model's norms."""
    rules = load(family)['eps']
    return next((own for glob, own in rules.items() if isinstance(own, dict) and fnmatch(model, glob)), rules)


def first_match(patterns: dict[str, Any], name: str) -> str | None:
    """The first pattern that is found in a name."""
    return next((pattern for pattern in patterns if re.search(pattern, name)), None)


@functools.cache
def smallest_golden(family: str) -> str | None:
    """The first golden of its smallest model that has one at 224 pixels, without arguments; None without any."""
    stems = (f'{name}@224' for name in variants(family))
    return next((stem for stem in stems if (goldens.FOLDER / f'{stem}.json').exists()), None)


def any_golden(family: str) -> str | None:
    """:func:`smallest_golden`, else the first golden of its models at any size."""
    stems = (path.stem for name in variants(family) for path in sorted(goldens.FOLDER.glob(f'{name}@*.json')))
    return smallest_golden(family) or next(stems, None)
