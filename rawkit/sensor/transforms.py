"""Transforms that make the noise of every camera and ISO alike.

Model: var[x] = K E[x] + v, x the signal [DN, black removed], K the system gain [DN/e-], v the read variance [DN^2].

1.  k-sigma (Wang et al. 2020) divides the camera out:

        y = x / K + v / K^2,        E[y] = var[y] = E[x]/K + v/K^2

    The variance *equals the mean* at every ISO of every camera; it is not constant.

2.  The generalized Anscombe transform (Murtagh, Starck and Bijaoui 1995) on top of it makes it constant:

        D = 2 sqrt(max(y + 3/8, 0)),        var[D] ~ 1

    Above 10 electrons the variance is within 1.5 % of 1 whatever the read noise.  In deep shadow it departs:
    without read noise it is 0 at zero light, 0.72 at 1 e- and 0.98 at 3 e-; with read noise the worst case is
    1.20 (zero light, read noise 1.8 e-); above 3 e- of read noise it stays within 10 % (``anscombe_variance``).

A network or filter that works on D sees unit-variance noise and needs to know neither camera nor ISO.  Its
output d estimates E[D], and E is not the square root of the mean: the *exact unbiased inverse* maps d to the
mu for which E[D | mu] = d (Makitalo and Foi 2013).  The *algebraic* inverse undoes the formula and suits
estimates of the transformed clean signal.

All functions take NumPy arrays and torch tensors alike, keep dtype and device, and keep negative signals.
``params`` holds one value, or values shaped to broadcast against x (``NoiseParams.for_planes``).

References
----------
Y. Wang et al., "Practical deep raw image denoising on mobile devices", ECCV 2020.
M. Makitalo and A. Foi, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian
noise", IEEE TIP 22(1), 2013.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from rawkit.sensor.params import NoiseParams

_ANSCOMBE = 3.0 / 8.0
_TABLE_SIZE = 4096  # linear interpolation error below 1e-6 electrons
_TABLE_TOP = 24.0  # D at about 144 e-; above it the asymptotic inverse is exact to 3e-4 electrons


def _like(value: Any, x: Any) -> Any:
    """``value`` as an array of the kind, dtype and device of ``x``."""
    xp = array_namespace(x)
    return xp.asarray(value, dtype=x.dtype, device=device(x))


def to_ksigma(x: Any, params: NoiseParams) -> Any:
    """y = x / K + v / K^2 [e-]: after it, variance equals mean.  Negative x are kept.

    Parameters
    ----------
    x : array [DN, black removed]
    params : NoiseParams

    Examples
    --------
    >>> import numpy as np
    >>> to_ksigma(np.array([0.0, 100.0]), NoiseParams(2.0, 8.0)).tolist()
    [2.0, 52.0]
    """
    gain = np.asarray(params.system_gain, np.float64)
    return x / _like(gain, x) + _like(params.read_var / gain**2, x)


def from_ksigma(y: Any, params: NoiseParams) -> Any:
    """Inverse of ``to_ksigma``: x = K y - v / K [DN]."""
    gain = np.asarray(params.system_gain, np.float64)
    return y * _like(gain, y) - _like(params.read_var / gain, y)


def to_anchor(x: Any, params: NoiseParams, anchor: NoiseParams) -> Any:
    """Re-express ``x`` as if it had been captured with the noise of ``anchor``: var = K_a E + v_a exactly."""
    return from_ksigma(to_ksigma(x, params), anchor)


def anscombe(x: Any, params: NoiseParams) -> Any:
    """Generalized Anscombe transform D = 2 sqrt(max(x/K + v/K^2 + 3/8, 0)); unit variance (see module)."""
    xp = array_namespace(x)
    inside = to_ksigma(x, params) + _ANSCOMBE
    return 2.0 * xp.sqrt(inside * (inside > 0))


def inverse_anscombe_algebraic(d: Any, params: NoiseParams) -> Any:
    """x = K (D^2/4 - 3/8) - v/K [DN]: undoes ``anscombe`` point by point.

    Biased low by K/4 in bright areas when ``d`` is a mean of noisy D; use ``inverse_anscombe`` there.
    """
    return from_ksigma(d * d / 4.0 - _ANSCOMBE, params)


def inverse_anscombe(d: Any, params: NoiseParams) -> Any:
    """Exact unbiased inverse: the x = K mu with E[D | mu] = d.

    Below the expectation at zero light the inverse continues along its tangent, so dark areas keep their mean
    and negative estimates survive.  It is continuous and strictly increasing.

    Parameters
    ----------
    d : array, or (P, ...) array when ``params`` differ between planes
        Denoised values in the stabilized domain.
    params : NoiseParams
        One value, or one per plane shaped (P, 1, ..., 1).

    Returns
    -------
    array [DN, black removed]

    References
    ----------
    Makitalo and Foi 2013, section III: the definition, and the asymptotically unbiased form used above 140 e-.
    """
    gain = np.asarray(params.system_gain, np.float64)
    read_var_e = np.broadcast_to(np.asarray(params.read_var) / gain**2, np.broadcast(gain, params.read_var).shape)
    if read_var_e.size == 1:
        return _like(gain, d) * _mean_electrons(d, float(read_var_e.reshape(())))
    if read_var_e.shape != (d.shape[0],) + (1,) * (d.ndim - 1):
        raise ValueError(f"parameters {read_var_e.shape} must be one value or one per plane of {tuple(d.shape)}.")
    xp = array_namespace(d)
    planes = [_mean_electrons(plane, float(r)) for plane, r in zip(d, read_var_e.reshape(-1), strict=True)]
    return _like(gain, d) * xp.stack(planes)


def _mean_electrons(d: Any, read_var_e: float) -> Any:
    """mu [e-] with E[2 sqrt(Poisson(mu) + N(0, r) + 3/8 + r)] = d, for read variance r [e-^2]."""
    xp = array_namespace(d)
    low, step, table, slope = _inverse_table(round(read_var_e, 9))
    values = _like(table, d)
    position = xp.clip((d - low) / step, 0.0, _TABLE_SIZE - 1.0)
    index = xp.astype(xp.clip(position, 0.0, _TABLE_SIZE - 2.0), xp.int64)
    fraction = position - xp.astype(index, d.dtype)
    inside = values[index] * (1.0 - fraction) + values[index + 1] * fraction
    tangent = slope * (d - low)
    top = low + step * (_TABLE_SIZE - 1)
    asymptotic = d * d / 4.0 - (0.125 + read_var_e)
    return xp.where(d < low, tangent, xp.where(d > top, asymptotic, inside))


def expected_anscombe(electrons: Any, read_var_e: float) -> np.ndarray:
    """E[D | mu] by numerical integration: sum over Poisson counts, Gauss-Legendre over the read noise.

    Parameters
    ----------
    electrons : (N,) expected counts mu >= 0
    read_var_e : float
        Read variance r [e-^2].
    """
    return _moments(electrons, read_var_e)[0]


def anscombe_variance(electrons: Any, read_var_e: float) -> np.ndarray:
    """var[D | mu] by the same integration: how far from 1 the transform leaves the variance."""
    first, second = _moments(electrons, read_var_e)
    return second - first**2


def _moments(electrons: Any, read_var_e: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import poisson

    mu = np.atleast_1d(np.asarray(electrons, np.float64))
    top = mu.max()
    counts = np.arange(int(top + 12.0 * np.sqrt(top) + 25.0))
    sigma = np.sqrt(read_var_e)
    offset = counts + _ANSCOMBE + read_var_e
    if sigma == 0.0:
        first, second = 2.0 * np.sqrt(offset), 4.0 * offset
    else:
        nodes, weights = np.polynomial.legendre.leggauss(160)
        start = np.maximum(-9.0, -offset / sigma)  # the integrand is zero below: max(., 0) in the transform
        # t = start + w^2 removes the square-root singularity at the lower end.
        half = np.sqrt(9.0 - start)[:, None] / 2.0
        w = half * (nodes + 1.0)
        t = start[:, None] + w**2
        density = np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi) * 2.0 * w * weights * half
        inside = np.maximum(offset[:, None] + sigma * t, 0.0)
        first, second = (density * 2.0 * np.sqrt(inside)).sum(axis=1), (density * 4.0 * inside).sum(axis=1)
    probability = poisson.pmf(counts, mu[:, None])
    return probability @ first, probability @ second


@lru_cache(maxsize=256)
def _inverse_table(read_var_e: float) -> tuple[float, float, np.ndarray, float]:
    """Lowest D, step, mu on the uniform grid of D, and d mu / d D at the lowest D."""
    from scipy.interpolate import PchipInterpolator

    top = max(_TABLE_TOP**2 / 4.0, 3.0 * np.sqrt(read_var_e), 8.0)
    mu = top * np.linspace(0.0, 1.0, 512) ** 2
    mean = expected_anscombe(mu, read_var_e)
    grid = np.linspace(mean[0], mean[-1], _TABLE_SIZE)
    inverse = PchipInterpolator(mean, mu)
    return float(grid[0]), float(grid[1] - grid[0]), inverse(grid), float(inverse.derivative()(mean[0]))
