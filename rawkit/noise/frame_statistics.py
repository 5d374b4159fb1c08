"""What a stack of equal frames (darks, or flats of one light) says about the noise in it.

Frame t of n, pixel (i, j), stored value y [DN]:

    y_tij = F_ij + f_t + R_ti + C_tj + e_tij        F fixed pattern; frame, row, column and pixel parts of the noise

F is estimated by the mean over t, and temporal parts are scaled by sqrt(n / (n - 1)) for the mean they lost.  With a
single frame F cannot be told from the noise: then F is the mean of each CFA phase, and "temporal" holds both.

Variances of the parts, with the white noise of the pixels taken off the means of lines ("white correction"):

    s2_pixel = sum e^2 / (n (H - 1)(W - 1)),   s2_row = sum R^2 / (n (H - 1)) - s2_pixel / W,   columns likewise

The fixed pattern's own parts are those of F less 1/n of the temporal ones.  Row and column parts belong to sensor
lines, whatever the colors on them.

References
----------
EMVA Standard 1288, Release 4.0 Linear, sections 8.1 and 8.2 (split of the spatial variance, temporal/n).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from rawkit.raw.image import CFA

FloatArray = NDArray[np.float64]

#: Probabilities at which the tails are read.
TAIL = 1e-4
#: Probabilities of the row series' quantiles; the ends hold few rows and are left out.
SERIES_QUANTILES = tuple(float(p) for p in np.linspace(0.05, 0.95, 19))
LAGS = 8
RADIAL_BINS = AXIS_BINS = 32

_HOT_SIGMAS = 6.0  # robust standard deviations of the mean frame beyond which a pixel counts as hot or dead
_RESTLESS = 1e-4  # share of equal Gaussian pixels whose temporal variance over n frames exceeds the limit
_QUANTILE_PIXELS = 4_000_000  # quantiles at 1e-4 are then good to 0.3 % of sigma
_LINE_BLOCK = 16  # side [frequencies] of the blocks whose median is the background of spectral lines
_FALSE_LINES = 0.05  # lines expected in a stack of white noise


@dataclass(frozen=True)
class Split:
    """Variances [DN^2] of the parts of one field, and their standard errors for white Gaussian parts."""

    pixel: float
    row: float
    column: float
    pixel_se: float
    row_se: float
    column_se: float


@dataclass(frozen=True, eq=False)
class StackStatistics:
    """Statistics of n frames.

    Parameters
    ----------
    frames : int
    shape : (H, W)
    codes : (P, m) int64
        Counts of the stored codes (rounded, when they are no whole numbers) per CFA phase.
    first_code : int
        Code of the first column of ``codes``.
    level : float [DN]
        Mean code.
    temporal, fixed : Split, Split or None
        ``fixed`` is None for a single frame.
    frame_var : float [DN^2]
        Variance of the frames' means, white correction applied; NaN for a single frame.
    kurtosis : float
        Excess kurtosis of the temporal pixel part.
    tails : (lower, upper)
        Distance of the 1e-4 quantiles from the median relative to that of a Gaussian of the same variance.
    rows : (n, H) float64 [DN]
    columns : (n, W) float64 [DN]
        Temporal means of lines; each row's W-th part of the pixel noise is in them.
    power : (H, W // 2 + 1) float64 [DN^2]
        Mean periodogram of the temporal pixel part, |rfft2|^2 / (H W): white noise of variance v has power v.
    hot : float
        Share of pixels whose mean is beyond 6 robust standard deviations; NaN for a single frame.
    restless : float
        Share of pixels whose temporal variance is beyond what 1e-4 of equal Gaussian pixels exceed; NaN below 3 frames.
    pattern : (H, W) float32 or None [DN]
        Mean frame less the mean of its phase.
    """

    frames: int
    shape: tuple[int, int]
    codes: NDArray[np.int64]
    first_code: int
    level: float
    temporal: Split
    fixed: Split | None
    frame_var: float
    kurtosis: float
    tails: tuple[float, float]
    rows: FloatArray
    columns: FloatArray
    power: FloatArray
    hot: float
    restless: float
    pattern: NDArray[np.float32] | None

    @classmethod
    def of(cls, stack: NDArray, cfa: CFA) -> StackStatistics:
        """Statistics of a (n, H, W) stack of stored values [DN].

        Raises
        ------
        ValueError
            The stack is not (n, H, W), or a side is below 32 pixels.
        """
        if stack.ndim != 3 or not len(stack) or min(stack.shape[1:]) < 2 * _LINE_BLOCK:
            raise ValueError(f"the frames are {stack.shape}; (n, H, W) with sides of {2 * _LINE_BLOCK} up are needed.")
        n, height, width = stack.shape
        mean = stack.mean(axis=0, dtype=np.float64)
        pattern = (mean - _phase_means(mean, cfa)).astype(np.float32)
        fixed_part = mean if n > 1 else mean - pattern
        scale = np.sqrt(n / (n - 1)) if n > 1 else 1.0
        rows, columns, frame_means = np.empty((n, height)), np.empty((n, width)), np.empty(n)
        power = np.zeros((height, width // 2 + 1))
        squares, fourths = np.zeros((height, width)), 0.0
        step = max(1, stack.size // _QUANTILE_PIXELS)
        sample = []
        for t, frame in enumerate(stack):
            rest = (frame - fixed_part) * scale
            frame_means[t], rows[t], columns[t] = rest.mean(), rest.mean(axis=1), rest.mean(axis=0)
            rest -= rows[t][:, None] + columns[t] - frame_means[t]
            square = rest**2
            squares += square
            fourths += float(np.vdot(square, square))
            power += np.abs(np.asarray(fft.rfft2(rest))) ** 2
            sample.append(rest.ravel()[t % step :: step])
        rows -= frame_means[:, None]
        columns -= frame_means[:, None]
        free = max(n - 1, 1)
        temporal = _split(float(squares.sum()), rows, columns, n, free)
        variance = float(squares.mean()) / n
        lower, middle, upper = np.quantile(np.concatenate(sample), (TAIL, 0.5, 1.0 - TAIL))
        gaussian = -stats.norm.ppf(TAIL) * np.sqrt(variance) if variance > 0 else np.nan
        codes, first = _code_counts(stack, cfa)
        fixed, frame_var, hot, restless = None, np.nan, np.nan, np.nan
        if n > 1:
            fixed = _fixed_split(pattern.astype(np.float64), temporal, n)
            white = temporal.pixel / (height * width) + temporal.row / height + temporal.column / width
            frame_var = float(frame_means.var() - white)
            spread = float(np.subtract(*np.quantile(pattern, (0.84134, 0.15866)))) / 2
            hot = float(np.mean(np.abs(pattern - np.median(pattern)) > _HOT_SIGMAS * spread))
        if n > 2:
            limit = stats.chi2.isf(_RESTLESS, n - 1) * temporal.pixel
            restless = float(np.mean(squares * (n - 1) / n > limit))
        return cls(
            frames=n,
            shape=(height, width),
            codes=codes,
            first_code=first,
            level=float(mean.mean()),
            temporal=temporal,
            fixed=fixed,
            frame_var=frame_var,
            kurtosis=fourths / (n * height * width) / variance**2 - 3.0 if variance > 0 else np.nan,
            tails=(float((middle - lower) / gaussian), float((upper - middle) / gaussian)),
            rows=rows,
            columns=columns,
            power=power / (n * height * width),
            hot=hot,
            restless=restless,
            pattern=pattern if n > 1 else None,
        )

    @cached_property
    def radial(self) -> FloatArray:
        """(32,) mean power over rings of equal width from 0 to the corner, the axes left out; see ``radial_edges``."""
        fy, fx = _frequencies(self.shape)
        ring = np.hypot(fy, fx)
        inner = (fy != 0) & (fx != 0)
        return _binned(ring[inner], self.power[inner], np.broadcast_to(_fold(self.shape), self.power.shape)[inner],
                       radial_edges())  # fmt: skip

    @cached_property
    def along_x(self) -> FloatArray:
        """(32,) mean power over bands of |fx|, fy = 0 left out."""
        _, fx = _frequencies(self.shape)
        return _binned(fx[1:], self.power[1:], np.ones_like(fx[1:]), axis_edges())

    @cached_property
    def along_y(self) -> FloatArray:
        """(32,) mean power over bands of |fy|, fx = 0 left out."""
        fy, _ = _frequencies(self.shape)
        weight = np.broadcast_to(_fold(self.shape), self.power.shape)
        return _binned(np.abs(fy[:, 1:]), self.power[:, 1:], weight[:, 1:], axis_edges())

    @cached_property
    def autocorrelation(self) -> FloatArray:
        """(2, 4) correlation of the temporal pixel part at 1 to 4 pixels, down the columns and along the rows.

        Taking the means off the lines correlated their L pixels by -1 / (L - 1), which is given back.
        """
        covariance = np.asarray(fft.irfft2(self.power, s=self.shape))
        if not covariance[0, 0] > 0:
            return np.full((2, 4), np.nan)
        lost = 1.0 / (np.array(self.shape)[:, None] - 1.0)
        return np.stack([covariance[1:5, 0], covariance[0, 1:5]]) / covariance[0, 0] + lost

    @cached_property
    def background(self) -> FloatArray:
        """(H, W // 2 + 1) power without lines [DN^2]: medians of blocks over the median of a mean of n periodograms."""
        side = _LINE_BLOCK
        rows, cols = self.power.shape[0] // side, self.power.shape[1] // side
        blocks = self.power[: rows * side, : cols * side].reshape(rows, side, cols, side)
        medians = np.median(blocks, axis=(1, 3)) / (stats.gamma.ppf(0.5, self._looks) / self._looks)
        at = [
            np.minimum(np.arange(size) // side, count - 1)
            for size, count in zip(self.power.shape, (rows, cols), strict=True)
        ]
        return medians[np.ix_(*at)]

    @property
    def _looks(self) -> int:
        return max(self.frames - 1, 1)

    @cached_property
    def lines(self) -> NDArray[np.bool_]:
        """Frequencies whose power white noise would exceed once in twenty stacks; the axes are the lines' affair."""
        limit = stats.gamma.isf(_FALSE_LINES / self.power.size, self._looks) / self._looks
        found = self.power > limit * self.background
        found[0], found[:, 0] = False, False
        return found

    def line_share(self, lines: NDArray[np.bool_]) -> float:
        """Share of the temporal pixel power that these frequencies have above their background."""
        weight = np.broadcast_to(_fold(self.shape), self.power.shape)
        total = float((self.power * weight).sum())
        return float(((self.power - self.background) * weight)[lines].sum()) / total if total > 0 else np.nan


def series_autocorrelation(series: FloatArray) -> FloatArray:
    """(8,) correlation of lines 1 to 8 apart inside a frame, mean over the frames of a (n, L) series."""
    total = float(np.mean(series**2))
    return np.array([float(np.mean(series[:, lag:] * series[:, :-lag])) for lag in range(1, LAGS + 1)]) / total


def radial_edges() -> FloatArray:
    """(33,) edges of the rings [cycles per pixel]."""
    return np.linspace(0.0, np.sqrt(0.5) + 1e-9, RADIAL_BINS + 1)


def axis_edges() -> FloatArray:
    """(33,) edges of the bands [cycles per pixel]."""
    return np.linspace(0.0, 0.5 + 1e-9, AXIS_BINS + 1)


def _frequencies(shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """fy and fx [cycles per pixel] of every value of an rfft2."""
    frequencies = (np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1]))
    fy, fx = (np.asarray(f, np.float64) for f in np.meshgrid(*frequencies, indexing="ij"))
    return fy, fx


def _fold(shape: tuple[int, int]) -> FloatArray:
    """(W // 2 + 1,) how many values of the whole transform each column of an rfft2 stands for."""
    weight = np.full(shape[1] // 2 + 1, 2.0)
    weight[0] = 1.0
    if shape[1] % 2 == 0:
        weight[-1] = 1.0
    return weight


def _binned(position: FloatArray, value: FloatArray, weight: FloatArray, edges: FloatArray) -> FloatArray:
    """Weighted means of values over bins of their positions; NaN where a bin is empty."""
    which = np.clip(np.digitize(position.ravel(), edges) - 1, 0, len(edges) - 2)
    count = np.bincount(which, weight.ravel(), len(edges) - 1)
    total = np.bincount(which, (weight * value).ravel(), len(edges) - 1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _phase_means(image: FloatArray, cfa: CFA) -> FloatArray:
    means = np.empty_like(image)
    rows, cols = cfa.shape
    for phase in range(len(cfa.phases)):
        sites = [rc for rc, p in zip(cfa.sites, cfa.plane_phases, strict=True) if p == phase]
        mean = np.concatenate([image[r::rows, c::cols].ravel() for r, c in sites]).mean()
        for r, c in sites:
            means[r::rows, c::cols] = mean
    return means


def _split(squares: float, rows: FloatArray, columns: FloatArray, frames: int, free: int) -> Split:
    """Variances of the parts from sums of squares of centered fields; ``free`` of the ``frames`` are independent."""
    height, width = rows.shape[1], columns.shape[1]
    pixel = squares / (frames * (height - 1) * (width - 1))
    of_rows = float((rows**2).sum()) / (frames * (height - 1))
    of_columns = float((columns**2).sum()) / (frames * (width - 1))
    return Split(
        pixel=pixel,
        row=of_rows - pixel / width,
        column=of_columns - pixel / height,
        pixel_se=pixel * np.sqrt(2.0 / (free * height * width)),
        row_se=of_rows * np.sqrt(2.0 / (free * (height - 1))),
        column_se=of_columns * np.sqrt(2.0 / (free * (width - 1))),
    )


def _fixed_split(pattern: FloatArray, temporal: Split, n: int) -> Split:
    """Parts of the mean of n frames less 1/n of the temporal parts."""
    rows, columns = pattern.mean(axis=1)[None], pattern.mean(axis=0)[None]
    rest = pattern - rows[0][:, None] - columns[0]
    of = _split(float((rest**2).sum()), rows, columns, 1, 1)
    return Split(
        of.pixel - temporal.pixel / n, of.row - temporal.row / n, of.column - temporal.column / n,
        of.pixel_se, of.row_se, of.column_se,
    )  # fmt: skip


def _code_counts(stack: NDArray, cfa: CFA) -> tuple[NDArray[np.int64], int]:
    whole = stack if stack.dtype.kind in "ui" else np.rint(stack).astype(np.int64)
    first, last = int(whole.min()), int(whole.max())
    counts = np.zeros((len(cfa.phases), last - first + 1), np.int64)
    rows, cols = cfa.shape
    for (r, c), phase in zip(cfa.sites, cfa.plane_phases, strict=True):
        values = whole[:, r::rows, c::cols].ravel().astype(np.int64) - first
        counts[phase] += np.bincount(values, minlength=counts.shape[1])
    return counts, first


def joined_codes(a: StackStatistics, b: StackStatistics) -> tuple[FloatArray, FloatArray]:
    """Counts of two stacks on common codes: two (P, m) arrays."""
    first = min(a.first_code, b.first_code)
    last = max(s.first_code + s.codes.shape[1] for s in (a, b))
    joined = [np.zeros((a.codes.shape[0], last - first)) for _ in range(2)]
    for counts, s in zip(joined, (a, b), strict=True):
        counts[:, s.first_code - first : s.first_code - first + s.codes.shape[1]] = s.codes
    return joined[0], joined[1]


def strongest_lines(s: StackStatistics, count: int) -> list[tuple[float, float]]:
    """(fy, fx) [cycles per pixel] of the lines with most power over their background, strongest first."""
    fy, fx = _frequencies(s.shape)
    mirrored = (fx == 0.5) & (fy < 0) & (fy > -0.5)  # at the end of the axis both signs of fy are one line
    shown = s.lines & ~mirrored
    where = np.argwhere(shown)
    excess = (s.power - s.background)[shown]
    return [(float(fy[tuple(where[i])]), float(fx[tuple(where[i])])) for i in np.argsort(-excess)[:count]]


def bin_centers(edges: FloatArray) -> FloatArray:
    return np.array([(low + high) / 2 for low, high in pairwise(edges)])
