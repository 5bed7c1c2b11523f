"""torch.func on our models: vmap, per-sample gradients, ensembles and forward-mode derivatives, in float64."""
import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.modules.cases import TRAINING_ONLY, alive, every_case, exact, images
from tests.zoo_models import batch_dependent

EXACT = dict(rtol=1e-8, atol=1e-11)


@pytest.fixture(scope='module', params=every_case(turn=1))
def model(request):
    """Each model once."""
    return exact(request.param)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name that the output depends on in eval mode, apart from their gradients' history."""
    return {name: p.detach() for name, p in model.named_parameters() if not name.startswith(TRAINING_ONLY)}


def loss(model: nn.Module, parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of one image ``[3, H, W]``."""
    return nn.functional.cross_entropy(functional_call(model, parameters, (image[None],))[0], label)


@torch.no_grad()
def test_vmap_over_images_is_a_loop(model):
    x = images(3)
    alone = torch.cat([model(image[None]) for image in x]) if batch_dependent(model) else model(x)
    torch.testing.assert_close(vmap(lambda image: model(image[None])[0])(x), alone, **EXACT)
    pairs = x.repeat(2, 1, 1, 1).unflatten(0, (3, 2))
    torch.testing.assert_close(vmap(model)(pairs), torch.stack([model(pair) for pair in pairs]), **EXACT)


def test_jvp_is_the_transpose_of_vjp(model):
    x, direction = images(2), images(2)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no forward-mode derivative
        _, forward = jvp(model, (x,), (direction,))
    logits, backward = vjp(model, x)
    weight = torch.randn_like(logits)
    assert forward.any()
    torch.testing.assert_close((weight * forward).sum(), (backward(weight)[0] * direction).sum(), **EXACT)


@pytest.mark.slow
def test_per_sample_gradients_are_a_loop(model):
    x, labels = images(2), torch.tensor([3, 7])
    parameters = parameters_of(model)
    gradients = vmap(grad(lambda p, *sample: loss(model, p, *sample)), in_dims=(None, 0, 0))(parameters, x, labels)
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i:i + 1]), labels[i:i + 1]).backward()
        for name, g in gradients.items():
            expected = model.get_parameter(name).grad
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                g[i], expected, rtol=1e-8, atol=1e-9 * scale + 1e-14, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.slow
@torch.no_grad()
def test_an_ensemble_is_a_loop(model):
    x = images(2)
    models = [model, alive(copy.deepcopy(model))]
    expected = torch.stack([member(x) for member in models])
    state = stack_module_state(models)
    skeleton = copy.deepcopy(model).to('meta')
    logits = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*state)
    torch.testing.assert_close(logits, expected, **EXACT)
    assert not torch.allclose(*expected, rtol=1e-3)
