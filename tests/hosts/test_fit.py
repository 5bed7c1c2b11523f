"""FIT: the stack of layers is the reference's own, in float64 (goldens/modules), through patches of images."""
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from tests import goldens

NAMES = (  # of the reference's parts, which number repeated ones, and of ours
    (r'^stem\.', 'stem.proj.'), (r'^stem_ln\.', 'stem.norm.'), (r'^l_output_ln\.', 'norm.'),
    (r'^x_pos_emb\..*', 'stages.0.pos_embed.weight'), (r'^latent_pos_emb\..*', 'latents.weight'),
    (r'^l2x_cross_attn_(\d)\.cross_mha\.', r'stages.\1.read.'),
    (r'^x2l_cross_attn_(\d)\.cross_mha\.', r'stages.\1.write.'),
    (r'^x_network_(\d)\.transformer_encoder_(\d)\.', r'stages.\1.blocks.\2.'),
    (r'^l_network_(\d)\.transformer_encoder_(\d)\.', r'stages.\1.latent_blocks.\2.'),
    (r'\.enc_ln\.', '.kv_norm.'), (r'(read|write)\.ln\.', r'\1.norm.'), (r'\.mha\.ln\.', '.norm1.'),
    (r'\.mha\.', '.mixer.'), (r'\.mlp\.ffn\.ln\.', '.norm2.'), (r'\.mlp\.ffn\.dense', '.mlp.fc'),
    (r'\.attention_output\.', '.proj.'))


def rename(golden):
    """The reference's parameters by our names, projections side by side; and the norm of tokens, which ours lacks."""
    state = {}
    for key, value in goldens.reference_state(golden).items():
        parts = key.split('.')
        for i, part in enumerate(parts[:2]):
            if re.search(r'(network|cross_attn|transformer_encoder)$', part):
                parts[i] = f'{part}_0'
        key = '.'.join(parts)
        for pattern, ours in NAMES:
            key = re.sub(pattern, ours, key)
        state[key] = value
    norm = [state.pop(f'x_output_ln.{kind}') for kind in ('weight', 'bias')]
    for key in [key for key in state if '.key.' in key]:
        within = '.read.' in key or '.write.' in key
        joined = ('key', 'value') if within else ('query', 'key', 'value')
        name = key.replace('.key.', '.kv.' if within else '.qkv.')
        state[name] = torch.cat([state.pop(key.replace('.key.', f'.{part}.')) for part in joined])
    return {key.replace('.query.', '.q.'): value for key, value in state.items()}, norm


def build(golden, counts, side, patch):
    """A model of this golden on images of ``counts`` groups of ``side`` patches of ``patch`` pixels."""
    args = golden['create_kwargs']
    depths = [int(n) for n in re.findall(r'\((\d)\)', args['layers'])]
    latent_depths = [int(n) for n in re.findall(r'\)(\d)', args['layers'])]
    model = zoo.hosts.FIT(
        img_size=tuple(n * side * patch for n in counts), patch_size=patch, group_size=side, embed_dim=args['x_dim'],
        depths=depths, num_heads=args['x_num_heads'], num_latents=args['latents_per_group'],
        latent_dim=args['latent_dim'], latent_depths=latent_depths + [0] * (len(depths) - len(latent_depths)),
        latent_heads=args['latent_num_heads'], mlp_ratio=args['mlp_ratio'], num_classes=0).double().eval()
    state, norm = rename(golden)
    own = model.state_dict()
    model.load_state_dict({key: value.reshape(own[key].shape) for key, value in state.items()})
    return model, norm


@pytest.mark.parametrize('name, counts, side, patch', [
    ('fit_l22l11_d32_64@2x4x16x48', (2, 2), 4, 4), ('fit_l12l2_d48_48@2x6x9x27', (2, 3), 3, 3)])
def test_agrees_with_reference(monkeypatch, name, counts, side, patch):
    monkeypatch.setattr('zoo.backbone.MIN_SIZE', 1)
    golden = goldens.load(f'modules/{name}')
    model, norm = build(golden, counts, side, patch)
    latents = []
    model.norm.register_forward_hook(lambda module, args, y: latents.append(y))
    tokens = torch.as_tensor(goldens.draw(1234, golden['input_size'])).requires_grad_()
    images = tokens.reshape(2, *counts, side, side, 3, patch, patch).permute(0, 5, 1, 3, 6, 2, 4, 7)
    _, maps = model.forward_intermediates(
        images.reshape(2, 3, *(n * side * patch for n in counts)), output_fmt='NHWC')
    x = maps[-1].reshape(2, counts[0], side, counts[1], side, -1).transpose(2, 3).flatten(3, 4)
    x = F.layer_norm(x, x.shape[-1:], *norm, eps=1e-6)
    y = torch.cat([x.flatten(), latents[0].flatten()])
    want, at = np.asarray(golden['logits']), np.random.Generator(np.random.PCG64(99))
    got = y.detach().numpy()[at.integers(0, y.numel(), 4096)]
    assert np.abs(got - want).max() <= goldens.GATE * np.abs(want).max()
    (y * torch.as_tensor(goldens.draw(4321, tuple(y.shape)))).sum().backward()
    places = np.random.Generator(np.random.PCG64(99)).integers(0, tokens.numel(), 64)
    want = np.asarray(golden['grad']['samples'])
    assert np.abs(tokens.grad.numpy().ravel()[places] - want).max() <= 10 * goldens.GATE * np.abs(want).max()
