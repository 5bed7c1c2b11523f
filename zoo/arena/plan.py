"""Plans an arena: its options, the recipe that all runs share, and the folder of each run."""
import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..blocks.mixers import list_mixers
from ..train import options
from ..train.checkpoint import CheckpointManager
from ..train.data import datasets, fashion_mnist
from ..train.option_schema import TRAIN, Option
from ..train.run import check
from ..utils.errors import ZooError, did_you_mean
from ..utils.files import write_atomically

ABOUT = ('Train every token mixer in one host by one recipe on one data set, over several seeds, and compare accuracy, '
         'time, memory, parameters and multiplications. All flags of "train" change the recipe, the same for all. '
         'Called again, it goes on where it was.')
MODEL, CONFIG = 'zoo_hybrid', 'arena'
# What a run is told by the arena, or would make runs differ in what they start from
_NOT_OF_ARENAS = ('seed', 'resume', 'no_resume_opt', 'start_epoch', 'stop_epoch', 'experiment', 'pretrained',
                  'pretrained_path', 'initial_checkpoint')
_OF_ONE_CALL = ('config', 'debug', 'output')

ARENA = (
    Option('mixers', 'words', list_mixers(), 'mixers to compare'),
    Option('seeds', 'ints', [0, 1], 'a run of each mixer for each of them', low=0),
    Option('jobs', int, 1, 'runs at the same time; on two cores, two with one thread beat one with two', low=1),
    Option('results', str, '', 'results as STEM.json, STEM.md and STEM.png; default: arena in the output folder'),
    *(replace(option, default='output/arena') if option.dest == 'output' else option
      for option in TRAIN if option.dest not in _NOT_OF_ARENAS),
)


@dataclass(frozen=True)
class Run:
    """One training: a mixer, a seed, and the folder of the arena that it belongs to."""

    arena: Path
    mixer: str
    seed: int

    @property
    def name(self) -> str:
        return f'{self.mixer}-{self.seed}'

    @property
    def folder(self) -> Path:
        return self.arena / 'runs' / self.name

    @property
    def log(self) -> Path:
        return self.arena / 'logs' / f'{self.name}.log'

    def result(self) -> dict[str, Any] | None:
        """The figures of the finished run; None if it is not finished."""
        try:
            return json.loads((self.folder / 'result.json').read_text())
        except FileNotFoundError:
            return None

    def keep(self, figures: Mapping[str, Any]) -> None:
        """Write the figures, which marks the run as finished."""
        text = json.dumps(figures, indent=1) + '\n'
        write_atomically(self.folder / 'result.json', lambda file: file.write(text.encode()))

    def words(self) -> list[str]:
        """The command line of ``train``, which resumes from the newest checkpoint if there is one."""
        newest = CheckpointManager(self.folder, 1).newest()
        return ['--config', str(recipe_path(self.arena)), '--model-kwargs', f'mixer={self.mixer}',
                '--seed', str(self.seed), '--output', str(self.folder.parent), '--experiment', self.name,
                *(['--resume', str(newest)] if newest else [])]


def parser() -> options.Parser:
    """The command line's parser."""
    return options.table_parser(ARENA, 'zoo arena', ABOUT)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of an arena, from its recipe and the flags, after checks that take no time.

    Raises:
        ZooError: A flag, key or mixer is unknown, or the recipe's model is not the hybrid.
    """
    flags, config = options.parse(ARENA, argv, parser())
    if 'config' not in flags:
        config = options.read_config(options.config_path(CONFIG), ARENA)
    args = options.merge(ARENA, config, flags)
    known = list_mixers()
    for name in args.mixers:
        if name not in known:
            raise ZooError(f'--mixers: unknown mixer {name!r}{did_you_mean(name, known)} (known: {", ".join(known)})')
    args.mixers, args.seeds = list(dict.fromkeys(args.mixers)), list(dict.fromkeys(args.seeds))
    if args.model != MODEL:
        raise ZooError(f'an arena puts mixers into {MODEL}, not into {args.model}; leave --model out and choose its '
                       f'host: --model-kwargs host=swin_tiny')
    for key in ('mixer', 'stages'):
        if key in args.model_kwargs:
            raise ZooError(f'--model-kwargs {key}: an arena puts its --mixers into all stages; leave it out')
    return args


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe that all runs share: the options of ``train`` that differ from the defaults, with the data located.

    Raises:
        ZooError: The data is not available, or options contradict each other.
    """
    given = vars(args)
    recipe = options.plain({
        option.dest: given[option.dest] for option in TRAIN
        if option.dest in given and option.dest not in _OF_ONE_CALL and given[option.dest] != option.default})
    if args.dataset == datasets.QUICKSTART:
        found = fashion_mnist.obtain(args.data_dir, lambda line: print(line, flush=True))
        if found is None:
            raise ZooError('Fashion-MNIST cannot be had here; give its folder as --data-dir, or --dataset digits')
        recipe.update(dataset='torch/fashion_mnist', data_dir=str(found.resolve()))
    elif args.data_dir is not None:
        recipe['data_dir'] = str(Path(args.data_dir).resolve())
    check(options.merge(TRAIN, recipe), None)
    return recipe


def recipe_path(folder: Path) -> Path:
    """The path of the recipe of the arena in a folder."""
    return folder / 'recipe.yaml'


def keep_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe beside the runs, so that runs with another one are not mixed with them.

    Raises:
        ZooError: The folder holds an arena with another recipe; the message names the first difference.
    """
    path = recipe_path(folder)
    if path.exists():
        before = yaml.safe_load(path.read_text())
        keys = [key for key in {**before, **recipe} if before.get(key) != recipe.get(key)]
        if keys:
            raise ZooError(f'{folder} holds an arena with another recipe ({keys[0]}: {before.get(keys[0])}, now '
                           f'{recipe.get(keys[0])}); choose another --output')
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(recipe), sort_keys=False)
    write_atomically(path, lambda file: file.write(text.encode()))
