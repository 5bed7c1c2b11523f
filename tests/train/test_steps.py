"""What changes how a step is computed: precision, layout, recomputation, compilation, averages, repeats."""
import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from zoo.train import build, engine, options, report
from zoo.train.data import loaders
from zoo.train.option_schema import TRAIN
from zoo.train.run import parser
from zoo.train.session import Trainer

from .test_engine import CPU, make_run, train


@pytest.fixture
def epoch(small, tmp_path):
    """Train an epoch of a small run with more flags: session, result, and what ``note`` makes of a module's calls."""
    def start(note=None, of='', before=True, **changes):
        flags, _ = options.parse(TRAIN, small(workers=0, epochs=1, **changes), parser())
        torch.manual_seed(0)
        session = Trainer(options.merge(TRAIN, flags), CPU, tmp_path / 'run', None)
        notes = []
        if note is not None:
            module = session.model.get_submodule(of)
            if before:
                module.register_forward_pre_hook(lambda module, args: notes.append(note(args[0])))
            else:
                module.register_forward_hook(lambda module, args, output: notes.append(note(output)))
        torch.manual_seed(1)
        result = engine.train_epoch(session.run, 0, report.Progress(9, '', shown=False))
        return session, result, notes
    return start


def differ(first, second):
    """The largest difference of two models' weights."""
    return max(float((a - b).abs().max()) for a, b in zip(first.model.parameters(), second.model.parameters()))


def test_checkpointed_blocks_run_twice_and_learn_the_same(epoch):
    block = dict(note=lambda _: 1, of='stages.0.blocks.0')  # noted as it begins: recomputing stops before the end
    plain, result, once = epoch(**block)
    saving, again, twice = epoch(**block, grad_checkpointing=True)
    assert (len(once), len(twice)) == (9, 18)
    assert again['loss'] == pytest.approx(result['loss'], rel=1e-5) and differ(plain, saving) < 1e-5


def test_channels_last_is_the_layout_of_images_and_weights_and_learns_the_same(epoch):
    def layouts(tensor):
        return tensor.is_contiguous(memory_format=torch.channels_last)

    plain, result, usual = epoch(note=layouts)
    last, again, changed = epoch(note=layouts, channels_last=True)
    assert not any(usual) and all(changed) and len(changed) == 9
    stems = [session.model.stem[0].weight for session in (plain, last)]
    assert [layouts(weight) for weight in stems] == [False, True]
    assert again['loss'] == pytest.approx(result['loss'], rel=1e-4) and differ(plain, last) < 1e-3


def test_bfloat16_is_that_of_what_layers_return(epoch):
    linear = dict(note=lambda output: output.dtype, of='stages.0.blocks.0.mlp.fc1', before=False)
    plain, result, usual = epoch(**linear)
    mixed, again, low = epoch(**linear, amp=True)
    assert set(usual) == {torch.float32} and set(low) == {torch.bfloat16}
    assert {p.dtype for p in mixed.model.parameters()} == {torch.float32}
    assert again['loss'] == pytest.approx(result['loss'], rel=5e-2) and 0 < differ(plain, mixed)


@pytest.mark.slow
def test_compiled_models_learn_the_same(epoch):
    plain, result, _ = epoch()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, again, _ = epoch(torchcompile='eager')
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    assert isinstance(engine.eval_model(compiled.run.task), torch._dynamo.OptimizedModule)
    assert again['loss'] == pytest.approx(result['loss'], rel=1e-5) and differ(plain, compiled) < 1e-5
    assert not any(key.startswith('_orig_mod') for key in compiled.run.task.get_checkpoint_state()['state_dict'])


def test_an_overflow_in_float16_skips_the_update_and_halves_the_scale():
    run = make_run(batches=16, amp=True, amp_dtype='float16', lr=1e-3)
    run = replace(run, scaler=build.scaler_of(run.args, CPU.device))
    run.train_batches[:] = [(images * 20, target) for images, target in run.train_batches]
    model, scaler = run.task.trainable_module, run.scaler._scaler
    noted = []

    def note(_):
        noted.append((scaler.get_scale(), copy.deepcopy(model.state_dict())))

    note(None)
    engine.train_epoch(run, 0, report.Progress(16, '', shown=False), note)
    skipped = 0
    for (scale, before), (next_scale, after) in zip(noted, noted[1:]):
        same = all(torch.equal(before[key], after[key]) for key in before)
        assert same is (next_scale < scale) and next_scale in (scale, scale / 2)
        skipped += same
    assert 0 < skipped < 12 and noted[0][0] == 2 ** 16
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_decay_of_averaged_weights_warms_up():
    run, weights = make_run(batches=4, model_ema=True, model_ema_decay=0.5, model_ema_warmup=True), []
    update = run.task.update_ema

    def watch(step):
        weights.append(run.task.trainable_module.head.weight.detach().clone())
        update(step)

    run.task.update_ema = watch
    train(run)
    average = weights[0]
    for passed, value in enumerate(weights[1:], start=1):  # 1 - (1 + n) ** (-2 / 3), at most 0.5
        decay = min(1 - (1 + passed) ** (-2 / 3), 0.5)
        average = decay * average + (1 - decay) * value
    assert torch.allclose(engine.eval_model(run.task, ema=True).module.head.weight, average, atol=1e-6)


class Numbered(Dataset):
    """Pictures whose labels are their numbers."""

    transform = None

    def __len__(self):
        return 512

    def __getitem__(self, index):
        return self.transform(Image.new('RGB', (40, 40))), index


def test_repeated_augmentation_shows_images_several_times():
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        args = options.merge(TRAIN, dict(aug_repeats=3, batch_size=64, workers=0))
        config = dict(input_size=(3, 32, 32), mean=(0.,) * 3, std=(1.,) * 3)
        loader = loaders.train_loader(
            args, Numbered(), config, None, device=CPU.device, distributed=True, img_dtype=torch.float32)
        numbers = torch.cat([target.clone() for _, target in loader]).tolist()
    finally:
        torch.distributed.destroy_process_group()
    assert Counter(Counter(numbers).values()) == {3: 170, 2: 1}  # an epoch is as long as without
