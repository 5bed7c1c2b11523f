"""The same as ``python -m zoo average``, from a checkout that is not installed."""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ('', 'kernels')]

from zoo.cli.average import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main())
