"""Every model is numerically the paper's own: logits and input gradients in float64, by the path a user loads by."""
import json
import re

import pytest

import zoo
from tests import goldens
from tests.goldens.__main__ import main
from tests.models import families
from zoo.registry import FAMILIES, checkpoint_filter, mixers_of


def smallest(family):
    """The first golden of the first model that has any."""
    files = (sorted(goldens.FOLDER.glob(f'{variant.name}@*.json')) for variant in family.variants)
    return next((found[0].stem for found in files if found), None)


def cases():
    """One golden for each family, host and mixer in a quick run, all in a full one."""
    quick, seen = set(), set()
    for family in FAMILIES:
        first = family.variants[0]
        kinds = {family.module, family.host, *re.findall(r'\w+', str(mixers_of(first.name) or first.args))}
        if not kinds <= seen:
            quick.add(smallest(family))
            seen |= kinds
    files = sorted(path.stem for path in goldens.FOLDER.glob('*@*.json'))
    return [pytest.param(stem, marks=[] if stem in quick else pytest.mark.full) for stem in files]


@pytest.mark.parametrize('stem', cases())
def test_agrees_with_reference(stem, tmp_path):
    golden = goldens.load(stem)
    goldens.compare(golden, goldens.build(golden, tmp_path, golden['name'], **golden.get('create_kwargs', {})))


def test_every_golden_names_a_model():
    names = {goldens.load(path.stem)['name'] for path in goldens.FOLDER.glob('*@*.json')}
    assert names <= set(zoo.list_models())
    without = {family.variants[0].name for family in FAMILIES if family.variants and smallest(family) is None}
    firsts = {family.variants[0].name for family in FAMILIES if family.variants}
    assert without == {name for name in firsts if checkpoint_filter(name) is None}  # no code of a whole model
    unpublished = [family for family in families.NAMES if 'reference' not in families.load(family)]
    assert set(sum(map(families.smallest, unpublished), [])) == without - {'lookupvit_small'}  # by its abstract


def test_differences_are_written(tmp_path, monkeypatch, capsys):
    """For the cards; a difference beyond the gate ends with exit code 1."""
    assert main([str(tmp_path / 'found.json'), 'ecanet_resnet18@*']) == 0
    [(name, row)] = json.loads((tmp_path / 'found.json').read_text()).items()
    assert name == 'ecanet_resnet18@224' and row['agrees'] and 0 < row['logits'] < 1e-9 and 0 < row['grad'] < 1e-8
    monkeypatch.setattr(goldens, 'gates', lambda golden: (0, 0))
    assert main([str(tmp_path / 'found.json'), name]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith('DIFFERS')
