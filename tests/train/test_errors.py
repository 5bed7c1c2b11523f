"""What users get wrong: one line on stderr with the fix, exit code 2, no traceback."""
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from zoo.train import checkpoint, session
from zoo.utils.errors import require_packages
from zoo.utils.files import folder_lock

from .conftest import MODEL

ROOT = Path(__file__).parents[2]


def assert_refused(result, *words):
    assert result.code == 2
    line, = result.err.strip().splitlines()
    assert line.startswith('error: ')
    for word in words:
        assert word in line, line


@pytest.mark.parametrize('changes, words', [
    (dict(model='test_convnxt'), ["unknown model 'test_convnxt'; did you mean test_convnext"]),
    (dict(model='flatten_pvt_tin'), ['did you mean flatten_pvt_tiny']),
    (dict(model='test_convnext.in9k'), ['test_convnext', 'in9k']),
    (dict(data_dir='/nowhere/at/all'), ['no data folder /nowhere/at/all', '--data-dir']),
    (dict(num_classes=2), ['the data has 3 classes, the model 2; give --num-classes 3']),
    (dict(input_size='1 32 32', in_chans=3), ['in_chans 3 contradicts input_size [1, 32, 32]']),
    (dict(img_size=64), ['img_size 64 contradicts input_size [3, 32, 32]']),
    (dict(opt='adamww'), ["unknown optimizer 'adamww'; did you mean adamw"]),
    (dict(opt_kwargs='colour=1'), ['--opt adamw', 'colour']),
    (dict(model_kwargs='colour=1'), ['test_convnext', 'colour']),
    (dict(model='vit_tiny_patch16_224'), ['[3, 32, 32] images do not fit the model', '224']),
    (dict(device='tpu9'), ["unknown device 'tpu9'"]),
    (dict(torchcompile='inductr'), ["no backend 'inductr'; did you mean inductor"]),
    (dict(torchcompile_mode='default'), ['needs --torchcompile']),
    (dict(amp=True, model_dtype='bfloat16'), ['--amp works on float32 weights']),
    (dict(initial_checkpoint='/nowhere.pth'), ['no checkpoint file /nowhere.pth']),
    (dict(resume='/nowhere.pth'), ['/nowhere.pth']),
    (dict(batch_size=1000), ['--batch-size 1000 is too large for 72 training images']),
    (dict(train_split='holdout'), ["no split 'holdout'"]),
])
def test_mistakes_in_training(zoo, small, tmp_path, changes, words):
    result = zoo('train', *small(epochs=1, **changes))
    assert_refused(result, *words)
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without a GPU')
def test_a_device_that_is_not_there(zoo, small):
    assert_refused(zoo('train', *small(device='cuda')), 'finds no CUDA device', '--device cpu')


def test_an_output_folder_that_cannot_be_made_is_told_first(zoo, small, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setattr(session.Trainer, '__init__', None)  # neither data nor model may be touched
    for changes in (dict(output=tmp_path / 'file'), dict(output=tmp_path / 'file' / 'sub', experiment='')):
        assert_refused(zoo('train', *small(**changes)), 'cannot write to', 'is not a folder; choose another --output')


def test_a_folder_with_a_run_in_it_is_not_overwritten(zoo, small, tmp_path):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    (tmp_path / 'out' / 'run' / checkpoint.LAST).write_bytes(b'')
    assert_refused(zoo('train', *small()), 'holds a run already: go on with --resume')


def test_a_folder_with_recovery_files_of_a_run_is_not_overwritten(zoo, small, tmp_path):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    file = tmp_path / 'out' / 'run' / 'recovery-0-3.pth.tar'
    file.write_bytes(b'')
    assert_refused(zoo('train', *small()), f'holds a run already: go on with --resume {file}')


def test_a_second_run_in_a_folder_is_refused_at_once(zoo, small, tmp_path, monkeypatch):
    folder = tmp_path / 'out' / 'run'
    with folder_lock(folder):
        monkeypatch.setattr(session.Trainer, '__init__', None)  # nothing may be built
        assert_refused(zoo('train', *small()), f'{folder} is in use by another run', 'another --experiment')
        monkeypatch.undo()
    open_folder = session.Trainer._open_folder

    def late(self):  # both have looked at the folder before one of them took it
        assert_refused(zoo('train', *small(epochs=1)), f'{folder} is in use')
        open_folder(self)

    monkeypatch.setattr(session.Trainer, '_open_folder', late)
    assert zoo('train', *small(epochs=1)).code == 0
    assert not list(folder.glob('.*.*'))


OPTIMIZERS = 'sgd', 'lamb', 'rmsprop', 'adopt', 'adafactor', 'muon', 'lars', 'adabelief', 'madgrad'


@pytest.mark.slow
def test_another_optimizer_is_told_with_both_names(zoo, small, tmp_path, monkeypatch):
    last = tmp_path / 'out' / 'run' / checkpoint.LAST
    assert zoo('train', *small(epochs=1)).code == 0
    monkeypatch.setattr(session.Trainer, '__init__', None)  # before anything is built
    for name in OPTIMIZERS:
        assert_refused(zoo('train', '--resume', last, '--opt', name, '--epochs', '2'),
                       f'the optimizer adamw, not of {name}', '--opt adamw', '--no-resume-opt')
    monkeypatch.undo()
    assert zoo('train', '--resume', last, '--opt', 'sgd', '--epochs', '2', '--no-resume-opt').code == 0


def test_a_state_that_the_optimizer_cannot_go_on_with_is_told(zoo, small, tmp_path):
    """Without momentum RMSprop keeps no buffer for it."""
    assert zoo('train', *small(epochs=1, opt='rmsproptf', momentum='0')).code == 0
    assert_refused(zoo('train', '--resume', tmp_path / 'out' / 'run' / checkpoint.LAST, '--momentum', '0.9',
                       '--epochs', '2'), 'does not fit --opt rmsproptf', 'momentum_buffer', '--no-resume-opt')


def test_entries_of_a_checkpoint(zoo, small, tmp_path, monkeypatch):
    zoo('train', *small(epochs=1))
    last = tmp_path / 'out' / 'run' / checkpoint.LAST
    whole = torch.load(last, weights_only=True)
    monkeypatch.setattr(session.Trainer, '__init__', None)
    for changes, words in [
            (dict(arch=None), ['lacks the entry arch']), (dict(epoch='1'), ["the entry epoch is '1', not the number"]),
            (dict(args=[]), ['the entry args is a list']), (dict(points=[1]), ['the entry points is a list']),
            (dict(best=(0, 'x')), ['the entry best is a tuple']), (dict(optimizer={}), ['the entry optimizer']),
            (dict(updates=None), ['lacks the entry updates']), (dict(num_classes=True), ['num_classes is True']),
            (dict(args=dict(whole['args'], batch_size='x')), ["args: batch_size: expected an integer, got 'x'"]),
            (dict(data_config=dict(mean='x')), ["data_config: mean: expected numbers, got 'x'"])]:
        content = {key: value for key, value in {**whole, **changes}.items() if value is not None}
        torch.save(content, tmp_path / 'a.pth.tar')
        assert_refused(zoo('train', '--resume', tmp_path / 'a.pth.tar'), str(tmp_path / 'a.pth.tar'), *words)
        if not changes.keys() & {'points', 'best', 'optimizer', 'updates'}:
            assert_refused(zoo('validate', '--checkpoint', tmp_path / 'a.pth.tar'), *words)


def test_initial_checkpoint_with_other_classes_names_the_flag_that_works(zoo, small, tmp_path):
    torch.save(timm.create_model(MODEL, num_classes=5).state_dict(), tmp_path / 'five.pth')
    result = zoo('train', *small(initial_checkpoint=tmp_path / 'five.pth'))
    assert_refused(result, 'has 5 classes, test_convnext3 is to have 3', '--pretrained-path', '--num-classes 5')


def test_names_with_a_prefix_are_told_and_loaded(zoo, small, tmp_path, caplog):
    state = timm.create_model(MODEL, num_classes=3).state_dict()
    torch.save(dict(state_dict={f'module.model.{key}': value for key, value in state.items()}), tmp_path / 'a.pth')
    assert zoo('train', *small(initial_checkpoint=tmp_path / 'a.pth', epochs=1, lr='0')).code == 0
    assert "begin with 'model.', which is removed" in caplog.text
    trained = torch.load(tmp_path / 'out' / 'run' / checkpoint.LAST, weights_only=True)['state_dict']
    assert all(torch.equal(trained[key], value) for key, value in state.items())


def test_checkpoints_that_do_not_belong(zoo, small, tmp_path):
    zoo('train', *small(epochs=1))
    last = tmp_path / 'out' / 'run' / checkpoint.LAST
    assert_refused(zoo('train', '--resume', last, '--model', 'test_resnet'), f'a checkpoint of {MODEL}', 'test_resnet')
    assert_refused(zoo('train', '--resume', last, '--num-classes', '5', '--epochs', '3'), 'head.fc', '--num-classes')
    assert_refused(zoo('train', '--resume', last, '--opt', 'sgd', '--momentum', '0.9', '--layer-decay', '0.5',
                       '--epochs', '3'), '--no-resume-opt')
    assert_refused(zoo('validate', '--checkpoint', last, '--model', 'test_resnet'), f'a checkpoint of {MODEL}')
    assert_refused(zoo('validate', '--checkpoint', last, '--num-classes', '5'), 'head.fc')
    assert_refused(zoo('validate', '--checkpoint', last, '--data-dir', '/nowhere'), 'no data folder /nowhere')
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), tmp_path / 'bare.pth')
    bare = tmp_path / 'bare.pth'
    assert_refused(zoo('train', '--resume', bare), 'is not a checkpoint of this program', '--initial-checkpoint')
    assert_refused(zoo('validate', '--checkpoint', bare), 'give --model')
    other = small(experiment='b', initial_checkpoint=bare)
    assert_refused(zoo('train', *other, '--num-classes', '7'), MODEL)
    assert_refused(zoo('train', *other, '--model', 'test_resnet'), 'test_resnet')
    assert_refused(zoo('train', *other, '--pretrained'), 'exclude each other')


@pytest.mark.parametrize('flag', ['--resume', '--initial-checkpoint', '--pretrained-path'])
def test_damaged_checkpoints(zoo, small, tmp_path, flag):
    whole = tmp_path / 'whole.pth'
    torch.save(timm.create_model(MODEL, num_classes=3).state_dict(), whole)
    (tmp_path / 'half.pth').write_bytes(whole.read_bytes()[:5000])
    (tmp_path / 'text.pth').write_text('not found')
    for name in ('half.pth', 'text.pth'):
        assert_refused(zoo('train', *small(), flag, tmp_path / name), name)
    assert_refused(zoo('validate', '--checkpoint', tmp_path / 'half.pth', '--model', MODEL), 'half.pth')


def test_data_without_anything_is_asked_for(zoo):
    assert_refused(zoo('train', '--model', MODEL), 'no data: give --data-dir')
    assert_refused(zoo('validate', '--model', MODEL), 'no data: give --data-dir')


def test_commands(zoo):
    assert_refused(zoo('trian'), "unknown command 'trian'; did you mean train")
    assert zoo().code == 2 and zoo('--help').code == 0 and 'validate' in zoo('--help').out
    for command in ('train', 'validate'):
        with pytest.raises(SystemExit) as e:
            zoo(command, '--help')
        assert e.value.code == 0


def test_a_missing_package_names_the_extra(zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert_refused(
        zoo('train', '--config', 'quickstart'), 'matplotlib is not installed; pip install "backbone-zoo[train]"')
    with pytest.raises(ValueError, match='zoo_has_no_such_package is not installed'):
        require_packages('zoo_has_no_such_package')


def test_debug_shows_the_traceback(zoo):
    result = zoo('train', '--model', 'nothing_like_it', '--debug')
    assert result.code == 2 and 'Traceback' in result.err and result.err.strip().splitlines()[-1].startswith('error: ')


@pytest.mark.parametrize(
    'tool', ['train', *(pytest.param(tool, marks=pytest.mark.slow) for tool in ('validate', 'probe'))])
def test_the_tools_are_the_same_programs_from_a_bare_checkout(tool, tmp_path):
    result = subprocess.run(
        [sys.executable, '-S', '-c', 'import sys; sys.path[:0] = sys.argv[2:]; import runpy; tool = sys.argv[1]; '
         'sys.argv = [tool, "--no-such-flag"]; runpy.run_path(tool, run_name="__main__")',
         str(ROOT / 'tools' / f'{tool}.py'), str(Path(torch.__file__).parents[1])],
        capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2 and result.stderr.startswith('error: unknown argument --no-such-flag'), result.stderr


def test_errors_before_anything_is_built_take_no_time_to_build(zoo, small, monkeypatch):
    monkeypatch.setattr(session.Trainer, '__init__', None)
    assert_refused(zoo('train', *small(model='nothing')), 'unknown model')
