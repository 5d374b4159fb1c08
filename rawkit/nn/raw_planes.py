"""How stabilized raw planes enter and leave a network: the one place that training and inference share.

y = x / K + v / K^2 [e-] is the k-sigma value, D = 2 sqrt(max(y + 3/8, 0)) the stabilized one
(``rawkit.sensor.transforms``), m a local mean of D.  The network is given

    D - m          unit noise about zero: the picture that its residual is added to
    m / 16         the light, which at low ISO is hundreds of times the noise and would drown it in the same plane
    y / 16         in a window about zero: D loses what lies below -3/8 electrons, there y keeps sign and size
    s              the standard deviation of the noise in D

and estimates the stabilized *clean* signal less m, so m plus its output goes through the algebraic inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Planes given for each plane of the picture, besides the one noise level.
KINDS = 3
#: Range of noise levels that networks are trained for.
LEVELS = (0.25, 1.6)
_SCALE = 16.0
_WINDOW = (-16.0, 48.0)  # e-
_ANSCOMBE = 3.0 / 8.0


def stabilized(y: Tensor) -> Tensor:
    """D = 2 sqrt(max(y + 3/8, 0)) of k-sigma values."""
    return 2 * (y + _ANSCOMBE).clamp_min(0).sqrt()


def electrons(d: Tensor) -> Tensor:
    """y = D^2 / 4 - 3/8, the inverse of ``stabilized``; negative D count as 0."""
    return d.clamp_min(0) ** 2 / 4 - _ANSCOMBE


def electrons_deviation(d: Tensor, sd: Tensor) -> Tensor:
    """Standard deviation [e-] of y = D^2 / 4 - 3/8 for a normal D of mean ``d`` and deviation ``sd``, of one shape.

    var[y] = (d / 2)^2 sd^2 + sd^4 / 8,  from var[D^2] = 4 d^2 sd^2 + 2 sd^4
    """
    return ((d / 2) ** 2 * sd**2 + sd**4 / 8).sqrt()


def network_input(y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """What the network is given, and the local mean to add to its output (see module).

    Parameters
    ----------
    y : (B, P, h, w) k-sigma planes [e-]
    level : (B, 1, 1, 1) standard deviation of the noise in D: 1 when the assumed parameters are right

    Returns
    -------
    (B, 3 P + 1, h, w), channels last, and (B, P, h, w)

    Examples
    --------
    >>> [tuple(t.shape) for t in network_input(torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 1, 1))]
    [(1, 13, 2, 2), (1, 4, 2, 2)]
    """
    d = stabilized(y)
    mean = _local_mean(d)
    batch, planes, height, width = y.shape
    shape = (batch, KINDS * planes + 1, height, width)
    given = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    given[:, :planes] = d - mean
    given[:, planes : 2 * planes] = mean / _SCALE
    given[:, 2 * planes : KINDS * planes] = y.clamp(*_WINDOW) / _SCALE
    given[:, KINDS * planes :] = level
    return given, mean


def _local_mean(d: Tensor) -> Tensor:
    """Mean over 9 x 9 pixels of a plane, over fewer at the border."""
    total = _sums_of_nine(_sums_of_nine(d, -1), -2)
    rows, columns = (_counts_of_nine(n, d) for n in d.shape[-2:])
    return total / (rows[:, None] * columns)


def _sums_of_nine(d: Tensor, axis: int) -> Tensor:
    """Sums over nine neighbors along an axis, zeros beyond the ends: threes of threes, four additions for eight."""
    n = d.shape[axis]
    padded = F.pad(d, (4, 4) if axis == -1 else (0, 0, 4, 4))
    threes = padded.narrow(axis, 0, n + 6) + padded.narrow(axis, 1, n + 6) + padded.narrow(axis, 2, n + 6)
    return threes.narrow(axis, 0, n) + threes.narrow(axis, 3, n) + threes.narrow(axis, 6, n)


def _counts_of_nine(n: int, like: Tensor) -> Tensor:
    """How many of the nine lie inside, for each of n pixels."""
    i = torch.arange(n, device=like.device)
    return (i.clamp(max=4) + (n - 1 - i).clamp(max=4) + 1).to(like.dtype)
