"""Gated attention behind a damped moving average of the tokens (Mega)."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_kernels import gated_linear_attention

from ...utils.errors import ZooError
from ...utils.types import FactoryKwargs
from ..layout import ceil_div, exporting
from ..linear import linear
from .block_context import BlockContext
from .registry import register_mixer
from .token_mixer import TokenMixer

ATTENTIONS = 'softmax', 'laplace', 'relu2'
BASE = 10000  # of the angles of rotary positions


class MovingAverage(nn.Module):
    """Sum of exponential moving averages of every channel, over the tokens before and after, then SiLU.

    With ``p = sigmoid(delta)`` and ``q = 1 - p sigmoid(alpha)``, the weight of the token t places away is
    ``sum_n p_n beta_n q_n ** t gamma_n / sqrt(ndim)``, with parameters of its own for each side; both include the
    token itself. The output is ``silu(sum + omega x)``. In float32 for 16-bit inputs, by Fourier transforms;
    in exported graphs by recurrences.

    Args:
        dim: Number of channels.
        ndim: Number of averages per channel.
        bidirectional: Whether to include the tokens after.
        truncation: Largest number of tokens per side; None for all.
    """

    def __init__(
            self, dim: int, ndim: int = 16, bidirectional: bool = True, truncation: int | None = None, device=None,
            dtype=None):
        super().__init__()
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.dim, self.ndim, self.bidirectional, self.truncation = dim, ndim, bidirectional, truncation
        sides = 2 * dim if bidirectional else dim
        self.delta = nn.Parameter(torch.empty(sides, ndim, 1, **dd))
        self.alpha = nn.Parameter(torch.empty(sides, ndim, 1, **dd))
        self.beta = nn.Parameter(torch.empty(sides, ndim, 1, **dd))
        self.gamma = nn.Parameter(torch.empty(sides, ndim, **dd))
        self.omega = nn.Parameter(torch.empty(dim, **dd))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as the reference does: averages with alternating signs."""
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.alpha, std=0.2)
        nn.init.normal_(self.beta, std=0.02)
        self.beta[:, ::2] += 1
        self.beta[:, 1::2] -= 1
        nn.init.normal_(self.gamma)
        nn.init.normal_(self.omega)

    def extra_repr(self) -> str:
        return f'{self.dim}, ndim={self.ndim}, bidirectional={self.bidirectional}, truncation={self.truncation}'

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, C]``."""
        dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        y = x.to(dtype)
        p, decay = self._coefficients(dtype)
        read, written = self.gamma.to(dtype) * self.ndim ** -0.5, p * self.beta[..., 0].to(dtype)
        if self.truncation is not None:
            mixed = self._convolve(y, self._kernel(self.truncation, decay, read * written))
        elif exporting():
            mixed = self._recur(y, decay, read, written)
        else:
            mixed = self._transform(y, self._kernel(x.shape[1], decay, read * written))
        return F.silu(mixed + y * self.omega.to(dtype)).to(x.dtype)

    def _coefficients(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """p, and the logarithm of q, ``[sides, ndim]``."""
        p = self.delta[..., 0].to(dtype).sigmoid()
        return p, torch.log1p(-p * self.alpha[..., 0].to(dtype).sigmoid())

    def _kernel(self, length: int, decay: Tensor, weight: Tensor) -> Tensor:
        """Weights of the tokens 0, 1, ... places away, ``[sides, length]``."""
        places = torch.arange(length, device=decay.device, dtype=decay.dtype)
        return torch.einsum('dnl,dn->dl', (decay[..., None] * places).exp(), weight)

    def _transform(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolution by Fourier transforms of twice the length."""
        tokens = x.shape[1]
        whole = F.pad(kernel[:self.dim], (0, tokens))
        if self.bidirectional:
            after = kernel[self.dim:]
            whole = whole + F.pad(after[:, :1], (0, 2 * tokens - 1)) + F.pad(after[:, 1:].flip(1), (tokens + 1, 0))
        spectrum = torch.fft.rfft(x, 2 * tokens, dim=1) * torch.fft.rfft(whole, dim=1).T
        return torch.fft.irfft(spectrum, 2 * tokens, dim=1)[:, :tokens]

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolution with a truncated kernel."""
        length = kernel.shape[1]
        whole = F.pad(kernel[:self.dim].flip(1), (0, length - 1))
        if self.bidirectional:
            whole = whole + F.pad(kernel[self.dim:], (length - 1, 0))
        return F.conv1d(x.transpose(1, 2), whole[:, None], padding=length - 1, groups=self.dim).transpose(1, 2)

    def _recur(self, x: Tensor, decay: Tensor, read: Tensor, written: Tensor) -> Tensor:
        """The same by recurrences, one state of ``ndim`` per channel; what a closed gate adds is taken off again."""
        x = x.unsqueeze(3)  # a head per channel
        shape = *x.shape[:3], self.ndim
        q, k, gate = (t[:self.dim].expand(shape) for t in (read, written, decay))
        closed = torch.full_like(gate, -math.inf)
        itself = (read * written).sum(1)
        mixed = gated_linear_attention(q, k, x, gate, closed, scale=2.)[..., 0] - itself[:self.dim] * x[..., 0]
        if self.bidirectional:
            q, k, gate = (t[self.dim:].expand(shape) for t in (read, written, decay))
            after = gated_linear_attention(q, k, x, closed, gate, scale=2.)[..., 0]
            mixed = mixed + after - itself[self.dim:] * x[..., 0]
        return mixed


class RotaryBias(nn.Module):
    """Relative position bias of a sequence as a product of two rotated vectors; any length.

    Args:
        dim: Number of channels of the vectors, even.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, dim, device=device, dtype=dtype))
        self.beta = nn.Parameter(torch.empty(1, dim, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.alpha, std=0.02)
        nn.init.normal_(self.beta, std=0.02)

    def forward(self, tokens: int) -> Tensor:
        """Return the bias ``[tokens, tokens]``."""
        half, device = self.alpha.shape[1] // 2, self.alpha.device
        rates = (torch.arange(half, device=device, dtype=torch.float32) * -(math.log(BASE) / half)).exp()
        angles = torch.arange(tokens, device=device, dtype=torch.float32)[:, None] * rates
        cos, sin = angles.cos().to(self.alpha.dtype), angles.sin().to(self.alpha.dtype)

        def rotate(x: Tensor) -> Tensor:
            first, second = x.chunk(2, 1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], 1)

        return rotate(self.alpha) @ rotate(self.beta).T


class TableBias(nn.Module):
    """Relative position bias of a sequence from a table of offsets; more distant tokens share its outermost entries.

    Args:
        max_positions: Number of tokens up to which all offsets have an entry.
    """

    def __init__(self, max_positions: int, device=None, dtype=None):
        super().__init__()
        self.max_positions = max_positions
        self.table = nn.Parameter(torch.empty(2 * max_positions - 1, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.table, std=0.02)

    def forward(self, tokens: int) -> Tensor:
        """Return the bias ``[tokens, tokens]``."""
        place = torch.arange(tokens, device=self.table.device)
        farthest = self.max_positions - 1
        return self.table[(place - place[:, None]).clamp(-farthest, farthest) + farthest]


@register_mixer('mega')
class MovingAverageGatedAttention(TokenMixer):
    """Attention of one head on a bidirectional damped moving average of the tokens, with gates; its own residual gate.

    ``m = average(x)`` gives a base z of queries and keys (scaled and shifted per channel), two gates u and r and h_x;
    values ``v = silu(W x)`` are those of the tokens themselves. With ``a = attention(q, k) v`` the block's input x' is
    replaced by ``x' + u (silu(h_x + W (r a)) - x')``. Attention is softmax, or elementwise with the logits divided by
    the number of tokens: laplace, ``(1 + erf((s - sqrt(1/2)) / sqrt(2 / (4 pi)))) / 2``, or relu2, ``relu(s) ** 2``;
    logits have a relative position bias over the sequence. With chunks, tokens attend within theirs, so that the work
    is linear in the number of tokens.

    Args:
        dim: Number of channels C.
        zdim: Number of channels of queries and keys, even for rotary positions; C / 4 by default.
        hdim: Number of channels of values; 2 C by default.
        ndim: Number of averages per channel.
        attention: 'softmax', 'laplace' or 'relu2'.
        max_positions: Number of tokens of the table of position biases; None for rotary positions, without a table.
        chunk_size: Number of tokens that attend to each other; None for all.
        truncation: Largest number of tokens per side in the averages; None for all.

    Raises:
        ZooError: An unknown ``attention``, a number below 1, or an odd ``zdim`` with rotary positions.

    Source: Ma et al., Mega: Moving Average Equipped Gated Attention, arXiv 2209.10655; facebookresearch/mega @ aeaa4b4,
    fairseq/modules/moving_average_gated_attention.py.
    """

    needs_block_input = True

    def __init__(
            self, dim: int, zdim: int | None = None, hdim: int | None = None, ndim: int = 16,
            attention: str = 'laplace', max_positions: int | None = None, chunk_size: int | None = None,
            truncation: int | None = None, device=None, dtype=None):
        super().__init__()
        if attention not in ATTENTIONS:
            raise ZooError(f'`attention` {attention!r}: use one of {", ".join(ATTENTIONS)}')
        given = dict(zdim=zdim, hdim=hdim, max_positions=max_positions, chunk_size=chunk_size, truncation=truncation)
        wrong = [name for name, count in given.items() if count is not None and count < 1]
        if wrong:
            raise ZooError(f'`{wrong[0]}` {given[wrong[0]]}: must be at least 1')
        if zdim is not None and zdim % 2 and max_positions is None:
            raise ZooError(f'`zdim` {zdim}: rotary positions need an even number')
        dd = FactoryKwargs(device=device, dtype=dtype)
        self.dim, self.zdim, self.hdim = dim, zdim or max(2, dim // 8 * 2), hdim or 2 * dim
        self.attention = attention
        self.chunk_size = chunk_size
        self.average = MovingAverage(dim, ndim, truncation=truncation, **dd)
        self.value = nn.Linear(dim, self.hdim, **dd)
        self.base = nn.Linear(dim, 2 * dim + self.zdim + self.hdim, **dd)
        self.proj = nn.Linear(self.hdim, dim, **dd)
        self.gamma = nn.Parameter(torch.empty(2, self.zdim, **dd))
        self.beta = nn.Parameter(torch.zeros(2, self.zdim, **dd))
        longest = max_positions and min(max_positions, chunk_size or max_positions)
        self.bias = TableBias(longest, **dd) if longest else RotaryBias(self.zdim, **dd)
        self.init_weights()

    @classmethod
    def from_context(
            cls, ctx: BlockContext, attention: str = 'laplace', max_positions: int | None = None,
            chunk_size: int | None = None, truncation: int | None = None, device=None,
            dtype=None) -> 'MovingAverageGatedAttention':
        """Build the mixer for a block of a host; arguments as for the mixer."""
        return cls(
            ctx.dim, attention=attention, max_positions=max_positions, chunk_size=chunk_size, truncation=truncation,
            device=device, dtype=dtype)

    def extra_repr(self) -> str:
        return f'attention={self.attention}, zdim={self.zdim}, hdim={self.hdim}, chunk_size={self.chunk_size}'

    def init_weights(self) -> None:
        """Initialise scales of queries and keys as the reference does."""
        nn.init.normal_(self.gamma, std=0.02)

    def forward_tokens(
            self, x: Tensor, grid: tuple[int, int], num_prefix_tokens: int = 0,
            block_input: Tensor | None = None) -> Tensor:
        given = x if block_input is None else block_input
        v = F.silu(linear(self.value, x))
        u, zr, hx = linear(self.base, self.average(x)).split([self.dim, self.zdim + self.hdim, self.dim], -1)
        z, r = F.silu(zr).split([self.zdim, self.hdim], -1)
        q, k = (z * self.gamma[i] + self.beta[i] for i in (0, 1))
        h = F.silu(hx + linear(self.proj, self._attend(q, k, v) * r))
        return u.sigmoid() * (h - given.to(h.dtype))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of ``[B, N, C]``, within chunks."""
        tokens, size = q.shape[1], self.chunk_size
        if size is None:
            bias = self.bias(tokens).to(q.dtype)
            if self.attention == 'softmax':
                return F.scaled_dot_product_attention(*(x.unsqueeze(1) for x in (q, k, v)), attn_mask=bias).squeeze(1)
            return self._weights(q @ k.transpose(1, 2) / tokens + bias) @ v
        count = ceil_div(tokens, size)
        q, k, v = (F.pad(x, (0, 0, 0, count * size - tokens)).unflatten(1, (count, size)) for x in (q, k, v))
        there = (torch.arange(size, device=q.device) < tokens - torch.arange(
            count, device=q.device)[:, None] * size).to(q.dtype)  # [count, size]
        logits, bias = q @ k.transpose(2, 3), self.bias(size).to(q.dtype)
        if self.attention == 'softmax':
            logits = logits * self.zdim ** -0.5 + bias + there.log()[:, None]
            weights = logits.softmax(-1)
        else:
            weights = self._weights(logits / there.sum(1)[:, None, None] + bias) * there[:, None]
        return (weights @ v).flatten(1, 2)[:, :tokens]

    def _weights(self, logits: Tensor) -> Tensor:
        if self.attention == 'relu2':
            return F.relu(logits).square()
        return 0.5 * (1 + torch.erf((logits - 0.707107) / (0.282095 * math.sqrt(2))))
