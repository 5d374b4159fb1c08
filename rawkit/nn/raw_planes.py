"""How stabilized raw planes enter and leave a network: the one place that training and inference share.

y = x / K + v / K^2 [e-] is the k-sigma value, D = 2 sqrt(max(y + 3/8, 0)) the stabilized one
(``rawkit.sensor.transforms``).  D loses what lies below -3/8 electrons; there y keeps the sign and size, and far above it
says nothing that D does not, so it is shown in a window about zero only.

The network estimates the stabilized *clean* signal, so its output goes through the algebraic inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Divisor that brings stabilized values to the size networks like; and of the k-sigma window.
SCALE = 16.0
#: Window in which k-sigma values are shown [e-].
WINDOW = (-16.0, 48.0)
#: Range of noise levels that networks are trained for.
LEVELS = (0.25, 1.6)
_ANSCOMBE = 3.0 / 8.0


def stabilized(y: Tensor) -> Tensor:
    """D = 2 sqrt(max(y + 3/8, 0)) of k-sigma values."""
    return 2 * (y + _ANSCOMBE).clamp_min(0).sqrt()


def electrons(d: Tensor) -> Tensor:
    """y = D^2 / 4 - 3/8, the inverse of ``stabilized``; negative D count as 0."""
    return d.clamp_min(0) ** 2 / 4 - _ANSCOMBE


def network_input(y: Tensor, level: Tensor) -> Tensor:
    """D / 16, the k-sigma window / 16 and the noise level, one plane each phase and one.

    Parameters
    ----------
    y : (B, P, h, w) k-sigma planes [e-]
    level : (B, 1, 1, 1) standard deviation of the noise in D: 1 when the assumed parameters are right

    Returns
    -------
    (B, 2 P + 1, h, w), channels last

    Examples
    --------
    >>> network_input(torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 1, 1)).shape
    torch.Size([1, 9, 2, 2])
    """
    plane = level.to(y.dtype).expand(y.shape[0], 1, *y.shape[-2:])
    given = torch.cat((stabilized(y) / SCALE, y.clamp(*WINDOW) / SCALE, plane), 1)
    return given.contiguous(memory_format=torch.channels_last)
