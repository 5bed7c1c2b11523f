"""``tools/benchmark.py`` from a bare checkout, and the results that lie there."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.bench import report

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_runs_from_a_checkout_that_is_not_installed(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'benchmark.py'), 'ops', 'depthwise_conv_3', '--quick', '--device', 'cpu',
         '--shapes', 's4@224', '--repeats', '1'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [p.suffix for p in sorted((tmp_path / 'results').iterdir())] == ['.json', '.md']
    assert '## depthwise_conv_3' in done.stdout


@pytest.mark.parametrize('stem', ['gates-cpu', 'growth-cpu', 'loader-cpu'])
def test_results_of_earlier_versions_can_be_read(stem):
    """They have no times of the host, and do not say that they are complete."""
    content = json.loads((ROOT / 'results' / f'{stem}.json').read_text(encoding='utf-8'))
    assert report.markdown(content) == (ROOT / 'results' / f'{stem}.md').read_text(encoding='utf-8')
