"""Hot, growing, dead and random-telegraph pixels, and how many pixels deviate how far.

References
----------
EMVA Standard 1288, Release 4.0 Linear (2021), section 8.4 (defect histograms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.pixel_moments import PixelMoments
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
) -> NDArray:
    """Map of defective pixels.

    ========== ================================================================================= ==============
    kind       criterion                                                                         value
    ========== ================================================================================= ==============
    hot        mean dark more than ``hot_sigmas`` robust sigma above its surroundings            excess [DN]
    growing    the same for the difference of a longer and a shorter dark                        DN/s, or DN
    dead       response (flat - dark) below ``dead_response`` of its surroundings                response
    telegraph  (L - 1) s^2 / v beyond the chi-square quantile that lets ``false_alarms``         excess sd [DN]
               innocent pixels of the whole map through
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
        Stated for Gaussian temporal noise, equal for all pixels of a phase, of at least 0.6 DN; heavier tails let
        more through.

    Returns
    -------
    (n,) structured array: row, column, kind, value; sorted by kind, then row and column
    """
    from scipy.special import chdtri

    from rawkit.sensor import surface_kernel

    layout = CFA.mono() if cfa is None else cfa
    gains = None if system_gain is None else np.broadcast_to(np.asarray(system_gain, np.float64), len(layout.phases))
    rows, cols = layout.shape
    probability = false_alarms / dark.mean.size
    dof = dark.count - 1
    limit, middle = float(chdtri(dof, probability)), float(chdtri(dof, 0.5))  # of chi-square
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
