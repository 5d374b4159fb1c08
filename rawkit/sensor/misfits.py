"""Pairs of frames that do not belong to the others of their ISO: light in a dark, a wrong ISO in the metadata.

Each pair i has a mean m_i [DN] and a temporal variance s_i [DN^2] (``frames.PairStatistics``).  What is judged is its
distance from the median pair, so most pairs must be right.

* *Light leak*: a dark whose mean lies above the others' by more than half their read noise, and whose variance grew as
  well, as the shot noise of light makes it (a drift of the black level moves the mean alone).  Dark current does both,
  but grows with exposure time: a dark is compared with darks of its own or longer exposure only.
* *Mislabelled ISO*: variance that the label does not allow.  A dark's read variance, or a flat's system gain

      g_i = (s_i - v) / m_i,      v the read variance,

  stands off the median by a factor and by many standard errors.  A third of a stop changes K by 26 %; a response that
  bends by 5 % at white changes g by 14 % up to where the photon-transfer curve is fitted.

References: EMVA 1288 R4.0 Linear for the noise model; false and missed alarms: benchmarks/wrong_frames.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rawkit.sensor.frames import PairStatistics

MIN_DARKS = 3  # pairs of which a median is right although one is wrong
MIN_FLATS = 4  # the fit needs three levels when one is left out
_LEAK_SIGMAS = 0.5  # read noises by which a dark's mean may exceed the median dark's
_LEAK_FACTOR = 1.2  # and by which its variance may
_READ_FACTOR = 1.3  # between read variances of neighboring full stops lies 1.0 (nothing to see) to 4
_GAIN_FACTOR = 1.18  # between a response that bends (1.14) and a third of a stop (1.26; 1.2 where K is affine in ISO)
_SIGNIFICANT = 6.0  # standard errors
_TELLING = 0.1  # relative standard error of g up to which a pair takes part
_SOME = 1 / 3  # of all pairs: if more stand off, it is not clear which are the wrong ones


def light_leaks(pairs: Sequence[PairStatistics]) -> list[bool]:
    """Which pairs of darks hold light: brighter and noisier than darks of the same or a longer exposure.

    Parameters
    ----------
    pairs : sequence of PairStatistics
        Darks of one ISO.

    Returns
    -------
    list of bool
        False also where fewer than three pairs can be compared: the longest exposures of a series.
    """
    mean, variance, times = _dark_numbers(pairs)
    leaks = []
    for m, s, t in zip(mean, variance, times, strict=True):
        others = times >= t
        typical = float(np.median(variance[others]))
        above = m - float(np.median(mean[others])) > _LEAK_SIGMAS * np.sqrt(typical)
        leaks.append(bool(others.sum() >= MIN_DARKS and above and s > _LEAK_FACTOR * typical))
    return leaks


def mislabelled_darks(pairs: Sequence[PairStatistics]) -> list[float | None]:
    """Read variance of a pair of darks over the others', where it is another ISO's; else None.

    A dark that is too noisy is compared with darks of its own or longer exposure, one too quiet with those of its own
    or shorter exposure: dark current makes long exposures noisier.

    Parameters
    ----------
    pairs : sequence of PairStatistics
        Darks of one ISO, light leaks removed.
    """
    _, variance, times = _dark_numbers(pairs)
    sampling = [np.sqrt(2.0 / p.dof.sum()) * p.variance.mean() for p in pairs]
    errors = [float(np.hypot(e, np.hypot(p.row_var_se, p.column_var_se))) for e, p in zip(sampling, pairs, strict=True)]
    found: list[float | None] = []
    for s, t, error in zip(variance, times, errors, strict=True):
        up, down = (
            s / float(np.median(variance[others])) if others.sum() >= MIN_DARKS else 1.0
            for others in (times >= t, times <= t)
        )
        ratio = up if up > 1.0 else min(down, 1.0)
        off = max(ratio, 1.0 / ratio) > _READ_FACTOR and abs(1.0 - 1.0 / ratio) * s > _SIGNIFICANT * error
        found.append(ratio if off else None)
    return _unless_many(found)


def _dark_numbers(pairs: Sequence[PairStatistics]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [DN] and variance [DN^2] over all phases and exposure time [s] of each pair; unknown times are equal."""
    mean = np.array([float(p.mean.mean()) for p in pairs])
    variance = np.array([float(p.variance.mean()) for p in pairs])
    times = np.array([p.exposure_time if p.exposure_time is not None else np.nan for p in pairs])
    return mean, variance, times if np.isfinite(times).all() else np.zeros(len(pairs))


def mislabelled_flats(
    pairs: Sequence[PairStatistics], dark_mean: np.ndarray, read_var: np.ndarray, *, highest: float
) -> list[float | None]:
    """System gain of a pair of flats over the others', where it is another ISO's; else None.

    Parameters
    ----------
    pairs : sequence of PairStatistics
        Flats of one ISO.
    dark_mean, read_var : (P,) [DN, DN^2]
        From the darks; ``dark_mean`` on the scale of the flats' means.
    highest : float [DN above dark]
        Signal up to which the curve is straight enough to judge by.
    """
    mean = np.array([p.mean for p in pairs]).reshape(len(pairs), -1) - dark_mean
    variance = np.array([p.variance for p in pairs]).reshape(mean.shape)
    dof = np.array([p.dof for p in pairs]).reshape(mean.shape)
    usable = np.array([p.ceiling is None for p in pairs]) & np.all((mean > 0) & (mean < highest), axis=1)
    signal = np.where(usable[:, None], mean, 1.0)
    gain = (variance - read_var) / signal
    # A pair's own variance sets its error, so a pair of a noisier ISO is not judged by the others' small errors.
    error = np.sqrt(2.0 / dof) * variance / signal
    usable &= np.all(error < _TELLING * np.abs(gain), axis=1) & np.all(gain > 0, axis=1)
    if usable.sum() < MIN_FLATS:
        return [None] * len(pairs)
    typical = np.median(gain[usable], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs, log_errors = np.log(gain / typical), error / gain
    found: list[float | None] = []
    for log, log_error, judged in zip(logs, log_errors, usable, strict=True):
        if not judged:
            found.append(None)
            continue
        weight = 1.0 / log_error**2
        off, se = float((weight * log).sum() / weight.sum()), float(weight.sum() ** -0.5)
        wrong = abs(off) > np.log(_GAIN_FACTOR) and abs(off) > _SIGNIFICANT * se
        found.append(float(np.exp(off)) if wrong else None)
    return _unless_many(found)


def _unless_many(found: list[float | None]) -> list[float | None]:
    """Nothing where more than a third stands off: it is not clear then which are wrong; the fit's scatter tells."""
    return found if sum(f is not None for f in found) <= _SOME * len(found) else [None] * len(found)
