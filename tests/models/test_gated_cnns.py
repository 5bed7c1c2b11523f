"""CNNs with gates: the papers' files."""
import pytest
import timm
import torch
from torch import nn

from tests import goldens


def load(name, checkpoint, folder, **kwargs):
    """From a file."""
    torch.save(checkpoint, folder / 'a.pth')
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(file=str(folder / 'a.pth')), **kwargs).eval()


def reference(golden, **changes):
    return dict(goldens.reference_state(goldens.load(golden), torch.float32), **changes)


@pytest.mark.parametrize('name', ['triplet_resnet18', 'triplet_mobilenet_v2'])
def test_both_namings_of_triplet_attention(name, tmp_path):
    state = reference(f'{name}@224')
    renamed = {}
    for key, value in state.items():
        for old, new in (('ChannelGateH', 'cw'), ('ChannelGateW', 'hc'), ('SpatialGate', 'hw')):
            key = key.replace(f'{old}.spatial.', f'{new}.conv.')
        renamed[key] = value
    assert any('.cw.conv.conv.' in key for key in renamed)
    first, second = (load(name, s, tmp_path).state_dict() for s in (state, renamed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_cosines_in_files_are_left_out(tmp_path):
    """Released FcaNet models carry them; ours are computed, in both cases the same."""
    state = reference('fcanet_resnet34@224')
    assert not any('dct_layer' in key for key in state)
    with_tables = dict(state, **{f'layer{s}.0.att.dct_layer.weight': torch.full((64 * 2 ** (s - 1), side, side), 9.)
                                 for s, side in ((1, 56), (2, 28), (3, 14), (4, 7))})
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            load('fcanet_resnet34', with_tables, tmp_path)(x), load('fcanet_resnet34', state, tmp_path)(x))


def test_a_file_of_another_kernel_size_is_refused(tmp_path):
    """The code's default, 3 everywhere, does not load the released models; it must not do so half."""
    with pytest.raises(ValueError, match=r'layer2\.0\.se\.conv\.weight'):
        load('ecanet_resnet18_k3333', reference('ecanet_resnet18@224'), tmp_path)


def test_classifiers(tmp_path):
    for golden, head in (('cbam_resnet18@224', 'fc'), ('ecanet_mobilenet_v2@224', 'classifier')):
        name, state = golden.split('@')[0], reference(golden)
        assert load(name, state, tmp_path, num_classes=7).get_submodule(head).weight.shape[0] == 7
        assert isinstance(load(name, state, tmp_path, num_classes=0).get_classifier(), nn.Identity)
        maps = load(name, state, tmp_path, features_only=True)(torch.randn(1, 3, 64, 64))
        assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
