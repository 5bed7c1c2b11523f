"""``python -m zoo COMMAND``: the command line of the zoo."""
import sys
from collections.abc import Sequence

COMMANDS = {
    'train': 'train an image classifier (python -m zoo train --config quickstart)',
    'validate': 'measure the accuracy of a checkpoint',
    'probe': 'train a linear or an attentive probe on the frozen features of a model',
    'train-det': 'train or test a detector of mmdet on a zoo model (python -m zoo train-det mask_rcnn_ravlt_t_1x)',
    'train-seg': 'train or test a segmentor of mmsegmentation on a zoo model',
    'predict': 'draw what a detector or segmentor finds in an image',
    'shapes': 'write a small data set for detection and segmentation',
    'benchmark': 'measure the time and memory of ops and models (python -m zoo benchmark ops --quick)',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    known = '\n'.join(f'  {name:<10} {text}' for name, text in COMMANDS.items())
    if not argv or argv[0] in ('-h', '--help'):
        print(f'usage: python -m zoo COMMAND ...\n\ncommands:\n{known}\n\npython -m zoo COMMAND --help says more')
        return 0 if argv else 2
    command, *rest = argv
    if command not in COMMANDS:
        print(f'error: unknown command {command!r}; known: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    if command == 'train':
        from zoo.train.main import main as run
    elif command == 'validate':
        from zoo.train.validate import main as run
    elif command == 'probe':
        from zoo.train.probe import main as run
    elif command == 'train-det':
        from zoo.dense.launch import train_det as run
    elif command == 'train-seg':
        from zoo.dense.launch import train_seg as run
    elif command == 'predict':
        from zoo.dense.predict import main as run
    elif command == 'shapes':
        from zoo.dense.shapes import main as run
    else:
        from zoo.bench.main import main as run
    return run(rest)


if __name__ == '__main__':
    sys.exit(main())
