"""The fit of (K, v, c) to the tiles of one photograph, its errors, and the intervals.

Every tile is one chi-squared variable, Var(q) = 2 pred^2 / dof; Gauss-Newton with weights from the model, not from the
data; outliers above three standard errors clipped, with the consistency correction, since texture only adds.  The
tile's mean carries noise too, and is correlated with q through the skewness of shot noise:

    E[(q - pred(m)) g(m)]  ~  -g'(mu) (pred' pred - mu3) / n,        n pixels of the tile

(mu3 the third moment of a pixel; the bracket is K v where nothing clips).  It is taken off, or dark pictures, whose
range of signal is no wider than that noise, would give too small a gain.

Errors.  The inverse Fisher information, widened by (1) scatter between groups of tiles beyond sampling, (2) the
disagreement of the highest frequencies alone, and (3) of the quietest half of the tiles.  (2) and (3) are what
texture would cause; each counts by the share of it that chance does not explain, max(0, 1 - d.o.f. / chi^2).
The sum is multiplied by a constant, and errors of 0.5 % of K and 1 % of v are added, so that 95 % intervals covered
the truth in 94 to 98 % of photographs with known noise.  K and v are medians, intervals quantiles, of the normal law
cut at v >= 1/12 DN^2 (files of whole numbers) under a prior uniform in read noise, p(v) ~ v^-1/2: where the picture
has no dark area this says that the read noise is somewhere below what the light allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.sensor.clipped_noise import expect, jacobian
from rawkit.sensor.image_tiles import N_HIGH, N_TOP, TILE, Tiles

CONFIDENCE = 0.95
ROUNDS = 25

_CLIP = 3.0  # standard errors
_NONUNIFORMITY = 0.004**2  # prior scale of c: pixel response non-uniformity of 0.4 %
_GROUP = 4  # tiles a side of one group whose members may share texture
_LEVELS = 20  # of signal, in which tiles are compared
_UNSEEN = 1.4  # texture that no check sees: raises the coverage measured on 66 photographs from 91 to 94 %
_GAIN_FLOOR, _READ_FLOOR = 0.005, 0.01  # relative systematic errors of K and v however large the picture
_LEAST_RANGE = 0.2  # share of the variance of tile means that must be signal
_LARGEST_FALL = 0.7, 0.5  # of K in one step, and of v near the floor, where the curve bends with v and steps overshoot
_REACH = 8.0  # standard deviations of the posterior grid
_GRID, _DEVIATES = 1000, 40  # its points in v, and in K for each v

_NO_RANGE = (
    "the picture shows no range of signal beyond its noise, so its system gain cannot be seen; "
    "use a picture with both dark and light areas."
)


@dataclass(frozen=True, eq=False)
class Sample:
    """Selected tiles as flat arrays (N,): the data of one fit."""

    mean: np.ndarray
    power: np.ndarray
    floor: np.ndarray
    pixels: np.ndarray
    group: np.ndarray
    dof: int


def sample_of(tiles: Tiles, chosen: np.ndarray, *, top: bool = False) -> Sample:
    plane, row, col = np.nonzero(chosen)
    groups_across = tiles.mean.shape[2] // _GROUP + 1
    power = (tiles.top if top else tiles.high)[chosen].astype(np.float64)
    group = (row // _GROUP) * groups_across + col // _GROUP
    pixels = np.broadcast_to(tiles.pixels, chosen.shape)[chosen]
    mean = tiles.mean[chosen].astype(np.float64)
    return Sample(mean, power, tiles.floor[plane], pixels, group, N_TOP if top else N_HIGH)


def clip_consistency(dof: int) -> tuple[float, float]:
    """Upper limit of power / model, and what clipping there takes from its mean."""
    from scipy.special import gammainc

    shape = dof / 2.0
    limit = 1.0 + _CLIP * np.sqrt(2.0 / dof)
    kept = gammainc(shape + 1.0, shape * limit) + limit * (1.0 - gammainc(shape, shape * limit))
    return float(limit), float(1.0 - kept)


def fit(sample: Sample, start: np.ndarray, *, rounds: int = ROUNDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Newton fit of (K, v, c); one round gives the first-order change from ``start``.

    Returns
    -------
    theta, covariance by sampling (3, 3), influence of every tile on theta (N, 3)
    """
    limit, lost = clip_consistency(sample.dof)
    theta = start.copy()
    prior = np.diag([0.0, 0.0, 1.0 / _NONUNIFORMITY**2])
    for _ in range(rounds):
        expected = expect(sample.mean, sample.floor, theta)
        predicted = expected.variance
        slope = jacobian(sample.mean, sample.floor, theta)
        weights = (sample.dof / (2.0 * predicted**2))[:, None]
        residual = np.minimum(sample.power, limit * predicted) + lost * predicted - predicted
        turn = np.stack([np.ones_like(predicted), np.zeros_like(predicted), 2.0 * sample.mean], axis=1)
        mean_noise = turn - (2.0 * expected.slope / predicted)[:, None] * slope
        scores = weights * (slope * residual[:, None] + mean_noise * (expected.coupling / sample.pixels)[:, None])
        meat = (weights * slope).T @ slope
        blur = (weights * turn).T @ (turn * (predicted / sample.pixels)[:, None])
        information = meat - blur + prior
        if not np.all(np.isfinite(meat)) or np.linalg.det(meat[:2, :2]) <= 0.0:
            raise CalibrationError(_NO_RANGE)
        if np.linalg.eigvals(np.linalg.solve(meat[:2, :2], (meat - blur)[:2, :2])).real.min() < _LEAST_RANGE:
            raise CalibrationError(_NO_RANGE)
        gradient = scores.sum(axis=0) - prior @ theta
        step = np.linalg.solve(information, gradient)
        if theta[2] + step[2] < 0.0:
            step[:2] = np.linalg.solve(information[:2, :2], gradient[:2] + information[:2, 2] * theta[2])
            step[2] = -theta[2]
        step[0] = max(step[0], -_LARGEST_FALL[0] * theta[0])
        if np.any(sample.pixels > TILE**2):
            step[1] = max(step[1], -_LARGEST_FALL[1] * theta[1])
        theta = theta + step
        scale = 1.0 / np.sqrt(np.diag(information))
        if np.all(np.abs(step) <= 1e-3 * scale):
            break
    inverse = np.linalg.inv(information)
    return theta, inverse @ (meat + prior) @ inverse, scores @ inverse


def _excess(difference: np.ndarray, expected: np.ndarray) -> float:
    """Share of a disagreement that chance does not explain: max(0, 1 - dof / chi^2), over (K, v)."""
    chi2 = float(difference @ np.linalg.pinv(expected) @ difference)
    return max(0.0, 1.0 - len(difference) / chi2) if chi2 > 0 else 0.0


def _scatter(sampling: np.ndarray, influence: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Covariance from the scatter between groups of tiles, never below the one by sampling."""
    sums = np.stack([np.bincount(group, influence[:, i]) for i in range(3)], axis=1)
    used = max(int((np.bincount(group) > 0).sum()), 2)
    seen = sums.T @ sums * (used / (used - 1.0))
    root = np.linalg.cholesky(sampling)
    whitened = np.linalg.solve(root, np.linalg.solve(root, seen).T)
    values, vectors = np.linalg.eigh((whitened + whitened.T) / 2.0)
    return root @ (vectors * np.maximum(values, 1.0)) @ vectors.T @ root.T


def _quieter(tiles: Tiles, chosen: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The half of the chosen tiles with the quieter surroundings at every level of signal."""
    where = np.flatnonzero(chosen)
    where = where[np.argsort(tiles.mean.ravel()[where])]
    level = np.broadcast_to(around, chosen.shape).ravel()
    kept = np.zeros(chosen.size, bool)
    for part in np.array_split(where, _LEVELS):
        kept[part[np.argsort(level[part])[: (part.size + 1) // 2]]] = True
    return kept.reshape(chosen.shape)


def robust_fit(tiles: Tiles, chosen: np.ndarray, around: np.ndarray, start: np.ndarray):
    """Fit with the errors of the module's docstring: theta, covariance (3, 3)."""
    sample = sample_of(tiles, chosen)
    theta, sampling, influence = fit(sample, start)
    covariance = _scatter(sampling, influence, sample.group)
    for other in (sample_of(tiles, chosen, top=True), sample_of(tiles, _quieter(tiles, chosen, around))):
        shifted, wider, _ = fit(other, theta, rounds=1)
        difference = (shifted - theta)[:2]
        share = _excess(difference, (wider - sampling)[:2, :2])
        covariance[:2, :2] += share * np.outer(difference, difference)
    covariance *= _UNSEEN
    covariance[0, 0] += (_GAIN_FLOOR * theta[0]) ** 2
    covariance[1, 1] += (_READ_FLOOR * theta[1]) ** 2
    return theta, covariance


def _quantiles(values: np.ndarray, weights: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of weighted values."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return np.interp(np.asarray(shares) * total[-1], total - 0.5 * weights[order], values[order])


def posterior(mean: np.ndarray, covariance: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Medians (2,) and 95 % intervals (2, 2) of (K, v) under K > 0, v >= least and p(v) ~ v^-1/2."""
    from scipy.special import ndtri

    sd_v = np.sqrt(covariance[1, 1])
    low, high = max(least, mean[1] - _REACH * sd_v), max(mean[1] + _REACH * sd_v, 2.0 * least)
    v = np.geomspace(low, high, _GRID)
    log_weight = -0.5 * ((v - mean[1]) / sd_v) ** 2 + 0.5 * np.log(v)  # dv / v is uniform on this grid
    weight = np.exp(log_weight - log_weight.max())
    slope = covariance[0, 1] / sd_v**2
    rest = np.sqrt(max(covariance[0, 0] - slope**2 * sd_v**2, 0.0))
    deviates = ndtri((np.arange(_DEVIATES) + 0.5) / _DEVIATES)
    k = (mean[0] + slope * (v - mean[1]))[:, None] + rest * deviates
    weights = weight[:, None] * (k > 0)
    if not weights.any():
        raise CalibrationError(
            "the variance does not rise with the signal: the picture was denoised, or it is not linear raw data."
        )
    shares = [0.5, (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = np.array([_quantiles(k.ravel(), weights.ravel(), shares), _quantiles(v, weight, shares)])
    return found[:, 0], found[:, 1:]
