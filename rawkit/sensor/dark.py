"""Noise of dark frames.

Over pairs of darks at exposure times t, per phase,

    var_dark(t) = v + K^2 mu_I t           (EMVA 1288 R4.0 Linear, section 7: dark current's shot noise)

v is the read variance [DN^2], quantization's 1/12 included.  Each pair contributes with weight nu / (2 v^2);

    se(v)^2 = 2 v^2 / sum nu               pooled
    or the intercept's error               when the variance grows significantly with exposure time

Differences beyond 6 standard deviations are left out of v, and with heavy tails they are part of it: v is divided by
the share of the variance that the fitted Tukey-lambda law has within them.

Pooling is the better estimate unless the growth is real, so the line is used only when there are three exposure
times and its slope exceeds three standard errors.  Row and column noise, being common to thousands of pixels, add
their own uncertainty.

Below 0.6 DN the plain variance depends on where the black level lies between two codes; there sigma comes from the
likelihood of the codes (``quantized``), and v = sigma^2 + 1/12, the mean over all offsets.

Darks that hold light, or are of another ISO, are found by ``misfits`` before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.sensor.frames import PairStatistics
from rawkit.sensor.quantized import NORMAL_LAMBDA, QuantizedNoise, Tails, fit_quantized, fit_tails

_SIGNIFICANT = 3.0  # standard errors
QUANTIZATION_LIMIT = 0.36  # DN^2: below 0.6 DN of read noise, rounding distorts the plain variance
_ROUNDING_VAR = 1.0 / 12.0  # DN^2
TELLING_GAIN = 4.0  # log-likelihood by which a Tukey-lambda law has to beat a Gaussian


@dataclass(frozen=True, eq=False)
class DarkNoise:
    """What the darks of one ISO say, (P,) per phase.

    Parameters
    ----------
    mean : [DN, the file's black removed]
        Mean dark signal; at time zero where it grows with exposure time.
    mean_se : [DN]
    read_var, read_var_se : [DN^2]
        ``read_var_se`` is infinite where the read noise is not identifiable.
    grows : bool
        The variance grows with exposure time; ``read_var`` is the value at time zero.
    drift, drift_se : [DN/s] or None
        Growth of the mean with exposure time (dark current times K), from three exposure times on.
    row_var, row_var_se, column_var, column_var_se : float [DN^2]
        Variance that whole rows and columns share in one frame.
    tails : tuple of Tails
        Per phase; empty below 0.6 DN.
    quantized : tuple of QuantizedNoise
        Per phase where the noise is below 0.6 DN, else empty.
    differences : (P, 2 R + 1) int64
        Histogram of the differences of all pairs from -R to R DN.
    """

    mean: np.ndarray
    mean_se: np.ndarray
    read_var: np.ndarray
    read_var_se: np.ndarray
    grows: bool
    drift: np.ndarray | None
    drift_se: np.ndarray | None
    row_var: float
    row_var_se: float
    column_var: float
    column_var_se: float
    differences: np.ndarray
    tails: tuple[Tails, ...] = ()
    quantized: tuple[QuantizedNoise, ...] = ()


def fit_darks(pairs: Sequence[PairStatistics]) -> DarkNoise:
    """Pool dark pairs of one ISO (formulas above).

    Raises
    ------
    CalibrationError
        No pair, darks without any noise, or darks clipped at zero.
    """
    if not pairs:
        raise CalibrationError(
            "no pair of darks; read noise is taken from darks, so add at least two equal dark frames."
        )
    mean = np.array([p.mean for p in pairs])
    variance = np.array([p.variance for p in pairs])
    dof = np.array([p.dof for p in pairs])
    pooled = (dof * variance).sum(axis=0) / dof.sum(axis=0)
    coarse = pooled < QUANTIZATION_LIMIT
    # Noise of less than a DN piles up on few codes by nature; only above that does a pile-up mean clipping.
    if any(p.floor for p in pairs) and not np.any(coarse):
        raise CalibrationError(
            "the darks are clipped at their lowest code (the camera removes its black level), so half of the read "
            "noise is missing; use a raw format that keeps the black offset."
        )
    if np.all(pooled <= 0):
        raise CalibrationError("the darks of a pair are identical; they must be separate exposures.")
    center = (dof * mean).sum(axis=0) / dof.sum(axis=0)
    mean_se = np.std(mean, axis=0, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.sqrt(pooled / (2 * dof[0]))
    lines = [_pooled_line(pairs, name) for name in ("row_var", "column_var")]
    differences = np.sum([p.differences for p in pairs], axis=0)
    lines_var = sum(value for value, error in lines if value > _SIGNIFICANT * error)
    tails = () if np.any(coarse) else tuple(fit_tails(h, lines_var=lines_var) for h in differences)
    spread = np.sqrt(2.0 / dof.sum(axis=0))
    if tails:
        limit = np.mean([p.limit for p in pairs], axis=0)
        share, excess, share_se = np.array([_trimmed(law, float(far)) for law, far in zip(tails, limit, strict=True)]).T
        variance, pooled = variance / share, pooled / share
        spread = np.sqrt((2.0 + np.maximum(excess, 0.0)) / dof.sum(axis=0) + (share_se / share) ** 2)
    common = float(np.sqrt(sum(error**2 for value, error in lines if value > _SIGNIFICANT * error)))
    error = np.hypot(spread * pooled, common)
    read_var, grows, drift, drift_se = pooled, False, None, None
    times = np.array([np.nan if p.exposure_time is None else p.exposure_time for p in pairs])
    if np.all(np.isfinite(times)) and len(np.unique(times)) >= 3:
        weights = dof / (2.0 * pooled**2)
        fits = [_line(times, variance[:, p], weights[:, p]) for p in range(variance.shape[1])]
        intercept, intercept_se, slope, slope_se = (np.array(column) for column in zip(*fits, strict=True))
        grows = bool(np.all(slope > _SIGNIFICANT * slope_se) and np.all(intercept > 0))
        if grows:
            read_var, error = intercept, np.hypot(intercept_se, common)
        # Frame means scatter by far more than their pixels' noise (black-level jitter): errors from the scatter.
        drifts = [_line(times, mean[:, p], np.ones(len(times))) for p in range(mean.shape[1])]
        scatter = [
            np.std(mean[:, p] - d[0] - d[2] * times, ddof=2) if len(times) > 2 else np.nan for p, d in enumerate(drifts)
        ]
        drift = np.array([d[2] for d in drifts])
        drift_se = np.array([d[3] * s for d, s in zip(drifts, scatter, strict=True)])
        if np.all(np.abs(drift) > _SIGNIFICANT * drift_se):
            # Flats are short: of the dark signal they hold what is there at time zero.
            center = np.array([d[0] for d in drifts])
            mean_se = np.array([d[1] * s for d, s in zip(drifts, scatter, strict=True)])
    quantized: tuple[QuantizedNoise, ...] = ()
    if np.any(coarse):
        quantized = tuple(fit_quantized(joint) for joint in _aligned_joint(pairs))
        sigma = np.array([q.read_noise for q in quantized])
        sigma_se = np.array([q.read_noise_se if q.identifiable else np.inf for q in quantized])
        read_var = np.where(coarse, sigma**2 + _ROUNDING_VAR, read_var)
        error = np.where(coarse, 2.0 * sigma * sigma_se, error)
    (row_var, row_se), (column_var, column_se) = lines
    return DarkNoise(
        mean=center,
        mean_se=mean_se,
        read_var=read_var,
        read_var_se=error,
        grows=grows,
        drift=drift,
        drift_se=drift_se,
        row_var=row_var,
        row_var_se=row_se,
        column_var=column_var,
        column_var_se=column_se,
        differences=differences,
        tails=tails,
        quantized=quantized,
    )


def _trimmed(tails: Tails, limit: float) -> tuple[float, float, float]:
    """Share of the variance within ``limit`` [DN], excess kurtosis there, and the standard error of the share.

    All as of a Gaussian where the tails are no heavier than one's, or have no variance that could be stated.
    """
    share, excess = tails.within(limit)
    heavier = tails.log_likelihood_gain > TELLING_GAIN and tails.tukey_lambda < NORMAL_LAMBDA
    if not heavier or share <= 0 or not np.isfinite(tails.tukey_lambda_se):
        return 1.0, 0.0, 0.0
    other = replace(tails, tukey_lambda=tails.tukey_lambda + tails.tukey_lambda_se)
    return share, excess, abs(other.within(limit)[0] - share)


def _pooled_line(pairs: Sequence[PairStatistics], name: str) -> tuple[float, float]:
    """Mean of ``row_var`` or ``column_var`` over pairs and its standard error."""
    values = np.array([getattr(p, name) for p in pairs])
    errors = np.array([getattr(p, name + "_se") for p in pairs])
    return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(pairs))


def _aligned_joint(pairs: Sequence[PairStatistics]) -> np.ndarray:
    """Joint histograms of all pairs added up, windows shifted to the first pair's codes; (P, J, J)."""
    total = pairs[0].joint.copy()
    size = total.shape[1]
    for pair in pairs[1:]:
        for p, shift in enumerate(pair.joint_start - pairs[0].joint_start):
            low, high = max(0, int(shift)), min(size, size + int(shift))
            if low < high:
                inside = slice(low - int(shift), high - int(shift))
                total[p, low:high, low:high] += pair.joint[p, inside, inside]
    return total


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Weighted straight line: intercept, its standard error, slope, its standard error."""
    design = np.stack([np.ones_like(x), x], axis=1)
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    intercept, slope = covariance @ (design.T @ (weights * y))
    return float(intercept), float(np.sqrt(covariance[0, 0])), float(slope), float(np.sqrt(covariance[1, 1]))
