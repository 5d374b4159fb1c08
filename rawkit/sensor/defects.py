"""Hot, growing, dead and random-telegraph pixels, and how many pixels deviate how far.

References
----------
EMVA Standard 1288, Release 4.0 Linear (2021), section 8.4 (defect histograms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.quantized import NORMAL_LAMBDA, logit_table, tukey_deviation
from rawkit.sensor.surface import (
    REJECT_SIGMAS,
    SAMPLE,
    SHADING_ORDER,
    Surroundings,
    robust_factors,
)

FloatArray = NDArray[np.floating]

HOT_SIGMAS = 6.0
DEAD_RESPONSE = 0.5  # of the neighborhood's response
TELEGRAPH_FALSE_ALARMS = 1.0  # expected number of innocent pixels per map
_SQUARE_BINS = 1 << 14  # of the distribution of a pixel's sample variance

DEFECT_DTYPE = np.dtype([("row", np.int32), ("column", np.int32), ("kind", "U9"), ("value", np.float64)])


def find_defects(
    dark: PixelMoments,
    *,
    cfa: CFA | None = None,
    flat: PixelMoments | None = None,
    long_dark: PixelMoments | None = None,
    exposure_difference: float | None = None,
    system_gain: float | Sequence[float] | None = None,
    hot_sigmas: float = HOT_SIGMAS,
    dead_response: float = DEAD_RESPONSE,
    false_alarms: float = TELEGRAPH_FALSE_ALARMS,
    tukey_lambda: Sequence[float] | None = None,
) -> NDArray:
    """Map of defective pixels.

    ========== ================================================================================= ==============
    kind       criterion                                                                         value
    ========== ================================================================================= ==============
    hot        mean dark more than ``hot_sigmas`` robust sigma above its surroundings            excess [DN]
    growing    the same for the difference of a longer and a shorter dark                        DN/s, or DN
    dead       response (flat - dark) below ``dead_response`` of its surroundings                response
    telegraph  (L - 1) s^2 / v beyond the quantile that lets ``false_alarms`` innocent pixels of  excess sd [DN]
               the whole map through: of chi-square, or of the heavier law that is given
    ========== ================================================================================= ==============

    Parameters
    ----------
    dark : PixelMoments
        Of darks of the shortest exposure.
    flat : PixelMoments, optional
        Of flats: needed for dead pixels.
    long_dark : PixelMoments, optional
        Of darks of a longer exposure.
    exposure_difference : float [s], optional
        Between ``long_dark`` and ``dark``; without it growth is in DN.
    system_gain : float or one per phase [DN/e-], optional
        Hot pixels have dark current's shot noise: with K known, v grows by K times their excess, so that a steady
        hot pixel is not taken for a telegraph one.
    false_alarms : float
        Stated for temporal noise of at least 0.6 DN, equal for all pixels of a phase.
    tukey_lambda : one per phase, optional
        Shape of the temporal noise (``quantized.fit_tails``); None: Gaussian, and heavier tails let more through.

    Returns
    -------
    (n,) structured array: row, column, kind, value; sorted by kind, then row and column
    """
    from rawkit.sensor import surface_kernel

    layout = CFA.mono() if cfa is None else cfa
    gains = None if system_gain is None else np.broadcast_to(np.asarray(system_gain, np.float64), len(layout.phases))
    rows, cols = layout.shape
    probability = false_alarms / dark.mean.size
    dof = dark.count - 1
    found = []

    def add(kind: str, places: NDArray[np.intp], values: FloatArray, site: tuple[int, int]) -> None:
        i, j = np.divmod(places, -(-(dark.mean.shape[1] - site[1]) // cols))
        part = np.empty(len(places), DEFECT_DTYPE)
        part["row"], part["column"] = i * rows + site[0], j * cols + site[1]
        part["kind"], part["value"] = kind, values
        found.append(part)

    for site, phase in zip(layout.sites, layout.plane_phases, strict=True):
        short = dark.plane(*site, layout.shape)
        around = Surroundings.of(short.mean, *short.surface()[:2])
        add("hot", *_above(around, hot_sigmas), site)
        if long_dark is not None:
            grown = long_dark.plane(*site, layout.shape).mean - short.mean
            places, growth = _above(_around(grown), hot_sigmas)
            add("growing", places, growth / (exposure_difference or 1.0), site)
        if flat is not None:
            signal = flat.plane(*site, layout.shape).mean - short.mean
            down, across, _ = robust_factors(signal, SHADING_ORDER, REJECT_SIGMAS)
            places = surface_kernel.low_pixels(signal, down, across, dead_response)
            i, j = np.divmod(places, signal.shape[1])
            add("dead", places, signal[i, j] / (down[i] * across[j]).sum(axis=1), site)
        limit, middle = _variance_quantiles(
            dark.count, probability, None if tukey_lambda is None else float(tukey_lambda[phase])
        )
        variance = short.variance
        sample = np.arange(0, variance.size, max(1, variance.size // SAMPLE))
        typical = float(np.median(variance[np.divmod(sample, variance.shape[1])])) * dof / middle
        if typical > 0:
            places = np.flatnonzero(variance > limit / dof * typical)  # a hot pixel may have more
            expected = np.full(len(places), typical)
            if gains is not None:
                expected += gains[phase] * np.maximum(around.excess(places), 0.0)
            over = variance[np.divmod(places, variance.shape[1])] - expected
            telling = over > (limit / dof - 1.0) * expected
            add("telegraph", places[telling], np.sqrt(np.maximum(over[telling], 0.0)), site)
    result = np.concatenate(found)
    # Sorting by the kinds' numbers, not by their letters, keeps a map of many defects cheap.
    kind = np.unique(result["kind"], return_inverse=True)[1]
    return result[np.lexsort((result["column"], result["row"], kind))]


@lru_cache(maxsize=16)
def _variance_quantiles(count: int, probability: float, tukey_lambda: float | None) -> tuple[float, float]:
    """(L - 1) s^2 / v of L = ``count`` draws: what it exceeds with ``probability``, and its median.

    Chi-square of a Gaussian.  Under heavier tails one draw x in L adds (1 - 1/L) x^2, and the distribution is that of L
    such terms; v has to be finite (lambda > -1/2).
    """
    from scipy.special import chdtri

    gaussian = float(chdtri(count - 1, probability)), float(chdtri(count - 1, 0.5))
    if tukey_lambda is None or tukey_lambda >= NORMAL_LAMBDA or not np.isfinite(tukey_deviation(tukey_lambda)):
        return gaussian
    logit, log_p, log_q = logit_table()
    values = (
        logit if tukey_lambda == 0 else (np.exp(tukey_lambda * log_p) - np.exp(tukey_lambda * log_q)) / tukey_lambda
    )
    squares = (1.0 - 1.0 / count) * (values / tukey_deviation(tukey_lambda)) ** 2
    weights = np.exp(log_p + log_q)  # density over the logit, evenly spaced
    weights /= weights.sum()
    # Largest of L draws, with a tenth of the probability, and as much as all others may add.
    rare = float(np.interp(np.log(probability / (20.0 * count)), log_p, squares))
    bins = np.linspace(0.0, rare + 2.0 * gaussian[0], _SQUARE_BINS)
    place = np.rint(squares / bins[1])
    one = np.bincount(np.minimum(place, _SQUARE_BINS - 1).astype(np.intp), weights, _SQUARE_BINS)
    size = 4 * _SQUARE_BINS  # sums that leave the range do not come back into it
    total = np.fft.irfft(np.fft.rfft(one, size) ** count, size)[:_SQUARE_BINS]
    below = np.cumsum(np.maximum(total, 0.0))
    limit, middle = (float(bins[np.searchsorted(below, share)]) for share in (1.0 - probability, 0.5))
    return max(limit, gaussian[0]), middle


def _around(image: FloatArray) -> Surroundings:
    return Surroundings.of(image, *robust_factors(image, SHADING_ORDER, REJECT_SIGMAS)[:2])


def _above(around: Surroundings, sigmas: float) -> tuple[NDArray[np.intp], FloatArray]:
    """Flat indices of the pixels more than ``sigmas`` robust sigma above their surroundings, and by how much [DN]."""
    places = around.far(sigmas * max(around.sigma, np.finfo(float).tiny))
    excess = around.excess(places)
    return places[excess > 0], excess[excess > 0]


@dataclass(frozen=True, eq=False)
class DefectHistogram:
    """Logarithmic histogram of an image with its Gaussian model (EMVA 1288, section 8.4).

    Parameters
    ----------
    value : (n,) [DN]
        Centers of the classes, relative to the mean.
    count : (n,)
    model : (n,)
        Expected counts of a Gaussian of the image's mean and standard deviation.
    distance : (m,) [DN]
    beyond : (m,) [% of the pixels]
        Share of pixels farther from the mean than ``distance``.
    """

    value: FloatArray
    count: NDArray[np.integer]
    model: FloatArray
    distance: FloatArray
    beyond: FloatArray


def defect_histogram(image: FloatArray, *, high_pass: bool = False, bins: int = 256) -> DefectHistogram:
    """How many pixels deviate how far.

    Parameters
    ----------
    image : (H, W) [DN]
        Mean dark (DSNU), or mean flat minus mean dark (PRNU).
    high_pass : bool
        Subtract the mean of the 5 x 5 surroundings first, edges cropped, as EMVA 1288 does for PRNU.
    bins : int
        Classes of equal width over the range of the values, as EMVA 1288 has them.
    """
    from scipy.special import ndtr

    if high_pass:
        from scipy.ndimage import uniform_filter

        image = (image - uniform_filter(np.asarray(image, np.float64), 5))[2:-2, 2:-2]
    deviation = (image - image.mean()).ravel()
    low, high = float(deviation.min()), float(deviation.max())
    if high <= low:
        raise CalibrationError("all pixels of the mean image are equal; a defect histogram needs pixels that differ.")
    count, edges = np.histogram(deviation, bins=bins, range=(low, high))
    model = np.diff(ndtr(edges / deviation.std())) * deviation.size
    distance = np.linspace(0.0, max(-low, high), bins + 1)
    within = np.cumsum(np.histogram(np.abs(deviation), bins=distance)[0])
    beyond = 100.0 * np.concatenate([[1.0], 1.0 - within / deviation.size])
    return DefectHistogram((edges[1:] + edges[:-1]) / 2.0, count, model, distance, beyond)
