"""Smooth surfaces under an image, pixels far from them, and the means of rows and columns.

    image(i, j) = surface(i, j) + mean + row_i + column_j + rest(i, j)

The surface is a polynomial, all terms x^i y^j with i + j <= order; what lies beyond some robust sigma (1.4826 x median
absolute deviation) of it enters nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError

FloatArray = NDArray[np.floating]

SHADING_ORDER = 2  # quadratic surface: lamp falloff over a field is smooth
REJECT_SIGMAS = 5.0  # a Gaussian loses 1.5e-5 of its variance beyond 5 sigma
SAMPLE = 1 << 18  # robust sigmas of so many pixels are good to 0.23 %

_MAD_TO_SIGMA = 1.482602218505602  # 1 / Phi^-1(3/4)
_LINE_SAMPLE = 256  # pixels of a line behind its median: good to 8 % of their sigma
_BLOCKS = 64  # per axis, for the surface fit
_SETTLED = 0.01  # robust sigma: a surface that moves by less leaves the choice of outliers as it is


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
    down, across = _surface_of_blocks(*_blocks(image), image, bad, order)
    return down @ across.T


def _blocks(image: FloatArray) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """Sums of ``image`` over up to 64 x 64 blocks, and the blocks' first rows and columns."""
    from rawkit.sensor import surface_kernel

    starts_y, starts_x = _block_starts(image.shape, _BLOCKS)
    return surface_kernel.block_sums(image, starts_y, starts_x), starts_y, starts_x


def _block_starts(shape: tuple[int, ...], blocks: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    starts = [np.linspace(0, length, min(blocks, length), endpoint=False).astype(np.intp) for length in shape]
    return starts[0], starts[1]


def _surface_of_blocks(
    sums: FloatArray,
    starts_y: NDArray[np.intp],
    starts_x: NDArray[np.intp],
    image: FloatArray,
    bad: NDArray[np.intp],
    order: int,
) -> tuple[FloatArray, FloatArray]:
    """Surface fitted to block means without the ``bad`` pixels (flat indices) of ``image``.

    Returns
    -------
    down : (H, order + 1)
    across : (W, order + 1)
        The surface is down @ across.T.
    """
    height, width = image.shape
    rows, cols = sums.shape
    size_y, size_x = np.diff(starts_y, append=height), np.diff(starts_x, append=width)
    block = (np.searchsorted(starts_y, bad // width, "right") - 1) * cols
    block += np.searchsorted(starts_x, bad % width, "right") - 1
    lost = np.bincount(block, image[bad // width, bad % width], minlength=rows * cols).reshape(rows, cols)
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
    return in_y @ coefficients, in_x


def robust_surface(image: FloatArray, order: int, reject: float) -> tuple[FloatArray, NDArray[np.intp]]:
    """Surface, and flat indices of the pixels beyond ``reject`` robust sigma of it, rows and columns set aside."""
    down, across, bad = robust_factors(image, order, reject)
    return down @ across.T, bad


def robust_factors(image: FloatArray, order: int, reject: float) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """The same with the surface as its factors: (H, order + 1) down and (W, order + 1) across, down @ across.T.

    The indices are sorted.
    """
    blocks = _blocks(image)
    sums, *starts = blocks
    if not np.isfinite(sums.sum()):
        raise CalibrationError("the mean image holds values that are not finite numbers; which frame is damaged?")
    bad = np.zeros(0, np.intp)
    down, across = _surface_of_blocks(*blocks, image, bad, order)
    for _ in range(3):
        around = Surroundings.of(image, down, across)
        spread = around.sigma
        now = around.far(reject * spread) if spread > 0 else bad
        if np.array_equal(now, bad):
            break
        before, bad = down[starts[0]] @ across[starts[1]].T, now
        down, across = _surface_of_blocks(*blocks, image, bad, order)
        if np.abs(down[starts[0]] @ across[starts[1]].T - before).max() < _SETTLED * spread:
            break
    return down, across, bad


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a pixel of an image is compared with: surface + its row's + its column's median.

    Parameters
    ----------
    image : (H, W)
    down, across : (H, K), (W, K)
        The surface is down @ across.T.
    rows, columns : (H,), (W,)
    """

    image: FloatArray
    down: FloatArray
    across: FloatArray
    rows: FloatArray
    columns: FloatArray

    @classmethod
    def of(cls, image: FloatArray, down: FloatArray, across: FloatArray) -> Surroundings:
        """Medians of rows, then of columns, from at most 512 pixels of each line."""
        from rawkit.sensor import surface_kernel

        steps = [max(1, length // _LINE_SAMPLE) for length in image.shape]
        return cls(image, down, across, *surface_kernel.line_medians(image, down, across, *steps))

    @property
    def sigma(self) -> float:
        """Robust sigma of the pixels around it."""
        from rawkit.sensor import surface_kernel

        step = max(1, self.image.size // SAMPLE)
        return robust_sigma(surface_kernel.rest_at(self.image, self.down, self.across, self.rows, self.columns, step))

    def far(self, limit: float) -> NDArray[np.intp]:
        """Flat indices of the pixels farther away than ``limit``, sorted."""
        from rawkit.sensor import surface_kernel

        return surface_kernel.far_pixels(self.image, self.down, self.across, self.rows, self.columns, limit)

    def excess(self, pixels: NDArray[np.intp]) -> FloatArray:
        """Image minus surroundings at flat indices."""
        i, j = np.divmod(pixels, self.image.shape[1])
        surface = (self.down[i] * self.across[j]).sum(axis=1)
        return self.image[i, j] - surface - self.rows[i] - self.columns[j]


def robust_sigma(values: FloatArray) -> float:
    """1.4826 x median absolute deviation from the median, over some 2^18 evenly spaced values.

    Examples
    --------
    >>> round(robust_sigma(np.array([-1.0, 0.0, 1.0, 1000.0])), 4)
    1.4826
    """
    flat = np.asarray(values).ravel()
    flat = flat[:: max(1, flat.size // SAMPLE)]
    return float(_MAD_TO_SIGMA * np.median(np.abs(flat - np.median(flat))))


def pattern_shape(image: FloatArray) -> tuple[int, int]:
    rows, cols = image.shape
    if min(rows, cols) < 3:
        raise CalibrationError(f"an image of {rows}x{cols} pixels has no row and column patterns; it needs 3 a side.")
    return rows, cols


@dataclass(frozen=True, eq=False)
class Lines:
    """Analysis of variance of an image without its surface and its ``bad`` pixels.

    Parameters
    ----------
    mean : float
    rows, columns : (H,), (W,)
        Means of the rows and columns, both minus the mean.
    squares, fourth : float
        Sums of the second and fourth power of what is left.
    number : int
        Pixels that count.
    block_means, block_sizes : (n, n)
        Of what is left, over blocks, and the pixels of each.
    """

    mean: float
    rows: FloatArray
    columns: FloatArray
    squares: float
    fourth: float
    number: int
    block_means: FloatArray
    block_sizes: NDArray[np.intp]


def analyze_lines(
    image: FloatArray,
    down: FloatArray,
    across: FloatArray,
    bad: NDArray[np.intp],
    *,
    relative: bool = False,
    blocks: int = _BLOCKS,
) -> Lines:
    """Lines of image - surface, or of image / surface - 1 where ``relative``; two passes, no array of its size.

    Parameters
    ----------
    image : (H, W)
    down, across, bad
        As ``robust_factors`` gives them.

    Raises
    ------
    CalibrationError
        ``relative`` to a surface that is not positive everywhere.
    """
    from rawkit.sensor import surface_kernel

    rows, cols = pattern_shape(image)
    row_sums, column_sums, lowest = surface_kernel.line_sums(image, down, across, relative, bad)
    if relative and lowest <= 0:
        raise CalibrationError("the surface under the flat falls below zero; the light must fill the whole field.")
    mean, row_means, column_means = _line_means(row_sums, column_sums, bad)
    starts = _block_starts(image.shape, blocks)
    squares, fourth, sums = surface_kernel.rest_moments(
        image, down, across, relative, bad, row_means + mean, column_means, *starts
    )
    sizes = np.outer(*(np.diff(first, append=length) for first, length in zip(starts, (rows, cols), strict=True)))
    return Lines(mean, row_means, column_means, squares, fourth, image.size - len(bad), sums / sizes, sizes)


def _line_means(
    row_sums: FloatArray, column_sums: FloatArray, bad: NDArray[np.intp]
) -> tuple[float, FloatArray, FloatArray]:
    """Mean, row means, column means (both minus the mean) from sums without the ``bad`` pixels."""
    rows, cols = len(row_sums), len(column_sums)
    mean = float(row_sums.sum()) / (rows * cols - len(bad))
    per_row = cols - np.bincount(bad // cols, minlength=rows)
    per_column = rows - np.bincount(bad % cols, minlength=cols)
    row_means = np.where(per_row > 0, row_sums / np.maximum(per_row, 1) - mean, 0.0)
    column_means = np.where(per_column > 0, column_sums / np.maximum(per_column, 1) - mean, 0.0)
    return mean, row_means, column_means


def lines_and_rest(image: FloatArray, bad: NDArray[np.intp]) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Mean, row means, column means (both minus the mean) and the rest, without ``bad`` pixels, where the rest is 0."""
    rest = image.copy()
    rest.ravel()[bad] = 0.0
    mean, row_means, column_means = _line_means(rest.sum(axis=1), rest.sum(axis=0), bad)
    rest -= (row_means + mean)[:, None]
    rest -= column_means
    rest.ravel()[bad] = 0.0
    return mean, row_means, column_means, rest
