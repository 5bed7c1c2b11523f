"""Checkpoints of plain ViTs in models of grouped queries: heads of keys and values are averaged by group."""
import json

import pytest
import timm
import torch

from tests.models.weights import loaded, scatter
from zoo.cli.convert import main


@pytest.fixture(scope='module')
def vit():
    torch.manual_seed(0)
    return scatter(timm.create_model('vit_small_patch16_224', depth=2, num_classes=7).double())


@pytest.mark.parametrize('name', ['gqa_vit_small_patch16', 'kdgqa_vit_small_patch16'])
@torch.no_grad()
def test_with_a_head_of_keys_per_query_head_is_the_vit(vit, name):
    """Which is what grouped queries are then; key-driven ones are once all groups have one head."""
    args = dict(depth=2, num_classes=7, num_kv_heads=6)
    model = loaded(name, vit.state_dict(), mixer='grouped_query', **args).double()
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    torch.testing.assert_close(model(x), vit(x), rtol=1e-4, atol=1e-4)  # loaded in float32
    own = loaded(name, vit.state_dict(), **args).state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.float().state_dict().items())


@pytest.mark.parametrize('kv_heads', [1, 2, 3])
def test_heads_are_averaged(vit, kv_heads):
    model = loaded('gqa_vit_small_patch16', vit.state_dict(), depth=2, num_classes=7, num_kv_heads=kv_heads)
    size = 6 // kv_heads
    for kind in ('weight', 'bias'):
        theirs = getattr(vit.blocks[1].attn.qkv, kind).detach().float()
        ours = getattr(model.stages[1].blocks[0].mixer.qkv, kind).detach()
        assert torch.equal(ours[:384], theirs[:384]) and len(ours) == 384 + 2 * 64 * kv_heads
        for part, pooled in zip((1, 2), ours[384:].chunk(2)):
            heads = theirs[384 * part:384 * (part + 1)].unflatten(0, (6, 64))
            for group in range(kv_heads):
                want = sum(heads[group * size + i] for i in range(size)) / size
                torch.testing.assert_close(pooled[64 * group:64 * (group + 1)], want)


@pytest.mark.slow
def test_convert_of_a_vit(tmp_path, capsys):
    torch.manual_seed(0)
    state = timm.create_model('vit_small_patch16_224', num_classes=5).state_dict()
    torch.save(state, tmp_path / 'vit.pth')
    argv = [tmp_path / 'vit.pth', '--model', 'kdgqa_vit_small_patch16', '--output', tmp_path / 'new', '--json']
    assert main([str(word) for word in argv]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['keys']['used'] == len(state) and told['keys']['dropped'] == 0 and not told['official']
    model = timm.create_model(f'local-dir:{tmp_path / "new"}', pretrained=True)
    heads = state['blocks.3.attn.qkv.weight'][384:768].view(3, 2, 64, 384)
    torch.testing.assert_close(model.stages[3].blocks[0].mixer.qkv.weight[384:576], heads.mean(1).view(192, 384))
