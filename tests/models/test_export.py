"""torch.compile without graph breaks, torch.export with fixed and dynamic sizes, ONNX against onnxruntime."""
import pytest
import torch

import zoo
from tests.graphs import check_onnx
from tests.modules.cases import create
from tests.turns import in_turn
from tests.zoo_models import CNNS
from zoo.blocks.mixers import WindowAttention
from zoo.registry import family_table, smallest_models

SIZES = [(1, 64, 64), (3, 97, 131), (2, 65, 200)]
# Hosts with a mixer in the first of two stages (in all blocks of one) and their own in the other, which shifts windows
STRUCTURES = [
    ('swin_tiny', 'agent'), ('swin_tiny', 'routing'), ('cswin_tiny', 'focused'), ('pvt_tiny', 'inline'),
    ('pvt_v2_b0', 'hilo'), ('vit_tiny', 'clamped'), ('pyramid_t', 'scale_aware'), ('pyramid_t', 'large_kernel')]
DYNAMIC = [('pyramid_t', 'scale_aware')]  # tried at any size in `make test`
STATIC = [('swin_tiny', 'routing'), ('cswin_tiny', 'focused'), ('vit_tiny', 'clamped')]  # at one
TWO_STAGES = dict(depths=(1, 1), embed_dims=(16, 32))
SMALL = dict(  # a graph's size is the depth's, and so is the time
    swin=dict(depths=(1, 2), embed_dim=32, num_heads=(2, 4)), cswin=dict(depths=(1, 1), embed_dim=32), pvt=TWO_STAGES,
    pvt_v2=TWO_STAGES, vit=dict(depth=2, embed_dim=48), pyramid=dict(TWO_STAGES, projection=64),
    fit=dict(depths=(1, 1), embed_dim=48, latent_dim=64, latent_depths=(1, 1), latent_heads=4))


def export(model):
    """Export with dynamic batch, height and width (from 64 pixels: torch takes a side of one token for a constant)."""
    batch, height, width = (torch.export.Dim(n, min=low, max=high) for n, low, high in (
        ('batch', 1, 64), ('height', 64, 2048), ('width', 64, 2048)))
    return torch.export.export(
        model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=({0: batch, 2: height, 3: width},))


def hybrid(host, mixer):
    """A host of two narrow stages with a mixer in the first."""
    torch.manual_seed(0)
    stages = {} if host.startswith('vit') else dict(stages=(0,))
    return zoo.create_hybrid(host, mixer, num_classes=10, **stages, **SMALL[host.rpartition('_')[0]]).eval()


SMALLEST = [name for name in smallest_models() if name not in CNNS]
FIRST = list({family_table(name).host: name for name in reversed(SMALLEST)}.values())[::2]  # in every second host


def structures(quick=STRUCTURES, slow=SMALLEST):
    """pytest parameters for :func:`create_structure`.

    Args:
        quick: The hybrids that `make test` tries; the others are marked ``slow``.
        slow: Models, marked likewise.
    """
    hybrids = [(pair, '-'.join(pair), [] if pair in quick else pytest.mark.slow) for pair in STRUCTURES]
    models = [(name, name, pytest.mark.slow) for name in slow]
    return [pytest.param(case, id=name, marks=marks) for case, name, marks in [*hybrids, *models]]


def create_structure(case):
    return create(case) if isinstance(case, str) else hybrid(*case)


@pytest.fixture(scope='module')
def exported(request):
    model = create_structure(request.param)
    return model, export(model)


@pytest.mark.parametrize('exported', structures(DYNAMIC), indirect=True)
@torch.no_grad()
def test_export_is_dynamic(exported):
    model, program = exported
    for batch, height, width in SIZES:
        x = torch.randn(batch, 3, height, width)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


# the longest of all tests, up to minutes
@pytest.mark.parametrize('exported', structures(DYNAMIC, FIRST), indirect=True)
@torch.no_grad()
def test_onnx(exported, tmp_path):
    model, program = exported
    images = ((torch.randn(batch, 3, height, width),) for batch, height, width in SIZES[1:])
    check_onnx(program, model, images, tmp_path, atol=1e-4)


@torch.no_grad()
def check_static(model, folder):
    """One image of a fixed size, as torch records it by default: a batch of one broadcasts; in a folder, ONNX too."""
    x = torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)
    if folder:
        check_onnx(program, model, [(x,)], folder, atol=1e-4)
    return model, program, x


@pytest.mark.parametrize('host, mixer', [
    pytest.param(*pair, marks=[] if pair in STATIC else pytest.mark.slow) for pair in STRUCTURES])
def test_static_export(host, mixer, tmp_path):
    check_static(hybrid(host, mixer), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize('name, to_onnx', in_turn(smallest_models(), [True, False]))  # half of them, it takes longest
@torch.no_grad()
def test_static_export_of_models(name, to_onnx, tmp_path):
    model, program, x = check_static(create(name), to_onnx and tmp_path)
    torch.testing.assert_close(program.run_decompositions().module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shift', [False, True])
@torch.no_grad()
def test_windows_of_one_image_of_any_size(shift):
    """A batch that is fixed at one leaves open whether the bias broadcasts over windows."""
    mixer = WindowAttention(8, 2, window=4, shift=shift).eval()
    sizes = {1: torch.export.Dim('height', min=2, max=512), 2: torch.export.Dim('width', min=2, max=512)}
    program = torch.export.export(mixer, (torch.randn(1, 9, 10, 8),), dynamic_shapes=(sizes,))
    for size in ((3, 4), (8, 12), (17, 5)):
        x = torch.randn(1, *size, 8)
        torch.testing.assert_close(program.module()(x), mixer(x), rtol=1e-5, atol=1e-6)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend='aot_eager')


@pytest.mark.parametrize('case', structures(STRUCTURES[::4], SMALLEST[::2]))
@torch.no_grad()
def test_compiles_without_graph_breaks(case):
    model, x = create_structure(case), torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(compiled(model)(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('case', structures(STRUCTURES[1::4], SMALLEST[1::2]))
def test_training_compiles_without_graph_breaks(case):
    model = create_structure(case).train()
    y = compiled(model)(torch.randn(2, 3, 96, 64))
    y = torch.cat(y) if isinstance(y, tuple) else y
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
