"""Fit of a ``DarkModel`` to a bounded sample of a stack of darks.

Of every frame the means of its rows are kept, and of the first frames a central region.  With n frames of the region,
their mean over the frames and the frame's own row (and, where there are any, column) offsets are subtracted; what is
left, x, has the cumulants

    k2(x) = (1 - 1/n) (1 - 1/W) (k2 + 1/12)          k3(x) = (n - 1)(n - 2) / n^2 k3
    k4(x) = (n - 1) ((n - 1)^3 + 1) / n^4 (k4 - 1/120)                                                        [DN^m]

of the pixel's analog noise (k2, k3, k4): the mean of n frames takes 1/n of it away and makes it more Gaussian, and
the converter adds a uniform law of one DN.  The table of quantiles is that of x, stretched to these cumulants and
then moved by what the residuals of such a law would differ from x; beyond it the Tukey-lambda law goes on that fits the
pairs' differences.

Row means of W columns hold s^2 / W of the pixels' variance; a Wiener factor sqrt(1 - s^2 / (W S(f))) per frequency
takes it out of the row series, S being their own spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.code_widths import code_widths
from rawkit.sensor.dark import QUANTIZATION_LIMIT, TELLING_GAIN, DarkNoise
from rawkit.sensor.dark_model import QUANTILES, DarkModel, law_values
from rawkit.sensor.dark_shading import shrink_fixed_pattern
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.quantized import Tails, tukey_deviation
from rawkit.sensor.spectra import SpectrumPeak, spectrum_peaks

FloatArray = NDArray[np.floating]

REGION = 720  # pixels a side, central: three tiles
SAMPLE_PIXELS = 1 << 23  # of the region over all sampled frames: tail quantiles of a phase to 2 %
MOST_ROW_SERIES = 256  # frames
TILE = 240  # pixels a side of a periodogram, a multiple of every CFA's period: lines locked to it stay in one bin

_SIGNIFICANT = 3.0  # standard errors
_BINS_PER_SIGMA = 64
_REACH = 16.0  # sigma covered by the histogram of the pixels; beyond lies its end bin
_FINE = 1 << 13  # values of a normal variable at which a law is shaped
_FARTHEST = 6.0  # standard deviations, to where that goes: 1 pixel in 5e8 lies beyond
_STRETCH = (0.25, 4.0)  # of the departure from a Gaussian
_REFINEMENTS = 3  # each takes away all but some 1/n of what is left
_FINE_STEPS = 0.2  # standard deviations: coarser, the steps of 1/n DN of the residuals would be taken for the law
_PADDED = 1 << 16  # bins: the characteristic function to 1e-5 between its samples
_NO_CHANCE = 1e-18  # keeps a distribution rising where rounding leaves nothing
_SMOOTH_ROWS = 17  # bins over which the spectrum of the row series is averaged
_NEIGHBORHOOD = 9  # bins a side, against which a bin of the spectrum is judged
_LINE = 5.0  # standard errors above the surroundings: 3e-7 by chance
_RESTLESS = 2.0  # times the typical median deviation: 1 pixel in 1e4 by chance with 16 frames
_RESTLESS_FRAMES = 6  # fewer cannot tell a rare event from a restless pixel
_ROUNDING_VAR, _ROUNDING_FOURTH = 1.0 / 12.0, -1.0 / 120.0  # cumulants of a uniform law of 1 DN


class RegionSampler:
    """Bounded sample of a stack of equal frames: ``add`` every frame.

    Memory: H floats a frame (up to 256 frames) and 16 MB for the region, whatever the number of frames.

    Parameters
    ----------
    period : (int, int)
        Rows and columns of the CFA period; the region starts on one.
    rows : bool
        Keep the means of the rows.
    """

    def __init__(self, *, period: tuple[int, int] = (1, 1), rows: bool = True) -> None:
        self.period, self.rows = period, rows
        self.row_means: list[FloatArray] = []
        self.regions: list[NDArray] = []
        self.origin = (0, 0)

    def add(self, frame: NDArray) -> None:
        """Take in one (H, W) frame [DN]."""
        if self.rows and len(self.row_means) < MOST_ROW_SERIES:
            self.row_means.append(_row_means(frame))
        if len(self.regions) < 2 or sum(region.size for region in self.regions) < SAMPLE_PIXELS:
            place, self.origin = central_region(frame.shape, self.period)
            self.regions.append(frame[place].copy())


def _row_means(frame: NDArray) -> FloatArray:
    if frame.dtype.kind == "u" and frame.itemsize <= 2 and frame.shape[1] <= 1 << 16:
        return frame.sum(axis=1, dtype=np.uint32) / frame.shape[1]  # exact, in half the time of a sum of floats
    return frame.mean(axis=1, dtype=np.float64)


def central_region(
    shape: tuple[int, ...], period: tuple[int, int], side: int = REGION
) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """Central region of whole CFA periods, at most ``side`` pixels a side, and its first row and column.

    Examples
    --------
    >>> central_region((1001, 1000), (2, 2), 512)[1]
    (244, 244)
    """
    slices = []
    for length, step in zip(shape, period, strict=True):
        size = min(length, side) // step * step
        start = (length - size) // 2 // step * step
        slices.append(slice(start, start + size))
    return (slices[0], slices[1]), (slices[0].start, slices[1].start)


@dataclass(frozen=True, eq=False)
class PixelResidual:
    """Temporal noise of the region's pixels, fixed pattern, rows and columns taken out.

    Parameters
    ----------
    values : (n, h, w) float32 [DN]; 0 at defective pixels
    good : (h, w) bool
    columns_removed : bool
    row_width : int
        Pixels W behind a row's mean.
    code_step : int [DN]
        Distance of the codes that occur: 2 where the camera doubled them; 0 for frames of floats.
    """

    values: NDArray[np.float32]
    good: NDArray[np.bool_]
    columns_removed: bool
    row_width: int
    code_step: int


def pixel_residual(sample: RegionSampler, defects: NDArray, *, width: int, columns: bool) -> PixelResidual:
    """What is left of the sampled region without mean, row offsets and (``columns``) column offsets."""
    regions = np.stack(sample.regions).astype(np.float32)
    count, height, across = regions.shape
    top, left = sample.origin
    rows = np.stack(sample.row_means[:count])[:, top : top + height]
    regions -= regions.mean(axis=0)
    regions -= (rows - rows.mean(axis=0)).astype(np.float32)[:, :, None]
    good = np.ones((height, across), bool)
    suspect = np.stack([defects["row"] - top, defects["column"] - left], axis=1)
    inside = np.all((suspect >= 0) & (suspect < (height, across)), axis=1)
    if inside.any():
        at = tuple(suspect[inside].T)
        # A single rare event belongs to the law; a pixel that deviates in every other frame has one of its own.
        restless = np.median(np.abs(regions[:, *at]), axis=0) > _RESTLESS * np.median(np.abs(regions[:, ::5, ::5]))
        restless &= count >= _RESTLESS_FRAMES
        good[at] &= ~(restless | (defects["kind"][inside] != "telegraph"))
        regions[:, ~good] = 0.0
    if columns:
        regions -= regions.mean(axis=1, keepdims=True)
        regions[:, ~good] = 0.0
    whole = sample.regions[0].dtype.kind in "ui"
    return PixelResidual(regions, good, columns, width, code_step(code_histogram(sample.regions)) if whole else 0)


def fit_dark_model(
    sample: RegionSampler,
    moments: PixelMoments,
    dark: DarkNoise,
    *,
    cfa: CFA,
    black_level: FloatArray,
    defects: NDArray,
) -> tuple[DarkModel, list[SpectrumPeak]]:
    """Model of the darks of one ISO, and the lines in the spectrum of its temporal noise.

    Parameters
    ----------
    sample : RegionSampler
        Of the frames behind ``moments``.
    moments : PixelMoments
    dark : DarkNoise
        Of the same ISO: column noise, the tails' law, and the read noise where it is below 0.6 DN.
    black_level : (phases,) [DN]
    defects : structured array
        Of ``find_defects``; these pixels are no part of the pixels' law.
    """
    if len(sample.regions) < 2:
        raise CalibrationError(f"{len(sample.regions)} darks of one exposure; a model of the darks needs at least 2.")
    pattern, residue = _fixed_pattern(moments, cfa, black_level)
    columns = bool(dark.column_var > _SIGNIFICANT * dark.column_var_se)
    residual = pixel_residual(sample, defects, width=moments.mean.shape[1], columns=columns)
    law = pixel_quantiles(residual, cfa)
    coarse = dark.read_var < QUANTIZATION_LIMIT
    if np.any(coarse):  # the stored codes no longer show the law; their likelihood gave its scale
        law[coarse] = _gaussian_quantiles(dark, coarse)
    logarithm, averaged = periodogram(residual)
    spectrum = temporal_spectrum(logarithm, averaged)
    noise_var = float(np.mean(law.astype(np.float64) ** 2)) + _ROUNDING_VAR * residual.code_step**2
    model = DarkModel(
        fixed_pattern=pattern,
        fixed_residue=residue,
        row_series=row_series(np.stack(sample.row_means), leak=noise_var * _along_rows(spectrum) / residual.row_width),
        column_noise=float(np.sqrt(dark.column_var)) if columns else 0.0,
        pixel_quantiles=law,
        log_spectrum=spectrum,
        code_edges=None,
        defects=defects,
        frames=moments.count,
        tail_shape=_tail_shape(dark.tails),
    )
    if residual.code_step:
        model = replace(model, code_edges=_edges_of(model, sample, cfa, black_level))
    return model, spectrum_peaks(logarithm, averaged=averaged)


def _tail_shape(tails: Sequence[Tails]) -> float | None:
    """Mean lambda of the phases; None where a Gaussian does as well, or the law has no variance, or ends somewhere.

    A law of positive lambda has no value beyond s / lambda; noise near a Gaussian is likely to.
    """
    if not tails or sum(law.log_likelihood_gain for law in tails) <= TELLING_GAIN * len(tails):
        return None
    shape = float(np.mean([law.tukey_lambda for law in tails]))
    return shape if shape <= 0 and np.isfinite(tukey_deviation(shape)) else None


def _edges_of(
    model: DarkModel, sample: RegionSampler, cfa: CFA, black_level: FloatArray
) -> tuple[int, NDArray[np.float64]] | None:
    """``code_edges``, moved to where the model's own law puts as many pixels below each as there are.

    Widths are judged against their neighbors, so their sum drifts; and the smooth part of the converter's errors is
    in the law already, which was measured in codes.  With the law's distribution function G and the counts' C, both of
    the sampled region, the edge between two codes is G^-1(C).
    """
    lowest, counts = code_histogram(sample.regions)
    found = code_edges((lowest, counts))
    if found is None:
        return None
    first, edges = found
    level, below = _dark_distribution(model, sample, cfa, black_level)
    under = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    at = np.clip(first - lowest + np.arange(len(edges)), 0, len(counts))
    anchored = np.interp(under[at], below, level)
    inside = (under[at] > 0) & (under[at] < 1)
    return first, np.maximum.accumulate(np.where(inside, anchored, edges))  # codes that never occur have no width


def _dark_distribution(
    model: DarkModel, sample: RegionSampler, cfa: CFA, black_level: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Levels [DN, as stored], and the share of the sampled region's pixels whose analog value lies below each."""
    frames, (tall, wide), (top, left) = len(sample.regions), sample.regions[0].shape, sample.origin
    z, chance = _normal_grid()
    sigma = float(np.sqrt(np.mean(model.pixel_quantiles.astype(np.float64) ** 2)))
    step = sigma / _BINS_PER_SIGMA
    pattern = model.fixed_pattern[top : top + tall, left : left + wide].astype(np.float64)
    center = float(np.median(pattern)) + float(np.mean(black_level))
    half = int(_REACH * _BINS_PER_SIGMA)

    def density(values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        bins = np.clip(np.rint(values / step), -half, half).astype(np.int64) + half
        counts = np.bincount(bins.ravel(), weights, minlength=2 * half + 1).astype(np.float64)
        return counts / counts.sum()

    total = np.zeros(2 * half + 1)
    rows, cols = cfa.shape
    for (r, c), phase in zip(cfa.sites, cfa.plane_phases, strict=True):
        values = law_values(model.pixel_quantiles[phase], z, tail_shape=model.tail_shape)
        fixed = pattern[r::rows, c::cols] + black_level[phase] - center
        total += np.convolve(density(values, chance), density(fixed), mode="same")
    offsets = model.row_series[:frames, top : top + tall].astype(np.float64)
    total = np.convolve(total / total.sum(), density(offsets), mode="same")
    others = np.hypot(model.column_noise, model.fixed_residue)
    if others > step:
        total = np.convolve(total, density(others * z, chance), mode="same")
    return center + step * (np.arange(2 * half + 1) - half + 0.5), np.cumsum(total) / total.sum()


def _fixed_pattern(moments: PixelMoments, cfa: CFA, black_level: FloatArray) -> tuple[NDArray[np.float32], float]:
    """Shrunk mean dark minus black, and the standard deviation that shrinking took away."""
    pattern, lost = np.empty(moments.mean.shape, np.float32), []
    rows, cols = cfa.shape
    for (r, c), phase in zip(cfa.sites, cfa.plane_phases, strict=True):
        found = shrink_fixed_pattern(moments.plane(r, c, cfa.shape))
        pattern[r::rows, c::cols] = found.pattern - black_level[phase]
        lost.append(found.lost_var)
    return pattern, float(np.sqrt(np.mean(lost)))


def row_series(row_means: FloatArray, *, leak: float) -> NDArray[np.float32]:
    """Temporal row offsets [DN] of frames whose row means are given, without what pixels contribute.

    Parameters
    ----------
    row_means : (n, H) [DN]
    leak : float [DN^2]
        Variance of a row's mean that its pixels explain.

    Returns
    -------
    (n, H) float32
    """
    count, height = row_means.shape
    series = (row_means - row_means.mean(axis=0)) * np.sqrt(count / (count - 1.0))
    transform = np.fft.rfft(series, axis=1)
    power = (np.abs(transform[:, 1:]) ** 2).mean(axis=0) / height
    size = min(_SMOOTH_ROWS, len(power) // 2 * 2 - 1)
    if size > 0:
        mirrored = np.pad(power, size // 2, mode="symmetric")
        power = np.convolve(mirrored, np.full(size, 1.0 / size), mode="valid")
    share = 1.0 - leak / np.maximum(power, np.finfo(float).tiny)
    transform[:, 1:] *= np.sqrt(np.clip(share, 0.0, 1.0))
    return np.fft.irfft(transform, height, axis=1).astype(np.float32)


def pixel_quantiles(residual: PixelResidual, cfa: CFA) -> NDArray[np.float32]:
    """(phases, 1025) quantiles of the pixels' analog noise [DN] (module docstring)."""
    rows, cols = cfa.shape
    samples: list[list[FloatArray]] = [[] for _ in cfa.phases]
    for (r, c), phase in zip(cfa.sites, cfa.plane_phases, strict=True):
        plane = residual.values[:, r::rows, c::cols]
        samples[phase].append(plane[:, residual.good[r::rows, c::cols]].ravel())
    count, height = residual.values.shape[:2]
    lost = 1.0 / residual.row_width + (1.0 / height if residual.columns_removed else 0.0)
    return np.stack([_law(np.concatenate(part), count, lost, residual.code_step) for part in samples])


def _law(x: FloatArray, count: int, lost: float, code: int) -> NDArray[np.float32]:
    """Quantiles of the analog noise behind residuals ``x`` of ``count`` frames; ``lost``: share taken by lines."""
    from scipy.special import ndtr, ndtri

    spread = float(x.std(dtype=np.float64))
    probability = (np.arange(QUANTILES) + 0.5) / QUANTILES
    k2 = spread**2 / ((1.0 - 1.0 / count) * (1.0 - lost)) - _ROUNDING_VAR * code**2
    if not (spread > 0 and k2 > 0):
        return np.zeros(QUANTILES, np.float32)
    step = spread / _BINS_PER_SIGMA
    half = int(_REACH * _BINS_PER_SIGMA)
    bins = np.clip(np.rint(x / np.float32(step)), -half, half).astype(np.int32) + half
    counts = np.bincount(bins, minlength=2 * half + 1).astype(np.float64)
    axis = step * (np.arange(2 * half + 1) - half)
    mean, _, third, fourth = _cumulants(axis, counts)
    axis -= mean
    back3 = count**2 / ((count - 1.0) * (count - 2.0)) if count > 2 else 0.0  # a difference of two is symmetric
    back4 = count**4 / ((count - 1.0) * ((count - 1.0) ** 3 + 1.0))
    skew = third * back3 / k2**1.5
    excess = (fourth * back4 - _ROUNDING_FOURTH * code**4) / k2**2
    if code:  # spread over its code, so that codes leave no steps
        box = int(np.clip(round(code / step), 1, half)) // 2 * 2 + 1
        counts = np.convolve(counts, np.full(box, 1.0 / box), mode="same")
    z, weights = _normal_grid()
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.concatenate([[axis[0] - step / 2.0], axis + step / 2.0])
    rising = np.concatenate([[True], np.diff(cumulative) > 0])
    quantile = np.interp(ndtr(z) * cumulative[-1], cumulative[rising], edges[rising])
    law = np.sqrt(k2) * _stretched(quantile, z, weights, skew, excess)
    for _ in range(_REFINEMENTS if code / count < _FINE_STEPS * spread else 0):
        law += quantile - np.sqrt(1.0 - lost) * _residual_quantiles(law, z, weights, count, code, step)
    law *= np.sqrt(k2 / _cumulants(law, weights)[1])
    return np.interp(ndtri(probability), z, law).astype(np.float32)


def _residual_quantiles(
    law: FloatArray, z: FloatArray, weights: FloatArray, count: int, code: int, step: float
) -> FloatArray:
    """Quantiles, at Phi(z), that the residuals of ``count`` frames would have if the pixels' law were this one.

    Of characteristic functions: f(t) = F(t (1 - 1/n)) conj(F(t / n))^(n-1), F that of the law and of rounding; and the
    box over which counts were spread.
    """
    from scipy.special import ndtr

    half = int(_REACH * _BINS_PER_SIGMA)
    bins = np.clip(np.rint(law / step), -half, half).astype(np.int64) % _PADDED
    frequency = np.fft.rfftfreq(_PADDED, step)  # per DN
    transform = np.fft.rfft(np.bincount(bins, weights / weights.sum(), minlength=_PADDED)) * np.sinc(code * frequency)
    own = np.interp(frequency * (1.0 - 1.0 / count), frequency, transform)
    others = np.conj(np.interp(frequency / count, frequency, transform)) ** (count - 1)
    density = np.fft.irfft(own * others * np.sinc(code * frequency), _PADDED)
    density = np.maximum(np.concatenate([density[-half:], density[: half + 1]]), _NO_CHANCE)
    cumulative = np.concatenate([[0.0], np.cumsum(density)])
    return np.interp(ndtr(z) * cumulative[-1], cumulative, step * (np.arange(2 * half + 2) - half - 0.5))


def _normal_grid() -> tuple[FloatArray, FloatArray]:
    """Values of a standard normal, evenly spaced so that the rarest count too, and their probabilities."""
    from scipy.special import ndtr

    bounds = np.linspace(-_FARTHEST, _FARTHEST, _FINE + 1)
    return (bounds[1:] + bounds[:-1]) / 2.0, np.diff(ndtr(bounds))


def _cumulants(values: FloatArray, weights: FloatArray) -> tuple[float, float, float, float]:
    """First to fourth cumulant of a weighted distribution."""
    total = weights.sum()
    mean = float((weights * values).sum() / total)
    second, third, fourth = (float((weights * (values - mean) ** k).sum() / total) for k in (2, 3, 4))
    return mean, second, third, fourth - 3.0 * second**2


def _stretched(
    measured: FloatArray, gaussian: FloatArray, weights: FloatArray, skew: float, excess: float
) -> FloatArray:
    """Quantiles of unit variance with this skewness and excess kurtosis, the measured ones' departure from a Gaussian
    multiplied by one factor for its symmetric and one for its skew part."""

    def normalized(values: FloatArray) -> FloatArray:
        mean, variance, *_ = _cumulants(values, weights)
        return (values - mean) / np.sqrt(variance)

    measured = normalized(measured)
    odd, even = (measured - measured[::-1]) / 2.0 - gaussian, (measured + measured[::-1]) / 2.0

    def law(stretch: float, lean: float) -> FloatArray:
        return normalized(gaussian + stretch * odd + lean * even)

    def excess_of(stretch: float) -> float:
        return _cumulants(law(stretch, 1.0), weights)[3] - excess

    stretch, lean = _root(excess_of), 0.0
    if skew != 0.0:
        lean = _root(lambda value: _cumulants(law(stretch, value), weights)[2] - skew)
    return law(stretch, lean)


def _root(function: Callable[[float], float]) -> float:
    """Zero of a function of the stretch, or the end of its range that comes nearest."""
    from scipy.optimize import brentq

    ends = [function(end) for end in _STRETCH]
    if ends[0] * ends[1] < 0:
        return float(np.asarray(brentq(function, *_STRETCH, xtol=1e-3), np.float64))
    return _STRETCH[int(abs(ends[1]) < abs(ends[0]))]


def _gaussian_quantiles(dark: DarkNoise, coarse: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Gaussian law of the phases below 0.6 DN, row and column variance taken out."""
    from scipy.special import ndtri

    lines = max(dark.row_var, 0.0) + max(dark.column_var, 0.0)
    sigma = np.sqrt(np.maximum(dark.read_var[coarse] - _ROUNDING_VAR - lines, 0.0))
    return (sigma[:, None] * ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)).astype(np.float32)


def periodogram(residual: PixelResidual, *, tile: int = TILE) -> tuple[FloatArray, int]:
    """ln of the mean 2-D periodogram in tiles, in the order of ``fft2``, and how many powers each bin averages.

    The tiles cover the whole region, overlapping where it is no multiple of them.  What was removed with the row
    offsets is given back to frequency 0 along the rows; the frequencies that were removed with the column offsets take
    the value of their neighbors.
    """
    from scipy.fft import rfft2
    from scipy.special import digamma

    count, height, width = residual.values.shape
    tall, wide = min(tile, height), min(tile, width)
    power = np.zeros((tall, wide // 2 + 1))
    for top in _starts(height, tall):
        for left in _starts(width, wide):
            part = residual.values[:, top : top + tall, left : left + wide]
            power += (np.abs(np.asarray(rfft2(part, axes=(1, 2)))) ** 2).sum(axis=0)
    averaged = max(height * width // (tall * wide), 1) * (count - 1)  # what tiles share counts once
    if not power.any():
        return np.zeros((tall, wide)), averaged
    full = np.empty((tall, wide))
    full[:, : wide // 2 + 1] = power
    mirror = -np.arange(tall) % tall
    full[:, wide // 2 + 1 :] = power[mirror, 1 : (wide + 1) // 2][:, ::-1]
    if wide > 2:  # a row's mean took this share of white noise; ramps along the rows, slower than a tile, are left
        full[:, 0] += min(wide / residual.row_width, 1.0) * np.sqrt(full[:, 1] * full[:, -1])
    if residual.columns_removed and tall > 2:
        full[0] = np.sqrt(full[1] * full[-1])
    full[0, 0] = np.median(full[:2, :2])
    logarithm = np.log(np.maximum(full, np.finfo(float).tiny)) - (digamma(averaged) - np.log(averaged))
    return logarithm - np.log(np.mean(np.exp(logarithm))), averaged


def _starts(length: int, tile: int) -> NDArray[np.intp]:
    """First pixels of the fewest tiles that cover the length, evenly spread."""
    return np.linspace(0, length - tile, -(-length // tile)).astype(np.intp)


def temporal_spectrum(logarithm: FloatArray, averaged: int) -> NDArray[np.float32]:
    """``periodogram`` without most of its scatter, relative to white noise.

    The mean of m exponential powers scatters by 1/sqrt(m): each bin is drawn to the median of its surroundings by the
    share 1 / (1 + m V), V being the variance of the logarithms around there that 1/m and the scatter of its estimate
    do not explain, so that white noise comes out smooth.  A bin 5 standard errors above its surroundings is a line, and
    stays as it is: it stands alone, and most of its power would be shared out.
    """
    shrunk = _shrunk_spectrum(logarithm, averaged)
    return (shrunk - np.log(np.mean(np.exp(shrunk)))).astype(np.float32)


def _shrunk_spectrum(logarithm: FloatArray, m: int) -> FloatArray:
    from scipy.ndimage import median_filter, uniform_filter

    size = min(_NEIGHBORHOOD, *(n // 2 * 2 - 1 for n in logarithm.shape))
    if size < 3:
        return logarithm
    around = uniform_filter(median_filter(logarithm, size, mode="wrap"), 3, mode="wrap")
    lowest = median_filter(logarithm[:, 0], size * size, mode="wrap")  # slow noise along the rows stands alone there
    around[:, 0] = uniform_filter(lowest, size, mode="wrap")
    chance = (1.0 + _SIGNIFICANT * np.sqrt(2.0) / size) / m
    excess = np.maximum(uniform_filter((logarithm - around) ** 2, size, mode="wrap") - chance, 0.0)
    share = excess / (excess + 1.0 / m)
    share[logarithm - around > _LINE / np.sqrt(m)] = 1.0
    return around + share * (logarithm - around)


def _along_rows(spectrum: NDArray[np.float32]) -> float:
    """Power of the pixel noise at the lowest horizontal frequency: what averages into row means."""
    return float(np.mean(np.exp(spectrum[:, 0])))


def code_histogram(regions: list[NDArray]) -> tuple[int, NDArray[np.integer]]:
    """First code, and the number of pixels of each code from there."""
    low = min(int(region.min()) for region in regions)
    high = max(int(region.max()) for region in regions)
    counts = np.zeros(high - low + 1, np.int64)
    for region in regions:
        counts += np.bincount(region.ravel().astype(np.int64) - low, minlength=len(counts))
    return low, counts


def code_step(histogram: tuple[int, NDArray[np.integer]]) -> int:
    """Greatest common distance [DN] of the codes that occur.

    Examples
    --------
    >>> code_step((510, np.array([3, 0, 8, 0, 0, 0, 2])))
    2
    """
    occupied = np.flatnonzero(histogram[1])
    return max(int(np.gcd.reduce(np.diff(occupied))), 1) if len(occupied) > 1 else 1


def code_edges(histogram: tuple[int, NDArray[np.integer]]) -> tuple[int, NDArray[np.float64]] | None:
    """First code and transition levels [DN, as stored] of a histogram of darks; None where the converter looks ideal.

    The levels are placed so that their distance from the ideal, weighted with the counts, is 0 on average.  Where the
    camera multiplied its codes, those that never occur have no width.
    """
    first, counts = histogram
    step = code_step(histogram)
    first += int(np.flatnonzero(counts)[0])
    filled = counts[np.flatnonzero(counts)[0] :: step]
    try:
        table = code_widths(filled)
    except CalibrationError:
        return None if step == 1 else (first, _spread(np.arange(len(filled) + 1) - 0.5, first, step))
    widths = table.width if table.uneven else np.ones(len(table.width))
    if step == 1 and not table.uneven:
        return None  # too narrow a histogram shows no widths
    start = int(table.code[0])
    edges = start - 0.5 + np.concatenate([[0.0], np.cumsum(widths)])
    weights = filled[start : start + len(widths)].astype(np.float64)
    shift = (edges[1:] + edges[:-1]) / 2.0 - table.code
    return first + step * start, _spread(edges - (weights * shift).sum() / weights.sum(), first, step)


def _spread(edges: FloatArray, first: int, step: int) -> NDArray[np.float64]:
    """Edges of codes ``step`` apart [DN] from edges counted in such codes; the codes between them have no width."""
    levels = first + step * edges
    return np.concatenate([[levels[0]], np.repeat(levels[1:], step)])
