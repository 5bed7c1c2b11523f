"""Check that a tag may be released: version, citation and changelog say the same.

    python tools/check_release.py v0.1.0

The exit code is 1 if something differs; each difference is one line.
"""
import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def differences(tag: str, root: Path = ROOT) -> list[str]:
    """What does not fit to a tag; empty if it may be released."""
    version = runpy.run_path(str(root / 'zoo/utils/version.py'))['__version__']
    cited = re.search(r'^version: (.*)$', (root / 'CITATION.cff').read_text(encoding='utf-8'), re.MULTILINE)
    headings = re.findall(r'^## \[(.+?)\](.*)$', (root / 'CHANGELOG.md').read_text(encoding='utf-8'), re.MULTILINE)
    dated = [rest for name, rest in headings if name == version]
    found = []
    if tag != f'v{version}':
        found.append(f'the tag is {tag}, but zoo/utils/version.py says {version}')
    if cited is None or cited[1] != version:
        found.append(f'CITATION.cff does not say {version}')
    if not dated:
        found.append(f'CHANGELOG.md has no section [{version}]')
    elif not re.fullmatch(r' - \d{4}-\d\d-\d\d', dated[0]):
        found.append(f'the section [{version}] of CHANGELOG.md has no date: "## [{version}] - YYYY-MM-DD"')
    return found


if __name__ == '__main__':
    problems = differences(sys.argv[1] if len(sys.argv) > 1 else '')
    print('\n'.join(problems) or f'{sys.argv[1]} may be released')
    sys.exit(bool(problems))
