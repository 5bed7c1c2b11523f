"""The console command: fast without the zoo, helpful with names, complete in its completion."""
import subprocess
import sys
from pathlib import Path

import pytest

import zoo_cli

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize('words, code', [(['--help'], 0), ([], 2), (['benchmrk'], 2)])
def test_answers_without_importing_the_zoo(words, code):
    done = run(
        f'import sys; import zoo_cli; code = zoo_cli.main({words}); '
        'heavy = {"zoo", "torch", "timm", "argparse"} & sys.modules.keys(); sys.exit(repr(heavy) if heavy else code)')
    assert done.returncode == code, done.stderr


def test_help_names_every_command_in_its_group(capsys):
    assert zoo_cli.main(['--help']) == 0
    groups = capsys.readouterr().out.split('\n\n')
    found = {lines[0]: [line.split()[0] for line in lines[1:]] for lines in map(str.splitlines, groups[1:-1])}
    assert found == {f'{group}:': list(commands) for group, commands in zoo_cli.GROUPS.items()}
    assert len(zoo_cli.COMMANDS) == sum(map(len, zoo_cli.GROUPS.values())) == 22


def test_unknown_commands(capsys):
    assert zoo_cli.main(['benchmrk', 'ops']) == zoo_cli.main(['xyzzy']) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: unknown command 'benchmrk'; did you mean benchmark?"
    assert second.startswith("error: unknown command 'xyzzy' (known: list, info, recipes, train, ")


def test_runs_a_command(capsys):
    assert zoo_cli.main(['list', 'van_b0', '--json']) == 0
    assert '"van_b0' in capsys.readouterr().out


def test_python_dash_m_in_a_checkout_that_is_not_installed():
    done = run(
        'import runpy, sys; '
        'sys.path = ["", "kernels", *(p for p in sys.path if not p.endswith(("console", "kernels")))]; '
        'sys.argv = ["zoo", "--help"]; runpy.run_module("zoo", run_name="__main__")')
    assert done.returncode == 0 and done.stdout.startswith('usage: zoo COMMAND'), done.stderr


def test_completion(capsys):
    pytest.importorskip('shtab')
    for shell in zoo_cli.SHELLS:
        assert zoo_cli.main([zoo_cli.COMPLETION, shell]) == 0
        script = capsys.readouterr().out
        for word in (*zoo_cli.COMMANDS, 'drop-path', 'cfg-options', 'providers'):
            assert word in script, (shell, word)


def test_completion_says_what_is_missing(capsys, monkeypatch):
    assert zoo_cli.main([zoo_cli.COMPLETION, 'fish']) == 2
    monkeypatch.setitem(sys.modules, 'shtab', None)
    assert zoo_cli.main([zoo_cli.COMPLETION, 'bash']) == 2
    assert capsys.readouterr().err.splitlines() == [
        'error: --print-completion takes one of bash, zsh, tcsh',
        'error: shtab is not installed; pip install "backbone-zoo[completion]"']


def test_a_ctrl_c_that_python_drops_is_sent_again():
    """Exceptions in destructors are lost; the command ends nevertheless, in one line."""
    done = run(
        'import signal, sys, time, types, zoo_cli\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'  # a shell's background jobs ignore it
        'class Dropping:\n'
        '    def __del__(self): raise KeyboardInterrupt\n'
        'def work(argv):\n'
        '    Dropping()\n'
        '    time.sleep(20)\n'
        'zoo_cli._module = lambda name: types.SimpleNamespace(main=work)\n'
        'sys.argv = ["zoo", "list"]\n'
        'sys.exit(zoo_cli.main())')
    assert (done.returncode, done.stderr) == (130, '\ninterrupted\n')
