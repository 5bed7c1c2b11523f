"""torch.compile without graph breaks, torch.export with dynamic sizes, ONNX against onnxruntime."""
import pytest
import timm
import torch

from tests.zoo_models import every_structure

DEPTHS = (1, 1, 2, 1)  # every kind of block once: a graph's size is the depth's, and so is the time
SIZES = [(1, 64, 64), (3, 97, 131), (2, 65, 200)]


def export(model):
    """Export with dynamic batch, height and width (from 64 pixels: torch takes a side of one token for a constant)."""
    batch, height, width = (torch.export.Dim(n, min=low, max=high) for n, low, high in (
        ('batch', 1, 64), ('height', 64, 2048), ('width', 64, 2048)))
    return torch.export.export(
        model, (torch.randn(2, 3, 96, 128),), dynamic_shapes=({0: batch, 2: height, 3: width},))


def shallow(name):
    depth = dict(depth=sum(DEPTHS)) if '_deit_' in name else dict(depths=DEPTHS)
    if name.startswith('overlock_'):
        depth['focus_depths'] = (1, 1)
    return timm.create_model(name, num_classes=10, **depth).eval()


@pytest.fixture(scope='module', params=every_structure())
def exported(request):
    torch.manual_seed(0)
    model = shallow(request.param)
    return model, export(model)


@torch.no_grad()
def test_export_is_dynamic(exported):
    model, program = exported
    for batch, height, width in SIZES:
        x = torch.randn(batch, 3, height, width)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_onnx(exported, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    model, program = exported
    path = tmp_path / 'model.onnx'
    torch.onnx.export(program, dynamo=True, verbose=False).save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for batch, height, width in SIZES[1:]:
        x = torch.randn(batch, 3, height, width)
        y, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', every_structure())
def test_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    model = shallow(name)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    x = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    model.train()
    y = compiled(x)
    y = torch.cat(y) if isinstance(y, tuple) else y
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
