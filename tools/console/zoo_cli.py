"""The console command ``zoo``: its subcommands, and how to reach them.

A module of its own beside the package, of the standard library alone: ``import zoo`` imports torch and timm and
registers every model, which takes seconds that neither ``zoo --help`` nor a misspelt command has to wait for.
"""
import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

GROUPS = {  # subcommands by what they are for, each with a line on what it does; zoo/cli has a module for each
    'find': {
        'list': 'the models of the zoo, with their weights',
        'info': 'what a model is: size, stages, weights, kernels',
        'recipes': 'the published training recipes and configs for detection and segmentation, with their figures',
    },
    'train': {
        'train': 'train an image classifier (zoo train --config quickstart)',
        'probe': 'train a linear or an attentive probe on the frozen features of a model',
        'average': 'average the weights of checkpoints of one model',
        'arena': 'compare token mixers in one host under one recipe, over seeds',
    },
    'evaluate': {
        'validate': 'measure the accuracy of checkpoints or published weights',
        'infer': 'name what is in pictures: files, folders or web addresses',
    },
    'analyse': {
        'benchmark': 'measure the time and memory of ops and models (zoo benchmark ops --quick)',
        'compatibility': 'try models with other runtimes, adapters, explainers, detectors',
        'plot': 'draw accuracy against GMACs, parameters or throughput, with the Pareto front',
        'attention': 'draw what a token of a model sees of an image, or what speaks for a class (CAM)',
    },
    'dense': {
        'train-det': 'train or test a detector of mmdet on a zoo model (zoo train-det mask_rcnn_ravlt_t_1x)',
        'train-seg': 'train or test a segmentor of mmsegmentation on a zoo model',
        'predict': 'draw what a detector or segmentor finds in an image',
        'shapes': 'write a small data set for detection and segmentation',
    },
    'publish': {
        'export': 'write a model as ONNX, OpenVINO, ExecuTorch, Core ML or pt2, and compare it with the model',
        'convert': 'make safetensors with our names, config and card of a checkpoint on disk',
        'publish': 'push weights, config and card to a repository of the hub',
        'cards': 'write the model cards, or check that they are up to date',
        'page': 'write a page to choose a model from: table, chart, what runs with what',
    },
}
COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}
INTERRUPTED = 128 + signal.SIGINT  # as shells count
SHELLS = ('bash', 'zsh', 'tcsh')
COMPLETION = '--print-completion'


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit code, 2 for one that is unknown, 130 for Ctrl-C.

    Without ``argv`` it is that of the process, which ends with this: Ctrl-C at any moment is told in one line.
    """
    if argv is not None:
        return _run(list(argv))
    os.register_at_fork(after_in_child=_become_loader)
    ctrl_c = _CtrlC()
    sys.unraisablehook = ctrl_c.unraisable
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, ctrl_c)
    try:
        code = _run(sys.argv[1:])
    except BaseException:
        if not ctrl_c.pressed:
            raise
        code = 1
    if ctrl_c.pressed and code not in (0, INTERRUPTED):
        print('\ninterrupted', file=sys.stderr)
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter takes a while to end
    if code == INTERRUPTED:
        sys.unraisablehook = lambda *_: None  # of destructors, whose objects have lost their processes
    return code


class _CtrlC:
    """Remembers Ctrl-C: imports of some packages turn a KeyboardInterrupt into an error of their own."""

    pressed = False

    def __call__(self, *_) -> None:
        self.pressed = True
        raise KeyboardInterrupt

    def unraisable(self, lost) -> None:
        """Python drops exceptions in destructors and while it forks: a Ctrl-C that is lost there is sent once more.

        Afterwards destructors meet objects that it has interrupted half made.
        """
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            if not self.pressed:
                sys.__unraisablehook__(lost)
            return
        import threading

        # to the main thread, whose waiting it ends
        timer = threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        timer.daemon = True
        timer.start()


def _become_loader() -> None:
    """What is forked loads data: Ctrl-C is for the process that it loads for, and so is that this process has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda kind, *rest: None if issubclass(kind, ConnectionError) else sys.__excepthook__(kind, *rest)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ('-h', '--help'):
        print(_usage())
        return 0 if argv else 2
    name, *rest = argv
    if name == COMPLETION:
        return _print_completion(rest)
    if name not in COMMANDS:
        print(f'error: {_unknown(name)}', file=sys.stderr)
        return 2
    return _module(name).main(rest)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f'zoo.cli.{name.replace("-", "_")}')


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = ['usage: zoo COMMAND ...    (also: python -m zoo COMMAND ...)']
    for group, commands in GROUPS.items():
        lines += ['', f'{group}:', *(f'  {name:<{width}} {about}' for name, about in commands.items())]
    return '\n'.join([
        *lines, '', 'zoo COMMAND --help tells more of a command.',
        f'zoo {COMPLETION} {{{",".join(SHELLS)}}} prints a completion script for that shell.'])


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
    return f'unknown command {name!r}' + (
        f'; did you mean {", ".join(close)}?' if close else f' (known: {", ".join(COMMANDS)})')


def _print_completion(shells: Sequence[str]) -> int:
    """Print a completion script, made of the parsers of all subcommands; needs shtab."""
    if len(shells) != 1 or shells[0] not in SHELLS:
        print(f'error: {COMPLETION} takes one of {", ".join(SHELLS)}', file=sys.stderr)
        return 2
    try:
        import shtab
    except ImportError:
        print('error: shtab is not installed; pip install "backbone-zoo[completion]"', file=sys.stderr)
        return 2
    print(shtab.complete(_parser(), shell=shells[0]))
    return 0


def _parser():
    import argparse

    root = argparse.ArgumentParser('zoo')
    root.add_argument(COMPLETION, choices=SHELLS, help='print a completion script for a shell')
    commands = root.add_subparsers()
    for name, about in COMMANDS.items():
        commands.add_parser(name, help=about)
        commands.choices[name] = _module(name).parser()
    return root


if __name__ == '__main__':
    sys.exit(main())
