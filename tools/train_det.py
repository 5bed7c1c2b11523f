"""The same as ``python -m zoo train-det``, from a checkout that is not installed."""
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / folder) for folder in ('', 'kernels')]

from zoo.dense.launch import train_det  # noqa: E402

if __name__ == '__main__':
    sys.exit(train_det())
