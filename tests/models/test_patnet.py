"""PATNet: files of detectors, and of the lightning module."""
import torch

from tests import goldens
from tests.models.weights import loaded

KINDS = 'weight', 'bias', 'running_mean', 'running_var'


def test_checkpoint_of_a_detector():
    """Has norms of the maps and no head."""
    state = goldens.reference_state(goldens.load('patnet_t0@224'), torch.float32)
    state = {key: value for key, value in state.items() if not key.startswith(('head.', 'avgpool_pre_head.'))}
    for s, dim in enumerate((32, 64, 128, 256)):
        state |= {f'norm{2 * s}.{kind}': torch.rand(dim) for kind in KINDS}
        state[f'norm{2 * s}.num_batches_tracked'] = torch.tensor(1)
    module = {'state_dict': {f'model.{key}': value for key, value in state.items()}}
    model = loaded('patnet_t0', module, features_only=True, feature_norms=True).model
    for s in range(4):
        for kind in KINDS:
            assert torch.equal(getattr(model.feature_norms[s].norm, kind), state[f'norm{2 * s}.{kind}'])
    assert torch.equal(model.stem.conv.weight, state['patch_embed.proj.weight'])
