"""Every model is numerically the paper's own: logits and input gradients in float64, by the path a user loads by."""
import pytest

import zoo
from tests import goldens
from zoo.registry import smallest_models


def cases():
    """One golden for each family and host in a quick run, all in a full one."""
    quick = {name: sorted(goldens.FOLDER.glob(f'{name}@*.json'))[0].stem for name in smallest_models()}
    files = sorted(path.stem for path in goldens.FOLDER.glob('*@*.json'))
    return [pytest.param(stem, marks=[] if stem in quick.values() else pytest.mark.full) for stem in files]


@pytest.mark.parametrize('stem', cases())
def test_agrees_with_reference(stem, tmp_path):
    golden = goldens.load(stem)
    goldens.compare(golden, goldens.build(golden, tmp_path, golden['name'], **golden.get('create_kwargs', {})))


def test_every_golden_names_a_model():
    names = {goldens.load(path.stem)['name'] for path in goldens.FOLDER.glob('*@*.json')}
    assert names <= set(zoo.list_models())
    assert set(smallest_models()) <= names
