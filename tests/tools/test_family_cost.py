"""``tools/family_cost.py``: what it counts as written by hand, in a repository of its own."""
import runpy
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'tools/family_cost.py'


@pytest.fixture
def repository(tmp_path):
    """One commit with two files on main; the script looks at it."""
    def git(*words):
        subprocess.run(['git', '-c', 'user.name=x', '-c', 'user.email=x@y', *words], cwd=tmp_path, check=True)
    (tmp_path / 'README.md').write_text('models\n')
    (tmp_path / 'registry.py').write_text('one = 1\n')
    git('init', '--quiet', '--initial-branch=main')
    git('add', '.')
    git('commit', '--quiet', '--message', 'first')
    return tmp_path


def test_lists_files_and_who_writes_them(repository, capsys):
    main = runpy.run_path(str(SCRIPT))['main']
    main.__globals__['ROOT'] = repository
    (repository / 'registry.py').write_text('one = 1\ntwo = 2\n')
    (repository / 'README.md').write_text('more models\n')
    (repository / 'model_cards').mkdir()
    (repository / 'model_cards/van.md').write_text('card\n')
    (repository / 'family.py').write_text('1\n2\n3\n')
    (repository / 'configs').mkdir()
    (repository / 'configs/small.yaml').write_text('a: 1\n')
    assert main([]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ['generated', '+1', '-1', 'README.md', '(tables', 'of', 'models)'],
        ['by', 'hand', '+1', '-0', 'configs/small.yaml'],
        ['by', 'hand', '+3', '-0', 'family.py'],
        ['generated', '+1', '-0', 'model_cards/van.md', '(zoo', 'cards)'],
        ['by', 'hand', '+1', '-0', 'registry.py']]
    assert total == '3 files by hand (+5 lines; recipes: 1), 2 generated'
    assert main(['--most', '1']) == 1
