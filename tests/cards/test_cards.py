"""Model cards: the committed ones, and what they are made of."""
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn
from torchvision.ops import DeformConv2d

from tests import goldens
from tests.models import families
from zoo.analysis import result_files
from zoo.bench.models import flops
from zoo.cards import card, dense
from zoo.cards.family_doc import bibtex, family_doc
from zoo.cli.cards import main
from zoo.registry import modules
from zoo.weights.sources import load, source

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / 'model_cards'
META = torch.device('meta')
FAMILIES = list(modules())
PAPERS = {arxiv: family for family in FAMILIES for arxiv in family_doc(family).papers}


def model_of(config):
    """The model with the longest name in that of a config; '' if it is one of timm's own, which have no card."""
    names = [variant.name for variants in modules().values() for variant in variants]
    return max((name for name in names if f'_{name}_' in f'_{config}_'), key=len, default='')


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results of our own; it starts empty but for the counts."""
    folder = tmp_path / 'results'
    folder.mkdir()
    (folder / result_files.COUNTS).write_text(json.dumps(result_files.counts()))
    monkeypatch.setattr(result_files, 'folder', lambda: folder)
    result_files.forget()
    yield folder
    result_files.forget()


# --- the committed ones

@pytest.mark.parametrize('family', FAMILIES)
def test_committed_card_is_up_to_date(family):
    assert (CARDS / f'{family}.md').read_text(encoding='utf-8') == card(family), 'python -m zoo cards'


def test_there_is_a_card_for_each_family_and_no_other():
    assert sorted(path.name for path in CARDS.iterdir()) == sorted(f'{family}.md' for family in FAMILIES)


@pytest.mark.parametrize('family', FAMILIES)
def test_front_matter_is_the_hubs(family):
    text = (CARDS / f'{family}.md').read_text(encoding='utf-8')
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.tags) == (
        'timm', 'image-classification', ['image-classification', 'timm'])
    assert set(data.datasets) <= {'imagenet-1k', 'imagenet-22k', 'cifar10', 'cifar100'}
    assert 'imagenet-1k' in data.datasets
    assert data.license in ('mit', 'apache-2.0', 'other')
    assert (data.license == 'other') == bool(data.license_name) == bool(data.license_link)
    assert data.eval_results is None  # published accuracies are no results of ours


def test_licences():
    of = {family: ModelCard(card(family)).data for family in ('ravlt', 'flatten', 'emca', 'smt', 'overlock')}
    assert {family: data.license for family, data in of.items()} == {
        'ravlt': 'mit', 'flatten': 'other', 'emca': 'apache-2.0', 'smt': 'mit', 'overlock': 'apache-2.0'}
    assert of['flatten'].license_link == 'https://github.com/LeapLabTHU/FLatten-Transformer'
    assert 'For the weights no licence is stated' in card('flatten')


@pytest.mark.parametrize('family', FAMILIES)
def test_docstring_has_all_parts(family):
    told = family_doc(family)
    assert told.papers and 'http' in told.origin and told.title and told.summary
    literals = re.findall('`([^`]+)`', told.about)
    assert family == 'unplaced' or any(re.search(r' [*/+=.] |softmax|mean', text) for text in literals)
    assert '``' not in card(family).replace('```', '') and ':data:' not in card(family)


@pytest.mark.parametrize('arxiv', PAPERS)
def test_reference_is_that_of_the_docstring(arxiv):
    entry, told = bibtex(arxiv), family_doc(PAPERS[arxiv])
    title = re.search(r'title = \{\{(.+)\}\}', entry)[1]
    named = re.findall('"([^"]+)"', ' '.join(told.origin.split()))
    assert any(title.startswith(name) for name in named) or arxiv == '2105.14217'  # LIT, named by its number alone
    first = re.search(r'author = \{([\w-]+),', entry)[1]
    assert first in told.origin and 'archiveprefix = {arXiv}' in entry


def test_every_reference_is_of_a_family():
    text = (ROOT / 'zoo' / 'cards' / 'references.bib').read_text(encoding='utf-8')
    assert sorted(re.findall(r'eprint = \{(.+)\}', text)) == sorted(PAPERS)


# --- measured figures

def test_every_row_of_weights_is_counted():
    assert list(result_files.counts()['rows']) == list(load())


@pytest.mark.parametrize('name', [
    'ravlt_t.in1k', 'litv2_s.in1k', 'agent_pvt_tiny.in1k', 'cbam_resnet18_cifar.cifar100'])
def test_counts_are_those_of_the_model(name):
    with META:
        model = timm.create_model(name).eval()
    assert result_files.count(model, source(name).size) == result_files.counts()['rows'][name]


def test_deformable_convolutions_count_as_convolutions():
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(3, 8, 3, groups=1)

        def forward(self, x):
            return self.conv(x, x.new_zeros(1, 18, 14, 14))

    with META:
        assert flops(Deformed(), (16, 16), torch.float32) == 2 * 14 * 14 * 8 * 3 * 9
        assert flops(nn.Conv2d(3, 8, 3), (16, 16), torch.float32) == 2 * 14 * 14 * 8 * 3 * 9


@pytest.mark.parametrize('name, gmacs', [
    ('nat_mini', 2.7), ('dinat_s_tiny', 4.5), ('swin_tiny_patch4_window7_224', 4.5)])
def test_attention_counts_as_published(name, gmacs):
    """Fused attention and windows too, wherever the model is."""
    model = timm.create_model(name).eval()
    assert flops(model, (224, 224), torch.float32) == pytest.approx(2e9 * gmacs, rel=0.01)
    assert all(p.device.type == 'cpu' for p in model.parameters())


def test_parity_is_that_of_all_goldens():
    rows = result_files.parity()['rows']
    assert set(rows) == {path.stem for path in goldens.FOLDER.glob('*@*.json')}
    for golden, row in rows.items():
        logits, grad = goldens.gates(goldens.load(golden))
        assert row['agrees'] and row['logits'] <= logits and row['grad'] <= grad, golden


def test_speed_is_that_of_the_result_files():
    files = [json.loads(path.read_text()) for path in sorted((ROOT / 'results').glob('*.json'))]
    content = [file for file in files if file.get('kind') == 'models']
    rows = [row for file in content for row in file['rows'] if row['model'] == 'ravlt_t']
    table = [line for line in card('ravlt').splitlines() if content[0]['device'] in line]
    assert len(content) > 1 and len(table) == len(rows) > 0
    assert f'| `ravlt_t` | 224 x 224 | 1 | {content[0]["device"]}, threads: 1 |' in table[0]
    assert 'say nothing about the speed of the kernels' in card('ravlt') and '## Speed' not in card('nat')


@pytest.mark.parametrize('family', FAMILIES)
def test_published_detection_and_segmentation_is_told(family):
    """All of them in some card; those of a family that publishes none in none."""
    text = (CARDS / f'{family}.md').read_text(encoding='utf-8')
    told = dict(re.findall(r'^\| `(\w+)` \| (?:\w|[ -])+ \| (.+) \|$', text.partition('## Detection and')[2], re.M))
    names = {row.name for row in modules()[family]}
    assert bool(told) is ('no_dense_config' not in families.load(family))
    assert told == {
        row.name: '-' if row.figures == dense.UNPUBLISHED else row.figures
        for row in dense.configs() if model_of(row.name) in names}


def test_measured_accuracy_is_that_of_all_of_imagenet(results):
    row = dict(model='ravlt_s.in1k', top1=84.321, count=50_000)
    (results / 'accuracy.json').write_text(json.dumps([row, dict(row, model='ravlt_t.in1k', count=500)]))
    assert 'top-1, measured' not in card('van')
    assert result_files.accuracies() == {'ravlt_s.in1k': 84.321}
    [line] = [line for line in card('ravlt').splitlines() if line.startswith('| `ravlt_s.in1k` | 224')]
    assert '| 84.4 | 84.32 |' in line
    [result] = ModelCard(card('ravlt_s')).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ('accuracy', 84.32, 'imagenet-1k')


# --- one model

def test_card_of_one_model():
    text = card('agent_deit_small.in1k_448', 'someone/agent')
    assert '# agent_deit_small.in1k_448, of Agent Attention\n' in text
    assert re.findall(r'`(\w+\.\w+)` \| \d', text) == ['agent_deit_small.in1k_448']
    assert text.count("timm.create_model('hf-hub:someone/agent', pretrained=True") == 2
    assert yaml.safe_load(text.split('---')[1])['license_name'] == 'none-stated'
    assert card('ravlt_t') == card('ravlt_t.in1k')


def test_usage_names_weights_that_can_be_had():
    assert "timm.create_model('van_b0', pretrained=True)" in card('van')
    assert "timm.create_model('emca_resnet18')" in card('emca') and 'released no weights' in card('emca')
    assert 'released no weights' not in card('moh') and 'hf.co/Chat-UniVi/MoH-ViT-S-80; the name' in card('moh')
    assert "timm.create_model('l2vit_base.in22k', pretrained=True)" in card('l2vit_base.in22k')


@pytest.mark.parametrize('name', ['ravlt_x', 'ravlt_t.in22k', 'zoo_hybrid', 'resnet50'])
def test_no_card_without_family(name):
    with pytest.raises(ValueError, match=f'^{name} is not a family, model or model.tag of the zoo'):
        card(name)


# --- the program

def test_check_finds_what_is_out_of_date(tmp_path, capsys):
    folder = tmp_path / 'cards'
    assert main(['ravlt', 'van', '--output', str(folder)]) == 0
    assert (folder / 'van.md').read_bytes() == (CARDS / 'van.md').read_bytes()
    assert main(['ravlt', 'van', '--output', str(folder), '--check']) == 0
    (folder / 'van.md').write_text('changed')
    (folder / 'nobody.md').write_text('')
    capsys.readouterr()
    assert main(['ravlt', 'van', '--output', str(folder), '--check']) == 2
    assert capsys.readouterr().err.startswith(f'error: out of date in {folder}: van; python -m zoo cards writes them')
    assert main(['--output', str(folder), '--check']) == 2
    assert 'van' in (error := capsys.readouterr().err) and 'nobody' in error and 'ravlt' not in error
    assert main(['--output', str(CARDS), '--check']) == 0


def test_measures_some_and_keeps_the_others(results, capsys):
    before = result_files.counts()['rows']
    path = results / result_files.COUNTS
    path.write_text(json.dumps(dict(rows={**before, 'ravlt_t.in1k': None, 'gone.in1k': None})))
    assert main(['--measure', 'ravlt_t']) == 0
    assert capsys.readouterr().out == '1/1 ravlt_t.in1k\n'
    assert result_files.counts()['rows'] == before and result_files.counts()['versions']['torch'] == torch.__version__


def test_parity_comes_from_golden_checks(results, tmp_path, capsys):
    good, bad = tmp_path / 'good.json', tmp_path / 'bad.json'
    good.write_text(json.dumps({'b@224': dict(logits=1e-12, grad=2e-12, agrees=True, params=3), 'a@224': dict(
        logits=1., grad=1., agrees=False)}))
    bad.write_text('{"b@224": {"error": "no"}}')
    assert main(['--parity', str(good)]) == 0
    versions = dict(torch=torch.__version__, timm=timm.__version__)
    assert result_files.parity()['rows'] == {
        'a@224': dict(logits=1., grad=1., agrees=False, versions=versions),
        'b@224': dict(logits=1e-12, grad=2e-12, agrees=True, versions=versions)}
    good.write_text(json.dumps({'c@224': dict(logits=0., grad=0., agrees=True)}))
    assert main(['--parity', str(good)]) == 0 and list(result_files.parity()['rows']) == ['a@224', 'b@224', 'c@224']
    assert main(['--parity', str(bad)]) == 2
    assert capsys.readouterr().err.startswith(f'error: {bad} is not a result of the golden check')


def test_mistakes(tmp_path, capsys):
    (tmp_path / 'file').touch()
    for words, text in (
            (['ravl'], "unknown family 'ravl'; did you mean ravlt"), (['--chek'], 'unrecognized arguments: --chek'),
            (['van', '--output', str(tmp_path / 'file')], 'cannot write to')):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith(f'error: {text}') and error.count('\n') == 1


def test_the_tool_is_the_same_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['cards', 'nobody', '--check'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools' / 'cards.py'), run_name='__main__')
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: unknown family 'nobody' (known: agent,")
