"""What differs from pixel to pixel: DSNU, PRNU, patterns, dark shading, defects, code widths.

A stack of L equal frames y_t of a sensor of M rows and N columns obeys, per CFA phase,

    y_t(i, j) = mu + s(i, j) + r_i + c_j + p(i, j) + n_t(i, j)                                             [DN]

with s a smooth shading, r, c, p the fixed row, column and pixel patterns, n_t the temporal noise.  The mean image
Y keeps 1/L of the temporal variance, which every estimate here subtracts.

EMVA 1288 (R4.0 Linear), with sig2 the temporal variance averaged over pixels, v = var Y - sig2 / L, and v_cav, v_rav
the variances of the column and row means minus sig2 / (L M), sig2 / (L N):

    column = (MN - M) / (MN - M - N) v_cav - N / (MN - M - N) (v - v_rav)
    row    = (MN - N) / (MN - M - N) v_rav - M / (MN - M - N) (v - v_cav)
    pixel  = MN / (MN - M - N) (v - v_cav - v_rav)                                                       [DN^2]

The default estimates differ from it in four ways:

1.  a smooth surface is removed (a quadratic; a polynomial of order 4, 6 or 8 where that leaves shading, as a lens
    does): EMVA counts the light's falloff as PRNU;
2.  pixels beyond 5 robust sigma are left out: a handful of hot pixels otherwise is the DSNU;
3.  temporal row and column noise, and the drift or flicker of whole frames, are measured and subtracted: EMVA
    treats temporal noise as white, so temporal row noise is reported as fixed rows, and flicker eats the PRNU;
4.  PRNU is the variance of the ratio (flat - dark) / surface, so a dark pattern that correlates with it cancels.

Variances are signed: noise can make an estimate negative, which says "not seen"; its root is then NaN.
Everything here takes arrays and returns results; no file is read.

References
----------
EMVA Standard 1288, Release 4.0 Linear (2021), sections 8 and 9.
H. Feng et al., "Learnability enhancement for low-light raw denoising", IEEE TPAMI 2024 (dark shading: slope x ISO +
offset + black-level error).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA

Convention = Literal["default", "emva1288"]
FloatArray = NDArray[np.floating]

SHADING_ORDER = 2  # quadratic surface: lamp falloff over a field is smooth
SHADING_ORDERS = (2, 4, 6, 8)  # an 8th order follows the vignetting of a lens with 65 % falloff to 0.02 %
REJECT_SIGMAS = 5.0  # a Gaussian loses 1.5e-5 of its variance beyond 5 sigma
HOT_SIGMAS = 6.0
DEAD_RESPONSE = 0.5  # of the neighborhood's response
TELEGRAPH_FALSE_ALARMS = 1.0  # expected number of innocent pixels per map
LINE_FALSE_ALARMS = 0.01  # expected number of invented lines per spectrum
MIN_CODE_COUNT = 400  # 5 % Poisson error of one code's width

_MAD_TO_SIGMA = 1.482602218505602  # 1 / Phi^-1(3/4)
_MEDIAN_OF_EXPONENTIAL = np.log(2.0)
_SHADING_TOLERATED = 0.002  # of the variance: 0.1 % of the total
_SAMPLE = 1 << 20  # medians of a million pixels are good to 0.13 %
_HANN_WIDENING = 1.5  # equivalent noise bandwidth of a Hann window, bins
_SERIES_BACKGROUND = 129  # bins of the running median under a series' spectrum
_SMOOTH_BLOCKS = 16  # per axis, for the shading that is left
_CODE_ROUNDS = 20
_LINE_SAMPLE = 512  # pixels of a line behind its median: good to 6 % of their sigma
_BLOCKS = 64  # per axis, for the surface fit
_BAND = 256  # rows handled at once, so that temporaries stay in cache


# ------------------------------------------------------------------------------------------------ moments


@dataclass(frozen=True, eq=False)
class PixelMoments:
    """Temporal moments of every pixel of a stack of equal frames.

    Parameters
    ----------
    count : int
        Frames L, at least 2.
    mean : (H, W) float64 [DN]
    variance : (H, W) float [DN^2]
        Temporal, ddof 1.
    frame_means : (L, rows, cols) float64 [DN] or None
        Mean of each frame per site of the CFA period (rows, cols): shows drift and flicker.
    row_var : (H, cols) float64 [DN^2] or None
        Temporal variance (ddof 1) of the mean of each sensor row, per column of the period.
    column_var : (rows, W) float64 [DN^2] or None
        The same of each sensor column.
    """

    count: int
    mean: FloatArray
    variance: FloatArray
    frame_means: FloatArray | None = None
    row_var: FloatArray | None = None
    column_var: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise CalibrationError(f"a stack of {self.count} frame has no temporal variance; it needs at least 2.")
        if self.mean.ndim != 2 or self.mean.shape != self.variance.shape:
            raise ValueError(f"mean {self.mean.shape} and variance {self.variance.shape} must be one (H, W) shape.")

    @classmethod
    def of(cls, frames: Iterable[NDArray], *, period: tuple[int, int] = (1, 1)) -> PixelMoments:
        """Moments of frames taken one at a time (see ``PixelAccumulator``)."""
        accumulator = PixelAccumulator(period=period)
        for frame in frames:
            accumulator.add(frame)
        return accumulator.finish()

    def plane(self, row: int, column: int, period: tuple[int, int]) -> PixelMoments:
        """Moments of one site of a CFA period, as a sensor of its own."""
        rows, cols = period
        pick = (slice(row, None, rows), slice(column, None, cols))
        return PixelMoments(
            self.count,
            self.mean[pick],
            self.variance[pick],
            None if self.frame_means is None else self.frame_means[:, row : row + 1, column : column + 1],
            None if self.row_var is None else self.row_var[row::rows, column : column + 1],
            None if self.column_var is None else self.column_var[row : row + 1, column::cols],
        )

    def phases(self, cfa: CFA) -> list[list[PixelMoments]]:
        """Moments of every site of ``cfa``, grouped by phase in canonical order (Bayer and mono: one site each)."""
        groups: list[list[PixelMoments]] = [[] for _ in cfa.phases]
        for site, phase in zip(cfa.sites, cfa.plane_phases, strict=True):
            groups[phase].append(self.plane(*site, cfa.shape))
        return groups


class PixelAccumulator:
    """Streaming moments of a stack: ``add`` every frame, then ``finish``.

    Integer frames (up to 16 bits) are accumulated as integer sums of y and y^2, so mean and variance are exact up to
    the final division, as EMVA 1288 keeps them; frames of floats by Welford's recursion in float64.  Memory: 12 bytes
    a pixel (integers) or 16, whatever the number of frames.

    Parameters
    ----------
    period : (int, int)
        Rows and columns of the CFA period, for the statistics of rows, columns and whole frames.

    Examples
    --------
    >>> stack = PixelAccumulator()
    >>> for level in (10, 12, 14):
    ...     stack.add(np.full((2, 3), level, np.uint16))
    >>> moments = stack.finish()
    >>> float(moments.mean[0, 0]), float(moments.variance[0, 0]), moments.count
    (12.0, 4.0, 3)
    """

    def __init__(self, *, period: tuple[int, int] = (1, 1)) -> None:
        self.period = period
        self.count = 0
        self._integer = False
        self._first = np.empty((0, 0))  # sum of y, or running mean
        self._second = np.empty((0, 0))  # sum of y^2, or running sum of squared deviations
        self._frame_means: list[FloatArray] = []
        self._rows: list[FloatArray] = []  # running mean and squared deviations of the row means
        self._columns: list[FloatArray] = []

    def add(self, frame: NDArray) -> None:
        """Take in one (H, W) frame [DN], unsigned integers or floats."""
        if self.count == 0:
            self._start(frame)
        if frame.shape != self._first.shape or (frame.dtype.kind == "u") != self._integer:
            raise ValueError(
                f"frame {frame.shape} {frame.dtype} does not fit the stack's {self._first.shape} "
                f"{'unsigned integers' if self._integer else 'floats'}."
            )
        self.count += 1
        rows, cols = self.period
        height, width = frame.shape
        row_sums = np.empty((height, cols))
        column_sums = np.zeros((rows, width))
        band = max(rows, _BAND // rows * rows)
        for top in range(0, height, band):
            part = slice(top, min(top + band, height))
            self._add_band(part, frame[part], row_sums, column_sums)
        per_row = np.array([len(range(c, width, cols)) for c in range(cols)])
        per_column = np.array([len(range(r, height, rows)) for r in range(rows)])
        self._frame_means.append(
            np.array([[row_sums[r::rows, c].sum() for c in range(cols)] for r in range(rows)])
            / (per_column[:, None] * per_row)
        )
        _welford(self._rows, row_sums / per_row, self.count)
        _welford(self._columns, column_sums / per_column[:, None], self.count)

    def _start(self, frame: NDArray) -> None:
        if frame.ndim != 2:
            raise ValueError(f"a frame must be (H, W), found {frame.shape}.")
        self._integer = frame.dtype.kind == "u"
        if frame.dtype.kind not in "uf" or (self._integer and frame.dtype.itemsize > 2):
            raise ValueError(f"frames must be uint8, uint16 or float, found {frame.dtype}.")
        self._first = np.zeros(frame.shape, np.uint32 if self._integer else np.float64)
        self._second = np.zeros(frame.shape, np.uint64 if self._integer else np.float64)

    def _add_band(self, part: slice, values: NDArray, row_sums: FloatArray, column_sums: FloatArray) -> None:
        rows, cols = self.period
        if self._integer:
            work = values.astype(np.uint32)
            self._first[part] += work
        else:
            work = values.astype(np.float64)
        for c in range(cols):
            row_sums[part, c] = work[:, c::cols].sum(axis=1, dtype=np.float64)
        for r in range(rows):
            column_sums[r] += work[r::rows].sum(axis=0, dtype=np.float64)
        if self._integer:
            np.multiply(work, work, out=work)  # 65535^2 fits 32 bits
            self._second[part] += work
        else:
            step = work - self._first[part]
            self._first[part] += step / self.count
            self._second[part] += step * (work - self._first[part])

    def finish(self) -> PixelMoments:
        """The stack's moments; more frames may be added afterwards."""
        if self.count < 2:
            raise CalibrationError(f"a stack of {self.count} frames has no temporal variance; it needs at least 2.")
        mean = np.empty(self._first.shape)
        variance = np.empty(self._first.shape, np.float32)
        for top in range(0, mean.shape[0], _BAND):
            part = slice(top, top + _BAND)
            if self._integer:
                total = self._first[part].astype(np.int64)
                scatter = self.count * self._second[part].astype(np.int64) - total * total
                mean[part] = total / self.count
                variance[part] = scatter / (self.count * (self.count - 1))
            else:
                mean[part] = self._first[part]
                variance[part] = self._second[part] / (self.count - 1)
        return PixelMoments(
            self.count,
            mean,
            variance,
            np.array(self._frame_means),
            self._rows[1] / (self.count - 1),
            self._columns[1] / (self.count - 1),
        )


def _welford(state: list[FloatArray], value: FloatArray, count: int) -> None:
    """Update [mean, sum of squared deviations] in place with the ``count``-th value."""
    if not state:
        state += [np.zeros_like(value), np.zeros_like(value)]
    step = value - state[0]
    state[0] = state[0] + step / count
    state[1] = state[1] + step * (value - state[0])


# ------------------------------------------------------------------------------------ spatial variances


@dataclass(frozen=True)
class SpatialVariance:
    """Spatial variances of a mean image, temporal noise subtracted; signed, so possibly negative.

    The unit is the square of the image's: DN^2, or 1 for a relative image (PRNU).

    Parameters
    ----------
    total, row, column, pixel : float
        Of the whole pattern and of its parts.
    total_se, row_se, column_se, pixel_se : float
        Standard errors, for patterns that are random (EMVA) or of any distribution (default).
    measured : float
        Variance of the mean image as it is, temporal noise included.
    stack : float
        Temporal variance averaged over pixels, of a single frame.
    row_average, column_average : float
        Variance of the row and column means, temporal noise subtracted (v_rav, v_cav; module docstring).
    mean : float
        Mean of the image, in its own unit.
    """

    total: float
    row: float
    column: float
    pixel: float
    total_se: float
    row_se: float
    column_se: float
    pixel_se: float
    measured: float
    stack: float
    row_average: float
    column_average: float
    mean: float


def emva_split(moments: PixelMoments) -> SpatialVariance:
    """Spatial variances exactly as EMVA 1288 defines them (module docstring), of one phase.

    Standard errors hold for Gaussian patterns: 2 x^2 / dof of the measured variances of row means, column means and
    the rest, and of the temporal variance.

    Parameters
    ----------
    moments : PixelMoments
        Of a monochrome sensor, or of one phase (``PixelMoments.phases``).
    """
    rows, cols = _size(moments.mean)
    mean = float(moments.mean.mean())
    stack = float(moments.variance.mean(dtype=np.float64))
    temporal = stack / moments.count
    measured = float(moments.mean.var(ddof=1))
    row_measured = float(np.mean((moments.mean.mean(axis=1) - mean) ** 2))
    column_measured = float(np.mean((moments.mean.mean(axis=0) - mean) ** 2))
    total = measured - temporal
    row_average = row_measured - temporal / cols
    column_average = column_measured - temporal / rows
    size, rest = rows * cols, rows * cols - rows - cols
    pixel_measured = max(measured - row_measured - column_measured, 0.0)
    temporal_var = temporal**2 * 2.0 / (size * (moments.count - 1))
    row_se = np.sqrt(2.0 / (rows - 1)) * row_measured
    column_se = np.sqrt(2.0 / (cols - 1)) * column_measured
    pixel_var = 2.0 / rest * pixel_measured**2 + temporal_var
    return SpatialVariance(
        total=total,
        row=((size - cols) * row_average - rows * (total - column_average)) / rest,
        column=((size - rows) * column_average - cols * (total - row_average)) / rest,
        pixel=size / rest * (total - column_average - row_average),
        total_se=float(np.sqrt(row_se**2 + column_se**2 + pixel_var)),
        row_se=float(row_se),
        column_se=float(column_se),
        pixel_se=float(np.sqrt(pixel_var)),
        measured=measured,
        stack=stack,
        row_average=row_average,
        column_average=column_average,
        mean=mean,
    )


@dataclass(frozen=True)
class Nonuniformity:
    """DSNU or PRNU of one phase: standard deviations, NaN where the variance came out negative.

    Parameters
    ----------
    total, row, column, pixel : float
        DSNU in DN, PRNU as a fraction (0.01 is 1 %).
    total_se, row_se, column_se, pixel_se : float
        Standard errors; NaN with the value.
    variance : SpatialVariance
        The signed variances behind them.
    shading : float
        Standard deviation of the smooth surface that was removed, same unit; 0 under EMVA 1288.
    shading_left : float
        Standard deviation of what is still smooth over 1/16 of the field after it, in the same unit; 0 when it is
        within three standard errors of what pixel pattern and noise explain.
    order : int
        Of that surface.
    rejected : float
        Share of pixels left out.
    """

    total: float
    row: float
    column: float
    pixel: float
    total_se: float
    row_se: float
    column_se: float
    pixel_se: float
    variance: SpatialVariance
    shading: float = 0.0
    shading_left: float = 0.0
    order: int = 0
    rejected: float = 0.0


def dsnu(
    dark: PixelMoments,
    *,
    convention: Convention = "default",
    order: int | None = None,
    reject: float = REJECT_SIGMAS,
) -> Nonuniformity:
    """Dark signal nonuniformity [DN] of one phase; divide by K for electrons.

    Parameters
    ----------
    dark : PixelMoments
        Of a stack of darks.
    convention : {"default", "emva1288"}
        See the module docstring.
    order : int, optional
        Of the polynomial surface that is removed (default convention); without it the first of 2, 4, 6, 8 after which
        nothing smooth is left that would change the total by 0.1 %.
    reject : float
        Robust sigmas beyond which a pixel is left out (default convention).

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> pattern = 2.0 * rng.standard_normal((100, 100))
    >>> stack = PixelMoments.of(50 + pattern + rng.standard_normal((8, 100, 100)))
    >>> result = dsnu(stack)
    >>> abs(result.pixel - 2.0) < 4 * result.pixel_se
    True
    """
    if convention == "emva1288":
        return _from_variance(emva_split(dark))

    def detrended(n: int) -> Nonuniformity:
        surface, bad = _robust_surface(dark.mean, n, reject)
        return _default_split(dark.mean - surface, bad, [(dark, None)], n, float(surface.std()))

    return _lowest_order(detrended, order)


def prnu(
    flat: PixelMoments,
    dark: PixelMoments,
    *,
    convention: Convention = "default",
    order: int | None = None,
    reject: float = REJECT_SIGMAS,
) -> Nonuniformity:
    """Photo response nonuniformity of one phase, as a fraction.

        EMVA 1288    PRNU^2 = (v_flat - v_dark) / (mu_flat - mu_dark)^2, each part alike
        default      variance of (flat - dark) / surface, temporal noise of both subtracted

    Parameters
    ----------
    flat, dark : PixelMoments
        Stacks at half saturation and without light, of the same exposure time.

    Raises
    ------
    CalibrationError
        The flat is not brighter than the dark.
    """
    if flat.mean.shape != dark.mean.shape:
        raise ValueError(f"flat {flat.mean.shape} and dark {dark.mean.shape} differ in shape.")
    level = float(flat.mean.mean() - dark.mean.mean())
    if level <= 0:
        raise CalibrationError(
            f"the stack of flats is {-level:.1f} DN darker than the stack of darks; are they exchanged?"
        )
    if convention == "emva1288":
        return _from_variance(_difference(emva_split(flat), emva_split(dark), level))
    signal = flat.mean - dark.mean

    def detrended(n: int) -> Nonuniformity:
        surface, bad = _robust_surface(signal, n, reject)
        if surface.min() <= 0:
            raise CalibrationError("the surface under the flat falls below zero; the light must fill the whole field.")
        relative = signal / surface
        relative -= 1.0
        return _default_split(relative, bad, [(flat, surface), (dark, surface)], n, float(surface.std()) / level)

    return _lowest_order(detrended, order)


def _lowest_order(detrended: Callable[[int], Nonuniformity], order: int | None) -> Nonuniformity:
    """Result of the given order, or of the lowest of ``SHADING_ORDERS`` that leaves no shading worth mentioning."""
    result = detrended(SHADING_ORDERS[0] if order is None else order)
    for higher in SHADING_ORDERS[1:] if order is None else ():
        if result.shading_left**2 <= _SHADING_TOLERATED * abs(result.variance.total):
            break
        result = detrended(higher)
    return result


def _difference(flat: SpatialVariance, dark: SpatialVariance, level: float) -> SpatialVariance:
    """(flat - dark) / level^2 of every variance."""
    scale = level**-2
    values = {}
    for part in ("total", "row", "column", "pixel"):
        values[part] = scale * (getattr(flat, part) - getattr(dark, part))
        values[part + "_se"] = scale * float(np.hypot(getattr(flat, part + "_se"), getattr(dark, part + "_se")))
    for part in ("measured", "row_average", "column_average"):
        values[part] = scale * (getattr(flat, part) - getattr(dark, part))
    return SpatialVariance(**values, stack=scale * flat.stack, mean=1.0)


def _from_variance(
    variance: SpatialVariance,
    *,
    shading: float = 0.0,
    shading_left: float = 0.0,
    order: int = 0,
    rejected: float = 0.0,
) -> Nonuniformity:
    values = {}
    for part in ("total", "row", "column", "pixel"):
        square = getattr(variance, part)
        root = float(np.sqrt(square)) if square > 0 else float("nan")
        values[part], values[part + "_se"] = root, getattr(variance, part + "_se") / (2.0 * root)
    return Nonuniformity(
        **values, variance=variance, shading=shading, shading_left=shading_left, order=order, rejected=rejected
    )


def combine(parts: Sequence[Nonuniformity]) -> Nonuniformity:
    """One result for the sites of one phase (X-Trans): variances averaged, errors taken as independent."""
    if len(parts) == 1:
        return parts[0]
    values = {}
    for field in fields(SpatialVariance):
        column = np.array([getattr(part.variance, field.name) for part in parts])
        if field.name.endswith("_se"):
            values[field.name] = float(np.sqrt((column**2).sum())) / len(parts)
        else:
            values[field.name] = float(column.mean())
    return _from_variance(
        SpatialVariance(**values),
        shading=float(np.sqrt(np.mean([part.shading**2 for part in parts]))),
        shading_left=float(np.sqrt(np.mean([part.shading_left**2 for part in parts]))),
        order=max(part.order for part in parts),
        rejected=float(np.mean([part.rejected for part in parts])),
    )


def _default_split(
    image: FloatArray,
    bad: NDArray[np.intp],
    stacks: list[tuple[PixelMoments, FloatArray | None]],
    order: int,
    shading: float,
) -> Nonuniformity:
    """Analysis of variance of a detrended image without its ``bad`` pixels (flat indices), temporal noise subtracted.

    With A_r, A_c the variances of row and column means and A_e that of the rest, and the temporal noise of the mean
    image split alike into w (white), rho (rows), gamma (columns):

        pixel = A_e - w        row = A_r - A_e / N - rho        column = A_c - A_e / M - gamma

    ``stacks`` are the stacks behind the image, each with the image its frames are to be divided by.
    """
    rows, cols = _size(image)
    lost = 1 + order  # the surface took 1, y, ..., y^order from the row means
    if min(rows, cols) < lost + 2:
        raise CalibrationError(f"an image of {rows}x{cols} pixels is too small to split; it needs {lost + 2} a side.")
    number = image.size - len(bad)
    mean, row_means, column_means, rest = _lines_and_rest(image, bad)
    squares = float(rest.ravel() @ rest.ravel())
    left = _smooth_rest(rest, squares / number)
    np.square(rest, out=rest)
    fourth = float(rest.ravel() @ rest.ravel())
    a_row = float((row_means**2).sum()) / (rows - lost)
    a_column = float((column_means**2).sum()) / (cols - lost)
    a_rest = squares / (number - rows - cols + 1)
    temporal = [_temporal(moments, scale, bad) for moments, scale in stacks]
    white, white_var = sum(t[0] for t in temporal), sum(t[1] for t in temporal)
    rho, rho_var = sum(t[2] for t in temporal), sum(t[3] for t in temporal)
    gamma, gamma_var = sum(t[4] for t in temporal), sum(t[5] for t in temporal)
    pixel_var = (fourth / number - (squares / number) ** 2) / number + white_var
    row_var = 2.0 * a_row**2 / (rows - lost) + rho_var
    column_var = 2.0 * a_column**2 / (cols - lost) + gamma_var
    pixel, row, column = a_rest - white, a_row - a_rest / cols - rho, a_column - a_rest / rows - gamma
    variance = SpatialVariance(
        total=pixel + row + column,
        row=row,
        column=column,
        pixel=pixel,
        total_se=float(np.sqrt(pixel_var + row_var + column_var)),
        row_se=float(np.sqrt(row_var)),
        column_se=float(np.sqrt(column_var)),
        pixel_se=float(np.sqrt(pixel_var)),
        measured=float(squares / number + (row_means**2).mean() + (column_means**2).mean()),
        stack=temporal[0][6],
        row_average=row,
        column_average=column,
        mean=mean,
    )
    rejected = 1.0 - number / image.size
    return _from_variance(variance, shading=shading, shading_left=left, order=order, rejected=rejected)


def _temporal(
    moments: PixelMoments, scale: FloatArray | None, bad: NDArray[np.intp]
) -> tuple[float, float, float, float, float, float, float]:
    """White, row and column temporal variance of a mean image divided by ``scale``; (value, error^2) each; of a frame.

    The drift of whole frames moves no pixel against another, so it is taken out of all three.
    """
    rows, cols = moments.mean.shape
    count, number = moments.count, moments.mean.size - len(bad)
    level = 1.0 if scale is None else float(scale.mean())
    drift = 0.0 if moments.frame_means is None else float(moments.frame_means.var(axis=0, ddof=1).mean()) / level**2
    of_pixels = moments.variance if scale is None else moments.variance / scale**2
    stack = float(of_pixels.sum(dtype=np.float64) - of_pixels.ravel()[bad].sum(dtype=np.float64)) / number
    pixel = stack - drift
    at_rows = at_columns = None
    if moments.row_var is not None:
        at_rows = float((moments.row_var[:, 0] / _squared_mean(scale, 1)).mean()) - drift
    if moments.column_var is not None:
        at_columns = float((moments.column_var[0] / _squared_mean(scale, 0)).mean()) - drift
    row_noise = 0.0 if at_rows is None else (at_rows - pixel / cols) / (1.0 - 1.0 / cols)
    column_noise = 0.0 if at_columns is None else (at_columns - pixel / rows) / (1.0 - 1.0 / rows)
    white = pixel - row_noise - column_noise

    def error(value: float | None, samples: int) -> float:
        return 0.0 if value is None else 2.0 * value**2 / (samples * (count - 1)) / count**2

    return (
        white / count,
        error(pixel, number),
        row_noise / count,
        error(at_rows, rows),
        column_noise / count,
        error(at_columns, cols),
        stack,
    )


def _squared_mean(scale: FloatArray | None, axis: int) -> FloatArray | float:
    return 1.0 if scale is None else scale.mean(axis=axis) ** 2


def _smooth_rest(rest: FloatArray, variance: float) -> float:
    """Standard deviation of block means of ``rest`` beyond what pixels of ``variance`` explain; 0 within 3 errors."""
    blocks = int(np.clip(min(rest.shape) // 8, 2, _SMOOTH_BLOCKS))
    sums = _block_sums(_block_sums(rest, blocks, 0), blocks, 1)
    sizes = np.outer(*(_block_sums(np.ones(length), blocks, 0) for length in rest.shape))
    expected = variance * float(np.mean(1.0 / sizes))
    excess = float(np.mean((sums / sizes) ** 2)) - expected
    return float(np.sqrt(excess)) if excess > 3.0 * expected * np.sqrt(2.0 / sizes.size) else 0.0


def _size(image: FloatArray) -> tuple[int, int]:
    rows, cols = image.shape
    if min(rows, cols) < 3:
        raise CalibrationError(f"an image of {rows}x{cols} pixels has no row and column patterns; it needs 3 a side.")
    return rows, cols


def _lines_and_rest(image: FloatArray, bad: NDArray[np.intp]) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Mean, row means, column means (both minus the mean) and the rest, without ``bad`` pixels, where the rest is 0."""
    rows, cols = image.shape
    rest = image.copy()
    rest.ravel()[bad] = 0.0
    mean = float(rest.sum()) / (image.size - len(bad))
    per_row = cols - np.bincount(bad // cols, minlength=rows)
    per_column = rows - np.bincount(bad % cols, minlength=cols)
    row_means = np.where(per_row > 0, rest.sum(axis=1) / np.maximum(per_row, 1) - mean, 0.0)
    column_means = np.where(per_column > 0, rest.sum(axis=0) / np.maximum(per_column, 1) - mean, 0.0)
    rest -= (row_means + mean)[:, None]
    rest -= column_means
    rest.ravel()[bad] = 0.0
    return mean, row_means, column_means, rest


# ---------------------------------------------------------------------------------- surfaces and outliers


def fit_surface(image: FloatArray, *, order: int = SHADING_ORDER, keep: NDArray[np.bool_] | None = None) -> FloatArray:
    """Least-squares polynomial surface, all terms x^i y^j with i + j <= order.

    Parameters
    ----------
    image : (H, W)
    keep : (H, W) bool, optional
        Pixels to fit.

    Returns
    -------
    (H, W) float64

    Notes
    -----
    Fitted to the means of up to 64 x 64 blocks, weighted with their number of pixels: at order 2 this differs from
    the fit to every pixel by less than its standard error, and costs two passes over the image.
    """
    bad = np.zeros(0, np.intp) if keep is None else np.flatnonzero(~keep)
    return _surface_of_blocks(*_blocks(image), image, bad, order)


def _blocks(image: FloatArray) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Sums of ``image`` over up to 64 x 64 blocks, and the blocks' first rows and columns."""
    height, width = image.shape
    starts_y, starts_x = _starts(height, min(_BLOCKS, height)), _starts(width, min(_BLOCKS, width))
    return np.add.reduceat(np.add.reduceat(image, starts_y, axis=0), starts_x, axis=1), starts_y, starts_x


def _surface_of_blocks(
    sums: FloatArray,
    starts_y: NDArray[np.intp],
    starts_x: NDArray[np.intp],
    image: FloatArray,
    bad: NDArray[np.intp],
    order: int,
) -> FloatArray:
    """Surface fitted to block means without the ``bad`` pixels (flat indices) of ``image``."""
    height, width = image.shape
    rows, cols = sums.shape
    size_y, size_x = np.diff(starts_y, append=height), np.diff(starts_x, append=width)
    block = (np.searchsorted(starts_y, bad // width, "right") - 1) * cols
    block += np.searchsorted(starts_x, bad % width, "right") - 1
    lost = np.bincount(block, image.ravel()[bad], minlength=rows * cols).reshape(rows, cols)
    counts = np.outer(size_y, size_x) - np.bincount(block, minlength=rows * cols).reshape(rows, cols)
    in_y, in_x = (np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, n), order) for n in (height, width))
    block_y = np.add.reduceat(in_y, starts_y, axis=0) / size_y[:, None]
    block_x = np.add.reduceat(in_x, starts_x, axis=0) / size_x[:, None]
    terms = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    filled = counts > 0
    if filled.sum() < len(terms):
        raise CalibrationError(
            f"{int(filled.sum())} blocks of pixels cannot carry a surface of {len(terms)} terms; use a lower order."
        )
    root = np.sqrt(counts[filled])
    design = np.stack([np.outer(block_y[:, i], block_x[:, j])[filled] * root for i, j in terms], axis=1)
    found = np.linalg.lstsq(design, (sums - lost)[filled] / root, rcond=None)[0]
    coefficients = np.zeros((order + 1, order + 1))
    for (i, j), value in zip(terms, found, strict=True):
        coefficients[i, j] = value
    return in_y @ coefficients @ in_x.T


def _starts(length: int, blocks: int) -> NDArray[np.intp]:
    return np.linspace(0, length, blocks, endpoint=False).astype(np.intp)


def _block_sums(values: FloatArray, blocks: int, axis: int) -> FloatArray:
    return np.add.reduceat(values, _starts(values.shape[axis], blocks), axis=axis)


def _robust_surface(image: FloatArray, order: int, reject: float) -> tuple[FloatArray, NDArray[np.intp]]:
    """Surface, and flat indices of the pixels beyond ``reject`` robust sigma of it, rows and columns set aside."""
    if not np.isfinite(image.sum()):
        raise CalibrationError("the mean image holds values that are not finite numbers; which frame is damaged?")
    blocks = _blocks(image)
    bad = np.zeros(0, np.intp)
    surface = _surface_of_blocks(*blocks, image, bad, order)
    for _ in range(3):
        rest = _without_lines(image - surface)
        spread = robust_sigma(rest)
        now = np.flatnonzero(np.abs(rest, out=rest) > reject * spread) if spread > 0 else bad
        if np.array_equal(now, bad):
            break
        bad = now
        surface = _surface_of_blocks(*blocks, image, bad, order)
    return surface, bad


def _without_lines(rest: FloatArray) -> FloatArray:
    """``rest`` less the medians of its rows and columns, in place; from at most about 500 pixels of each line."""
    step_y, step_x = (max(1, length // _LINE_SAMPLE) for length in rest.shape)
    rest -= np.median(rest[:, ::step_x], axis=1, keepdims=True)
    rest -= np.median(rest[::step_y], axis=0)
    return rest


def robust_sigma(values: FloatArray) -> float:
    """1.4826 x median absolute deviation from the median, over at most a million evenly spaced values.

    Examples
    --------
    >>> round(robust_sigma(np.array([-1.0, 0.0, 1.0, 1000.0])), 4)
    1.4826
    """
    flat = np.asarray(values).ravel()
    flat = flat[:: max(1, flat.size // _SAMPLE)]
    return float(_MAD_TO_SIGMA * np.median(np.abs(flat - np.median(flat))))


# --------------------------------------------------------------------------------------------- spectra


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
    _size(image)
    surface, bad = _robust_surface(image, order, REJECT_SIGMAS)
    _, rows, columns, rest = _lines_and_rest(image - surface, bad)
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


# ----------------------------------------------------------------------------- fixed pattern, dark shading


@dataclass(frozen=True, eq=False)
class FixedPattern:
    """Best estimate of the fixed pattern behind a noisy mean image.

    Parameters
    ----------
    pattern : (H, W) float64 [DN]
        Level, surface and shrunk deviations.
    row_factor, column_factor, pixel_factor : float
        Shrinkage var / (var + noise) of each part, 0 to 1.
    lost_var : float [DN^2]
        Pattern variance that shrinkage removed; a synthesizer tops it up with a frozen random field.
    """

    pattern: FloatArray
    row_factor: float
    column_factor: float
    pixel_factor: float
    lost_var: float


def shrink_fixed_pattern(dark: PixelMoments, *, order: int = SHADING_ORDER) -> FixedPattern:
    """Mean of a stack with its leftover temporal noise shrunk away, part by part.

        pattern = surface + sum over rows, columns, pixels of g d,    g = V / (V + noise / L)

    with V the fixed variance of the part (``dsnu``) and noise its temporal variance.  The plain mean of L frames
    carries 1/L of the temporal variance as if it were pattern.  Single defects (beyond 5 robust sigma) are no members
    of the Gaussian population: each is shrunk by its own 1 - noise / (L d^2), that is hardly at all.

    Parameters
    ----------
    dark : PixelMoments
        One phase.
    """
    surface, bad = _robust_surface(dark.mean, order, REJECT_SIGMAS)
    rest = dark.mean - surface
    variance = _default_split(rest, bad, [(dark, None)], order, 0.0).variance
    mean, rows, columns, pixels = _lines_and_rest(rest, bad)
    seen_pixel = float(pixels.ravel() @ pixels.ravel()) / (pixels.size - len(bad))
    seen_row, seen_column = float((rows**2).mean()), float((columns**2).mean())
    white = max(seen_pixel - variance.pixel, 0.0)
    factors = [
        float(np.clip(part / seen, 0.0, 1.0)) if seen > 0 else 0.0
        for part, seen in (
            (variance.row, seen_row),
            (variance.column, seen_column),
            (variance.pixel, seen_pixel),
        )
    ]
    smooth = surface + mean
    pattern = smooth + factors[0] * rows[:, None] + factors[1] * columns + factors[2] * pixels
    lines = (rows[:, None] + columns).ravel()[bad]
    deviation = rest.ravel()[bad] - mean - lines
    own = np.maximum(factors[2], 1.0 - white / deviation**2)
    pattern.ravel()[bad] = smooth.ravel()[bad] + lines + own * deviation
    lost = sum(
        max(part, 0.0) * (1.0 - factor)
        for part, factor in zip((variance.row, variance.column, variance.pixel), factors, strict=True)
    )
    return FixedPattern(pattern, *factors, lost_var=float(lost))


@dataclass(frozen=True, eq=False)
class ShadingSegment:
    """Dark shading within one analog gain segment: slope x ISO + offset, both of zero mean per CFA site.

    Parameters
    ----------
    isos : tuple of float
    slope : (H, W) [DN per ISO]; zero when the segment has one ISO only
    offset : (H, W) [DN]
    slope_se, offset_se : float
        Standard error of one pixel of the unsmoothed maps; NaN where the temporal noise was not given.
    residual : float [DN]
        Standard deviation over pixels and ISOs of what the law leaves, temporal noise subtracted; 0 below 3 ISOs.
    """

    isos: tuple[float, ...]
    slope: FloatArray
    offset: FloatArray
    slope_se: float
    offset_se: float
    residual: float


@dataclass(frozen=True, eq=False)
class DarkShading:
    """Mean dark at every ISO: slope x ISO + offset + black-level error.

    Parameters
    ----------
    segments : tuple of ShadingSegment
    black_level_error : dict of ISO to (rows, cols) [DN]
        Mean dark minus the file's black level, per site of the CFA period.
    black_level_error_se : dict of ISO to float [DN]
        From the drift of whole frames where given, else NaN.
    """

    segments: tuple[ShadingSegment, ...]
    black_level_error: dict[float, FloatArray]
    black_level_error_se: dict[float, float]

    def at(self, iso: float) -> FloatArray:
        """(H, W) expected dark [DN, the file's black removed] at ``iso``, within a measured segment.

        The black-level error jumps from ISO to ISO, so between measured ISOs it is interpolated, and that is a guess
        as good as their scatter.

        Raises
        ------
        CalibrationError
            ``iso`` lies outside every segment.
        """
        for segment in self.segments:
            if segment.isos[0] <= iso <= segment.isos[-1]:
                isos = np.array(segment.isos)
                errors = np.array([self.black_level_error[i] for i in segment.isos])
                upper = int(np.clip(np.searchsorted(isos, iso), 1, max(len(isos) - 1, 1)))
                if len(isos) == 1:
                    level = errors[0]
                else:
                    part = (iso - isos[upper - 1]) / (isos[upper] - isos[upper - 1])
                    level = (1.0 - part) * errors[upper - 1] + part * errors[upper]
                height, width = segment.slope.shape
                return segment.slope * iso + segment.offset + _tile(level, height, width)
        spans = ", ".join(f"{s.isos[0]:g} to {s.isos[-1]:g}" for s in self.segments)
        raise CalibrationError(f"ISO {iso:g} lies outside the measured dark shading (ISO {spans}); add darks there.")


def fit_dark_shading(
    mean_darks: Mapping[float, FloatArray],
    *,
    cfa: CFA | None = None,
    gain_switches: Sequence[float] = (),
    mean_var: Mapping[float, float] | None = None,
    level_se: Mapping[float, float] | None = None,
    smooth: int | None = None,
) -> DarkShading:
    """Dark shading over ISO, one law per analog gain segment.

        dark(ISO) = slope x ISO + offset + black-level error(ISO),      spatial mean of slope and offset = 0

    The black-level error holds the whole mean, measured at every ISO, since it follows no law.

    Parameters
    ----------
    mean_darks : mapping of ISO to (H, W) [DN, the file's black removed]
        Mean of many darks at each ISO.
    cfa : CFA, optional
        The black-level error is kept per site of its period.
    gain_switches : sequence of float
        A segment ends below each of these ISOs.
    mean_var : mapping of ISO to float [DN^2], optional
        Temporal variance of one pixel of the mean dark (read variance / frames): weights and errors.
    level_se : mapping of ISO to float [DN], optional
        Standard error of the mean level (standard deviation of the frame means / sqrt frames).
    smooth : int, optional
        Order of a polynomial surface that replaces each map; None keeps every pixel.

    References
    ----------
    Feng et al. 2024 (module docstring); there the maps hold the linear part of the mean level.
    """
    if not mean_darks:
        raise CalibrationError("no mean darks; dark shading needs darks at one ISO at least.")
    shapes = {image.shape for image in mean_darks.values()}
    if len(shapes) > 1:
        raise CalibrationError(f"the mean darks differ in size ({', '.join(map(str, shapes))}); use one frame size.")
    period = (1, 1) if cfa is None else cfa.shape
    isos = sorted(mean_darks)
    height, width = shapes.pop()
    levels = {iso: _site_means(mean_darks[iso], period) for iso in isos}
    segments = []
    for members in _segments(isos, gain_switches):
        noise = [1.0 if mean_var is None else mean_var[iso] for iso in members]
        weights, x = 1.0 / np.array(noise), np.array(members)
        center = float((weights * x).sum() / weights.sum())
        lever = float((weights * (x - center) ** 2).sum())
        slope, average = np.zeros((height, width)), np.zeros((height, width))
        for iso, weight in zip(members, weights, strict=True):
            shape = mean_darks[iso] - _tile(levels[iso], height, width)
            average += weight / weights.sum() * shape
            if lever > 0:
                slope += weight * (iso - center) / lever * shape
        offset = average - center * slope
        residual = 0.0
        if len(members) > 2:
            rests = [mean_darks[iso] - _tile(levels[iso], height, width) - slope * iso - offset for iso in members]
            scatter = sum(float(np.mean(rest**2)) for rest in rests)
            explained = 0.0 if mean_var is None else float(np.mean(noise)) * (len(members) - 2)
            residual = float(np.sqrt(max(scatter - explained, 0.0) / (len(members) - 2)))
        known = mean_var is not None
        slope_se = float(np.sqrt(1.0 / lever)) if known and lever > 0 else float("nan")
        offset_se = float(np.sqrt(1.0 / weights.sum() + (center**2 / lever if lever > 0 else 0.0)))
        if smooth is not None:
            slope, offset = (_robust_surface(m, smooth, REJECT_SIGMAS)[0] for m in (slope, offset))
        segments.append(
            ShadingSegment(tuple(members), slope, offset, slope_se, offset_se if known else float("nan"), residual)
        )
    errors = {iso: float("nan") if level_se is None else float(level_se[iso]) for iso in isos}
    return DarkShading(tuple(segments), levels, errors)


def _segments(isos: Sequence[float], switches: Sequence[float]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for iso in isos:
        groups.setdefault(int(np.searchsorted(sorted(switches), iso, side="right")), []).append(iso)
    return [groups[key] for key in sorted(groups)]


def _site_means(image: FloatArray, period: tuple[int, int]) -> FloatArray:
    rows, cols = period
    return np.array([[float(image[r::rows, c::cols].mean()) for c in range(cols)] for r in range(rows)])


def _tile(values: FloatArray, height: int, width: int) -> FloatArray:
    rows, cols = values.shape
    return np.tile(values, (-(-height // rows), -(-width // cols)))[:height, :width]


# ---------------------------------------------------------------------------------------------- defects

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
    from scipy.stats import chi2

    layout = CFA.mono() if cfa is None else cfa
    gains = None if system_gain is None else np.broadcast_to(np.asarray(system_gain, np.float64), len(layout.phases))
    rows, cols = layout.shape
    probability = false_alarms / dark.mean.size
    dof = dark.count - 1
    limit, middle = float(chi2.isf(probability, dof)), float(chi2.median(dof))
    found = []

    def add(kind: str, bad: NDArray[np.bool_], value: FloatArray, site: tuple[int, int]) -> None:
        for i, j in np.argwhere(bad):
            found.append((int(i) * rows + site[0], int(j) * cols + site[1], kind, float(value[i, j])))

    for site, phase in zip(layout.sites, layout.plane_phases, strict=True):
        short = dark.plane(*site, layout.shape)
        excess, sigma = _excess(short.mean)
        add("hot", excess > hot_sigmas * max(sigma, np.finfo(float).tiny), excess, site)
        if long_dark is not None:
            growth, spread = _excess(long_dark.plane(*site, layout.shape).mean - short.mean)
            per_second = growth / (1.0 if exposure_difference is None else exposure_difference)
            add("growing", growth > hot_sigmas * max(spread, np.finfo(float).tiny), per_second, site)
        if flat is not None:
            signal = flat.plane(*site, layout.shape).mean - short.mean
            response = signal / _robust_surface(signal, SHADING_ORDER, REJECT_SIGMAS)[0]
            add("dead", response < dead_response, response, site)
        sample = short.variance.ravel()[:: max(1, short.variance.size // _SAMPLE)]
        typical = float(np.median(sample)) * dof / middle
        expected = np.full(short.mean.shape, typical)
        if gains is not None:
            expected += gains[phase] * np.maximum(excess, 0.0)
        if typical > 0:
            over = short.variance - expected
            add("telegraph", short.variance * dof > limit * expected, np.sqrt(np.maximum(over, 0.0)), site)
    result = np.array(found, DEFECT_DTYPE)
    return np.sort(result, order=("kind", "row", "column"))


def _excess(image: FloatArray) -> tuple[FloatArray, float]:
    """Image minus its surface, rows and columns, and the robust sigma of that."""
    rest = _without_lines(image - _robust_surface(image, SHADING_ORDER, REJECT_SIGMAS)[0])
    return rest, robust_sigma(rest)


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


# ------------------------------------------------------------------------------------------ code widths


@dataclass(frozen=True, eq=False)
class CodeWidths:
    """Relative widths of the converter's codes: DNL = width - 1.

    Parameters
    ----------
    code : (n,) int [DN]
    width, width_se : (n,)
        1 is the ideal width, 1 LSB.
    rms, rms_se : float [LSB]
        Root mean square of DNL, counting noise subtracted; NaN when it is not above that noise.
    order : int
        Of the smooth law; 0 for a combination of tables.
    """

    code: NDArray[np.integer]
    width: FloatArray
    width_se: FloatArray
    rms: float
    rms_se: float
    order: int


def code_widths(
    counts: NDArray[np.integer],
    *,
    first_code: int = 0,
    min_count: int = MIN_CODE_COUNT,
    order: int | None = None,
) -> CodeWidths:
    """Code widths from a histogram of darks or of evenly lit flats: count over the smooth expectation.

        width_c = n_c / exp(P(x_c)),      P: polynomial fitted to ln n_c

    x_c is where the code lies: the middle between the sums of the widths below and up to it, so that wide codes shift
    those above them.

    A Gaussian is of order 2; heavier tails and fixed pattern need more, and the order is the one of least BIC from 2
    to 8.  Weights are 1 / (1 / n_c + DNL^2), for counts scatter by Poisson and by the widths themselves.

    Parameters
    ----------
    counts : (n,) int
        Pixels of any number of frames with each code.
    first_code : int
        Code of ``counts[0]``.
    min_count : int
        Codes with fewer are left out.
    order : int, optional
        Of the polynomial.

    Notes
    -----
    Slow trends of the width over the codes cannot be told from the distribution's shape, so they read as 1.

    Raises
    ------
    CalibrationError
        Fewer than 8 neighboring codes have enough counts.
    """
    counts = np.asarray(counts)
    peak = int(np.argmax(counts))
    enough = counts >= min_count
    low, high = peak, peak
    while low > 0 and enough[low - 1]:
        low -= 1
    while high + 1 < len(counts) and enough[high + 1]:
        high += 1
    n = counts[low : high + 1].astype(np.float64)
    if not enough[peak] or len(n) < 8:
        raise CalibrationError(
            f"{len(n) if enough[peak] else 0} neighboring codes have {min_count} counts or more; code widths need 8. "
            "Add frames, or use flats of more levels."
        )
    orders = range(2, min(8, (len(n) - 1) // 2) + 1) if order is None else (order,)
    _, best, fitted, leverage = min((_smooth_counts(n, k) for k in orders), key=lambda fit: fit[0])
    width = n / fitted
    error = width / np.sqrt(n) * np.sqrt(np.maximum(1.0 - leverage, 0.0))
    rms, rms_se = _rms_dnl(width, error, len(n) - best - 1)
    return CodeWidths(np.arange(low, high + 1) + first_code, width, error, rms, rms_se, best)


def _smooth_counts(n: FloatArray, order: int) -> tuple[float, int, FloatArray, FloatArray]:
    """BIC, order, smooth expectation of a code of width 1, and leverage, of a weighted polynomial fit to ln n."""
    y, width, dnl_var = np.log(n), np.ones_like(n), 0.0
    fitted, leverage, weights = y, np.ones_like(y), n
    for _ in range(_CODE_ROUNDS):
        edges = np.concatenate([[0.0], np.cumsum(width)])
        x = (edges[1:] + edges[:-1]) / edges[-1] - 1.0
        design = np.polynomial.legendre.legvander(x, order)
        weights = 1.0 / (1.0 / n + dnl_var)
        root = np.sqrt(weights)
        q, r = np.linalg.qr(design * root[:, None])
        fitted = design @ np.linalg.solve(r, q.T @ (y * root))
        leverage = (q**2).sum(axis=1)
        spread = float(((y - fitted) ** 2).sum()) / max(len(y) - order - 1, 1)
        dnl_var = max(spread - float(np.mean(1.0 / n)), 0.0)
        width = np.exp(y - fitted)
    deviance = float((weights * (y - fitted) ** 2).sum() - np.log(weights).sum())
    return deviance + (order + 1) * float(np.log(len(y))), order, np.exp(fitted), leverage


def combine_code_widths(tables: Sequence[CodeWidths]) -> CodeWidths:
    """One table from several levels: widths of the same code averaged with weights 1 / se^2.

    Examples
    --------
    >>> a = CodeWidths(np.arange(8), np.full(8, 1.1), np.full(8, 0.01), 0.1, 0.0, 2)
    >>> b = CodeWidths(np.arange(4, 12), np.full(8, 0.9), np.full(8, 0.01), 0.1, 0.0, 2)
    >>> table = combine_code_widths([a, b])
    >>> len(table.code), round(float(table.width[5]), 6)
    (12, 1.0)
    """
    if not tables:
        raise ValueError("no code-width tables to combine.")
    codes = np.unique(np.concatenate([table.code for table in tables]))
    total, weight = np.zeros(len(codes)), np.zeros(len(codes))
    for table in tables:
        place = np.searchsorted(codes, table.code)
        total[place] += table.width / table.width_se**2
        weight[place] += 1.0 / table.width_se**2
    width, error = total / weight, 1.0 / np.sqrt(weight)
    return CodeWidths(codes, width, error, *_rms_dnl(width, error, len(codes)), order=0)


def _rms_dnl(width: FloatArray, error: FloatArray, dof: int) -> tuple[float, float]:
    """Root mean square of width - 1, counting noise subtracted, and its standard error."""
    measured = float(((width - 1.0) ** 2).sum()) / max(dof, 1)
    square = measured - float((error**2).sum()) / max(dof, 1)
    if square <= 0:
        return float("nan"), float("nan")
    return float(np.sqrt(square)), float(measured * np.sqrt(2.0 / max(dof, 1)) / (2.0 * np.sqrt(square)))
