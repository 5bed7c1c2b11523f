"""What a change costs: the files that it touches, and which of them somebody has written by hand.

    python tools/family_cost.py                 # the working tree against the merge base with main
    python tools/family_cost.py main my-branch  # a branch against its merge base with another one

Told apart are files that a command writes: cards, the tables of models in README and docs, results, records of
launches, and goldens, which the paper's own code writes. Recipes, one per variant, do not count. The exit code is 1 if
more other files are touched by hand than ``--most``.
"""
import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {  # pattern of paths -> what writes them
    r'^model_cards/': 'zoo cards', r'^README\.md$': 'tables of models', r'^results/': 'measurements',
    r'^docs/(choose|mixers)\.md$': 'tables of models',
    r'^tests/goldens/.*\.json$': "the paper's code", r'^tests/kernels/launches\.json$': 'record_launches'}


def git(*words: str) -> str:
    """What git answers, stripped."""
    return subprocess.run(['git', *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def touched(base: str, revision: str | None) -> dict[str, tuple[int, int]]:
    """Path -> lines added and removed since a revision; without the second in the working tree, new files too."""
    found = {}
    for line in git('diff', '--numstat', '--no-renames', base, *([revision] if revision else [])).splitlines():
        added, removed, path = line.split('\t')
        found[path] = tuple(int(count) if count.isdigit() else 0 for count in (added, removed))
    if revision is None:
        for path in git('ls-files', '--others', '--exclude-standard').splitlines():
            found[path] = len((ROOT / path).read_bytes().splitlines()), 0
    return dict(sorted(found.items()))


def writer(path: str) -> str | None:
    """What writes a file; None for a person."""
    return next((name for pattern, name in GENERATED.items() if re.search(pattern, path)), None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('base', nargs='?', help='branch that the change starts from (default: main)')
    parser.add_argument('revision', nargs='?', help='revision after (default: the working tree)')
    parser.add_argument('--most', type=int, default=8, help='files by hand to allow, without recipes (default: 8)')
    args = parser.parse_args(argv)
    base = git('merge-base', args.base or 'main', args.revision or 'HEAD')
    files = touched(base, args.revision)
    by_hand = [path for path in files if writer(path) is None]
    recipes = [path for path in by_hand if path.startswith('configs/')]
    for path, (added, removed) in files.items():
        print(f'{"by hand" if path in by_hand else "generated":9}  +{added:<5} -{removed:<5} {path}'
              f'{"" if path in by_hand else f"  ({writer(path)})"}')
    print(f'{len(by_hand)} files by hand (+{sum(files[path][0] for path in by_hand)} lines; recipes: {len(recipes)}), '
          f'{len(files) - len(by_hand)} generated')
    return int(len(by_hand) - len(recipes) > args.most)


if __name__ == '__main__':
    sys.exit(main())
