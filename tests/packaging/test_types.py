"""``py.typed`` promises annotations; ``make lint`` lets no folder have more type errors than it had."""
import ast
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRITON = 'triton.jit'  # the decorator of functions in Triton's language, not Python's types
UNANNOTATED = {'self', 'cls', 'device', 'dtype'}  # the last two as torch's own layers have them


def public_functions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            if TRITON not in map(ast.unparse, node.decorator_list):
                yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            yield from (
                part for part in node.body
                if isinstance(part, ast.FunctionDef) and (part.name == '__init__' or not part.name.startswith('_')))


def lacks(function):
    """What of a function has no annotation."""
    args = function.args
    every = *args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))
    names = {arg.arg for arg in every if arg.annotation is None} - UNANNOTATED
    return names | ({'return'} if function.returns is None and function.name != '__init__' else set())


def test_public_functions_are_annotated():
    found, seen = {}, 0
    for path in (*ROOT.glob('zoo/**/*.py'), *ROOT.glob('kernels/**/*.py')):
        for function in public_functions(ast.parse(path.read_text(encoding='utf-8'))):
            seen += 1
            if lacks(function):
                found[f'{path.relative_to(ROOT)}:{function.lineno} {function.name}'] = lacks(function)
    assert not found
    assert seen > 1000


def test_counts_of_type_errors_may_only_fall():
    compare = runpy.run_path(str(ROOT / 'tools' / 'check_types.py'))['compare']
    known = {'zoo/train': 3, 'zoo/hub': 2}
    assert compare({'zoo/train': 3, 'zoo/hub': 2}, known) == ([], [])
    assert compare({'zoo/train': 4, 'zoo/hub': 2, 'zoo/blocks': 1}, known)[0] == ['zoo/blocks', 'zoo/train']
    more, [text] = compare({'zoo/train': 3}, known)
    assert not more and text.startswith('zoo/hub has 0 type errors instead of 2: lower the number in ')
