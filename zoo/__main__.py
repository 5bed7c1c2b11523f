"""``python -m zoo COMMAND``: the command line of the zoo."""
import sys
from collections.abc import Sequence

COMMANDS = {
    'train': 'train an image classifier (python -m zoo train --config quickstart)',
    'validate': 'measure the accuracy of a checkpoint',
    'infer': 'name what is in pictures: files, folders or web addresses',
    'convert': 'make safetensors with our names, config and card of an official checkpoint on disk',
    'publish': 'push weights, config and card to a repository of the hub',
    'probe': 'train a linear or an attentive probe on the frozen features of a model',
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
    elif command == 'infer':
        from zoo.train.infer import main as run
    elif command == 'convert':
        from zoo.hub.convert import main as run
    elif command == 'publish':
        from zoo.hub.publish import main as run
    elif command == 'probe':
        from zoo.train.probe import main as run
    else:
        from zoo.bench.main import main as run
    return run(rest)


if __name__ == '__main__':
    sys.exit(main())
