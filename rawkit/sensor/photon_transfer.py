"""Photon-transfer (mean-variance) fit.

For a linear sensor, at one ISO and one phase,

    var[x] = K * E[x] + v            (EMVA 1288 R4.0 Linear, noise model)

with x the dark-subtracted signal [DN], K the system gain [DN/e-] and v the read variance [DN^2].  1/K is the
"gain" astronomers quote in e-/DN.

v comes from darks, not from the intercept: extrapolating to zero light amplifies every bend of the response.
K is then the weighted slope through (0, v):

    K = sum w mu (s2 - v) / sum w mu^2,      w = 1 / Var(s2),      Var(s2) = 2 (K mu + v)^2 / nu

with nu the degrees of freedom behind s2.  The weights hold the model variance, not the measured one (which would
pull K down), so the fit is repeated until K stands still.  Standard error, v's own included:

    se(K)^2 = s / sum w mu^2 + (sum w mu / sum w mu^2)^2 se(v)^2

with s = 1, or chi2/dof where that exceeds what sampling reaches one time in six: the points then scatter more
than sampling explains, by a bent response or light that changed within pairs.  An unweighted fit, as EMVA 1288
prescribes, has 2.3 times the standard error.

Bent response.  If a pixel with linear signal x stores y = x (1 - c x), its shot noise is scaled by the local slope:

    var = v + K x (dy/dx)^2 = v + K x (1 - 4 c y),      x = (1 - sqrt(1 - 4 c y)) / (2 c)

so the curve itself shows the bend, whatever the exposure times were.  Where c differs from 0 by more than five
standard errors (their scatter included), K is the slope at zero signal of this model; otherwise the line stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.sensor.frames import PairStatistics

FIT_UP_TO = 0.7  # of the saturation signal: EMVA 1288 R4.0 Linear, section 6.6
MIN_LEVELS = 3
MIN_LEVELS_BENT = 6
BEND_EVIDENCE = 5.0  # standard errors: a correction that changes what K means needs strong evidence
_MAX_ROUNDS = 50
_ONE_IN_SIX = 1.0  # standard normal quantile


@dataclass(frozen=True, eq=False)
class PhotonTransfer:
    """A fitted photon-transfer curve at one ISO; arrays are (L, P) over levels and phases, or (P,).

    Parameters
    ----------
    mean, variance : (L, P) [DN, DN^2]
        Dark-subtracted signal and temporal variance of every flat pair, rising.
    dof : (L, P)
    used : (L,) bool
        Levels inside the fit.
    system_gain, system_gain_se : (P,) [DN/e-]
    chi2_per_dof : (P,)
    saturation : float [DN above dark]
        Where pixels clip.
    bend, bend_se : (P,) [1/DN]
        c of the response y = x (1 - c x); 0 where the straight line stands.
    """

    mean: np.ndarray
    variance: np.ndarray
    dof: np.ndarray
    used: np.ndarray
    system_gain: np.ndarray
    system_gain_se: np.ndarray
    chi2_per_dof: np.ndarray
    saturation: float
    bend: np.ndarray
    bend_se: np.ndarray

    def model_variance(self, signal: np.ndarray, phase: int, read_var: float) -> np.ndarray:
        """Fitted variance [DN^2] at a stored signal [DN above dark]."""
        return read_var + self.system_gain[phase] * _shot_shape(np.asarray(signal), float(self.bend[phase]))


def _shot_shape(y: np.ndarray, bend: float) -> np.ndarray:
    """x (dy/dx)^2 of the response y = x (1 - c x): shot variance per unit of K."""
    root = np.sqrt(np.maximum(1.0 - 4.0 * bend * y, 0.0))
    x = 2.0 * y / (1.0 + root)
    return x * root**2


def fit_slope(
    mean: np.ndarray, variance: np.ndarray, dof: np.ndarray, read_var: float, read_var_se: float
) -> tuple[float, float, float]:
    """Weighted slope through (0, read_var) at one phase (formula above).

    Parameters
    ----------
    mean, variance, dof : (L,) [DN, DN^2, 1]
    read_var, read_var_se : float [DN^2]

    Returns
    -------
    K [DN/e-], its standard error, chi2 per degree of freedom
    """
    read_var_se = read_var_se if np.isfinite(read_var_se) else read_var
    excess = variance - read_var
    slope = float((excess * mean).sum() / (mean**2).sum())
    weights = np.ones_like(mean)
    for _ in range(_MAX_ROUNDS):
        if not slope > 0:
            raise CalibrationError(
                "the variance of the flats does not rise with their mean; are they flats, and of this ISO?"
            )
        weights = dof / (2.0 * (slope * mean + read_var) ** 2)
        updated = float((weights * mean * excess).sum() / (weights * mean**2).sum())
        if abs(updated - slope) <= 1e-12 * abs(updated):
            break
        slope = updated
    information = float((weights * mean**2).sum())
    chi2 = float((weights * (excess - slope * mean) ** 2).sum()) / (len(mean) - 1)
    lever = float((weights * mean).sum()) / information
    return slope, float(np.sqrt(_widening(chi2, len(mean) - 1) / information + (lever * read_var_se) ** 2)), chi2


def _widening(chi2_per_dof: float, dof: int) -> float:
    """Factor on the variance of a fit: chi2/dof beyond its 84 % quantile (Wilson and Hilferty 1931), else 1."""
    spread = 2.0 / (9.0 * dof)
    quantile = (1.0 - spread + _ONE_IN_SIX * np.sqrt(spread)) ** 3
    return chi2_per_dof if chi2_per_dof > quantile else 1.0


def fit_bent(
    mean: np.ndarray, variance: np.ndarray, dof: np.ndarray, read_var: float, read_var_se: float
) -> tuple[float, float, float, float, float] | None:
    """K and bend c of the slope-corrected model at one phase; None when it does not converge.

    Returns
    -------
    K [DN/e-], its standard error, c [1/DN], its standard error, chi2 per degree of freedom
    """
    gain, bend = fit_slope(mean, variance, dof, read_var, read_var_se)[0], 0.0
    step = 1e-3 / float(mean.max())
    for _ in range(_MAX_ROUNDS):
        shape = _shot_shape(mean, bend)
        model = read_var + gain * shape
        root_weight = np.sqrt(dof / 2.0) / model
        slope_in_bend = gain * (_shot_shape(mean, bend + step) - _shot_shape(mean, bend - step)) / (2.0 * step)
        design = np.stack([shape, slope_in_bend], axis=1) * root_weight[:, None]
        residual = (variance - model) * root_weight
        change = np.linalg.lstsq(design, residual, rcond=None)[0]
        gain, bend = gain + change[0], bend + change[1]
        if not gain > 0 or abs(4.0 * bend) * mean.max() >= 1.0:
            return None
        if abs(change[0]) < 1e-10 * gain and abs(change[1]) < 1e-7 / mean.max():
            break
    covariance = np.linalg.inv(design.T @ design)
    chi2 = float((residual**2).sum()) / max(len(mean) - 2, 1)
    lever = covariance @ (design.T @ root_weight)  # change of (K, c) with the read variance
    spread = _widening(chi2, max(len(mean) - 2, 1)) * covariance + np.outer(lever, lever) * read_var_se**2
    return gain, float(np.sqrt(spread[0, 0])), bend, float(np.sqrt(spread[1, 1])), chi2


def fit_photon_transfer(
    flats: Sequence[PairStatistics],
    dark_mean: np.ndarray,
    read_var: np.ndarray,
    read_var_se: np.ndarray,
    *,
    white: float,
) -> PhotonTransfer:
    """Fit every phase of one ISO.

    Parameters
    ----------
    flats : sequence of PairStatistics
    dark_mean, read_var, read_var_se : (P,) [DN, DN^2, DN^2]
        From the darks; ``dark_mean`` on the scale of the flats' means.
    white : float [DN, black removed]
        Nominal saturation; lower when pixels are seen to pile up below it.

    Raises
    ------
    CalibrationError
        Fewer than three unclipped levels below 70 % of saturation.
    """
    ordered = sorted(flats, key=lambda pair: float(pair.mean.mean()))
    mean = np.array([pair.mean for pair in ordered]).reshape(len(ordered), -1) - dark_mean
    variance = np.array([pair.variance for pair in ordered]).reshape(mean.shape)
    dof = np.array([pair.dof for pair in ordered]).reshape(mean.shape)
    saturation = min([white, *(pair.ceiling for pair in ordered if pair.ceiling is not None)])
    unclipped = np.array([pair.ceiling is None and pair.peak < saturation for pair in ordered])
    saturation -= float(np.mean(dark_mean))
    used = unclipped & np.all((mean > 0) & (mean < FIT_UP_TO * saturation), axis=1)
    if used.sum() < MIN_LEVELS:
        raise CalibrationError(
            f"{len(ordered)} flat pairs, {int(used.sum())} of them unclipped and below {FIT_UP_TO:.0%} of saturation; "
            f"the fit needs at least {MIN_LEVELS}. Add pairs of flats between 5 % and 70 % of the white level."
        )
    fits = [
        _fit_phase(mean[used, p], variance[used, p], dof[used, p], float(read_var[p]), float(read_var_se[p]))
        for p in range(mean.shape[1])
    ]
    gain, error, chi2, bend, bend_se = (np.array(column) for column in zip(*fits, strict=True))
    return PhotonTransfer(mean, variance, dof, used, gain, error, chi2, saturation, bend, bend_se)


def _fit_phase(
    mean: np.ndarray, variance: np.ndarray, dof: np.ndarray, read_var: float, read_var_se: float
) -> tuple[float, float, float, float, float]:
    """K, its standard error, chi2 per degree of freedom, bend and its standard error: bent where the evidence is."""
    straight = fit_slope(mean, variance, dof, read_var, read_var_se)
    if len(mean) >= MIN_LEVELS_BENT:
        bent = fit_bent(mean, variance, dof, read_var, read_var_se)
        if bent is not None and abs(bent[2]) > BEND_EVIDENCE * bent[3]:
            return bent[0], bent[1], bent[4], bent[2], bent[3]
    return *straight, 0.0, 0.0
