"""The notebooks of the docs: in git without outputs, and executed without a network."""
import json
import os
import sys

import pytest

from .blocks import ROOT

NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))
LAST = {  # what the last words of each notebook's variables have to be
    'compare_mixers': (
        'assert all(min(top1) > 60 for top1 in results.values()), results\n'
        'assert growth["softmax"] > 6 and max(growth[name] for name in MIXERS[1:]) < 4.5, growth'),
    'finetune_digits': (
        'tuned, random = map(statistics.mean, results.values())\n'
        'assert tuned > random + 3 and tuned > 75, results')}


def test_there_are_two_without_outputs():
    assert {path.stem for path in NOTEBOOKS} == set(LAST)
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        assert [cell for cell in cells if cell.get('outputs') or cell.get('execution_count')] == []
        assert path.stat().st_size < 30_000


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_execute(path, tmp_path, monkeypatch):
    """What they find is asserted in a cell of the test's own."""
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(map(os.path.abspath, sys.path)))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LAST[path.stem]))
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name='python3', resources={'metadata': {'path': tmp_path}}).execute()
    assert notebook.cells[1].execution_count == 1
