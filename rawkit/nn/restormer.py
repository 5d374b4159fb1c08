"""RawRestormer: Restormer's blocks in a small U-shape for packed raw planes.

One block is  x + MDTA(norm(x)),  then  x + GDFN(norm(x)).

MDTA, multi-Dconv head transposed attention (Zamir et al. 2022, eqs. 1 and 2).  Tokens are channels, so the cost is
linear in the number of pixels:

    Q, K, V = W_d3x3 W_1x1 y          per pixel; Q, K normalized over all pixels of a channel
    A       = softmax(tau Q K^T)      (c x c) per head, tau learned per head
    MDTA(y) = W_p (A V)

GDFN, gated-Dconv feed-forward network (eq. 3):

    GDFN(y) = W_p ( gelu(W_d3x3 W_1x1 y) * W_d3x3 W'_1x1 y )

Nothing has a bias: f(0) = 0, and no level is preferred.  That alone does not make f(s x) = s f(x), since the norms
take the scale out of every branch; noise levels other than 1 are handled by the level plane and by training.

Fast forms, equal to the formulas up to rounding (proved in the tests):

* Everything is channels-last; halves of a stacked convolution are two convolutions with contiguous outputs.
* Q and K are not normalized themselves: their Gram matrix is, A = softmax(tau G_ij / (|q_i| |k_j|)).  The Gram
  matrix is float32 whatever the network's precision, since it sums over all pixels.
* W_p A is one (C x C) matrix per picture, so A V and the projection are a single product.
* Normalization over channels is ``layer_norm`` on the channels-last view, without bias.  (The paper's bias-free norm
  leaves the mean in; both are scale-free.)

The U works on tokens of ``stem`` x ``stem`` packed pixels: 2 makes one token of 4 x 4 mosaic pixels, which is what
makes a network of this kind affordable on a processor.  Skips are added, not concatenated.  At the finest level, where
a block costs four times as much as one level further down, the encoder may do without: its tokens, made by a strided
and a depthwise convolution, go to the decoder as they are.

References
----------
S. W. Zamir et al., "Restormer: efficient transformer for high-resolution image restoration", CVPR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_NORM_EPS = 1e-5
_GRAM_EPS = 1e-12
_LANES = 16  # float32 numbers in the widest vector registers


@dataclass(frozen=True)
class RestormerConfig:
    """Shape of a ``RawRestormer``.

    Parameters
    ----------
    planes : int
        Picture planes that are predicted: 4 for a Bayer array.
    inputs : int
        Planes that are given; the first ``planes`` of them are the picture that the residual is added to.
    stem : int
        Packed pixels across a token, in both directions.
    widths : channels of the levels, finest first
    encoder, decoder : blocks of the levels but the coarsest, finest first
    bottom : blocks of the coarsest level
    attention_from : int
        First level (0 is the finest) whose blocks have MDTA; finer ones have GDFN only.
    head_width : int
        Channels per attention head.
    expansion : float
        Hidden channels of GDFN over its channels, rounded up to a multiple of 16: 64 take a third less time than 60.
    uncertainty : bool
        Also predict the logarithm of the error's standard deviation, one more plane per picture plane.
    """

    planes: int = 4
    inputs: int = 13
    stem: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    encoder: tuple[int, ...] = (1, 2)
    bottom: int = 4
    decoder: tuple[int, ...] = (1, 2)
    attention_from: int = 1
    head_width: int = 32
    expansion: float = 2.0
    uncertainty: bool = False

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if not len(self.encoder) == len(self.decoder) == levels - 1:
            raise ValueError(
                f"{levels} widths, blocks {self.encoder} and {self.decoder}; each level but the coarsest needs its own."
            )
        if any(w % self.head_width for w in self.widths[self.attention_from :]):
            raise ValueError(f"widths {self.widths} with attention must be multiples of head_width {self.head_width}.")
        if self.inputs < self.planes:
            raise ValueError(f"{self.inputs} inputs; at least the {self.planes} planes of the picture are needed.")

    @property
    def multiple(self) -> int:
        """Height and width of the planes must be multiples of this."""
        return self.stem * 2 ** (len(self.widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file's header."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> RestormerConfig:
        """Inverse of ``to_dict``."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**values)


#: ``fast`` for a laptop's processor, ``base`` the default, ``best`` for a GPU.
SIZES = {
    "fast": RestormerConfig(
        widths=(32, 64, 96, 128), encoder=(0, 1, 2), bottom=3, decoder=(1, 2, 2), attention_from=2, expansion=1.5
    ),
    "base": RestormerConfig(
        widths=(32, 64, 96, 128), encoder=(1, 2, 4), bottom=6, decoder=(2, 4, 4), attention_from=2, expansion=2.0
    ),
    "best": RestormerConfig(widths=(48, 96, 192, 288), encoder=(2, 4, 4), bottom=3, decoder=(4, 4, 4), head_width=48),
}


class ChannelNorm(nn.Module):
    """y = weight * (x - mean_c x) / std_c x, over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # a view without copy of channels-last memory
        return F.layer_norm(pixels, self.weight.shape, self.weight, None, _NORM_EPS).permute(0, 3, 1, 2)


class Pointwise(nn.Linear):
    """A 1 x 1 convolution: one matrix product on the channels-last view, which processors do faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _conv(inputs: int, outputs: int, size: int, *, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    padding = size // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, outputs, size, padding=padding, groups=groups, stride=stride, bias=False)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention; (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.query_key = Pointwise(channels, 2 * channels)
        self.query_key_local = _conv(2 * channels, 2 * channels, 3, groups=2 * channels)
        self.value = Pointwise(channels, channels)
        self.value_local = _conv(channels, channels, 3, groups=channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.fixed: Tensor | None = None  # A to be used, whatever the picture
        self.seen: list[Tensor] | None = None  # where there is a list, the batch shares one A, and the list takes it

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        q_k = self.query_key_local(self.query_key(x)).permute(0, 2, 3, 1).reshape(batch, -1, 2 * channels)
        value = self.value_local(self.value(x)).permute(0, 2, 3, 1).reshape(batch, -1, channels)
        if self.seen is not None:
            self.seen.append(self._attention(q_k.reshape(1, -1, 2 * channels), channels))
        fixed = self.seen[-1] if self.seen else self.fixed
        attention = self._attention(q_k, channels) if fixed is None else fixed.expand(batch, -1, -1, -1)
        # project(A v) = v (W A)^T: one matrix per picture, block-diagonal A times W
        mixed = torch.einsum("ohi,bhij->bohj", self.project.weight.float().view(channels, self.heads, -1), attention)
        out = value @ mixed.reshape(batch, channels, channels).transpose(1, 2).to(value.dtype)
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _attention(self, q_k: Tensor, channels: int) -> Tensor:
        """(B, heads, c, c) float32 from (B, pixels, 2 C)."""
        with torch.autocast(q_k.device.type, enabled=False):
            q_k = q_k.float()
            norms = torch.linalg.vector_norm(q_k, dim=1).clamp_min(_GRAM_EPS)
            width = channels // self.heads
            grams = []
            for head in range(self.heads):  # slices, not a permuted copy of all pixels
                q = q_k[:, :, head * width : (head + 1) * width]
                k = q_k[:, :, channels + head * width : channels + (head + 1) * width]
                grams.append(q.transpose(1, 2) @ k)
            gram = torch.stack(grams, 1)
            q_norm = norms[:, :channels].view(-1, self.heads, width, 1)
            k_norm = norms[:, channels:].view(-1, self.heads, 1, width)
            return torch.softmax(gram / (q_norm * k_norm) * self.temperature.float(), -1)


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network; (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = math.ceil(channels * expansion / _LANES) * _LANES
        self.gate = Pointwise(channels, hidden)
        self.gate_local = _conv(hidden, hidden, 3, groups=hidden)
        self.content = Pointwise(channels, hidden)
        self.content_local = _conv(hidden, hidden, 3, groups=hidden)
        self.project = Pointwise(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.gelu(self.gate_local(self.gate(x)))
        return self.project(gate * self.content_local(self.content(x)))


class Block(nn.Module):
    """x + MDTA(norm x), then x + GDFN(norm x); without attention the second only."""

    def __init__(self, channels: int, config: RestormerConfig, *, attention: bool) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels) if attention else None
        self.attention = MDTA(channels, config.head_width) if attention else None
        self.feed_norm = ChannelNorm(channels)
        self.feed = GDFN(channels, config.expansion)

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.attention(self.attention_norm(x))
        return x + self.feed(self.feed_norm(x))


class RawRestormer(nn.Module):
    """U-shaped network of Restormer's blocks with a residual output.

    Parameters
    ----------
    config : RestormerConfig
    checkpointing : bool
        Recompute blocks in the backward pass: less memory in training, more time.

    Notes
    -----
    ``forward(x)`` takes (B, inputs, h, w), h and w multiples of ``config.multiple``, and gives (B, planes, h, w):
    the picture planes plus the residual; with ``config.uncertainty`` (B, 2 planes, h, w), log deviations last.
    The last convolution starts at zero, so an untrained network is the identity.
    """

    def __init__(self, config: RestormerConfig | None = None, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config = config or RestormerConfig()
        self.checkpointing = checkpointing
        widths, cells = config.widths, config.stem**2

        def level(i: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(widths[i], config, attention=i >= config.attention_from) for _ in range(count))

        last = len(widths) - 1
        tokens = _conv(config.inputs, widths[0], config.stem, stride=config.stem)
        self.embed = nn.Sequential(tokens, _conv(widths[0], widths[0], 3, groups=widths[0]))
        self.encoder = nn.ModuleList(level(i, config.encoder[i]) for i in range(last))
        self.down = nn.ModuleList(_conv(widths[i], widths[i + 1], 2, stride=2) for i in range(last))
        self.bottom = level(last, config.bottom)
        self.up = nn.ModuleList(Pointwise(widths[i + 1], 4 * widths[i]) for i in range(last))
        self.decoder = nn.ModuleList(level(i, config.decoder[i]) for i in range(last))
        outputs = config.planes * (2 if config.uncertainty else 1)
        self.output = _conv(widths[0], outputs * cells, 3)
        nn.init.zeros_(self.output.weight)
        self.attention_layers = [module for module in self.modules() if isinstance(module, MDTA)]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.config.multiple or x.shape[-1] % self.config.multiple:
            raise ValueError(f"planes are {tuple(x.shape[-2:])}; multiples of {self.config.multiple} are needed.")
        picture = x[:, : self.config.planes]
        y = self._ascend(*self._descend(x), to_level=0)
        y = F.pixel_shuffle(self.output(y), self.config.stem)
        residual = picture + y[:, : self.config.planes]
        return torch.cat((residual, y[:, self.config.planes :]), 1) if self.config.uncertainty else residual

    @torch.no_grad()
    def take_over(self, smaller: RawRestormer) -> None:
        """Begin as a smaller network of the same widths: blocks and hidden channels that it lacks add nothing yet.

        Raises
        ------
        ValueError
            It is not smaller: one of its tensors has no place here.
        """
        theirs, ours = smaller.state_dict(), self.state_dict()
        for name, known in theirs.items():
            if name not in ours:
                raise ValueError(f"there is {name}, which this network lacks.")
            there, here = tuple(known.shape), tuple(ours[name].shape)
            grown = (
                ".feed." in name and len(there) == len(here) and all(t <= h for t, h in zip(there, here, strict=True))
            )
            if there != here and not grown:
                raise ValueError(f"{name} is {there} there, {here} here.")
        for name, value in ours.items():
            if ".project." in name:  # of every branch the last product: what it does not take over is silent
                value.zero_()
            if name in theirs:
                value[tuple(slice(n) for n in theirs[name].shape)] = theirs[name]

    def split(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """The picture planes of an output, and the log deviations of their error where the network predicts them."""
        planes = self.config.planes
        return out[:, :planes], out[:, planes:] if self.config.uncertainty else None

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention matrix A (1, heads, c, c) of every MDTA over all pixels of the batch, float32, c the channels
        of a head; in the order of ``attention_layers``.

        With patches of a picture as the batch this is nearly the picture's own attention.  (The mean of the patches'
        matrices is not: it lies nearer to the uniform one.)  Levels without attention are not computed on the way up,
        which is more than half of the work.
        """
        layers = self.attention_layers
        for layer in layers:
            layer.seen = []
        try:
            self._ascend(*self._descend(x), to_level=self.config.attention_from)
            return [matrix for layer in layers for matrix in layer.seen or ()]
        finally:
            for layer in layers:
                layer.seen = None

    def _descend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of the coarsest level, and those of the others before they were halved."""
        y = self.embed(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            y = self._run(blocks, y)
            skips.append(y)
            y = down(y)
        return self._run(self.bottom, y), skips

    def _ascend(self, y: Tensor, skips: list[Tensor], *, to_level: int) -> Tensor:
        """Features of a level from those of the coarsest."""
        for i in reversed(range(to_level, len(skips))):
            y = F.pixel_shuffle(self.up[i](y), 2).contiguous(memory_format=torch.channels_last) + skips[i]
            y = self._run(self.decoder[i], y)
        return y

    def _run(self, blocks: nn.Module, x: Tensor) -> Tensor:
        for block in blocks.children():
            recompute = self.checkpointing and self.training and x.requires_grad
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x


@contextmanager
def fixed_attention(network: RawRestormer, matrices: Sequence[Tensor]) -> Iterator[None]:
    """Inside, every MDTA uses its matrix of ``RawRestormer.attention``: a pixel depends on its neighborhood alone."""
    layers = network.attention_layers
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.fixed = matrix
    try:
        yield
    finally:
        for layer in layers:
            layer.fixed = None
