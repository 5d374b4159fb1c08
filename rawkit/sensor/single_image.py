"""Noise parameters from one photograph.

    var[x] = K E[x] + v + c E[x]^2,       c >= 0           (Foi et al. 2008 without the last term)

with x the signal [DN, black removed, negatives kept], K the system gain [DN/e-] and v the read variance [DN^2],
quantization included.  The last term takes what grows with the square of the light: pixel response
non-uniformity, and texture of constant contrast that escaped the mask.  Its prior is half-normal, of the scale
of a common sensor's non-uniformity, 0.5 %.

What is measured.  Each plane of the mosaic is cut into tiles of 6 x 6 of its pixels, and each tile is turned by
the orthonormal discrete cosine transform.  White noise of variance s^2 gives every coefficient variance s^2.
The mean square of the high diagonal frequencies (u, v >= 1, u + v >= 5; 19 of 36) measures it: these vanish for
gradients and for anything of the form f(row) + g(column), and natural pictures are weakest there.

Which tiles count.  A tile is judged by numbers that are independent of the one it is used for, otherwise picking
quiet tiles would pick those whose noise happens to be low: the lower frequencies of the same tile, all
frequencies of the same place in the other planes, and of the eight tiles around it.

How it is fitted.  Every tile is one chi-squared variable, Var(q) = 2 pred^2 / dof; Gauss-Newton with weights from
the model, not from the data; outliers above three standard errors clipped, with the consistency correction, since
texture only adds.  The tile's mean carries noise too, and is correlated with q through the skewness of shot noise:

    E[(q - pred(m)) g(m)]  ~  -g'(mu) (pred' pred - mu3) / n,        n pixels of the tile

(mu3 the third moment of a pixel; the bracket is K v where nothing clips).  It is taken off, or dark pictures, whose
range of signal is no wider than that noise, would give too small a gain.

Where the file cannot hold the negative half of the noise, x = max(y, floor), mean and variance of the clipped
Poisson-Gaussian law replace the straight line, and tile means are averaged over 3 x 3 tiles, because the bend is
sharp.  Tiles near white are left out.

Errors.  The inverse Fisher information, widened by (1) scatter between groups of tiles beyond sampling, (2) the
disagreement of the highest frequencies alone, and (3) of the quietest half of the tiles.  (2) and (3) are what
texture would cause; each counts by the share of it that chance does not explain, max(0, 1 - d.o.f. / chi^2).
The sum is multiplied by a constant, and errors of 0.5 % of K and 1 % of v are added, so that 95 % intervals covered
the truth in 94 to 98 % of photographs with known noise.  K and v are medians, intervals quantiles, of the normal law
cut at v >= 1/12 DN^2 (files of whole numbers) under the prior p(v) ~ 1/v: where the picture has no dark area this
says that the read noise is somewhere below what the light allows.

What cannot be seen.  Row noise and banding vanish in the transform, so v is the noise of single pixels.  Noise that
the picture itself holds (film grain, an earlier quantization) is noise to this module.

References
----------
A. Foi, M. Trimeche, V. Katkovnik, K. Egiazarian, "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", IEEE TIP 17(10), 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count

import numpy as np
from numba import njit

from rawkit.errors import CalibrationError
from rawkit.raw.image import BlackLevel, LinearImage, RawImage
from rawkit.sensor.params import NoiseParams

TILE = 6  # pixels of one plane
MIN_TILES = 60  # tiles in the fit, all planes together: below it intervals mean little
CONFIDENCE = 0.95
IDENTIFIABLE = 0.25  # relative half-width of the interval of the read noise up to which it counts as measured

_HIGH = 5  # u + v from which a frequency measures noise
_TOP = 7  # u + v of the cross-check
_SMOOTH = 2  # u + v up to which a frequency is left to lawful gradients
_TILE_SIGMAS = 2.0  # a tile may exceed the model by so many standard errors of its own score
_AROUND = 0.10  # and its surroundings by this share of the variance
_CLIP = 3.0  # standard errors
_NONUNIFORMITY = 0.004**2  # prior scale of c: pixel response non-uniformity of 0.4 %
_GROUP = 4  # tiles a side of one group whose members may share texture
_MANY = 60.0  # electrons beyond which Poisson steps are replaced by a normal law of the same variance
_LEAST_RATE = 1e-3  # d mean / d signal: it is at least 1/2 wherever a picture can be
_FAR = 8.0  # standard deviations beyond which clipping is ignored
_NEAR = 4.0  # standard deviations of read noise above the floor within which clipping bends the curve
_HEADROOM = 6.0  # standard deviations to white
_QUANTIZATION = 1.0 / 12.0  # DN^2
_STRIP_ROWS = 512
_MONO_STRIDE = 2
_LINEAR_STRIDE = 4  # pixels; demosaicing and mild resampling mix neighbors, hardly beyond this distance
_DECILE = 1.6  # a chi-squared variable of 19 degrees of freedom has its low decile at mean / 1.6
_ROUNDS = 25
_STARTS = 5
_SETTLED = 0.05  # standard errors
_RIVAL = 20.0  # log-likelihood within which two optima count as equal, given that tiles are not quite independent
_ENOUGH, _BAND = 40_000, 8  # tiles for telling optima apart; rows of tiles in one band
_LIGHT = 0.1  # relative standard error of the gain from tiles that do not clip
_CLIPPED_ERROR = 0.1  # of v: measured bias where v comes from clipped tiles (benchmarks/single_image.py)
_LEVELS = 20  # of signal, in which tiles are compared
_REACH = 8.0  # standard deviations of the posterior grid
_GRID, _DEVIATES = 1000, 40  # its points in v, and in K for each v
_UNSEEN = 1.4  # texture that no check sees: raises the coverage measured on 66 photographs from 91 to 94 %
_GAIN_FLOOR, _READ_FLOOR = 0.005, 0.01  # relative systematic errors of K and v however large the picture
_LEAST_RANGE = 0.2  # share of the variance of tile means that must be signal
_SPEAKS = 0.05  # a phase whose system gain is less certain than this takes the common one
_PILE = 1e-4  # share of the pixels at one extreme value that shows clipping
_DISAGREE = 1e-6  # probability under one common amplifier below which phases are reported apart
_DISAGREE_BY = 0.1  # ... if system gains also differ by this share

_NO_RANGE = (
    "the picture shows no range of signal beyond its noise, so its system gain cannot be seen; "
    "use a picture with both dark and light areas."
)


@dataclass(frozen=True, eq=False)
class ImageNoise:
    """What one photograph says about its noise; P phases.

    Parameters
    ----------
    phases : tuple of str
    system_gain, read_var : (P,) K [DN/e-] and v [DN^2]
    system_gain_interval, read_var_interval : (P, 2)
        95 % intervals.
    covariance : (P, 2, 2)
        Of (K, v).
    identifiable : (P,) bool
        Whether the picture is dark enough somewhere to show the read noise (interval within +-25 %).
    samples : (P,) int
        Independent squared deviations behind the estimate.
    mean_range : (P, 2) [DN, black removed]
        Signal of the tiles used, 1st to 99th percentile.
    tile_share : float
        Share of all tiles that were smooth and unclipped.
    nonuniformity : float
        sqrt(c): response non-uniformity and left-over texture, relative to the signal.
    pooled : bool
        One K and v for all phases.  One amplifier serves them in almost every camera; they are reported
        apart when they contradict each other.

    Examples
    --------
    >>> from rawkit.raw.image import CFA, BlackLevel, RawImage
    >>> rng = np.random.default_rng(1)
    >>> light = np.repeat(np.linspace(0.0, 4000.0, 512)[None], 512, axis=0)
    >>> stored = np.rint(500 + 2.0 * rng.poisson(light / 2.0) + rng.normal(0, 5.0, light.shape))
    >>> picture = RawImage(raster=stored.astype(np.uint16), cfa=CFA.bayer("RGGB"),
    ...                    black=BlackLevel.constant(500), white_level=16383)
    >>> found = estimate(picture)
    >>> bool(abs(found.system_gain[0] / 2.0 - 1) < 0.05), bool(found.identifiable.all())
    (True, True)
    """

    phases: tuple[str, ...]
    system_gain: np.ndarray
    read_var: np.ndarray
    system_gain_interval: np.ndarray
    read_var_interval: np.ndarray
    covariance: np.ndarray
    identifiable: np.ndarray
    samples: np.ndarray
    mean_range: np.ndarray
    tile_share: float
    nonuniformity: float
    pooled: bool

    @property
    def read_noise(self) -> np.ndarray:
        """(P,) sqrt(v) [DN]."""
        return np.sqrt(self.read_var)

    @property
    def read_noise_interval(self) -> np.ndarray:
        """(P, 2) 95 % interval of sqrt(v) [DN]."""
        return np.sqrt(self.read_var_interval)

    def to_params(self) -> NoiseParams:
        """Noise parameters per phase, with standard errors."""
        return NoiseParams(
            self.system_gain,
            self.read_var,
            np.sqrt(self.covariance[:, 0, 0]),
            np.sqrt(self.covariance[:, 1, 1]),
            origin="estimated",
        )


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Tile statistics: Q planes on a grid of R x C tiles.

    Parameters
    ----------
    mean : (Q, R, C) [DN]
    high, top, low : (Q, R, C) [DN^2]
        Mean square of the high and the highest frequencies, sum of squares of the low ones.
    peak : (Q, R, C) [DN]
        Largest signal of the tile.
    plane_phases : (Q,) int
    floor, white : (Q,) [DN, black removed]
        Smallest value that the file can hold (-inf: no limit seen) and saturation.
    pixels : (Q, R, C) or () int
        Pixels behind each mean.
    mixed : bool
        Noise is correlated between planes, so that one plane cannot judge another.
    """

    mean: np.ndarray
    high: np.ndarray
    top: np.ndarray
    low: np.ndarray
    peak: np.ndarray
    plane_phases: np.ndarray
    floor: np.ndarray
    white: np.ndarray
    pixels: np.ndarray
    mixed: bool


@dataclass(frozen=True, eq=False)
class _Sample:
    """Selected tiles as flat arrays (N,): the data of one fit."""

    mean: np.ndarray
    power: np.ndarray
    floor: np.ndarray
    pixels: np.ndarray
    group: np.ndarray
    dof: int


def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """DCT matrix (TILE, TILE), and which (u, v) are high, top, low."""
    u = np.arange(TILE)
    matrix = np.sqrt(2.0 / TILE) * np.cos(np.pi * (u[None] + 0.5) * u[:, None] / TILE)
    matrix[0] = np.sqrt(1.0 / TILE)
    order = u[:, None] + u[None]
    inner = (u[:, None] > 0) & (u[None] > 0)
    high = (order >= _HIGH) & inner
    return matrix, high, (order >= _TOP) & inner, ~high & (order > _SMOOTH)


_DCT, _IS_HIGH, _IS_TOP, _IS_LOW = _frequencies()
_CLASS = _IS_HIGH * 1 + _IS_TOP * 1 + _IS_LOW * 3  # 1 high, 2 high and top, 3 low, 0 unused
_N_HIGH, _N_TOP, _N_LOW = int(_IS_HIGH.sum()), int(_IS_TOP.sum()), int(_IS_LOW.sum())


@njit(cache=True, nogil=True, fastmath=True)
def _measure(plane, dct, kind, mean, high, top, low, peak):
    """Fill the statistics (rows, columns) of the tiles of one plane (h, w); sums, not means."""
    size = dct.shape[0]
    tile = np.empty((size, size), np.float32)
    half = np.empty((size, size), np.float32)
    for r in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            total = np.float32(0.0)
            largest = np.float32(-np.inf)
            for i in range(size):
                for j in range(size):
                    value = plane[r * size + i, c * size + j]
                    tile[i, j] = value
                    total += value
                    largest = max(largest, value)
            middle = total / np.float32(size * size)
            for i in range(size):
                for j in range(size):
                    tile[i, j] -= middle
            for u in range(size):
                for j in range(size):
                    s = np.float32(0.0)
                    for i in range(size):
                        s += dct[u, i] * tile[i, j]
                    half[u, j] = s
            a = np.float32(0.0)
            b = np.float32(0.0)
            d = np.float32(0.0)
            for u in range(size):
                for v in range(size):
                    which = kind[u, v]
                    if which == 0:
                        continue
                    s = np.float32(0.0)
                    for j in range(size):
                        s += dct[v, j] * half[u, j]
                    if which == 3:
                        d += s * s
                    else:
                        a += s * s
                        if which == 2:
                            b += s * s
            mean[r, c] = middle
            high[r, c] = a
            top[r, c] = b
            low[r, c] = d
            peak[r, c] = largest


def _geometry(image: RawImage | LinearImage) -> tuple[list[tuple[int, int, int]], np.ndarray, tuple[int, int]]:
    """Planes as (row, column, channel) offsets, their phases, and their stride in pixels."""
    if isinstance(image, LinearImage):
        step = _LINEAR_STRIDE
        sites = [(r, c, p) for p in range(len(image.phases)) for r in range(step) for c in range(step)]
        return sites, np.array([p for _, _, p in sites]), (step, step)
    if image.cfa.shape == (1, 1):
        step = _MONO_STRIDE
        return [(r, c, 0) for r in range(step) for c in range(step)], np.zeros(step * step, int), (step, step)
    return [(r, c, 0) for r, c in image.cfa.sites], np.array(image.plane_phases), image.cfa.shape


def _strip_black(black: BlackLevel, top: int, bottom: int) -> BlackLevel:
    """Black level of rows ``top`` to ``bottom``."""
    shifted = np.roll(black.pattern, -(top % black.pattern.shape[0]), axis=0)
    return BlackLevel(shifted, black.delta_h, None if black.delta_v is None else black.delta_v[top:bottom])


def _extremes(stored: np.ndarray, white_level: float) -> tuple[float, float]:
    """Stored value at which pixels clip below (-inf where none is seen) and above."""
    smallest, largest = float(stored.min()), float(stored.max())
    needed = _PILE * stored.size
    below = smallest == 0.0 or np.count_nonzero(stored == smallest) > needed
    above = largest < white_level and np.count_nonzero(stored == largest) > needed
    return (smallest if below else -np.inf), (largest if above else white_level)


def _tiles(image: RawImage | LinearImage, workers: int) -> _Tiles:
    """Statistics of every tile, strip by strip."""
    stored = image.pixels if isinstance(image, LinearImage) else image.mosaic
    sites, phases, (down, right) = _geometry(image)
    grid = (stored.shape[0] // (down * TILE), stored.shape[1] // (right * TILE))
    if grid[0] * grid[1] * len(sites) < MIN_TILES:
        raise CalibrationError(
            f"the picture is {stored.shape[1]}x{stored.shape[0]} pixels, too small to estimate noise from; "
            f"at least {MIN_TILES} tiles of {TILE * down}x{TILE * right} pixels are needed."
        )
    arrays = [np.empty((len(sites), *grid), np.float32) for _ in range(5)]
    kernel = _DCT.astype(np.float32), _CLASS.astype(np.int8)
    rows = max(1, _STRIP_ROWS // (down * TILE))

    def strip(first: int) -> None:
        last = min(first + rows, grid[0])
        top, bottom = first * down * TILE, last * down * TILE
        signal = _strip_black(image.black, top, bottom).remove(stored[top:bottom])
        signal = signal.reshape(*signal.shape[:2], -1)
        for index, (r, c, channel) in enumerate(sites):
            _measure(signal[r::down, c::right, channel], *kernel, *(a[index, first:last] for a in arrays))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(strip, range(0, grid[0], rows)))
    mean, high, top, low, peak = arrays
    lowest, highest = _extremes(stored, image.white_level)
    black = np.array(image.black_level)[phases]
    return _Tiles(
        mean=mean,
        high=high / _N_HIGH,
        top=top / _N_TOP,
        low=low,
        peak=peak,
        plane_phases=phases,
        floor=lowest - black,
        white=highest - black,
        pixels=np.array(TILE**2),
        mixed=isinstance(image, LinearImage),
    )


def _rectified(above: np.ndarray, sd: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First three raw moments of max(z, 0), z normal with standard deviation ``sd`` and mean ``above`` times it."""
    from scipy.special import ndtr

    density, share = np.exp(-0.5 * above**2) / np.sqrt(2.0 * np.pi), ndtr(above)
    first = sd * (above * share + density)
    second = sd**2 * ((above**2 + 1.0) * share + above * density)
    return first, second, sd**3 * ((above**3 + 3.0 * above) * share + (above**2 + 2.0) * density)


def _clipped_moments(
    mu: np.ndarray, system_gain: float, read_var: float, floor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and third central moment of max(x, floor), x = K Poisson(mu / K) + N(0, v).

    Parameters
    ----------
    mu : (N,) expected signal [DN], >= 0
    """
    from scipy.special import gammaln

    electrons = mu / system_gain
    if electrons.max() > _MANY:
        sd = np.sqrt(read_var + system_gain * mu)  # steps of one electron are far below the noise
        first, second, third = _rectified((mu - floor) / sd, sd)
        return first + floor, second - first**2, third - 3.0 * first * second + 2.0 * first**3
    n = np.arange(int(electrons.max() + 8.0 * np.sqrt(electrons.max() + 1.0)) + 8)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(n > 0, n * np.log(electrons[:, None]), 0.0) - electrons[:, None] - gammaln(n + 1.0)
    p = np.exp(log_p)
    sd = np.sqrt(read_var)
    mean, square, cube = (p @ moment for moment in _rectified((system_gain * n - floor) / sd, sd))
    return mean + floor, square - mean**2, cube - 3.0 * mean * square + 2.0 * mean**3


@dataclass(frozen=True, eq=False)
class _Expected:
    """What the model expects of tiles (N,) whose mean is m: variance, d variance / dm, and (pred' pred - mu3)."""

    variance: np.ndarray
    slope: np.ndarray
    coupling: np.ndarray


def _expect(mean: np.ndarray, floor: np.ndarray, theta: np.ndarray) -> _Expected:
    """Expectations under theta = (K, v, c); ``floor`` (N,) is where the file clips [DN, black removed]."""
    variance = theta[1] + theta[0] * mean + theta[2] * mean**2
    slope = theta[0] + 2.0 * theta[2] * mean
    coupling = np.full_like(variance, theta[0] * max(theta[1], 0.0))
    system_gain, read_var = max(theta[0], 1e-6), max(theta[1], _QUANTIZATION)
    for level in np.unique(floor):
        if level < -_FAR * np.sqrt(read_var):
            continue
        reach = max(level, 0.0) + 18.0 * system_gain + 12.0 * np.sqrt(read_var)  # clipping is far below it
        mu = reach * np.linspace(0.0, 1.0, 97) ** 2
        m, var, third = _clipped_moments(mu, system_gain, read_var, float(level))
        here = (floor == level) & (mean < m[-1])
        rate = np.gradient(var, mu) / np.maximum(np.gradient(m, mu), _LEAST_RATE)
        slope[here] = np.interp(mean[here], m, rate) + 2.0 * theta[2] * mean[here]
        variance[here] = np.interp(mean[here], m, var) + theta[2] * mean[here] ** 2
        coupling[here] = np.interp(mean[here], m, rate * var - third)
    return _Expected(np.maximum(variance, 0.25 * _QUANTIZATION), slope, coupling)


def _jacobian(mean: np.ndarray, floor: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """(N, 3) derivatives of the expected variance with respect to (K, v, c)."""
    result = np.stack([mean, np.ones_like(mean), mean**2], axis=1)
    near = floor > -_FAR * np.sqrt(max(theta[1], _QUANTIZATION))
    if near.any():
        for column in range(2):
            step = np.zeros(3)
            step[column] = 0.01 * max(theta[column], _QUANTIZATION)
            up = _expect(mean[near], floor[near], theta + step).variance
            down = _expect(mean[near], floor[near], theta - step).variance
            result[near, column] = (up - down) / (2.0 * step[column])
    return result


def _starts(tiles: _Tiles) -> list[np.ndarray]:
    """Rough (K, v, c), one or several: a line under the low decile of the tile variances over signal."""
    order = np.argsort(tiles.mean, axis=None)
    parts = [part for part in np.array_split(order, 30) if part.size]
    mean = np.array([tiles.mean.ravel()[part].mean() for part in parts])
    low = np.array([np.quantile(tiles.high.ravel()[part], 0.1) for part in parts])
    mean, low = np.maximum(mean, 0.0), np.maximum(low, 0.25 * _QUANTIZATION)
    system_gain, read_var = max(float(np.median(low / np.maximum(mean, 1.0))), 1e-3), float(low.min())
    for _ in range(20):
        predicted = system_gain * mean + read_var
        weights = 1.0 / (predicted**2 * (1.0 + ((low - predicted) / (0.3 * predicted)) ** 2))
        a, b, d = (weights * mean**2).sum(), (weights * mean).sum(), weights.sum()
        x, y = (weights * mean * low).sum(), (weights * low).sum()
        slope = (x * d - y * b) / max(a * d - b * b, 1e-12 * a * d)
        system_gain = max(slope, 1e-3) if slope > 0 else max(x / a, 1e-3)
        read_var = max((y - system_gain * b) / d, _QUANTIZATION)
    rough = np.array([system_gain, read_var, 0.0]) * _DECILE
    lowest = float(tiles.floor.max())
    return [rough] if np.isneginf(lowest) else _clipped_starts(rough, mean, low * _DECILE, lowest)


def _clipped_starts(rough: np.ndarray, mean: np.ndarray, variance: np.ndarray, floor: float) -> list[np.ndarray]:
    """Starting points (K, v) where clipping bends the curve.

    Dark pixels without a negative half look much like shot noise without read noise, so the fit has more than one
    optimum: the best system gain of a coarse grid is returned for several read variances.

    Parameters
    ----------
    mean, variance : (L,) levels of signal and the variance of their quietest tiles
    """
    floors = np.full(mean.shape, floor)
    found = []
    for read_var in np.geomspace(1.0, max(4.0 * float(np.median(variance)), 100.0), 12):
        trials = [np.array([gain, read_var, 0.0]) for gain in rough[0] * np.geomspace(0.4, 1.6, 9)]
        losses = [
            float(np.minimum(np.abs(np.log(variance / _expect(mean, floors, trial).variance)), 1.0).sum())
            for trial in trials
        ]
        found.append((min(losses), trials[int(np.argmin(losses))]))
    return [trial for _, trial in sorted(found, key=lambda pair: pair[0])[:_STARTS]]


def _window(grid: np.ndarray) -> np.ndarray:
    """(..., R, C) sums over 3 x 3 tiles, mirrored at the border."""
    rows, cols = grid.shape[-2:]
    wide = [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)]
    padded = np.pad(grid, wide, mode="reflect" if min(rows, cols) > 1 else "edge")
    return np.sum([padded[..., i : i + rows, j : j + cols] for i in range(3) for j in range(3)], axis=0)


def _near_floor(tiles: _Tiles, theta: np.ndarray) -> _Tiles:
    """Tiles whose means, where clipping bends mean and variance, are averaged with those of their eight neighbors.

    There the noise of a mean is no small part of its distance to the floor, and the bend would turn it into bias.
    """
    reach = tiles.floor + _NEAR * np.sqrt(max(theta[1], _QUANTIZATION))
    dark = tiles.mean < reach[:, None, None]
    if not dark.any():
        return tiles
    settled = dark & (_window(dark.astype(np.int8)) == 9)
    mean = np.where(settled, _window(tiles.mean) / 9.0, tiles.mean)
    return replace(tiles, mean=mean, pixels=np.where(settled, 9 * TILE**2, TILE**2))


def _scores(tiles: _Tiles, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Excess of each tile's independent power over the model, that of its surroundings, and usable tiles.

    Returns
    -------
    own : (Q, R, C)
        In standard errors.
    around : (R, C)
        Relative to the model.
    usable : (Q, R, C) bool
        Unclipped at the bright end.
    """
    count = tiles.mean.shape[0]
    floor = np.broadcast_to(tiles.floor[:, None, None], tiles.mean.shape)
    predicted = _expect(tiles.mean.ravel(), floor.ravel(), theta).variance.reshape(tiles.mean.shape)
    white = tiles.white[:, None, None]
    usable = (tiles.mean + _HEADROOM * np.sqrt(predicted) < white) & (tiles.peak < white)
    low = tiles.low / predicted
    power = low + _N_HIGH * tiles.high / predicted
    total = power.sum(axis=0)
    dof = (count - 1) * (_N_HIGH + _N_LOW) + _N_LOW
    own = ((total - power + low) / dof - 1.0) / np.sqrt(2.0 / dof)
    if tiles.mixed:
        own = (low / _N_LOW - 1.0) / np.sqrt(2.0 / _N_LOW)
    full = np.where(usable.all(axis=0), total / (count * (_N_HIGH + _N_LOW)) - 1.0, 5.0)
    full = np.minimum(full, 5.0)
    return own, (_window(full) - full) / 8.0, usable


def _select(tiles: _Tiles, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth, unclipped tiles (Q, R, C) bool, and the score they were ranked by; the limit gives way in rich scenes."""
    own, around, usable = _scores(tiles, theta)
    if usable.sum() < MIN_TILES:
        raise CalibrationError(
            f"only {int(usable.sum())} of {usable.size} tiles are below white "
            f"({tiles.white.max():.0f} DN above black), {MIN_TILES} are needed. Use a picture that is not overexposed."
        )
    quiet = usable & (own < _TILE_SIGMAS)
    limit = _AROUND
    while (quiet & (around < limit)).sum() < 4 * MIN_TILES and limit < 4.0:
        limit *= 1.5
    chosen = quiet & (around < limit)
    if chosen.sum() < 2 * MIN_TILES:
        ranked = np.where(usable, own, np.inf)
        chosen = usable & (ranked <= np.partition(ranked, 2 * MIN_TILES, axis=None)[2 * MIN_TILES])
    return chosen, around


def _sample(tiles: _Tiles, chosen: np.ndarray, *, top: bool = False) -> _Sample:
    plane, row, col = np.nonzero(chosen)
    groups_across = tiles.mean.shape[2] // _GROUP + 1
    power = (tiles.top if top else tiles.high)[chosen].astype(np.float64)
    group = (row // _GROUP) * groups_across + col // _GROUP
    pixels = np.broadcast_to(tiles.pixels, chosen.shape)[chosen]
    mean = tiles.mean[chosen].astype(np.float64)
    return _Sample(mean, power, tiles.floor[plane], pixels, group, _N_TOP if top else _N_HIGH)


def _clip_consistency(dof: int) -> tuple[float, float]:
    """Upper limit of power / model, and what clipping there takes from its mean."""
    from scipy.special import gammainc

    shape = dof / 2.0
    limit = 1.0 + _CLIP * np.sqrt(2.0 / dof)
    kept = gammainc(shape + 1.0, shape * limit) + limit * (1.0 - gammainc(shape, shape * limit))
    return float(limit), float(1.0 - kept)


def _fit(sample: _Sample, start: np.ndarray, *, rounds: int = _ROUNDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Newton fit of (K, v, c); one round gives the first-order change from ``start``.

    Returns
    -------
    theta, covariance by sampling (3, 3), influence of every tile on theta (N, 3)
    """
    limit, lost = _clip_consistency(sample.dof)
    theta = start.copy()
    prior = np.diag([0.0, 0.0, 1.0 / _NONUNIFORMITY**2])
    for _ in range(rounds):
        expected = _expect(sample.mean, sample.floor, theta)
        predicted = expected.variance
        slope = _jacobian(sample.mean, sample.floor, theta)
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
        step[0] = max(step[0], -0.7 * theta[0])
        if np.any(sample.pixels > TILE**2):  # near the floor the curve bends with v, and long steps overshoot
            step[1] = max(step[1], -0.5 * theta[1])
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


def _quieter(tiles: _Tiles, chosen: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The half of the chosen tiles with the quieter surroundings at every level of signal."""
    where = np.flatnonzero(chosen)
    where = where[np.argsort(tiles.mean.ravel()[where])]
    level = np.broadcast_to(around, chosen.shape).ravel()
    kept = np.zeros(chosen.size, bool)
    for part in np.array_split(where, _LEVELS):
        kept[part[np.argsort(level[part])[: (part.size + 1) // 2]]] = True
    return kept.reshape(chosen.shape)


def _robust_fit(tiles: _Tiles, chosen: np.ndarray, around: np.ndarray, start: np.ndarray):
    """Fit with the errors of the module's docstring: theta, covariance (3, 3)."""
    sample = _sample(tiles, chosen)
    theta, sampling, influence = _fit(sample, start)
    covariance = _scatter(sampling, influence, sample.group)
    for other in (_sample(tiles, chosen, top=True), _sample(tiles, _quieter(tiles, chosen, around))):
        shifted, wider, _ = _fit(other, theta, rounds=1)
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


def _posterior(mean: np.ndarray, covariance: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Medians (2,) and 95 % intervals (2, 2) of (K, v) under K > 0, v >= least and p(v) proportional to 1 / v."""
    from scipy.special import ndtri

    sd_v = np.sqrt(covariance[1, 1])
    low, high = max(least, mean[1] - _REACH * sd_v), max(mean[1] + _REACH * sd_v, 2.0 * least)
    v = np.geomspace(low, high, _GRID)
    log_weight = -0.5 * ((v - mean[1]) / sd_v) ** 2  # dv / v is uniform on this grid
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


def _by_phase(
    tiles: _Tiles, chosen: np.ndarray, around: np.ndarray, theta: np.ndarray, covariance: np.ndarray, count: int
) -> tuple[list[np.ndarray], list[np.ndarray], bool]:
    """Parameters (K, v) and covariance of every phase, and whether they are common."""
    from scipy.stats import chi2

    together = [theta[:2]] * count
    if count == 1:
        return together, [covariance[:2, :2]], True
    masks = [chosen & (tiles.plane_phases == p)[:, None, None] for p in range(count)]
    apart: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for phase, mask in enumerate(masks):
        if mask.sum() < MIN_TILES:
            continue
        try:
            own, cov = _robust_fit(tiles, mask, around, theta)
        except CalibrationError:  # a phase that this light hardly reaches; the others speak for it
            continue
        if np.sqrt(cov[0, 0]) < _SPEAKS * own[0]:
            apart[phase] = (own[:2], cov[:2, :2])
    statistic, dof = 0.0, max(2 * (len(apart) - 1), 1)
    for own, cov in apart.values():
        statistic += float((own - theta[:2]) @ np.linalg.solve(cov, own - theta[:2]))
    gains = [own[0] for own, _ in apart.values()]
    if len(apart) > 1 and chi2.sf(statistic, dof) < _DISAGREE and np.ptp(gains) > _DISAGREE_BY * theta[0]:
        unknown = (theta[:2], covariance[:2, :2] + np.diag([np.var(gains), 0.0]))
        chosen_fits = [apart.get(phase, unknown) for phase in range(count)]
        return [own for own, _ in chosen_fits], [cov for _, cov in chosen_fits], False
    return together, [covariance[:2, :2] * max(1.0, statistic / dof)] * count, True


def _thinned(tiles: _Tiles) -> _Tiles:
    """Bands of tile rows spread over the picture: enough to tell one optimum from another."""
    rows, cols = tiles.mean.shape[1:]
    keep = int(np.ceil(rows * cols * len(tiles.mean) / _ENOUGH))
    if keep <= 1:
        return tiles
    part = (np.arange(rows) // _BAND) % keep == 0
    names = ("mean", "high", "top", "low", "peak")
    return replace(tiles, **{name: getattr(tiles, name)[:, part] for name in names})


def _settle(measured: _Tiles) -> tuple[_Tiles, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Alternate between choosing tiles and fitting them, from every starting point, and keep the likeliest end.

    Returns
    -------
    tiles with their final means, chosen (Q, R, C) bool, surroundings (R, C), theta (3,), and the covariance (2, 2)
    of (K, v) between ends that the picture cannot tell apart
    """
    starts = _starts(measured)
    if len(starts) == 1:
        return *_settle_from(measured, starts[0]), np.zeros((2, 2))
    ends, failure = [], None
    for start in starts:
        try:
            ends.append(_settle_from(_thinned(measured), start))
        except CalibrationError as error:
            failure = error
    if not ends:
        raise failure or CalibrationError("the fit did not settle from any starting point.")
    union = np.any([end[1] for end in ends], axis=0)
    losses = []
    for tiles, _, _, theta in ends:
        sample = _sample(tiles, union)
        predicted = _expect(sample.mean, sample.floor, theta).variance
        ratio = np.minimum(sample.power / predicted, _clip_consistency(sample.dof)[0])
        losses.append(0.5 * sample.dof * float((ratio + np.log(predicted)).sum()))
    best = ends[int(np.argmin(losses))][3]
    rivals = [end[3] - best for end, loss in zip(ends, losses, strict=True) if loss < min(losses) + _RIVAL]
    widest = max(rivals, key=lambda d: abs(d[0]))[:2]
    between = np.outer(widest, widest)
    return *_settle_from(measured, best), between


def _require_light(tiles: _Tiles, chosen: np.ndarray, theta: np.ndarray) -> bool:
    """Whether some chosen tiles clip at the floor.

    Raises unless the others show the gain: clipped ones do not tell shot noise from read noise.
    """
    sample = _sample(tiles, chosen)
    predicted = _expect(sample.mean, sample.floor, theta).variance
    light = np.zeros(chosen.shape, bool)
    light[chosen] = sample.mean - sample.floor > _NEAR * np.sqrt(predicted)
    if light.sum() == chosen.sum():
        return False
    if light.sum() >= MIN_TILES:
        _, sampling, _ = _fit(_sample(tiles, light), theta, rounds=1)
        if np.sqrt(sampling[0, 0]) < _LIGHT * theta[0]:
            return True
    raise CalibrationError(
        "the file stores no values below black and nearly all smooth areas of the picture are dark, so its gain and "
        "read noise cannot be told apart; use a picture with lighter areas."
    )


def _settle_from(measured: _Tiles, theta: np.ndarray) -> tuple[_Tiles, np.ndarray, np.ndarray, np.ndarray]:
    """One chain of ``_settle``."""
    tiles = measured
    chosen, around = np.empty(0), np.empty(0)
    for _ in range(_ROUNDS):
        tiles = _near_floor(measured, theta)
        chosen, around = _select(tiles, theta)
        updated, sampling, _ = _fit(_sample(tiles, chosen), theta)
        updated[1] = max(updated[1], _QUANTIZATION)
        done = np.all(np.abs(updated - theta) < _SETTLED * np.sqrt(np.diag(sampling)))
        theta = updated
        if done:
            break
    return tiles, chosen, around, theta


def estimate(image: RawImage | LinearImage, *, workers: int | None = None) -> ImageNoise:
    """System gain and read variance of each phase from one photograph.

        var[x] = K E[x] + v

    Parameters
    ----------
    image : RawImage or LinearImage
        Linear, not denoised.  Of a ``LinearImage``, whose noise is mixed between neighbors, the variance per
        pixel is measured over distances of four pixels.
    workers : int or None
        Threads; None takes one per core.

    Returns
    -------
    ImageNoise
        One K and v for all phases unless the phases contradict each other.  ``identifiable`` is False where the
        picture has no area dark enough to show the read noise; its interval is wide then.

    Raises
    ------
    CalibrationError
        The picture is too small, overexposed, or its variance does not rise with its signal.

    Notes
    -----
    Row noise and banding are not part of v.  In a file that stores no negative noise (black level 0) the moments
    of the clipped law are used.  Film grain and the quantization of an earlier 8-bit stage count as noise.

    References
    ----------
    A. Foi et al., IEEE TIP 17(10), 2008.
    """
    tiles = _tiles(image, workers or cpu_count() or 1)
    tiles, chosen, around, theta, between = _settle(tiles)
    theta, covariance = _robust_fit(tiles, chosen, around, theta)
    covariance[:2, :2] += between
    if np.isfinite(tiles.floor).any() and _require_light(tiles, chosen, theta):
        covariance[1, 1] += (_CLIPPED_ERROR * theta[1]) ** 2
    count = len(image.phases)
    centers, covariances, pooled = _by_phase(tiles, chosen, around, theta, covariance, count)
    found = [_posterior(c, cov, _least(image)) for c, cov in zip(centers, covariances, strict=True)]
    points = np.array([point for point, _ in found])
    intervals = np.array([interval for _, interval in found])
    noise = np.sqrt(intervals[:, 1])
    identifiable = (noise[:, 1] - noise[:, 0]) / 2.0 < IDENTIFIABLE * np.sqrt(points[:, 1])
    masks = [chosen & (tiles.plane_phases == p)[:, None, None] for p in range(count)]
    ranges = [np.percentile(tiles.mean[mask], [1, 99]) if mask.any() else np.full(2, np.nan) for mask in masks]
    samples = np.array([int(mask.sum()) * _N_HIGH for mask in masks])
    return ImageNoise(
        tuple(image.phases),
        points[:, 0],
        points[:, 1],
        intervals[:, 0],
        intervals[:, 1],
        np.array(covariances),
        identifiable,
        np.full(count, samples.sum()) if pooled else samples,
        np.array(ranges),
        float(chosen.mean()),
        float(np.sqrt(max(theta[2], 0.0))),
        pooled,
    )


def _least(image: RawImage | LinearImage) -> float:
    """Smallest possible read variance [DN^2]: quantization, where stored values are whole numbers."""
    stored = image.pixels if isinstance(image, LinearImage) else image.mosaic
    return _QUANTIZATION if np.issubdtype(stored.dtype, np.integer) else 0.0
