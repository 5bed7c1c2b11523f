"""Record what users can see of the zoo, to the bit, and compare a later tree with it: for renaming and moving code.

    python tests/freeze.py record FILE [--only SECTION,...]    write FILE; with --only, renew these parts of it
    python tests/freeze.py check FILE [--only SECTION,...]     compare; the exit code is 1 unless all is equal

``--only models,help`` takes whole sections, ``models/agent_*`` entries of one. Figures to the bit are those of one
machine, one torch and one thread: record and check on the same. Class names are told, but may differ.

Only what stays is used: timm's API, ``import zoo``, ``zoo.registry.smallest_models``, ``python -m zoo COMMAND``,
configs/, results/ and tools/. freeze_sections.py has what is recorded; what has no such way in is read in its
:class:`Namespaces` alone.
"""
import argparse
import concurrent.futures
import difflib
import fnmatch
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import freeze_sections as sections

LINES = 30  # of a difference between texts


# --- recording

def record_one(section: str, entry: str):
    """An entry as JSON content; the error where there is one. Called in a process of its own."""
    import torch

    torch.set_num_threads(1)
    begin = time.monotonic()
    try:
        value = sections.RECORD[section](entry)
    except Exception:
        value = dict(error=sections.masked(traceback.format_exc(limit=-3)))
    return json.loads(json.dumps(value, default=plain)), time.monotonic() - begin


def plain(value):
    """For JSON: sets and queues as lists, the rest as text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(value) if hasattr(value, '__iter__') else str(value)


def record(patterns: list, jobs: int) -> dict:
    """Chosen sections, ``{section: {entry: content}}``, by processes that share the entries."""
    tasks = [(section, entry) for section in sections.RECORD for entry in sections.entries_of(section)
             if chosen(section, entry, patterns)]
    found, spent = {section: {} for section, _ in tasks}, Counter()
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) as pool:
        for (section, entry), future in [(task, pool.submit(record_one, *task)) for task in tasks]:
            found[section][entry], seconds = future.result()
            spent[section] += seconds
            if isinstance(found[section][entry], dict) and 'error' in found[section][entry]:
                print(f'{section}/{entry}: {found[section][entry]["error"].splitlines()[-1]}', file=sys.stderr)
    print('seconds: ' + ', '.join(f'{section} {seconds:.0f}' for section, seconds in spent.items()), file=sys.stderr)
    return found


def chosen(section: str, entry: str, patterns: list) -> bool:
    """Whether ``--only`` names an entry or its section."""
    return not patterns or any(
        pattern == section or fnmatch.fnmatchcase(f'{section}/{entry}', pattern.replace('[', '[[]'))
        for pattern in patterns)


def machine() -> dict:
    """What figures to the bit depend on."""
    import numpy
    import timm
    import torch

    cpu = [line.partition(': ')[2] for line in Path('/proc/cpuinfo').read_text().splitlines() if 'model name' in line]
    return dict(python=platform.python_version(), torch=torch.__version__, timm=timm.__version__,
                numpy=numpy.__version__, cpu=cpu[0] if cpu else platform.processor())


# --- comparing

def differences(path: str, old, new):
    """Lines that tell how JSON content differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        yield from of_dicts(path, old, new)
    elif is_names(old) and is_names(new):
        yield from of_names(path, old, new)
    elif is_text(old) and is_text(new):
        lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm='', n=1))
        yield from lines[:LINES]
        if len(lines) > LINES:
            yield f'... {len(lines) - LINES} more lines'
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, after) in enumerate(zip(old, new)):
            yield from differences(f'{path}[{i}]', before, after)
    elif json.dumps(old) != json.dumps(new):
        yield f'{path}: {short(old)} -> {short(new)}'


def of_names(path: str, old, new):
    """Of lists of names, or of the keys of dicts."""
    for word, one, other in (('gone', old, new), ('new', new, old)):
        names = [name for name in one if name not in other]
        if names:
            yield f'{path}: {len(names)} {word}: {few(names)}'
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield f'{path}: the order differs'


def of_dicts(path: str, old: dict, new: dict):
    yield from of_names(path, old, new)
    common = [key for key in old if key in new]
    changed = [key for key in common if json.dumps(old[key]) != json.dumps(new[key])]  # with types and order
    leaves = [key for key in changed if is_leaf(old[key]) and is_leaf(new[key])]
    if leaves:
        some = few([f'{key}: {short(old[key])} -> {short(new[key])}' for key in leaves], 2 if len(common) > 9 else 9)
        yield f'{path}: {len(leaves)} of {len(common)} differ: {some}'
    for key in changed:
        if key not in leaves:
            yield from differences(f'{path}/{key}', old[key], new[key])


def is_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)


def is_text(value) -> bool:
    return isinstance(value, str) and '\n' in value


def is_leaf(value) -> bool:
    return not isinstance(value, (dict, list)) and not is_text(value)


def short(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 100 else text[:100] + '...'


def few(words: list, most: int = 5) -> str:
    return ', '.join(words[:most]) + (', ...' if len(words) > most else '')


def take_types(found: dict) -> dict:
    """Class names of modules, ``{model: {module: class}}``, taken out of what is compared."""
    return {entry: content.pop('types', {}) for entry, content in found.get('models', {}).items()}


def compare(old: dict, new: dict) -> int:
    """Print the differences of chosen sections; return how many entries differ."""
    before, after = take_types(old), take_types(new)
    renamed = Counter((name, after[model][key]) for model in before if model in after
                      for key, name in before[model].items() if after[model].get(key, name) != name)
    for (name, other), count in renamed.items():
        print(f'(class, for information) {name} -> {other}: {count} modules')
    bad = 0
    for section in {**old, **new}:
        entries = {**old.get(section, {}), **new.get(section, {})}
        different = 0
        for entry in entries:
            sides = [side[section][entry] for side in (old, new) if entry in side.get(section, {})]
            word = 'gone' if entry in old.get(section, {}) else 'new'
            lines = list(differences(f'{section}/{entry}', *sides)) if len(sides) == 2 else [
                f'{section}/{entry}: {word}']
            different += bool(lines)
            print(*lines, sep='\n', end='\n' if lines else '')
        print(f'{section}: {len(entries) - different} of {len(entries)} entries are equal')
        bad += different
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('record', 'check'))
    parser.add_argument('file', type=Path)
    parser.add_argument('--only', default='', help=f'sections or SECTION/GLOB: {", ".join(sections.RECORD)}')
    parser.add_argument('--jobs', type=int, default=2, help='processes, of a thread each (default: 2)')
    parser.add_argument('--root', help='the tree to look at (default: the one of this file)')
    args = parser.parse_args()
    if args.root and 'FREEZE_ROOT' not in os.environ:  # read before anything of the tree is imported
        os.environ['FREEZE_ROOT'] = args.root
        os.execv(sys.executable, [sys.executable, *sys.argv])
    patterns = [pattern for pattern in args.only.split(',') if pattern]
    unknown = {pattern.partition('/')[0] for pattern in patterns} - set(sections.RECORD)
    if unknown:
        parser.error(f'no section {", ".join(unknown)}; use {", ".join(sections.RECORD)}')
    stored = json.loads(args.file.read_text()) if args.file.exists() else dict(machine={}, sections={})
    if args.action == 'check' and stored['machine'] != machine():
        print(f'warning: recorded with {stored["machine"]}, this is {machine()}')
    found = record(patterns, args.jobs)
    if args.action == 'record':
        for section, entries in found.items():
            stored['sections'][section] = {**stored['sections'].get(section, {}), **entries} if patterns else entries
        args.file.write_text(json.dumps(dict(machine=machine(), sections=stored['sections']), indent=1))
        return 0
    old = {section: {entry: value for entry, value in entries.items() if chosen(section, entry, patterns)}
           for section, entries in stored['sections'].items() if section in found or not patterns}
    bad = compare(old, found)
    print('all is equal' if not bad else f'{bad} entries differ')
    return int(bool(bad))


if __name__ == '__main__':
    sys.exit(main())
