"""What converters lack: its name in one line, and our rules for operators that coremltools does not know."""
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.ops import ps_roi_align

from zoo.export import export as program
from zoo.export.formats import FORMATS, Facts, Options, coreml
from zoo.utils.errors import ZooError

pytestmark = pytest.mark.slow
FACTS = Facts('tiny', (3, 8, 8), (0.5,) * 3, (0.5,) * 3, 'bicubic', 0.9, 'center', None)
IMAGES = torch.rand(1, 3, 8, 8)


class Applied(nn.Module):
    """A function of images as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


def bessel(images):
    return torch.special.bessel_j0(images).mean((2, 3))


def regions(images):
    box = images.new_tensor([[0., 0., 0., 4., 4.]])
    return ps_roi_align(torch.cat([images, images[:, :1]], 1), box, 2).flatten(1)


def installed(kind):
    for package in FORMATS[kind].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize('kind, function, names', [
    ('onnx', bessel, 'prims.bessel_j0'), ('openvino', bessel, 'aten.special_bessel_j0.default'),
    ('coreml', bessel, 'special_bessel_j0'), ('executorch', bessel, 'aten::special_bessel_j0.out'),
    ('executorch', regions, 'torchvision::ps_roi_align'),
])
def test_a_converter_lacks_an_operator(kind, function, names, tmp_path):
    installed(kind)
    path = tmp_path / f'tiny{FORMATS[kind].suffix}'
    with pytest.raises(ZooError) as caught:
        program._write(FORMATS[kind], Applied(function), IMAGES, Options(), FACTS, path, debug=False)
    assert str(caught.value).startswith(f'tiny: {FORMATS[kind].title} has no {names}; ')


def test_a_runtime_lacks_an_operator(tmp_path):
    """ONNX defines it, and onnxruntime has no kernel for this dtype."""
    installed('onnx')
    model, path = Applied(lambda images: images.double().erf().float().mean((2, 3))), tmp_path / 'tiny.onnx'
    program._write(FORMATS['onnx'], model, IMAGES, Options(), FACTS, path, debug=False)
    with pytest.raises(ZooError, match=r'^ONNX does not run the file \(Erf\); nothing was written$'):
        program._compare(FORMATS['onnx'], path, IMAGES, model(IMAGES), Options())


# --- rules for coremltools, whose programs do not run here: what they compute of constants is computed in converting

class Constant(nn.Module):
    """A function of constants, beside an output that depends on images."""

    def __init__(self, function, values):
        super().__init__()
        self.function = function
        for number, value in enumerate(values):
            self.register_buffer(f'value{number}', value)

    def forward(self, images):
        return images.mean(), self.function(*self.buffers())


def converted(module, **settings):
    """The main function of coremltools' program."""
    coremltools = pytest.importorskip('coremltools')
    coreml._add_operators()
    exported = torch.export.export(module.eval(), (IMAGES,)).run_decompositions({})
    return coremltools.convert(
        exported, convert_to='milinternal', minimum_deployment_target=coremltools.target.iOS18,
        **{key: getattr(coremltools.precision, value) for key, value in settings.items()}).functions['main']


@pytest.mark.parametrize('function, values', [
    (torch.isfinite, [torch.tensor([0., -3.4e38, torch.inf, -torch.inf, torch.nan])]),
    (torch.addcmul, torch.arange(6.).view(3, 2).unbind()),
    (partial(torch.addcmul, value=-2), torch.arange(6.).view(3, 2).unbind()),
    (torch.ops.aten.alias, [torch.tensor([1., 2.])]),
])
def test_rules_of_core_ml(function, values):
    found = converted(Constant(function, values)).outputs[1].val
    assert found.tolist() == function(*values).tolist()


def test_what_is_infinite_in_float16_is_not_finite():
    main = converted(Applied(lambda images: images.exp().isfinite()), compute_precision='FLOAT16')
    comparison, = main.find_ops(op_type='less')
    assert comparison.x.is_tensor_or_scalar_of(dtype='fp16') and comparison.y.val == float('inf')
