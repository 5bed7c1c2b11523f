"""``python -m zoo COMMAND``: the command line of the zoo."""
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {  # what each does, and the module whose main() does it
    'list': ('the models of the zoo, with their weights', 'zoo.cli.list'),
    'info': ('what a model is: size, stages, weights, kernels', 'zoo.cli.info'),
    'train': ('train an image classifier (python -m zoo train --config quickstart)', 'zoo.cli.train'),
    'validate': ('measure the accuracy of checkpoints or published weights', 'zoo.cli.validate'),
    'infer': ('name what is in pictures: files, folders or web addresses', 'zoo.cli.infer'),
    'convert': (
        'make safetensors with our names, config and card of an official checkpoint on disk', 'zoo.cli.convert'),
    'publish': ('push weights, config and card to a repository of the hub', 'zoo.cli.publish'),
    'probe': ('train a linear or an attentive probe on the frozen features of a model', 'zoo.cli.probe'),
    'train-det': (
        'train or test a detector of mmdet on a zoo model (python -m zoo train-det mask_rcnn_ravlt_t_1x)',
        'zoo.cli.train_det'),
    'train-seg': ('train or test a segmentor of mmsegmentation on a zoo model', 'zoo.cli.train_seg'),
    'predict': ('draw what a detector or segmentor finds in an image', 'zoo.cli.predict'),
    'shapes': ('write a small data set for detection and segmentation', 'zoo.cli.shapes'),
    'benchmark': (
        'measure the time and memory of ops and models (python -m zoo benchmark ops --quick)', 'zoo.cli.benchmark'),
    'plot': (
        'draw accuracy against GMACs, parameters or throughput, with the Pareto front', 'zoo.cli.plot'),
    'attention': (
        'draw what a place of a model sees of an image: receptive field, influence, attention weights',
        'zoo.cli.attention'),
    'arena': ('compare token mixers in one host under one recipe, over seeds', 'zoo.cli.arena'),
    'cards': ('write the model cards, or check that they are up to date', 'zoo.cli.cards'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    known = '\n'.join(f'  {name:<10} {text}' for name, (text, _) in COMMANDS.items())
    if not argv or argv[0] in ('-h', '--help'):
        print(f'usage: python -m zoo COMMAND ...\n\ncommands:\n{known}\n\npython -m zoo COMMAND --help says more')
        return 0 if argv else 2
    command, *rest = argv
    if command not in COMMANDS:
        print(f'error: unknown command {command!r}; known: {", ".join(COMMANDS)}', file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[command][1]).main(rest)


if __name__ == '__main__':
    sys.exit(main())
