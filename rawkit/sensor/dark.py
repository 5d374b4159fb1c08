"""Read noise from dark frames.

Over pairs of darks at exposure times t, per phase,

    var_dark(t) = v + K^2 mu_I t           (EMVA 1288 R4.0 Linear, section 7: dark current's shot noise)

v is the read variance [DN^2], quantization's 1/12 included.  Each pair contributes with weight nu / (2 v^2);

    se(v)^2 = 2 v^2 / sum nu               pooled
    or the intercept's error               when the variance grows significantly with exposure time

Pooling is the better estimate unless the growth is real, so the line is used only when there are three exposure
times and its slope exceeds three standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.sensor.frames import PairStatistics

_SIGNIFICANT = 3.0  # standard errors
QUANTIZATION_LIMIT = 0.36  # DN^2: below 0.6 DN of read noise, rounding distorts the plain variance


@dataclass(frozen=True, eq=False)
class DarkNoise:
    """What the darks of one ISO say, (P,) per phase.

    Parameters
    ----------
    mean : [DN, the file's black removed]
        Mean dark signal.
    read_var, read_var_se : [DN^2]
    grows : bool
        The variance grows with exposure time; ``read_var`` is the value at time zero.
    """

    mean: np.ndarray
    read_var: np.ndarray
    read_var_se: np.ndarray
    grows: bool


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
    if any(p.floor for p in pairs):
        raise CalibrationError(
            "the darks are clipped at their lowest code (the camera removes its black level), so half of the read "
            "noise is missing; use a raw format that keeps the black offset."
        )
    pooled = (dof * variance).sum(axis=0) / dof.sum(axis=0)
    if np.any(pooled <= 0):
        raise CalibrationError("the darks of a pair are identical; they must be separate exposures.")
    center = (dof * mean).sum(axis=0) / dof.sum(axis=0)
    error = np.sqrt(2.0 / dof.sum(axis=0)) * pooled
    times = np.array([np.nan if p.exposure_time is None else p.exposure_time for p in pairs])
    if len(np.unique(times[np.isfinite(times)])) < 3 or not np.all(np.isfinite(times)):
        return DarkNoise(center, pooled, error, grows=False)
    fits = [_line(times, variance[:, p], dof[:, p] / (2.0 * pooled[p] ** 2)) for p in range(variance.shape[1])]
    intercept, intercept_se, slope, slope_se = (np.array(column) for column in zip(*fits, strict=True))
    if not np.all(slope > _SIGNIFICANT * slope_se) or np.any(intercept <= 0):
        return DarkNoise(center, pooled, error, grows=False)
    return DarkNoise(center, intercept, intercept_se, grows=True)


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Weighted straight line: intercept, its standard error, slope, its standard error."""
    design = np.stack([np.ones_like(x), x], axis=1)
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    intercept, slope = covariance @ (design.T @ (weights * y))
    return float(intercept), float(np.sqrt(covariance[0, 0])), float(slope), float(np.sqrt(covariance[1, 1]))
