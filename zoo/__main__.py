"""``python -m zoo COMMAND``: the same as the console command ``zoo``."""
import sys
from pathlib import Path

try:
    import zoo_cli
except ModuleNotFoundError:  # a checkout that is not installed
    sys.path.append(str(Path(__file__).resolve().parents[1] / 'tools/console'))
    import zoo_cli

if __name__ == '__main__':
    sys.exit(zoo_cli.main())
