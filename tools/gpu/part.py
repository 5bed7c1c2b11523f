"""What the parts of the check have in common: arguments, the clock, and lines of JSON that outlive a kill."""
import argparse
import ctypes
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE_LOST = 75  # exit code: the GPU answers this process no more, another one may go on
FILES = {'ops': 'ops.jsonl', 'compile': 'ops.jsonl', 'models': 'models.jsonl', 'compiled_models': 'models.jsonl'}


class Part:
    """A running part.

    Attributes:
        name: Of the part, as in every line that it writes.
        out: Folder of the results.
        dry: No GPU is used, shapes are tiny and nothing that a clock says is kept.
        spoil: Name of a check whose result is to be spoilt.
    """

    def __init__(self, name: str, argv: list[str] | None = None):
        parser = argparse.ArgumentParser(description=f'The part {name} of tools/gpu_check.py, which starts it.')
        parser.add_argument('--out', type=Path, required=True)
        parser.add_argument('--seconds', type=float, default=1e9)
        parser.add_argument('--dry-run', action='store_true')
        parser.add_argument('--spoil')
        parser.add_argument('--claims', type=Path)
        args = parser.parse_args(argv)
        self.name, self.out, self.dry, self.spoil, self.claims = name, args.out, args.dry_run, args.spoil, args.claims
        self._until = time.monotonic() + args.seconds
        self._left_out: list[str] = []
        self._done = {line['check'] for line in read_lines(self.path) if line.get('part') == name}
        _die_with_parent()
        gc.freeze()  # what was imported is not searched at every capture of a graph, which collects garbage first

    @property
    def path(self) -> Path:
        """Where the lines of this part go."""
        return self.out / FILES.get(self.name, 'checks.jsonl')

    @property
    def device(self):
        """That the part works on."""
        import torch
        return torch.device('cpu' if self.dry else 'cuda')

    @property
    def dtype(self):
        """Of activations. Triton's interpreter cannot round to bfloat16."""
        import torch
        return torch.float16 if self.dry else torch.bfloat16

    def left(self) -> float:
        """Seconds that this part still has."""
        return self._until - time.monotonic()

    def line(self, check: str, **fields: Any) -> None:
        """Append a line to the results: on the disk before this returns, whole whoever else writes."""
        text = json.dumps({'part': self.name, 'check': check, **fields}) + '\n'
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, text.encode())
            os.fsync(file)
        finally:
            os.close(file)

    def text(self, title: str, text: str) -> None:
        """Append to ``profile.txt``."""
        with open(self.out / 'profile.txt', 'a') as file:
            file.write(f'== {title}\n{text}\n\n')

    def check(self, name: str, function: Callable[..., dict[str, Any] | None], *args: Any, least: float = 0.) -> None:
        """Make a check unless it has been made or time is up, and write what it found.

        Args:
            name: Of the check, unique in its part.
            function: Returns the fields of its line (``ok`` among them if it asserts something), or None if it has
                written lines of its own.
            *args: Of the function.
            least: Seconds below which it is not begun.
        """
        if name in self._done:
            return
        if self.left() < least:
            self._left_out.append(name)
            return
        print(f'{self.name}: {name}', flush=True)
        begin = time.monotonic()
        try:
            fields = function(*args)
        except Exception as e:
            traceback.print_exc()
            fields = dict(ok=False, error=f'{type(e).__name__}: {" ".join(str(e).split())}'[:400])
        if fields is not None:
            self.line(name, **fields, seconds=round(time.monotonic() - begin, 2))
        self._done.add(name)
        if fields is not None and fields.get('error') and not self.dry and lost():
            print(f'{self.name}: the GPU is lost to this process', flush=True)
            sys.exit(DEVICE_LOST)

    def close(self) -> None:
        """Say what there was no time for."""
        self.line('part', left_out=self._left_out)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file of results; one that was cut off by a kill is none."""
    found = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                pass
    return found


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it is gone: the GPU is not kept busy then."""
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass  # another system


def lost() -> bool:
    """Whether CUDA reports an error for whatever is asked, as after an illegal access."""
    import torch
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device='cuda').item()
    except RuntimeError:
        return True
    return False
