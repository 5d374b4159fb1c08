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

    se(K)^2 = max(1, chi2/dof) / sum w mu^2 + (sum w mu / sum w mu^2)^2 se(v)^2

chi2/dof above 1 says that the points scatter more than sampling explains: a bent response, light that changed
within pairs.  An unweighted fit, as EMVA 1288 prescribes, has 2.3 times the standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.sensor.frames import PairStatistics

FIT_UP_TO = 0.7  # of the saturation signal: EMVA 1288 R4.0 Linear, section 6.6
MIN_LEVELS = 3
_MAX_ROUNDS = 50


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
    """

    mean: np.ndarray
    variance: np.ndarray
    dof: np.ndarray
    used: np.ndarray
    system_gain: np.ndarray
    system_gain_se: np.ndarray
    chi2_per_dof: np.ndarray
    saturation: float


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
    return slope, float(np.sqrt(max(1.0, chi2) / information + (lever * read_var_se) ** 2)), chi2


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
        fit_slope(mean[used, p], variance[used, p], dof[used, p], float(read_var[p]), float(read_var_se[p]))
        for p in range(mean.shape[1])
    ]
    slope, error, chi2 = (np.array(column) for column in zip(*fits, strict=True))
    return PhotonTransfer(mean, variance, dof, used, slope, error, chi2, saturation)
