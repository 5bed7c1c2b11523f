"""Compares models with their goldens, for ``zoo cards --parity``.

    python -m tests.goldens FILE 'van_*'
"""
import argparse
import json
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import zoo  # noqa: F401  # registers the models with timm
from tests import goldens


def main(argv=None):
    """Write the relative differences of logits and input gradients, in float64, by golden."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path, help='JSON file to write')
    parser.add_argument('goldens', nargs='*', default=['*'], help='names or globs (default: all)')
    args = parser.parse_args(argv)
    names = [name for name in sorted(path.stem for path in goldens.FOLDER.glob('*@*.json'))
             if any(fnmatch(name, glob) for glob in args.goldens)]
    if not names:
        parser.error(f'no golden matches {" ".join(args.goldens)}')
    rows = {}
    for name in names:
        golden = goldens.load(name)
        with tempfile.TemporaryDirectory() as folder:
            model = goldens.build(golden, Path(folder), golden['name'], **golden.get('create_kwargs', {}))
        found = goldens.watch(golden, model)
        logits, grad = goldens.differences(golden, model)
        layers, allowed = goldens.layer_difference(golden, found), goldens.gates(golden)
        rows[name] = dict(logits=logits, grad=grad, agrees=max(logits, layers) <= allowed[0] and grad <= allowed[1])
        verdict = '' if rows[name]['agrees'] else ': DIFFERS'
        inside = f', {len(found)} layers {layers:.1e}' if found else ''
        print(f'{name}: logits {logits:.1e}, gradient {grad:.1e}{inside}{verdict}', flush=True)
    args.file.write_text(json.dumps(rows, indent=1) + '\n')
    return not all(row['agrees'] for row in rows.values())


if __name__ == '__main__':
    raise SystemExit(main())
