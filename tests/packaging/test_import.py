"""What ``import zoo`` costs and touches, each time in a process of its own."""
import os
import subprocess
import sys

# The child has no network and no GPU; it prints what `import zoo` imports.
CHILD = '''
import socket, sys, warnings

def refuse(*args, **kwargs):
    raise RuntimeError('import zoo touched the network')

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import timm
before = set(sys.modules)
warnings.simplefilter('error')  # a name registered twice is only a warning
import zoo
assert zoo.list_models()
print(*set(sys.modules) - before)
'''
HIDDEN_TRITON = "import sys; sys.modules['triton'] = None\n"
WITHOUT_TRITON = '''
import torch, zoo_kernels
q = torch.ones(1, 4, 1, 4)
assert zoo_kernels.linear_attention(q, q, q).shape == q.shape
assert zoo_kernels.dispatch.unavailable() == 'triton is not installed'
'''
TOOLS = {  # what the commands need, and a model does not
    'arena', 'bench', 'cards', 'cli', 'compatibility', 'dense', 'evaluate', 'export', 'hub', 'page', 'train'}


def imported(code: str) -> set[str]:
    """Modules that a new process imports with zoo, after timm."""
    env = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_is_light():
    """Beside timm nothing but models: no other package, no triton, no tool."""
    names = imported(CHILD)
    assert {name.split('.')[0] for name in names} - sys.stdlib_module_names == {'zoo', 'zoo_kernels'}
    assert not {name.split('.')[1] for name in names if name.startswith('zoo.')} & TOOLS


def test_nothing_needs_triton():
    assert imported(HIDDEN_TRITON + CHILD + WITHOUT_TRITON)
