"""Loading weights into models: the reference's files, our own, and those that do not fit."""
import pytest
import timm
import torch
from timm.models import save_for_hf

from tests import goldens
from zoo.registry import checkpoint_filter, smallest_models
from zoo.weights import fit_state_dict

GOLDENS = {
    name: sorted(goldens.FOLDER.glob(f'{name}@*.json'))[0].stem for name in smallest_models() if name[:8] == 'flatten_'}


def reference_file(name, path, **changes):
    state = goldens.reference_state(goldens.load(GOLDENS[name]), torch.float32)
    torch.save({'model': dict(state, **changes)}, path)
    return state


def create(name, path, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


@pytest.mark.parametrize('name', GOLDENS)
def test_reference_file_with_computed_tables(name, tmp_path):
    extra = {}
    if name == 'flatten_swin_tiny':
        extra = {'layers.2.blocks.0.attn.relative_position_index': torch.zeros(49, 49),
                 'layers.2.blocks.1.attn_mask': torch.zeros(4, 49, 49)}
    state = reference_file(name, tmp_path / 'a.pth', **extra)
    model = create(name, tmp_path / 'a.pth')
    assert torch.equal(model.head.fc.weight, state['head.weight'])
    assert model.pretrained_cfg.get('state_dict') is None
    ours = fit_state_dict(model.state_dict(), model)  # our own names go through unchanged
    assert all(torch.equal(ours[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize('name', GOLDENS)
def test_reference_file_at_another_size(name, tmp_path):
    state = reference_file(name, tmp_path / 'a.pth')
    small, large = create(name, tmp_path / 'a.pth'), create(name, tmp_path / 'a.pth', img_size=288)
    table = large.stages[0].blocks[0].mixer.positional_encoding.weight
    grid = tuple(table.shape[1:3])
    assert grid == (72, 72)
    stored = next(value for key, value in state.items() if key.endswith('positional_encoding'))
    square = stored.reshape(1, 56, 56, -1).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(square, size=grid, mode='bicubic').permute(0, 2, 3, 1)
    torch.testing.assert_close(table, want)
    if name in ('flatten_pvt_tiny', 'flatten_pvt_v2_b0'):  # no windows, whose size would change too
        x = torch.randn(1, 3, 288, 288)
        with torch.no_grad():
            want = small.eval()(x)
            torch.testing.assert_close(large.eval()(x), want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


def test_window_tables_are_resampled(tmp_path):
    state = reference_file('flatten_swin_tiny', tmp_path / 'a.pth')
    model = create('flatten_swin_tiny', tmp_path / 'a.pth', img_size=384)
    stored = state['layers.2.blocks.0.attn.relative_position_bias_table']
    want = torch.nn.functional.interpolate(stored.T.reshape(1, 12, 13, 13), size=(23, 23), mode='bicubic')
    torch.testing.assert_close(model.stages[2].blocks[0].mixer.rel_pos.table, want.reshape(12, -1).T)


def test_classes(tmp_path):
    name = 'flatten_pvt_v2_b0'
    state = reference_file(name, tmp_path / 'a.pth')
    other = create(name, tmp_path / 'a.pth', num_classes=7)  # another task: a fresh classifier on the same body
    assert other.head.fc.weight.shape == (7, 256)
    assert torch.equal(other.stem.proj.weight, state['patch_embed1.proj.weight'])
    assert isinstance(create(name, tmp_path / 'a.pth', num_classes=0).get_classifier(), torch.nn.Identity)
    assert len(create(name, tmp_path / 'a.pth', features_only=True)(torch.randn(1, 3, 64, 64))) == 4

    tuned = timm.create_model(name, num_classes=7)
    torch.save(tuned.state_dict(), tmp_path / 'b.pth')
    same = create(name, tmp_path / 'b.pth', num_classes=7)  # the file says that it has 7 classes: kept
    assert torch.equal(same.head.fc.weight, tuned.head.fc.weight)
    with pytest.raises(ValueError, match='has 7 classes, the model 1000; build it with num_classes=7'):
        create(name, tmp_path / 'b.pth')


def test_input_channels_are_adapted(tmp_path):
    state = reference_file('flatten_pvt_v2_b0', tmp_path / 'a.pth')
    grey = create('flatten_pvt_v2_b0', tmp_path / 'a.pth', in_chans=1)
    torch.testing.assert_close(grey.stem.proj.weight, state['patch_embed1.proj.weight'].sum(1, keepdim=True))


def test_checkpoint_of_another_model_is_refused(tmp_path):
    reference_file('flatten_pvt_tiny', tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='does not fit flatten_swin_tiny: .* is missing') as error:
        create('flatten_swin_tiny', tmp_path / 'a.pth')
    assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match=r'does not fit flatten_pvt_small: .*missing'):
        create('flatten_pvt_small', tmp_path / 'a.pth')
    torch.save(timm.create_model('test_convnext').state_dict(), tmp_path / 'b.pth')
    with pytest.raises(ValueError, match='does not fit flatten_pvt_tiny'):
        create('flatten_pvt_tiny', tmp_path / 'b.pth')
    torch.save(timm.create_model('flatten_pvt_v2_b1').state_dict(), tmp_path / 'c.pth')
    with pytest.raises(ValueError, match=r'stem\.proj\.weight is \[64, 3, 7, 7\], expected \[32, 3, 7, 7\]'):
        create('flatten_pvt_v2_b0', tmp_path / 'c.pth')


def test_a_refusal_holds_with_another_number_of_classes(tmp_path):
    """timm loads loosely then; a wrong file must not pass for a fresh classifier."""
    reference_file('flatten_pvt_tiny', tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='does not fit'):
        create('flatten_pvt_v2_b1', tmp_path / 'a.pth', num_classes=7)


def test_files_are_read_by_content_not_by_path(tmp_path):
    """A file that is written again under the same name is read again."""
    path = tmp_path / 'a.pth'
    for seed in (0, 1):
        torch.manual_seed(seed)
        source = timm.create_model('flatten_pvt_v2_b0')
        torch.save(source.state_dict(), path)
        assert torch.equal(create('flatten_pvt_v2_b0', path).stem.proj.weight, source.stem.proj.weight)


def test_state_dict_overlay():
    source = timm.create_model('flatten_pvt_v2_b0')
    model = timm.create_model(
        'flatten_pvt_v2_b0', pretrained=True, pretrained_cfg_overlay=dict(state_dict=source.state_dict()))
    assert torch.equal(model.stem.proj.weight, source.stem.proj.weight)


MALFORMED = dict(scalar=lambda x: x.sum(), more=lambda x: x[None], flat=lambda x: torch.cat([x.reshape(-1)] * 2),
                 integers=lambda x: x.int(), booleans=lambda x: x > 0)


@pytest.mark.parametrize('names', ['own', 'reference'])
def test_malformed_tensors_are_refused_in_one_line(names):
    """In the stem, whose channels may differ, in tables, in the classifier, whose rows may, and in all else."""
    name = 'flatten_pvt_v2_b0'
    with torch.device('meta'):
        model = timm.create_model(name, num_classes=7)
    if names == 'own':
        state = {key: torch.zeros(value.shape) for key, value in model.state_dict().items()}
        with pytest.raises(ValueError, match='does not fit'):  # timm takes a TypeError for another signature
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(
                state_dict=dict(state, **{'head.fc.bias': torch.zeros(())})))
    else:
        state = {key: value.clone() for key, value in goldens.reference_state(
            goldens.load(GOLDENS[name]), torch.float32).items()}
    endings = ('proj.weight', 'positional_encoding.weight' if names == 'own' else 'positional_encoding', 'head.weight',
               'fc.weight', 'head.bias', 'fc.bias', 'norm.bias')
    keys = [next(key for key in state if key.endswith(end)) for end in endings if any(
        key.endswith(end) for key in state)]
    assert len(keys) == 5
    for kind, change in MALFORMED.items():
        for key in keys:
            if kind == 'more' and key.endswith('positional_encoding'):
                continue  # the paper's tables are reshaped: this one is right
            with pytest.raises(ValueError, match='does not fit flatten_pvt_v2_b0') as error:
                fit_state_dict(dict(state, **{key: change(state[key])}), model, checkpoint_filter(name))
            assert '\n' not in str(error.value), (kind, key)


def test_a_prefix_of_all_names_is_left_out_of_the_references_too(tmp_path, caplog):
    name = 'flatten_pvt_v2_b0'
    state = reference_file(name, tmp_path / 'a.pth')
    torch.save(dict(state_dict={f'model.backbone.{key}': value for key, value in state.items()}), tmp_path / 'a.pth')
    model = create(name, tmp_path / 'a.pth')
    assert torch.equal(model.stem.proj.weight, state['patch_embed1.proj.weight'])
    assert "begin with 'model.backbone.'" in caplog.text


def test_weights_that_are_not_finite_are_refused(tmp_path):
    name = 'flatten_pvt_v2_b0'
    model = timm.create_model(name)
    torch.nn.init.constant_(model.head.fc.bias, float('nan'))
    save_for_hf(model, tmp_path / 'folder')  # which timm reads itself
    with pytest.raises(ValueError, match='head.fc.bias in the checkpoint is not finite'):
        timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True)
    reference_file(name, tmp_path / 'a.pth', **{'head.bias': torch.full((1000,), float('nan'))})
    with pytest.raises(ValueError, match='head.bias in the checkpoint is not finite'):
        create(name, tmp_path / 'a.pth')
