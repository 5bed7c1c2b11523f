"""NAT and DiNAT: weights in the format of transformers, and maps before downsampling."""
import math
import re

import pytest
import timm
import torch

from tests import goldens
from tests.models.weights import loaded, scatter

# Names of modeling_nat.py and modeling_dinat.py, transformers 4.27 to 4.40, in the order in which they are replaced
TRANSFORMERS = (
    (r'^stem\.proj', 'embeddings.patch_embeddings.projection'), (r'^stem', 'embeddings'),
    *((fr'^stages\.{i + 1}\.downsample', f'encoder.levels.{i}.downsample') for i in range(3)),
    (r'^stages\.(\d)\.blocks', r'encoder.levels.\1.layers'), (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'), (r'\.mixer\.proj', '.attention.output.dense'),
    (r'\.mixer', '.attention.self'), (r'\.mlp\.fc1', '.intermediate.dense'), (r'\.mlp\.fc2', '.output.dense'),
    (r'^norm', 'layernorm'), (r'^', 'dinat.'), (r'^dinat\.head\.fc', 'classifier'))


def in_transformers(state):
    """A state dict of ours as that of a DinatForImageClassification."""
    found = {}
    for key, value in state.items():
        name = key
        for pattern, theirs in TRANSFORMERS:
            name = re.sub(pattern, theirs, name)
        if '.qkv.' in key:
            found.update(zip((name.replace('qkv', part) for part in ('query', 'key', 'value')), value.chunk(3)))
        elif key.endswith('gamma1'):
            scales = torch.stack([value, state[key.replace('gamma1', 'gamma2')]])
            found[name.replace('gamma1', 'layer_scale_parameters')] = scales
        elif not key.endswith('gamma2'):
            found[name] = value
    return found


@pytest.mark.parametrize('name', ['dinat_mini', 'nat_small'])  # without layer scales, and with
@torch.no_grad()
def test_loads_the_format_of_transformers(name):
    model = scatter(timm.create_model(name, depths=(2, 1, 1, 1)))
    state = in_transformers(model.state_dict())
    assert {'dinat.encoder.levels.0.layers.1.attention.self.rpb', 'dinat.embeddings.norm.weight'} < set(state)
    again = loaded(name, state, depths=(2, 1, 1, 1))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_maps_are_those_before_downsampling(tmp_path):
    """The golden has the outputs of the reference's levels, which end with the downsampling."""
    golden = goldens.load('nat_mini@224')
    model = goldens.build(golden, tmp_path, 'nat_mini')
    x = torch.as_tensor(goldens.draw(1234, golden['input_size']))
    maps = model.forward_intermediates(x, intermediates_only=True, output_fmt='NHWC')
    assert [tuple(y.shape) for y in maps] == [(1, 56 // 2 ** i, 56 // 2 ** i, 64 * 2 ** i) for i in range(4)]
    for i, y in enumerate(maps):
        y, want = model.stages[i + 1].downsample(y) if i < 3 else y, golden['features'][f'stage{i + 1}']
        assert list(y.shape) == want['shape'] and math.isclose(float(y.norm()), want['norm'], rel_tol=1e-9)
