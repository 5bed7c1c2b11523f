"""What `make lint` asks of types: no errors, but for folders that had some when they were first counted.

    python tools/check_types.py           basedpyright by pyproject.toml: the errors of folders that have too many
    python tools/check_types.py zoo/train all errors of a folder
"""
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Errors that a folder and those below it may have. Lower a number when there are fewer; a folder that is not here has
# none.
KNOWN = {
    'tools': 2,
    'tools/gpu': 14,
    'zoo/accelerate': 21,
    'zoo/analysis': 23,
    'zoo/arena': 10,
    'zoo/bench': 16,
    'zoo/cards': 8,
    'zoo/cli': 26,
    'zoo/compatibility': 8,
    'zoo/dense': 21,
    'zoo/evaluate': 33,
    'zoo/export': 12,  # 9 where the runtimes are installed
    'zoo/hub': 22,
    'zoo/train': 175,
}


def find_errors() -> dict[str, list[str]]:
    """Lines of text by folder: one of the top level, or one in ``zoo``, ``tools`` or ``kernels``."""
    run = subprocess.run(
        [sys.executable, '-m', 'basedpyright', '--outputjson', '--pythonpath', sys.executable],
        cwd=ROOT, capture_output=True, text=True)
    if run.returncode not in (0, 1):  # 1: there are errors
        sys.exit(f'basedpyright failed ({run.returncode}): {run.stderr or run.stdout}')
    errors = defaultdict(list)
    for found in json.loads(run.stdout)['generalDiagnostics']:
        if found['severity'] == 'error':
            path = Path(found['file']).relative_to(ROOT)
            folder = '/'.join(path.parent.parts[:2]) or '.'
            errors[folder].append(f'{path}:{found["range"]["start"]["line"] + 1}: {found["message"]} ({found["rule"]})')
    return errors


def compare(counts: dict[str, int], known: dict[str, int]) -> tuple[list[str], list[str]]:
    """Folders with more errors than are known, and what to lower."""
    more = sorted(folder for folder, count in counts.items() if count > known.get(folder, 0))
    fewer = [f'{folder} has {counts.get(folder, 0)} type errors instead of {count}: lower the number in {__file__}'
             for folder, count in known.items() if counts.get(folder, 0) < count]
    return more, fewer


def main() -> int:
    errors = find_errors()
    more, fewer = compare({folder: len(lines) for folder, lines in errors.items()}, KNOWN)
    for folder in sys.argv[1:] or more:
        print('\n'.join(errors.get(folder, [])))
    for folder in more:
        print(f'{folder} has {len(errors[folder])} type errors, {KNOWN.get(folder, 0)} are known: fix the new ones')
    for text in fewer:
        print(text)
    return bool(more)


if __name__ == '__main__':
    sys.exit(main())
