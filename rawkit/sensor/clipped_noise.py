"""Mean and variance of pixels whose file cannot hold the negative half of the noise.

    x = max(y, floor),      y = K Poisson(mu / K) + N(0, v)

with mu the expected signal [DN, black removed], K [DN/e-], v [DN^2].  Far above the floor the variance is the straight
line v + K mu; near it mean, variance and third moment are summed over the electrons, and interpolated.  With c, the
response's non-uniformity and texture of constant contrast,

    var[x] = K E[x] + v + c E[x]^2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

QUANTIZATION = 1.0 / 12.0  # DN^2
FAR = 8.0  # standard deviations beyond which clipping is ignored
_MANY = 60.0  # electrons beyond which Poisson steps are replaced by a normal law of the same variance
_LEAST_RATE = 1e-3  # d mean / d signal: it is at least 1/2 wherever a picture can be
_LEAST_VARIANCE = 0.25 * QUANTIZATION  # DN^2; a model may not predict less, whatever its parameters
_TABLE = 97  # levels of signal at which clipped moments are computed, denser towards the floor
_REACH_ELECTRONS, _REACH_SIGMAS = 18.0, 12.0  # up to where: the bend of shot noise and that of read noise are over
_LEAST_GAIN = 1e-6  # DN/e-; keeps a step of the fit that overshot computable
_STEP = 0.01  # relative; of a parameter, for its derivative


def _rectified(above: np.ndarray, sd: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First three raw moments of max(z, 0), z normal with standard deviation ``sd`` and mean ``above`` times it."""
    from scipy.special import ndtr

    density, share = np.exp(-0.5 * above**2) / np.sqrt(2.0 * np.pi), ndtr(above)
    first = sd * (above * share + density)
    second = sd**2 * ((above**2 + 1.0) * share + above * density)
    return first, second, sd**3 * ((above**3 + 3.0 * above) * share + (above**2 + 2.0) * density)


def clipped_moments(
    mu: np.ndarray, system_gain: float, read_var: float, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and third central moment of max(x, floor), x = K Poisson(mu / K) + N(0, v).

    Parameters
    ----------
    mu : (N,) expected signal [DN], >= 0
    """
    from scipy.special import gammaln

    electrons = mu / system_gain
    if electrons.max() > _MANY:
        sd = np.sqrt(read_var + system_gain * mu)  # steps of one electron are far below the noise
        first, second, third = _rectified((mu - floor) / sd, sd)
        return first + floor, second - first**2, third - 3.0 * first * second + 2.0 * first**3
    n = np.arange(int(electrons.max() + 8.0 * np.sqrt(electrons.max() + 1.0)) + 8)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(n > 0, n * np.log(electrons[:, None]), 0.0) - electrons[:, None] - gammaln(n + 1.0)
    p = np.exp(log_p)
    sd = np.sqrt(read_var)
    mean, square, cube = (p @ moment for moment in _rectified((system_gain * n - floor) / sd, sd))
    return mean + floor, square - mean**2, cube - 3.0 * mean * square + 2.0 * mean**3


@dataclass(frozen=True, eq=False)
class Expected:
    """What the model expects of tiles (N,) whose mean is m: variance, d variance / dm, and (pred' pred - mu3)."""

    variance: np.ndarray
    slope: np.ndarray
    coupling: np.ndarray


def _curves(
    floor: np.ndarray, theta: np.ndarray
) -> Iterator[tuple[float, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """For every floor that is near: its level, a grid of signals, and their clipped mean, variance, third moment."""
    system_gain, read_var = max(theta[0], _LEAST_GAIN), max(theta[1], QUANTIZATION)
    levels = floor[:1] if np.all(floor == floor[0]) else np.unique(floor)
    for level in levels[levels >= -FAR * np.sqrt(read_var)]:
        reach = max(level, 0.0) + _REACH_ELECTRONS * system_gain + _REACH_SIGMAS * np.sqrt(read_var)
        mu = reach * np.linspace(0.0, 1.0, _TABLE) ** 2
        yield float(level), mu, clipped_moments(mu, system_gain, read_var, float(level))


def _predicted(mean: np.ndarray, floor: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Variance (N,) that the model expects at mean signals (N,)."""
    variance = theta[1] + theta[0] * mean + theta[2] * mean**2
    for level, _, (m, var, _) in _curves(floor, theta):
        here = (floor == level) & (mean < m[-1])
        variance[here] = np.interp(mean[here], m, var) + theta[2] * mean[here] ** 2
    return np.maximum(variance, _LEAST_VARIANCE)


def expect(mean: np.ndarray, floor: np.ndarray, theta: np.ndarray) -> Expected:
    """Expectations under theta = (K, v, c); ``floor`` (N,) is where the file clips [DN, black removed]."""
    variance = theta[1] + theta[0] * mean + theta[2] * mean**2
    slope = theta[0] + 2.0 * theta[2] * mean
    coupling = np.full_like(variance, theta[0] * max(theta[1], 0.0))
    for level, mu, (m, var, third) in _curves(floor, theta):
        here = (floor == level) & (mean < m[-1])
        rate = np.gradient(var, mu) / np.maximum(np.gradient(m, mu), _LEAST_RATE)
        slope[here] = np.interp(mean[here], m, rate) + 2.0 * theta[2] * mean[here]
        variance[here] = np.interp(mean[here], m, var) + theta[2] * mean[here] ** 2
        coupling[here] = np.interp(mean[here], m, rate * var - third)
    return Expected(np.maximum(variance, _LEAST_VARIANCE), slope, coupling)


def jacobian(mean: np.ndarray, floor: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(N, 3) derivatives of the expected variance with respect to (K, v, c)."""
    result = np.stack([mean, np.ones_like(mean), mean**2], axis=1)
    near = floor > -FAR * np.sqrt(max(theta[1], QUANTIZATION))
    if near.any():
        for column in range(2):
            step = np.zeros(3)
            step[column] = _STEP * max(theta[column], QUANTIZATION)
            up, down = (_predicted(mean[near], floor[near], theta + sign * step) for sign in (1, -1))
            result[near, column] = (up - down) / (2.0 * step[column])
    return result
