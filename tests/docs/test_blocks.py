"""Every code block of README and docs/ runs, is checked, or says why not."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import blocks
from .blocks import PAGES, ROOT, Block

EVERY = [block for page in PAGES for block in blocks.blocks(page)]


def fated(*fates):
    return [pytest.param(block, id=str(block)) for block in EVERY if block.fate in fates]


def run(folder, *words):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
    return subprocess.run([sys.executable, '-m', 'tests.docs', folder, *words], cwd=ROOT, env=env, text=True,
                          capture_output=True)


def test_blocks_run(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    want = [block for block in EVERY if block.fate == 'run']
    assert len(want) > 20 and done.stdout.endswith(f'{len(want)} blocks ran\n')


@pytest.mark.slow
def test_slow_blocks_run(tmp_path):
    done = run(tmp_path, 'slow')
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert all(f'--- {block}\n' in done.stdout for block in EVERY if block.fate == 'slow')


@pytest.mark.parametrize('block', fated('parse', 'run', 'slow'))
def test_commands_exist_and_take_their_words(block):
    if block.language == 'sh':
        done = subprocess.run(['bash', '-n'], input=block.code, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, '')
        for words in blocks.commands(block.code):
            blocks.check_command(words)


@pytest.mark.parametrize('block', fated('recipe', 'toml'))
def test_data_is_read(block, tmp_path):
    if block.fate == 'recipe':
        blocks.check_recipe(block.code, tmp_path)
    else:
        tomllib = pytest.importorskip('tomllib', reason='Python 3.11 reads TOML')
        assert tomllib.loads(block.code)


def test_what_is_left_out_has_a_reason():
    assert [str(block) for block in EVERY if block.fate == 'skip' and not block.reason] == []
    left_out = [block for block in EVERY if block.fate == 'skip']
    assert 0 < len(left_out) < len(EVERY) / 4


def test_listing_names_every_block():
    lines = blocks.listing().splitlines()
    assert len(lines) == len(EVERY)
    assert any('not run: it needs mmdet' in line for line in lines)


@pytest.mark.parametrize('words, message', [
    ('zoo trian --epochs 3', 'no command trian'),
    ('zoo list --sortt top1', 'does not take --sortt'),
    ('zoo train --epochz 3', 'unknown argument --epochz'),
    ('zoo train --epochs many', 'expected an integer'),
    ('zoo train --config flaten_pvt_tiny', "no config 'flaten_pvt_tiny'"),
    ('zoo info ravlt_xxl', 'no model is called ravlt_xxl'),
    ('zoo train-det mask_rcnn_ravlt_t_9x data', "no config 'mask_rcnn_ravlt_t_9x'"),
    ('torchrun eight -m zoo train', 'what is'),
    ('make everything', 'no such thing'),
    ("pip install '.[trainn]'", 'no such thing'),
    ('python tools/trian.py', 'no such thing'),
    ('rm -rf /', 'no test knows this command'),
])
def test_wrong_commands_are_found(words, message):
    [split] = blocks.commands(words)
    with pytest.raises(ValueError, match=message.replace('[', r'\[')):
        blocks.check_command(split)


def test_blocks_are_found_with_their_marks(tmp_path):
    page = tmp_path / 'page.md'
    text = ('# x\n\n<!-- test: skip, no network -->\n```python\na = 1\n```\n\n```{toctree}\nb\n```\n\n'
            '````text\n```sh\n````\n```sh\nA=1 zoo list \\\n  x  # why\n```\n')
    found = blocks.blocks(page, text)
    assert found == [
        Block(page, 5, 'python', 'a = 1', 'skip', 'no network'), Block(page, 13, 'text', '```sh', None, ''),
        Block(page, 16, 'sh', 'A=1 zoo list \\\n  x  # why', 'parse', '')]
    assert list(blocks.commands(found[2].code)) == [['zoo', 'list', 'x']]
    for wrong, message in (('```\nls\n```', "unknown language ''"), ('```sh\nls', 'not closed')):
        with pytest.raises(ValueError, match=message):
            blocks.blocks(page, wrong)


def test_a_failing_block_fails(tmp_path):
    page = tmp_path / 'wrong.md'
    page.write_text('```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n')
    cwd = Path.cwd()
    with pytest.raises(AssertionError):
        blocks.run(tmp_path, slow=False, pages=[page])
    os.chdir(cwd)
