"""What differs from pixel to pixel: DSNU and PRNU.

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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.surface import REJECT_SIGMAS, Lines, analyze_lines, pattern_shape, robust_factors

Convention = Literal["default", "emva1288"]
FloatArray = NDArray[np.floating]

SHADING_ORDERS = (2, 4, 6, 8)  # an 8th order follows the vignetting of a lens with 65 % falloff to 0.02 %

_SHADING_TOLERATED = 0.002  # of the variance: 0.1 % of the total
_SMOOTH_BLOCKS = 16  # per axis, for the shading that is left


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
    rows, cols = pattern_shape(moments.mean)
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
        return dark_split(dark, n, reject)[0]

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
        down, across, bad = robust_factors(signal, n, reject)
        lines = analyze_lines(signal, down, across, bad, relative=True, blocks=_smooth_blocks(signal))
        scale = (down, across)
        return split_variance(lines, bad, [(flat, scale), (dark, scale)], n, _surface_spread(down, across) / level)

    return _lowest_order(detrended, order)


def dark_split(dark: PixelMoments, order: int, reject: float = REJECT_SIGMAS) -> tuple[Nonuniformity, Lines]:
    """DSNU of one phase after a surface of this order, and the lines behind it."""
    down, across, bad = dark.surface(order, reject)
    lines = analyze_lines(dark.mean, down, across, bad, blocks=_smooth_blocks(dark.mean))
    return split_variance(lines, bad, [(dark, None)], order, _surface_spread(down, across)), lines


def _surface_spread(down: FloatArray, across: FloatArray) -> float:
    """Standard deviation of the surface down @ across.T."""
    mean = down.mean(axis=0) @ across.mean(axis=0)
    down = np.column_stack([down, np.full(len(down), -mean)])
    across = np.column_stack([across, np.ones(len(across))])
    square = float(((down.T @ down) * (across.T @ across)).sum()) / (len(down) * len(across))
    return float(np.sqrt(max(square, 0.0)))


def _smooth_blocks(image: FloatArray) -> int:
    """Blocks per axis that show the shading which is left."""
    return int(np.clip(min(image.shape) // 8, 2, _SMOOTH_BLOCKS))


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


def split_variance(
    lines: Lines,
    bad: NDArray[np.intp],
    stacks: list[tuple[PixelMoments, tuple[FloatArray, FloatArray] | None]],
    order: int,
    shading: float,
) -> Nonuniformity:
    """Analysis of variance of a detrended image without its ``bad`` pixels (flat indices), temporal noise subtracted.

    With A_r, A_c the variances of row and column means and A_e that of the rest, and the temporal noise of the mean
    image split alike into w (white), rho (rows), gamma (columns):

        pixel = A_e - w        row = A_r - A_e / N - rho        column = A_c - A_e / M - gamma

    ``stacks`` are the stacks behind the image, each with the factors (down, across) of the surface that its frames
    are to be divided by.
    """
    row_means, column_means, squares, number = lines.rows, lines.columns, lines.squares, lines.number
    rows, cols = len(row_means), len(column_means)
    lost = 1 + order  # the surface took 1, y, ..., y^order from the row means
    if min(rows, cols) < lost + 2:
        raise CalibrationError(f"an image of {rows}x{cols} pixels is too small to split; it needs {lost + 2} a side.")
    a_row = float((row_means**2).sum()) / (rows - lost)
    a_column = float((column_means**2).sum()) / (cols - lost)
    a_rest = squares / (number - rows - cols + 1)
    temporal = [_temporal(moments, scale, bad) for moments, scale in stacks]
    white, white_var = sum(t[0] for t in temporal), sum(t[1] for t in temporal)
    rho, rho_var = sum(t[2] for t in temporal), sum(t[3] for t in temporal)
    gamma, gamma_var = sum(t[4] for t in temporal), sum(t[5] for t in temporal)
    pixel_var = (lines.fourth / number - (squares / number) ** 2) / number + white_var
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
        mean=lines.mean,
    )
    rejected = 1.0 - number / (rows * cols)
    left = _smooth_rest(lines, squares / number)
    return _from_variance(variance, shading=shading, shading_left=left, order=order, rejected=rejected)


def _temporal(
    moments: PixelMoments, scale: tuple[FloatArray, FloatArray] | None, bad: NDArray[np.intp]
) -> tuple[float, float, float, float, float, float, float]:
    """White, row and column temporal variance of a mean image divided by the surface of factors ``scale``; (value,
    error^2) each; of a frame.

    The drift of whole frames moves no pixel against another, so it is taken out of all three.
    """
    from rawkit.sensor import surface_kernel

    rows, cols = moments.mean.shape
    count, number = moments.count, moments.mean.size - len(bad)
    down, across = (np.ones((length, 1)) for length in (rows, cols)) if scale is None else scale
    row_level, column_level = down @ across.mean(axis=0), across @ down.mean(axis=0)
    level = float(row_level.mean())
    drift = 0.0 if moments.frame_means is None else float(moments.frame_means.var(axis=0, ddof=1).mean()) / level**2
    stack = surface_kernel.sum_over_square(moments.variance, down, across, bad) / number
    pixel = stack - drift
    at_rows = at_columns = None
    if moments.row_var is not None:
        at_rows = float((moments.row_var[:, 0] / row_level**2).mean()) - drift
    if moments.column_var is not None:
        at_columns = float((moments.column_var[0] / column_level**2).mean()) - drift
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


def _smooth_rest(lines: Lines, variance: float) -> float:
    """Standard deviation of the block means of what is left beyond what pixels of ``variance`` explain; 0 within 3
    errors."""
    sizes = lines.block_sizes
    expected = variance * float(np.mean(1.0 / sizes))
    excess = float(np.mean(lines.block_means**2)) - expected
    return float(np.sqrt(excess)) if excess > 3.0 * expected * np.sqrt(2.0 / sizes.size) else 0.0
