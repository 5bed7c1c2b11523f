"""The cases that kernels are proven on, under the interpreter and on a GPU: one module per op."""
import pkgutil
from importlib import import_module

CASES = [case for module in pkgutil.iter_modules(__path__) for case in import_module(f'{__name__}.{module.name}').CASES]
