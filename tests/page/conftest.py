"""What the page is made of, once for all tests, with accuracies of two models as if they had been measured."""
import json
from pathlib import Path

import pytest

from zoo.analysis import result_files
from zoo.page import content as page_content
from zoo.weights.sources import IMAGES

HOSTILE = '</script><script>alert(1)</script><!--<b>&amp;"\'`{{ 7*7 }}\u2028x'  # a name that is no name
MEASURED = {'ravlt_t.in1k': 82.61, 'van_b0.in1k': 75.38}


@pytest.fixture(scope='session')
def results(tmp_path_factory) -> Path:
    """A file as ``zoo validate --results-format json`` writes it."""
    path = tmp_path_factory.mktemp('results') / 'validated.json'
    path.write_text(json.dumps([dict(model=name, top1=top1, count=IMAGES) for name, top1 in MEASURED.items()]))
    return path


@pytest.fixture(scope='session')
def content(results) -> dict:
    found = page_content.collect(result_files.read([results]))
    for family, row in found['families'].items():
        row['card'] = f'model_cards/{family}.md'
    return found


@pytest.fixture(scope='session')
def needs_extra() -> None:
    for name in ('itables', 'jinja2', 'vl_convert'):
        pytest.importorskip(name, reason=f'{name} is not installed; pip install "backbone-zoo[page]"')
