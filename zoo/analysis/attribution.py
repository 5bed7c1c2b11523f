"""Attribution maps: what a token of a feature map depends on, by three quantities, for any model of the zoo or timm.

The **effective receptive field** of a token of a feature map, in pixels of the image: with the Jacobian ``J_p`` of the
token's features by the channels of pixel p, ``E(p) = rms over images of ||J_p||_F``. Luo et al., arXiv 1701.04128, take
the gradient of one output unit; a token has many, and the Frobenius norm takes all of them (the gradient of their sum
would vanish behind a LayerNorm). Its square is estimated without bias, by ``||J_p||_F^2 = mean over random signs s of
||s^T J_p||^2``.

The **influence** of the tokens of a map on one token through one mixer, exact: ``I(j) = ||d mixer(x)_i / d x_j||_F``.
Every mixer has it, with or without attention, and it includes all paths: values, queries, keys, gates, convolutions.

The **attention weights** of one query, head by head: ``W(j) = d out_i / d v_j``, where the attention ``out`` is a
linear function of its values v. That is ``softmax(q_i . k_j / sqrt(d))`` of softmax attention, ``phi(q_i) . phi(k_j) /
sum_m phi(q_i) . phi(k_m)`` of linear attention, the product of both softmaxes of agent attention, and zero where routed
attention does not look. No mixer is written out again for it: the op is differentiated.
"""
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_kernels

from ..blocks.layout import prefix_tokens
from ..utils.errors import ZooError
from . import token_matrix

MIXERS = ('mixer', 'attn', 'token_mixer', 'attention')  # what blocks of the zoo and of timm call theirs
OPS = 'routed_attention', *token_matrix.OPS  # of zoo_kernels, linear in their values
Progress = Callable[[Sequence[Tensor]], Iterable[Tensor]]


class Call(NamedTuple):
    """A function and copies of the arguments that it was called with."""

    function: Callable
    args: tuple
    kwargs: dict[str, Any]


class TokenLayout(NamedTuple):
    """Height and width of a map in tokens, and the number of prefix tokens in sequences."""

    height: int
    width: int
    num_prefix_tokens: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.height, self.width

    def view(self, x: Tensor | tuple) -> Tensor | None:
        """View the tokens, in any layout, as ``[B, h, w, C]``; None for other shapes. Of a tuple, take the first."""
        x = x[0] if isinstance(x, tuple) and x else x
        if not isinstance(x, Tensor):
            return None
        if x.ndim == 4 and tuple(x.shape[1:3]) == self.grid:
            return x
        if x.ndim == 4 and tuple(x.shape[2:]) == self.grid:
            return x.permute(0, 2, 3, 1)
        if x.ndim == 3 and x.shape[1] == self.num_prefix_tokens + self.height * self.width:
            return x[:, self.num_prefix_tokens:].unflatten(1, self.grid)
        return None


# --- effective receptive field

def receptive_field(
        model: nn.Module, images: Tensor, stage: int = -1, query: tuple[int, int] | None = None, draws: int = 4,
        seed: int = 0, progress: Progress = iter) -> Tensor:
    """The effective receptive field of a token.

    >>> model = timm.create_model('flatten_pvt_v2_b0').eval()
    >>> receptive_field(model, torch.randn(1, 3, 64, 64), stage=0, draws=1).shape
    torch.Size([64, 64])

    Args:
        model: A model in eval mode that has timm's ``forward_intermediates``.
        images: ``[B, C, H, W]``.
        stage: Index of the feature map among those of ``features_only``.
        query: Row and column of the token; by default the middle.
        draws: Number of random sign vectors per image.
        seed: Seed of the signs.
        progress: Wraps the iterations, as tqdm does.

    Returns:
        ``[H, W]`` in pixels, not negative, in float32 or the images' dtype.

    Raises:
        ZooError: The model has no such map, or the map no such token.
    """
    generator = torch.Generator().manual_seed(seed)
    total = images.new_zeros(images.shape[2:])
    for image in progress(images.split(1) * draws):
        image = image.detach().clone().requires_grad_()
        with torch.enable_grad():
            features = feature_map(model, image, stage)
            y, x = token(features.shape[2:], query)
            features = features[0, :, y, x]
            signs = torch.randint(0, 2, features.shape, generator=generator).to(features) * 2 - 1
            gradient, = torch.autograd.grad(features @ signs, image)
        total += gradient[0].square().sum(0)
    return (total / (draws * len(images))).sqrt()


def extent(field: Tensor, center: tuple[float, float], shares: Sequence[float]) -> list[float]:
    """Side of the smallest square around a point that holds a share of the sum of a map, for each share.

    If the square extends beyond the map, its whole side counts.

    Args:
        field: ``[H, W]``, not negative and not all zero.
        center: Row and column of the point; the middle of the first pixel is 0.
        shares: Shares from 0 to 1.
    """
    height, width = field.shape
    rows = (torch.arange(height, dtype=torch.float64) - center[0]).abs()
    columns = (torch.arange(width, dtype=torch.float64) - center[1]).abs()
    distance = torch.maximum(rows[:, None], columns[None]).flatten()
    order = distance.argsort()
    held = field.detach().cpu().double().flatten()[order].cumsum(0)
    first = torch.searchsorted(held, torch.tensor(shares, dtype=torch.float64) * held[-1] * (1 - 1e-12))
    return [2 * distance[order[i]].item() + 1 for i in first.clamp(max=len(order) - 1).tolist()]


def middle(query: tuple[int, int], grid: Sequence[int], size: Sequence[int]) -> tuple[float, float]:
    """Row and column in pixels of the middle of a token, given height and width of the map and of the image."""
    return tuple((q + 0.5) * pixels / tokens - 0.5 for q, tokens, pixels in zip(query, grid, size))


# --- influence and attention weights

def influence(
        model: nn.Module, images: Tensor, stage: int = -1, block: int = -1, query: tuple[int, int] | None = None,
        progress: Progress = iter) -> Tensor:
    """The influence of every token on one, through the mixer of a block, or through the whole block if it has no mixer.

    >>> model = timm.create_model('flatten_pvt_v2_b0').eval()
    >>> influence(model, torch.randn(1, 3, 64, 64), stage=3, block=0).shape
    torch.Size([2, 2])

    Args:
        model: As in :func:`receptive_field`.
        images: ``[B, C, H, W]``.
        stage: As in :func:`receptive_field`.
        block: Index of the block in the stage.
        query: Row and column of the token; by default the middle.
        progress: Wraps the channels of the token, each of which takes a backward pass, as tqdm does.

    Returns:
        ``[h, w]`` in tokens, the root mean square over the images.

    Raises:
        ZooError: There is no such stage, block or token, or the block does not return as many tokens as it gets.
    """
    call, tokens = mixer_call(model, images, stage, block)
    y, x = token(tokens.grid, query)
    given = call.args[0].requires_grad_()
    with torch.enable_grad():
        output = tokens.view(call.function(given, *call.args[1:], **call.kwargs))[:, y, x]
        total = output.new_zeros(len(images), *tokens.grid)
        for channel in progress(output.unbind(1)):
            gradient, = torch.autograd.grad(channel.sum(), given, retain_graph=True)
            total += tokens.view(gradient).square().sum(-1)
    return total.mean(0).sqrt()


def attention_weights(
        model: nn.Module, images: Tensor, stage: int = -1, block: int = -1,
        query: tuple[int, int] | None = None) -> Tensor:
    """The weights that the attention of a block gives to its keys, for one query; arguments as in :func:`influence`.

    >>> model = timm.create_model('agent_deit_tiny').eval()
    >>> attention_weights(model, torch.randn(1, 3, 224, 224), stage=0, block=0).shape
    torch.Size([3, 14, 14])

    Returns:
        ``[heads, h, w]``, means over the images. It is smaller than the map if keys are reduced. Weights of class
        tokens and padding are left out.

    Raises:
        ZooError: As :func:`influence`, or no attention of the block covers the whole map.
    """
    call, tokens = mixer_call(model, images, stage, block)
    y, x = token(tokens.grid, query)
    with _listening(call.function) as heard:
        call.function(*call.args, **call.kwargs)
    count, first, found = tokens.height * tokens.width, tokens.num_prefix_tokens, []
    for op in heard:
        if op.function.__name__ in token_matrix.RECURRENT:
            matrix = token_matrix.of_call(model, call.function, op, count)
            found.append(matrix[:, first + y * tokens.width + x, first:].unflatten(1, tokens.grid))
        elif (weights := _weights(op, y, x, tokens, len(images))) is not None:
            found.append(weights)
    if not found:
        owner = type(getattr(call.function, '__self__', call.function)).__name__
        raise ZooError(
            f'{owner} in block {block} of stage {stage} has no attention over the whole map'
            f'{f" ({len(heard)} over parts of it)" if heard else ""}; influence() takes every mixer (`what` influence)')
    finest = max(weights.shape[1:] for weights in found)
    return torch.cat([weights for weights in found if weights.shape[1:] == finest])


def token_matrices(model: nn.Module, images: Tensor, stage: int = -1, block: int = -1) -> list[Tensor]:
    """The matrices that linear attention and scans of a block stand for, see :mod:`.token_matrix`.

    Args:
        model: As in :func:`receptive_field`.
        images: ``[B, C, H, W]``.
        stage: As in :func:`receptive_field`.
        block: Index of the block in the stage.

    Returns:
        ``[maps, tokens, tokens]`` for each call of an op, class tokens first; none for other mixers.
    """
    call, tokens = mixer_call(model, images, stage, block)
    with _listening(call.function) as heard:
        call.function(*call.args, **call.kwargs)
    return [token_matrix.of_call(model, call.function, op, tokens.height * tokens.width) for op in heard
            if op.function.__name__ in token_matrix.OPS]


def _weights(op: Call, y: int, x: int, tokens: TokenLayout, batch: int) -> Tensor | None:
    """A row of the attention matrix of a call, ``[heads, h, w]``; None if that does not cover the whole map."""
    v = op.args[2].detach().requires_grad_()
    with torch.enable_grad():
        out = op.function(*op.args[:2], v, *op.args[3:], **op.kwargs)
        if op.function is F.scaled_dot_product_attention and out.ndim == 4:
            out = out.transpose(1, 2)
        if len(out) != batch or out.ndim not in (4, 5):
            return None  # windows
        if out.ndim == 5:  # a map, perhaps with a rim to be cut off
            row = out[:, y, x]
        elif out.shape[1] == tokens.num_prefix_tokens + tokens.height * tokens.width:
            row = out[:, tokens.num_prefix_tokens + y * tokens.width + x]
        else:
            return None
        gradient, = torch.autograd.grad(row[..., 0].sum(), v)  # any channel: a head's weights are the same for all
    weights = gradient[..., 0]
    if weights.ndim == 4:
        return weights.movedim(3, 1)[:, :, :tokens.height, :tokens.width].mean(0)
    if op.function is not F.scaled_dot_product_attention:
        weights = weights.transpose(1, 2)
    first, keys = _key_grid(weights.shape[2], tokens)
    return weights[:, :, first:].unflatten(2, keys).mean(0) if keys else None


def _key_grid(count: int, tokens: TokenLayout) -> tuple[int, tuple[int, int] | None]:
    """Number of prefix keys, and the grid of the others: that of the queries, or reduced by an integer."""
    for ratio in range(1, max(tokens.grid) + 1):
        keys = tuple(-(-side // ratio) for side in tokens.grid)
        first = tokens.num_prefix_tokens if ratio == 1 else 0
        if keys[0] * keys[1] + first == count:
            return first, keys
    return 0, None


@contextlib.contextmanager
def _listening(function: Callable) -> Iterator[list[Call]]:
    """Record the attention ops that a mixer calls, but not those that they call in turn."""
    heard: list[Call] = []
    busy = []
    places = [(F, 'scaled_dot_product_attention')]
    owner = getattr(function, '__self__', None)
    for kind in {type(module) for module in owner.modules()} if isinstance(owner, nn.Module) else ():
        for parent in kind.__mro__:
            module = sys.modules[parent.__module__]
            places += [(module, name) for name in OPS if vars(module).get(name) is getattr(zoo_kernels, name)]
    places = list(dict.fromkeys(places))
    before = [getattr(*place) for place in places]

    def listener(op: Callable) -> Callable:
        def listen(*args: Any, **kwargs: Any) -> Tensor:
            if not busy:
                heard.append(Call(op, tuple(map(_copy, args)), kwargs))
            busy.append(op)
            try:
                return op(*args, **kwargs)
            finally:
                busy.pop()
        return listen

    try:
        for place, op in zip(places, before):
            setattr(*place, listener(op))
        with torch.no_grad():
            yield heard
    finally:
        for place, op in zip(places, before):
            setattr(*place, op)


# --- places of a model

def feature_map(model: nn.Module, images: Tensor, stage: int) -> Tensor:
    """A feature map ``[B, C, h, w]`` as ``features_only`` gives it.

    Raises:
        ZooError: timm gets no maps from the model, or there is no such one.
    """
    if not hasattr(model, 'forward_intermediates'):
        raise ZooError(f'{type(model).__name__} has no forward_intermediates: timm gives no maps of it')
    index = _number(stage, len(model.feature_info), 'stage')
    return model.forward_intermediates(images, indices=[index], stop_early=True, intermediates_only=True)[0]


def mixer_call(model: nn.Module, images: Tensor, stage: int, block: int) -> tuple[Call, TokenLayout]:
    """The call of a block's mixer for some images, and the layout of its tokens.

    Raises:
        ZooError: see :func:`influence`.
    """
    index, _ = find_stage(model, stage)
    owner, _ = find_mixer(model, stage, block)
    function, heard, own = owner.forward, [], 'forward' in vars(owner)

    def listen(*args: Any, **kwargs: Any) -> Any:
        call = Call(function, tuple(map(_copy, args)), kwargs)
        output = function(*args, **kwargs)
        heard.append((call, output))
        return output

    owner.forward = listen
    try:
        with torch.no_grad():
            grid = feature_map(model, images, index).shape[2:]
    finally:
        if own:
            owner.forward = function
        else:
            del owner.forward
    tokens = TokenLayout(*grid, prefix_tokens(model))
    for call, output in heard[-1:]:
        if isinstance(call.args[0], Tensor) and all(tokens.view(x) is not None for x in (call.args[0], output)):
            return call, tokens
    raise ZooError(f'{type(owner).__name__} of block {block} in stage {stage} does not bring a map of {grid[0]} x '
                   f'{grid[1]} tokens to another; choose another `block`')


def find_stage(model: nn.Module, stage: int) -> tuple[int, nn.Module]:
    """The index of a stage, from 0, and its module.

    Raises:
        ZooError: The model has no ``feature_info``, or no such stage.
    """
    if not hasattr(model, 'feature_info'):
        raise ZooError(f'{type(model).__name__} has no feature_info: timm knows no stages of it')
    index = _number(stage, len(model.feature_info), 'stage')
    return index, model.get_submodule(model.feature_info[index]['module'])


def find_mixer(model: nn.Module, stage: int, block: int) -> tuple[nn.Module, bool]:
    """The token mixer of a block and True, or, if it has none, the block itself and False.

    Raises:
        ZooError: There is no such stage or block.
    """
    _, module = find_stage(model, stage)
    blocks = _blocks(module)
    chosen = blocks[_number(block, len(blocks), 'block')]
    mixer = next((part for part in (getattr(chosen, name, None) for name in MIXERS) if isinstance(part, nn.Module)),
                 None)
    return (chosen, False) if mixer is None else (mixer, True)


def token(grid: Sequence[int], query: tuple[int, int] | None) -> tuple[int, int]:
    """Row and column of a token of a map, by default of the middle one.

    Raises:
        ZooError: It lies outside the map.
    """
    y, x = (grid[0] // 2, grid[1] // 2) if query is None else query
    if not (0 <= y < grid[0] and 0 <= x < grid[1]):
        raise ZooError(f'`query` {y} {x} lies outside of the map of {grid[0]} x {grid[1]} tokens; rows and columns '
                       f'count from 0')
    return y, x


def _blocks(stage: nn.Module) -> list[nn.Module]:
    blocks = [child for name, child in getattr(stage, 'blocks', stage).named_children() if name.isdigit()]
    return blocks or [stage]


def _number(index: int, count: int, what: str) -> int:
    if not -count <= index < count:
        raise ZooError(f'`{what}` {index}: the model has {count}, from 0 to {count - 1}, or from -1 backwards')
    return index % count


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
