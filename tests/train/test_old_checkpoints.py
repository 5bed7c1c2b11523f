"""Files that an earlier version wrote (fixtures/README.md): today's code goes on from them and measures them."""
import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

OLD = Path(__file__).parent / 'fixtures' / 'interrupted_run'
# What the run gave that was not interrupted, as that version wrote it into summary.csv. Other processors round
# otherwise.
EPOCHS = (
    dict(epoch=0, train_loss=1.0044, train_top1=77.7778, eval_loss=0.944879, eval_top1=100, raw_top1=100, lr=2e-3),
    dict(epoch=1, train_loss=0.919988, train_top1=95.8333, eval_loss=0.865829, eval_top1=100, raw_top1=100, lr=0))
UPDATES = 9  # of an epoch
MOVED = dict(state_dict=0.2675, state_dict_ema=0.4689)  # how far the second epoch moved weights and averages (norm)


@pytest.fixture
def old(tmp_path):
    """A copy of the old run's folder: a resumed run goes on in the folder of its checkpoint."""
    return Path(shutil.copytree(OLD, tmp_path / 'run'))


def read(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_finished(folder):
    """The run has both epochs, with the figures of the one that was not interrupted."""
    with open(folder / 'summary.csv', newline='') as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [{key: row[key] for key in known} for row, known in zip(rows, EPOCHS, strict=True)] == [
        pytest.approx(known, rel=1e-3) for known in EPOCHS]
    before, after = read(OLD / 'last.pth.tar'), read(folder / 'last.pth.tar')
    assert after['epoch'] == 1 and after['updates'] == 2 * UPDATES
    assert before.keys() - {'ema_generator'} <= after.keys()  # not all versions of timm have that
    assert before['args'].keys() <= after['args'].keys()
    assert [UPDATES * point[0] for point in after['points']] == pytest.approx([2, 4, 6, 8, 9, 11, 13, 15, 17, 18])
    for key, distance in MOVED.items():
        assert list(after[key]) == list(before[key])
        steps = [float((value - before[key][name]).square().sum()) for name, value in after[key].items()]
        assert sum(steps) ** 0.5 == pytest.approx(distance, rel=1e-2)
    moments, others = (content['optimizer']['state'] for content in (before, after))
    assert {int(state['step']) for state in moments.values()} == {UPDATES}
    assert {int(state['step']) for state in others.values()} == {2 * UPDATES}  # they were taken over
    assert moments.keys() == others.keys()


def test_the_last_checkpoint_is_resumed(zoo, pictures, old):
    result = zoo('train', '--resume', old / 'last.pth.tar', '--data-dir', pictures)
    assert result.code == 0, result.err
    assert 'going on in' not in result.out and '2 (this time 1)' in result.out
    assert_finished(old)


def test_the_recovery_file_is_resumed_in_the_middle_of_its_epoch(zoo, pictures, old):
    result = zoo('train', '--resume', 'auto', '--output', old.parent, '--data-dir', pictures)
    assert result.code == 0, result.err
    assert 'going on in epoch 2 after 2 of 9 batches' in result.out
    assert not list(old.glob('recovery-*'))
    assert_finished(old)


def test_the_options_file_makes_the_run_again(zoo, pictures, tmp_path):
    result = zoo('train', '--config', OLD / 'args.yaml', '--data-dir', pictures, '--output', tmp_path)
    assert result.code == 0, result.err
    before, after = (yaml.safe_load(path.read_text()) for path in (OLD / 'args.yaml', tmp_path / 'run' / 'args.yaml'))
    assert {key: after[key] for key in before} == dict(before, data_dir=str(pictures), output=str(tmp_path))
    assert_finished(tmp_path / 'run')


def test_validate_measures_the_averaged_weights_and_the_others(zoo, pictures):
    rows = [json.loads(zoo('validate', '--checkpoint', OLD / 'last.pth.tar', '--data-dir', pictures, '--json',
                           *flags).out) for flags in ([], ['--no-use-ema'])]
    assert [row['loss'] for row in rows] == pytest.approx([EPOCHS[0]['eval_loss'], 0.892804], rel=1e-3)
    assert [row['model'] for row in rows] == ['zoo_hybrid'] * 2


def test_infer_names_a_picture(zoo, pictures):
    picture = pictures / 'val' / 'green' / '0.png'
    result = zoo('infer', 'zoo_hybrid', picture, '--checkpoint', OLD / 'recovery-1-2.pth.tar', '--json')
    found, = json.loads(result.out)
    best = found['classes'][0]
    assert (best['index'], best['probability']) == (1, pytest.approx(0.384935, rel=1e-3))
