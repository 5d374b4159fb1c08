"""Read noise of less than one DN, and the tails of read noise: likelihoods of whole numbers.

Below 0.6 DN a converter's rounding is as coarse as the noise, and the variance of the stored codes depends on where
between two codes a pixel's offset lies.  A pair of darks gives, for every pixel, two codes (a, b) of one unknown
offset u:

    P(a, b | sigma) = sum_u w_u p_a(u) p_b(u),      p_a(u) = Phi((a + 1/2 - u)/sigma) - Phi((a - 1/2 - u)/sigma)

The distribution w of the offsets over the pixels is fitted along (non-parametric maximum likelihood, Kiefer and
Wolfowitz 1956), so neither a fixed black level nor a spread of it (DSNU) has to be assumed.  sigma is found where the
profile likelihood is highest; its curvature gives the standard error, and where the likelihood hardly depends on
sigma the answer is "not identifiable".

Above 0.6 DN the difference of two frames is free of offsets.  Its histogram is compared with the law's own
self-difference, convolved with the triangle that two roundings make of it:

    Gaussian         N(0, 2 sigma^2)
    Tukey-lambda     Q(p) = s (p^l - (1 - p)^l) / l        (l near 0.14: almost normal; negative: heavier tails)

Both are laws of single pixels; what rows and columns have in common is Gaussian, of a variance known before, and is
convolved with them.

References
----------
Wei, Fu, Yang and Huang, "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020 (the
Tukey-lambda model).  The binned likelihood avoids the bias of probability plots on quantized data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_OFFSET_STEP = 0.05  # DN, grid of the offsets
_EM_ROUNDS = 400
_SIGMAS = np.geomspace(0.08, 1.2, 70)  # DN, grid of the profile
_MAX_RELATIVE_ERROR = 0.05  # beyond it the read noise counts as not identifiable
_GRID_ERROR = 0.02  # relative bias left by the grid of offsets and by stopping the iteration (seen in simulation)
_HALF_UNIT = 0.5  # log-likelihood drop at one standard error
NORMAL_LAMBDA = 0.14  # Tukey-lambda law nearest to a Gaussian
_LAMBDAS = np.round(np.arange(-0.6, 0.61, 0.05), 3)
_COARSE = 4  # every so many of these first, then uphill from the best: the likelihood has broad peaks
_LEAST_STEP = 0.002  # of lambda: nearer, the precision of the profile likelihood shows
_ROUNDING_VAR = 1.0 / 12.0  # DN^2
_FINE = 16  # grid points per DN (or per standard deviation / 16 if finer) of the Tukey-lambda density


@dataclass(frozen=True)
class QuantizedNoise:
    """Read noise of a coarsely quantized dark.

    Parameters
    ----------
    read_noise, read_noise_se : float [DN]
        Before quantization.
    identifiable : bool
        False when the frames do not determine it to 5 %; the number is then only where the likelihood peaks.
    """

    read_noise: float
    read_noise_se: float
    identifiable: bool


def fit_quantized(joint: NDArray[np.int64]) -> QuantizedNoise:
    """Read noise from the joint histogram of the codes of a pair of darks (formula above).

    Parameters
    ----------
    joint : (J, J) counts of (A, B), pixels of one phase; several pairs may be added up.
    """
    codes = np.flatnonzero(joint.sum(axis=0) + joint.sum(axis=1))
    low, high = int(codes[0]), int(codes[-1])
    counts = joint[low : high + 1, low : high + 1].astype(np.float64)
    counts = (counts + counts.T) / 2.0
    axis = np.arange(low, high + 1)
    values = np.array([_profile(counts, axis, sigma) for sigma in _SIGMAS])
    best = int(np.argmax(values))
    if best in (0, len(_SIGMAS) - 1):
        return QuantizedNoise(float(_SIGMAS[best]), float("inf"), identifiable=False)
    fine = np.geomspace(_SIGMAS[best - 1], _SIGMAS[best + 1], 21)
    refined = np.array([_profile(counts, axis, sigma) for sigma in fine])
    peak = int(np.argmax(refined))
    sigma = float(fine[peak])
    grid, level = np.concatenate([_SIGMAS, fine]), np.concatenate([values, refined])
    order = np.argsort(grid)
    inside = grid[order][level[order] >= refined[peak] - _HALF_UNIT]
    spread = float(max(inside.max() / sigma, sigma / inside.min()) - 1.0)
    # Curvature from a parabola in log sigma where the grid resolves it, else the width of the half-unit interval.
    wide = np.abs(np.log(grid[order] / sigma)) < max(3.0 * spread, 0.03)
    bend = np.polyfit(np.log(grid[order][wide] / sigma), level[order][wide], 2)[0]
    relative = float(1.0 / np.sqrt(-2.0 * bend)) if bend < 0 else float("inf")
    relative = max(relative, _GRID_ERROR)
    return QuantizedNoise(sigma, sigma * relative, identifiable=relative < _MAX_RELATIVE_ERROR)


def _profile(counts: NDArray[np.float64], axis: NDArray[np.int64], sigma: float) -> float:
    """Highest log-likelihood over all distributions of the offsets, by expectation maximization."""
    from scipy.special import ndtr

    offsets = np.arange(axis[0] - 0.5, axis[-1] + 0.5 + _OFFSET_STEP / 2, _OFFSET_STEP)
    mass = ndtr((axis + 0.5 - offsets[:, None]) / sigma) - ndtr((axis - 0.5 - offsets[:, None]) / sigma)
    cells = np.argwhere(counts > 0)
    number = counts[cells[:, 0], cells[:, 1]]
    kernel = mass[:, cells[:, 0]] * mass[:, cells[:, 1]]
    weights = np.full(len(offsets), 1.0 / len(offsets))
    for _ in range(_EM_ROUNDS):
        mixed = np.maximum(weights @ kernel, 1e-300)
        updated = weights * (kernel @ (number / mixed)) / number.sum()
        if np.abs(updated - weights).max() < 1e-9:
            break
        weights = updated
    return float(number @ np.log(np.maximum(weights @ kernel, 1e-300)))


@dataclass(frozen=True)
class Tails:
    """Shape of the read noise.

    Parameters
    ----------
    gaussian_sigma : float [DN]
        Standard deviation of the best Gaussian, of pixels without what rows and columns share.
    tukey_lambda, tukey_lambda_se : float
    tukey_deviation, tukey_scale : float [DN]
        Standard deviation (infinite for lambda <= -1/2) and scale s of the best Tukey-lambda law.
    log_likelihood_gain : float
        How much better Tukey-lambda fits than the Gaussian; above about 4 the difference is significant.
    lines_var : float [DN^2]
        Variance of rows and columns beside the law.
    """

    gaussian_sigma: float
    tukey_lambda: float
    tukey_lambda_se: float
    tukey_deviation: float
    tukey_scale: float
    log_likelihood_gain: float
    lines_var: float = 0.0

    def within(self, limit: float) -> tuple[float, float]:
        """Variance of the differences up to ``limit`` [DN] over that of all, and their excess kurtosis.

        The share is 0 for lambda <= -1/2, whose variance is infinite.
        """
        axis = np.arange(-int(limit), int(limit) + 1)
        whole = self.tukey_deviation if self.tukey_lambda > -0.5 else np.inf
        mass = difference_mass(self.tukey_lambda, self.tukey_deviation, axis, lines_var=self.lines_var)
        second, fourth = (float((mass * axis.astype(np.float64) ** k).sum() / mass.sum()) for k in (2, 4))
        return second / (2.0 * (whole**2 + self.lines_var + _ROUNDING_VAR)), fourth / second**2 - 3.0


def fit_tails(differences: NDArray[np.int64], *, lines_var: float = 0.0) -> Tails:
    """Gaussian and Tukey-lambda laws of one frame's read noise, from a histogram of A - B.

    Parameters
    ----------
    differences : (2 R + 1,) counts of A - B = -R .. R; the end bins (outliers) are not used.
    lines_var : float [DN^2]
        Variance that whole rows and columns share in one frame.
    """
    from scipy.optimize import minimize_scalar

    reach = len(differences) // 2
    counts = differences.astype(np.float64).copy()
    counts[0] = counts[-1] = 0.0
    counts = (counts + counts[::-1]) / 2.0
    filled = np.flatnonzero(counts)
    edge = int(max(reach - filled[0], filled[-1] - reach, 4))
    counts = counts[reach - edge : reach + edge + 1]
    axis = np.arange(-edge, edge + 1)
    variance = float((counts * axis**2).sum() / counts.sum())

    def likelihood(law: float | None, deviation: float) -> float:
        mass = difference_mass(law, deviation, axis, lines_var=lines_var)
        return float(counts @ np.log(np.maximum(mass, 1e-300)))

    guess = float(np.sqrt(max(variance / 2.0 - _ROUNDING_VAR - lines_var, 0.01)))

    def best(law: float | None) -> tuple[float, float]:
        result = minimize_scalar(
            lambda log: -likelihood(law, float(np.exp(log))),
            bounds=(np.log(guess * 0.6), np.log(guess * 1.6)),
            method="bounded",
            options={"xatol": 1e-5},
        )
        return -float(result.fun), float(np.exp(result.x))

    gauss, sigma = best(None)
    coarse: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in coarse:
            coarse[index] = best(float(_LAMBDAS[index]))[0]
        return coarse[index]

    top = max(range(0, len(_LAMBDAS), _COARSE), key=at)
    while (higher := max(range(max(top - 1, 0), min(top + 2, len(_LAMBDAS))), key=at)) != top:
        top = higher
    top = int(np.clip(top, 1, len(_LAMBDAS) - 2))
    law, error = _vertex(_LAMBDAS[top - 1 : top + 2], [at(index) for index in range(top - 1, top + 2)])
    if 3.0 * error < _LAMBDAS[1] - _LAMBDAS[0]:  # too sharp a peak for that grid
        fine = law + max(3.0 * error, _LEAST_STEP) * np.array([-1.0, 0.0, 1.0])
        law, error = _vertex(fine, [best(float(value))[0] for value in fine])
    tukey, deviation = best(law)
    return Tails(sigma, law, error, deviation, deviation / tukey_deviation(law), tukey - gauss, lines_var)


def _vertex(x: NDArray[np.float64], likelihood: list[float]) -> tuple[float, float]:
    """Place of the maximum of a parabola through three log-likelihoods, kept between them, and its standard error."""
    a, b, _ = np.polyfit(x - x[1], likelihood, 2)
    if a >= 0:
        return float(x[1]), float("inf")
    return float(np.clip(x[1] - b / (2.0 * a), x[0], x[-1])), float(1.0 / np.sqrt(-2.0 * a))


def tukey_quantile(p: ArrayLike, q: ArrayLike, tukey_lambda: float) -> NDArray[np.float64]:
    """Quantile of the Tukey-lambda law of scale 1 at p = 1 - q: (p^lambda - q^lambda) / lambda.

    Examples
    --------
    >>> round(float(tukey_quantile(0.75, 0.25, 0.0)), 4)        # ln 3
    1.0986
    >>> float(tukey_quantile(0.75, 0.25, 1.0))
    0.5
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if tukey_lambda == 0.0:
        return np.log(p) - np.log(q)
    # expm1 keeps the difference's digits as lambda nears 0.
    return (np.expm1(tukey_lambda * np.log(p)) - np.expm1(tukey_lambda * np.log(q))) / tukey_lambda


def tukey_deviation(law: float) -> float:
    """Standard deviation of the Tukey-lambda law of scale 1, by quadrature of Q(p)^2; lambda > -1/2.

    Examples
    --------
    >>> round(tukey_deviation(0.0), 4)      # logistic: pi / sqrt(3)
    1.8138
    >>> round(tukey_deviation(1.0), 4)      # uniform on [-1, 1]
    0.5774
    """
    from scipy.special import beta

    if law == 0.0:
        return float(np.pi / np.sqrt(3.0))
    if law <= -0.5:
        return float("inf")
    return float(np.sqrt(2.0 / law**2 * (1.0 / (1.0 + 2.0 * law) - beta(law + 1.0, law + 1.0))))


def difference_mass(
    law: float | None, deviation: float, axis: NDArray[np.int64], *, lines_var: float = 0.0
) -> NDArray[np.float64]:
    """P(A - B = d) of two rounded draws: Gaussian (None) or Tukey-lambda, with the standard deviation given.

    Each draw has a Gaussian of variance ``lines_var`` [DN^2] added.

    For lambda <= -1/2 there is no standard deviation; the scale is then deviation / 4.
    """
    from scipy.special import ndtr

    per_dn = max(_FINE, int(np.ceil(_FINE / deviation)))
    reach = int(axis[-1]) + 2
    edges = (np.arange(-reach * per_dn, reach * per_dn + 2) - 0.5) / per_dn
    if law is None:
        cumulative = ndtr(edges / deviation)
    else:
        own = tukey_deviation(law)
        cumulative = _tukey_cdf(edges * (own if np.isfinite(own) else 4.0) / deviation, law)
    mass = np.diff(cumulative)
    size = 1 << int(np.ceil(np.log2(4 * len(mass))))
    spectrum = np.abs(np.fft.rfft(mass, size)) ** 2
    if lines_var > 0:
        spectrum *= np.exp(-lines_var * (2.0 * np.pi * per_dn * np.fft.rfftfreq(size)) ** 2)
    triangle = np.maximum(1.0 - np.abs(np.arange(-per_dn, per_dn + 1)) / per_dn, 0.0)
    self_difference = np.fft.irfft(spectrum, size)
    centered = np.concatenate([self_difference[-(reach * per_dn) :], self_difference[: reach * per_dn + 1]])
    smooth = np.convolve(centered, triangle, mode="same")
    return np.maximum(smooth[(axis + reach) * per_dn], 0.0)


def _tukey_cdf(x: NDArray[np.float64], law: float) -> NDArray[np.float64]:
    """Cumulative distribution of the Tukey-lambda law of scale 1, by interpolating its quantile function."""
    logit, log_p, log_q = logit_table()
    quantile = logit if law == 0.0 else (np.exp(law * log_p) - np.exp(law * log_q)) / law
    return np.interp(x, quantile, np.exp(log_p), left=0.0, right=1.0)


@lru_cache(maxsize=1)
def logit_table() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """x, ln p and ln (1 - p) for x = ln(p / (1 - p)) from -40 to 40, without cancellation."""
    logit = np.linspace(-40.0, 40.0, 8001)
    return logit, -np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)
