"""Spectra of images, and the sinusoidal patterns that stand out of them.

    horizontal power(f) = |FFT of (row - image mean)|^2 / columns, averaged over rows               (EMVA 1288)

White noise of variance v has power v at every frequency.  A pattern of rows, of columns or of any diagonal direction
is a line in the two-dimensional spectrum, where its power exceeds what exponentially distributed noise reaches.

References
----------
EMVA Standard 1288, Release 4.0 Linear (2021), section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rawkit.sensor.surface import REJECT_SIGMAS, SHADING_ORDER, lines_and_rest, pattern_shape, robust_surface

FloatArray = NDArray[np.floating]

LINE_FALSE_ALARMS = 0.01  # expected number of invented lines per spectrum

_PEAK_SURROUNDINGS = 11  # bins a side
_PEAK_SIGMAS = 3.0
_MEDIAN_OF_EXPONENTIAL = np.log(2.0)
_HANN_WIDENING = 1.5  # equivalent noise bandwidth of a Hann window, bins
_SERIES_BACKGROUND = 129  # bins of the running median under a series' spectrum
_BAND = 256  # rows handled at once, so that temporaries stay in cache


@dataclass(frozen=True, eq=False)
class Spectrogram:
    """One-dimensional power spectrum.

    Parameters
    ----------
    frequency : (n,) [cycles per pixel], 0 up to below 1/2
    power : (n,)
        Unit of the image squared; white noise of variance v has power v.
    """

    frequency: FloatArray
    power: FloatArray


def spectrogram(image: FloatArray, *, direction: Literal["horizontal", "vertical"] = "horizontal") -> Spectrogram:
    """EMVA 1288 spectrogram: |FFT of (row - image mean)|^2 / columns, averaged over rows.

    Parameters
    ----------
    image : (H, W)
        Mean image of a stack, or a single frame.
    direction : {"horizontal", "vertical"}
        Along rows, or along columns.

    Examples
    --------
    >>> wave = np.cos(2 * np.pi * np.arange(64) / 8) * np.ones((4, 1))
    >>> s = spectrogram(wave)
    >>> float(s.frequency[s.power.argmax()])
    0.125
    """
    lines = image if direction == "horizontal" else image.T
    length, mean = lines.shape[1], float(image.mean())
    power = np.zeros(length // 2)
    for top in range(0, lines.shape[0], _BAND):
        transform = np.fft.rfft(lines[top : top + _BAND] - mean, axis=1)[:, : length // 2]
        power += (np.abs(transform) ** 2).sum(axis=0)
    return Spectrogram(np.arange(length // 2) / length, power / (length * lines.shape[0]))


@dataclass(frozen=True)
class PatternLine:
    """A sinusoid in an image: amplitude x cos(2 pi (fx x + fy y) + phase).

    Parameters
    ----------
    fx, fy : float [cycles per pixel]
        fx >= 0; fx = 0 is a pattern of rows, fy = 0 of columns.
    amplitude, amplitude_se : float [DN]
        Noise power subtracted.
    significance : float
        Power over the local background's mean; the chance of exceeding x is exp(-x) per frequency.
    """

    fx: float
    fy: float
    amplitude: float
    amplitude_se: float
    significance: float


def pattern_lines(
    image: FloatArray,
    *,
    false_alarms: float = LINE_FALSE_ALARMS,
    order: int = SHADING_ORDER,
    most: int = 100,
) -> list[PatternLine]:
    """Sinusoidal patterns of an image, of any direction, strongest first.

    Row and column means are searched as series of their own (fx = 0, fy = 0), the rest in the two-dimensional
    spectrum, where a diagonal pattern is a line although its row and column variances vanish.

    Parameters
    ----------
    image : (H, W) [DN]
        Mean of a stack of darks; of a color sensor either one phase, or the whole mosaic (then differing phases show
        as lines at frequencies that are multiples of the CFA's).
    false_alarms : float
        Expected number of lines found in pure noise.
    order : int
        Of the surface removed beforehand.
    most : int
        Lines returned at most.

    Notes
    -----
    Hann window; power over the local median of the background, which may be colored; local maxima beyond what
    ``false_alarms`` frequencies reach by chance, the scatter of the median included.
    """
    pattern_shape(image)
    surface, bad = robust_surface(image, order, REJECT_SIGMAS)
    _, rows, columns, rest = lines_and_rest(image - surface, bad)
    found = [PatternLine(0.0, f, a, se, s) for f, a, se, s in _lines_1d(rows, false_alarms / 3.0, order + 1)]
    found += [PatternLine(f, 0.0, a, se, s) for f, a, se, s in _lines_1d(columns, false_alarms / 3.0, order + 1)]
    found += _lines_2d(rest.astype(np.float32), false_alarms / 3.0, most)
    return sorted(found, key=lambda line: -line.amplitude)[:most]


def _hann(length: int) -> FloatArray:
    """Hann window of mean square 1."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(length) + 0.5) / length)
    return window / np.sqrt(np.mean(window**2))


def _line_threshold(frequencies: int, false_alarms: float, background_bins: int, window_widening: float) -> float:
    """Power over estimated background that ``false_alarms`` of so many frequencies exceed in noise.

    Power is exponential; the median of m independent powers estimates its mean with variance 2.08 / m, so the ratio
    is about F(2, 2 n) with n = m / 2.08:  P(ratio > t) = (1 + t / n)^-n.
    """
    n = background_bins / window_widening / 2.08
    return float(n * np.expm1(np.log(frequencies / false_alarms) / n))


def _lines_1d(series: FloatArray, false_alarms: float, first: int) -> list[tuple[float, float, float, float]]:
    """(frequency, amplitude, its standard error, significance) of the lines of a series, from bin ``first`` on."""
    from scipy.ndimage import median_filter

    length = len(series)
    window = _hann(length)
    power = (np.abs(np.fft.rfft(series * window)) ** 2 / length)[first:]
    if len(power) < 16 or not np.any(power > 0):
        return []
    size = min(_SERIES_BACKGROUND, len(power)) // 2 * 2 - 1
    background = median_filter(power, size=size, mode="mirror") / _MEDIAN_OF_EXPONENTIAL
    ratio = power / np.maximum(background, np.finfo(float).tiny)
    threshold = _line_threshold(len(power), false_alarms, size // 2, _HANN_WIDENING)  # mirrored ends count twice
    around = np.append(power, power[-2])  # the spectrum mirrors at 1/2
    found = []
    for k in range(1, len(power)):
        own = _own_conjugate(first + k, length)
        if ratio[k] > threshold * own and power[k] >= power[k - 1] and power[k] > around[k + 1]:
            f = (first + k + (0.0 if own > 1 else _vertex(around[k - 1 : k + 2]))) / length
            transform = abs(np.sum(series * window * np.exp(-2j * np.pi * f * np.arange(length)))) / own
            found.append((float(f), *_amplitude(transform, window.sum(), length, background[k]), float(ratio[k])))
    return found


def _own_conjugate(k: int, length: int) -> int:
    """2 at frequency 1/2, where a cosine's two halves coincide (and noise power scatters twice as far), else 1."""
    return 2 if 2 * k == length else 1


def _amplitude(transform: float, window_sum: float, size: int, background: float) -> tuple[float, float]:
    """Amplitude and standard error of a sinusoid whose windowed transform has modulus ``transform``."""
    noise = background * size  # mean |transform|^2 of the noise
    power = max(transform**2 - noise, 0.0)
    return float(2.0 * np.sqrt(power) / window_sum), float(2.0 * np.sqrt(noise / 2.0) / window_sum)


def _vertex(power: FloatArray) -> float:
    """Offset of the maximum of a parabola through the logarithms of three powers, in bins."""
    a, b, c = np.log(np.maximum(power, np.finfo(float).tiny))
    bend = a - 2.0 * b + c
    return float(np.clip(0.5 * (a - c) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _lines_2d(rest: NDArray[np.float32], false_alarms: float, most: int) -> list[PatternLine]:
    from scipy.fft import rfft2
    from scipy.ndimage import map_coordinates

    height, width = rest.shape
    window_y, window_x = _hann(height), _hann(width)
    windowed = rest * (window_y[:, None] * window_x).astype(np.float32)
    power = np.abs(np.asarray(rfft2(windowed))) ** 2 / np.float32(rest.size)
    if not np.any(power > 0):
        return []
    block = 32
    tiles = [
        [np.median(power[y : y + block, x : x + block]) for x in range(0, max(power.shape[1] - block // 2, 1), block)]
        for y in range(0, max(power.shape[0] - block // 2, 1), block)
    ]
    grid = np.array(tiles) / _MEDIAN_OF_EXPONENTIAL
    floor = float(grid.min()) if grid.min() > 0 else np.finfo(np.float32).tiny
    threshold = _line_threshold(power.size, false_alarms, block**2, _HANN_WIDENING**2)
    candidates = np.argwhere(power > threshold * floor)
    where = (candidates.T - (block - 1) / 2.0) / block
    background = map_coordinates(grid, where, order=1, mode="nearest")
    ratio = power[tuple(candidates.T)] / np.maximum(background, np.finfo(np.float32).tiny)
    strong = ratio > threshold
    found = []
    order = np.argsort(-ratio[strong])
    for (ky, kx), level, ratio_here in zip(
        candidates[strong][order], background[strong][order], ratio[strong][order], strict=True
    ):
        if kx < 1 or ky == 0 or (kx == width / 2 and ky > height / 2):
            continue  # rows and columns have their own series; the mirror image of a real spectrum
        own = min(_own_conjugate(int(kx), width), _own_conjugate(int(ky), height))
        if ratio_here <= threshold * own:
            continue
        near_y = [(ky + d) % height for d in (-1, 0, 1)]
        near_x = [min(kx + d, power.shape[1] - 1) for d in (-1, 0, 1)]
        if power[ky, kx] < power[np.ix_(near_y, near_x)].max():
            continue
        fy = (ky + _vertex(power[near_y, kx])) / height
        fx = (kx + (_vertex(power[ky, near_x]) if kx + 1 < power.shape[1] else 0.0)) / width
        wave_y = np.exp(-2j * np.pi * fy * np.arange(height)).astype(np.complex64)
        wave_x = np.exp(-2j * np.pi * fx * np.arange(width)).astype(np.complex64)
        transform = float(abs(wave_y @ (windowed @ wave_x))) / own
        amplitude, error = _amplitude(transform, float(window_y.sum() * window_x.sum()), rest.size, float(level))
        found.append(PatternLine(float(fx), float(fy - (fy > 0.5)), amplitude, error, float(ratio_here)))
        if len(found) == most:
            break
    return found


@dataclass(frozen=True)
class SpectrumPeak:
    """A line of a two-dimensional spectrum.

    Parameters
    ----------
    fx, fy : float [cycles per pixel], fx >= 0
    ratio : float
        Power over that of the surroundings.
    """

    fx: float
    fy: float
    ratio: float


def spectrum_peaks(
    logarithm: FloatArray, *, averaged: int, false_alarms: float = LINE_FALSE_ALARMS
) -> list[SpectrumPeak]:
    """Lines of an averaged two-dimensional spectrum, strongest first.

    The mean of m independent periodograms of noise follows a gamma law of shape m; a line exceeds, over the median of
    its surroundings, what ``false_alarms`` of all frequencies reach by chance.

    Parameters
    ----------
    logarithm : (h, w)
        ln of the mean power, in the order of ``fft2``.
    averaged : int
        Periodograms m behind the mean.
    """
    from scipy.ndimage import maximum_filter, median_filter
    from scipy.stats import gamma

    height, width = logarithm.shape
    if min(height, width) < _PEAK_SURROUNDINGS:
        return []
    around = median_filter(logarithm, _PEAK_SURROUNDINGS, mode="wrap")
    typical = float(gamma.median(averaged))
    limit = np.log(gamma.isf(false_alarms / logarithm.size, averaged) / typical)
    limit += _PEAK_SIGMAS * np.sqrt(np.pi / 2.0 / averaged) / _PEAK_SURROUNDINGS  # the median scatters too
    excess = logarithm - around
    # A line between two frequencies leaks into its neighbors: the strongest of a neighborhood stands for it.
    peak = (excess > limit) & (excess == maximum_filter(excess, _PEAK_SURROUNDINGS, mode="wrap"))
    found = []
    for ky, kx in np.argwhere(peak[:, : width // 2 + 1]):
        fy = ky / height - (ky / height > 0.5)
        if kx in (0, width / 2) and fy < 0:
            continue  # the mirror image of a real spectrum
        found.append(SpectrumPeak(float(kx / width), float(fy), float(np.exp(excess[ky, kx]))))
    return sorted(found, key=lambda line: -line.ratio)
