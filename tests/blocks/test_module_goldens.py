"""Single modules are the reference's own: outputs and input gradients in float64 (goldens/modules)."""
import re

import numpy as np
import pytest
import torch

from tests import goldens
from tests.blocks import mega_layers
from zoo.blocks import gates, pooling
from zoo.blocks.mixers import GroupedQueryAttention, KeyDrivenGroupedQueryAttention, MultiResolutionAttention
from zoo.blocks.mixers.mega import MovingAverage


def gaussian_block(heads, gaussians, dims):
    return gates.GaussianBlock(*[
        gates.GaussianAttention(num_heads=h, num_gaussians=g, dim=d) for h, g, d in zip(heads, gaussians, dims)])


class SequenceAttention(MultiResolutionAttention):
    """The mixer on sequences ``[B, N, C]``, whose tiles are 32 tokens that follow each other."""

    def __init__(self, **options):
        super().__init__(64, 2, tile=(1, 32), **options)

    def forward(self, x):
        return super().forward(x[:, None])[:, 0]


# Golden -> the module; `state` below renames the reference's parameters
MODULES = {
    'efficient_attention_c64_k32_h1_v32@2x64x14x14': lambda: gates.EfficientAttention(64, 32, 1, 32),
    'efficient_attention_c256_k64_h4_v128@2x256x7x7': lambda: gates.EfficientAttention(256, 64, 4, 128),
    'ela_t_c64@2x64x14x10': lambda: gates.ELA(64, 'tiny'),
    'ela_b_c64@2x64x14x10': lambda: gates.ELA(64, 'base'),
    'ela_s_c64@2x64x14x10': lambda: gates.ELA(64, 'small'),
    'ela_l_c64@2x64x14x10': lambda: gates.ELA(64, 'large'),
    'ep_pool_d384_q32_o1@2x197x384': lambda: pooling.EfficientProbing(384, 32),
    'ep_pool_d768_q16_o2@2x196x768': lambda: pooling.EfficientProbing(768, 16, 2),
    'ep_pool_d768_q32_o1@2x196x768': lambda: pooling.EfficientProbing(768, 32),
    'ep_pool_d768_q8_o1@2x196x768': lambda: pooling.EfficientProbing(768, 8),
    'gaussian_block_ax1_h4_g5_l3@10x128': lambda: gaussian_block((4, 4, 4), (5, 5, 5), (1, 1, 1)),
    'gaussian_block_mixed@2x49x64': lambda: gaussian_block((2, 7), (3, 4), (-1, 1)),
    'ggem_blocked_d384_g16@2x196x384': lambda: pooling.GGeM(384, 16),
    'ggem_interleaved_d384_g16@2x197x384': lambda: pooling.GGeM(384, 16, interleaved=True, num_prefix_tokens=1),
    'gqa_d64_h8_kv2@2x49x64': lambda: GroupedQueryAttention(64, 8, 2),
    'kdgqa_d64_h8_kv4@2x49x64': lambda: KeyDrivenGroupedQueryAttention(64, 8, 4),
    'mega_ema_d32_n16_bidir@2x64x32': lambda: MovingAverage(32, 16),
    'mega_ema_d32_n2_causal@2x50x32': lambda: MovingAverage(32, 2, bidirectional=False),
    'mega_layer_d32_laplace_bn@2x64x32': mega_layers.Layer,
    'mega_mga_d32_laplace_bn@2x64x32': lambda: mega_layers.GatedAttention(32, 16, 64, True, max_positions=64),
    'mega_mga_d32_relu2_rotary@2x64x32': lambda: mega_layers.GatedAttention(32, 16, 64, attention='relu2'),
    'mega_mga_d32_softmax@2x64x32': lambda: mega_layers.GatedAttention(
        32, 16, 64, attention='softmax', max_positions=64),
    'mh_gaussian_attention_ax1_h3_g4@2x64x7x7': lambda: gates.GaussianAttention(num_heads=3, num_gaussians=4),
    'mra2_attention_d64_h2_diag@2x256x64': lambda: SequenceAttention(blocks_per_row=3, diagonal=1),
    'mra2_attention_d64_h2_full@2x256x64': lambda: SequenceAttention(blocks_per_row=2),
    'mra2_attention_d64_h2_sparse@2x256x64': lambda: SequenceAttention(blocks_per_row=2, sparse=True),
    'tic_msaconv_c16_32_k3_s1@2x16x14x14': lambda: gates.MSAConv(16, 32),
    'tic_msaconv_c16_32_k3_s2@2x16x14x14': lambda: gates.MSAConv(16, 32, stride=2),
    'tic_msaconv_c64_64_k3_s1@2x64x14x14': lambda: gates.MSAConv(64, 64),
    'triplet_module@2x32x14x10': lambda: gates.TripletAttention(32),
    'ulsam_module_c32_g8@2x32x28x28': lambda: gates.ULSAM(32, 8),
    'ulsam_module_c512_g1@2x512x14x14': lambda: gates.ULSAM(512, 1),
    'ulsam_module_c512_g4@2x512x14x14': lambda: gates.ULSAM(512, 4),
    'ulsam_module_c64_g4@2x64x14x14': lambda: gates.ULSAM(64, 4),
}

RULES = (
    (r'^con1\.', 'conv.'), (r'^GN\.', 'norm.'),
    (r'^reprojection\.', 'proj.'),
    (r'^p(_params)?$', 'power'),
    (r'^attn\.W_', ''), (r'^attn\.ff\.', 'proj.'),
    (r'^qkv_conv\.', 'qkv.'), (r'^mlp\.', 'conv.'),
    (r'^cls_token$', 'queries'),
    (r'^cw\.', 'columns.'), (r'^hc\.', 'rows.'), (r'^hw\.', 'places.'), (r'\.conv\.conv\.', '.conv.'),
    (r'\.conv\.bn\.', '.norm.'),
    (r'\.conv_dws\.', '.scale.'), (r'\.bn_dws\.', '.scale_norm.'), (r'\.conv_point\.', '.point.'),
    (r'\.bn_point\.', '.point_norm.'),
    (r'(^|\.)move\.', r'\1average.'), (r'(^|\.)v_proj\.', r'\1value.'), (r'(^|\.)mx_proj\.', r'\1base.'),
    (r'(^|\.)h_proj\.', r'\1proj.'), (r'rel_pos_bias\.rel_pos_bias$', 'bias.table'), (r'rel_pos_bias\.', 'bias.'),
    (r'^layers\.', ''), (r'\.mean_offsets$', '.offset'), (r'\.c$', '.spread'),
)


def state(golden):
    """The reference's parameters by our names: those of groups, heads and projections side by side."""
    renamed, parts = {}, {}
    for key, value in goldens.reference_state(golden).items():
        for pattern, name in RULES:
            key = re.sub(pattern, name, key)
        joined = re.sub(r'(subspaces|attention_heads)\.\d+\.', '', key)
        joined = re.sub(r'^(queries|keys|values)\.', 'qkv.', joined) if key != 'queries' else key
        parts.setdefault(joined, []).append((key, value))
    order = ['queries', 'keys', 'values']
    for joined, values in parts.items():
        values = [v for k, v in sorted(values, key=lambda p: order.index(p[0].split('.')[0]))] if (
            joined.startswith('qkv.') and len(values) == 3) else [v for _, v in values]
        if joined.endswith(('offset', 'spread')):
            renamed[joined] = torch.stack(values)
        else:
            renamed[joined] = values[0] if values[0].ndim == 0 or len(values) == 1 else torch.cat(values)
    if 'q.weight' in renamed:
        for kind in ('weight', 'bias'):
            renamed[f'qkv.{kind}'] = torch.cat([renamed.pop(f'{part}.{kind}') for part in 'qkv'])
    if 'queries' in renamed:
        renamed['queries'] = renamed['queries'][0]
    return renamed


@pytest.mark.parametrize('name', MODULES)
def test_agrees_with_reference(name):
    golden = goldens.load(f'modules/{name}')
    module = MODULES[name]().double().eval()
    own = module.state_dict()
    module.load_state_dict({  # 1x1 convolutions may be linear layers
        key: value.flatten(1) if own[key].ndim == 2 else value for key, value in state(golden).items()})
    x = torch.as_tensor(goldens.draw(1234, golden['input_size'])).requires_grad_()
    y = module(x)
    assert list(y.shape) == golden['logits_shape']
    want, got = np.asarray(golden['logits']), y.detach().numpy().ravel()
    if golden['logits_sampled']:
        got = got[np.random.Generator(np.random.PCG64(99)).integers(0, y.numel(), 4096)]
    gate = max(goldens.GATE, golden.get('gate', 0))
    assert np.abs(got - want).max() <= gate * np.abs(want).max()
    (y * torch.as_tensor(goldens.draw(4321, tuple(y.shape)))).sum().backward()
    at = np.random.Generator(np.random.PCG64(99)).integers(0, x.numel(), 64)
    want = np.asarray(golden['grad']['samples'])
    assert np.abs(x.grad.numpy().ravel()[at] - want).max() <= 10 * gate * np.abs(want).max()


def test_every_golden_has_a_module():
    """But for those of the host FIT, which tests/hosts/test_fit.py has."""
    names = {path.stem for path in goldens.FOLDER.glob('modules/*.json')}
    assert {name for name in names if not name.startswith('fit_')} == set(MODULES)
