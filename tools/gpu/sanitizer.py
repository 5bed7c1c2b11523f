"""compute-sanitizer on one small case of every op: accesses out of bounds, then races."""
import os
import re
import shutil
import subprocess
import sys

from .part import Part

TOOLS = ('memcheck', 'racecheck')


def main() -> None:
    part = Part('sanitizer')
    for tool in TOOLS:
        part.check(tool, sanitize, part, tool, least=20 * (not part.dry))
    part.close()


def command(part: Part, tool: str) -> list[str]:
    return ['compute-sanitizer', '--tool', tool, '--report-api-errors', 'no', '--print-limit', '20',
            sys.executable, '-m', 'gpu.sanitized', '--out', str(part.out)]


def sanitize(part: Part, tool: str) -> dict:
    """Whether the tool finds nothing; None where it is not there, or is stopped by the clock."""
    words = command(part, tool)
    if part.dry:
        return dict(ok=None, skipped=f'dry run of {" ".join(words[:7])} ...')
    if shutil.which(words[0]) is None:
        return dict(ok=None, skipped='there is no compute-sanitizer here')
    # every tensor gets an allocation of its own: what lies behind it is out of bounds
    environment = os.environ | {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
    try:
        done = subprocess.run(words, env=environment, timeout=max(part.left(), 1), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    except subprocess.TimeoutExpired as e:
        print((e.stdout or b'')[-3000:], flush=True)
        return dict(ok=None, skipped='not finished in time')
    print(done.stdout[-8000:], flush=True)
    return verdict(done.stdout, done.returncode)


def verdict(text: str, code: int) -> dict:
    """What the closing lines say: those of the tool, and of the program that it ran."""
    found = re.search(r'ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard', text)
    count = int(next(group for group in found.groups() if group)) if found else None
    if count is None or 'sanitized: all ops ran' not in text:
        return dict(ok=None, skipped=f'it did not run to the end (exit code {code})', findings=count)
    return dict(ok=count == 0, findings=count)


if __name__ == '__main__':
    main()
