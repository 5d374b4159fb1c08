"""Compiled passes over an image for ``surface``: nothing as large as the image is written on the way to a fit.

A polynomial surface is given by its factors, surface(i, j) = sum over k of down[i, k] across[j, k].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def line_medians(
    image: Any, down: Any, across: Any, step_y: int, step_x: int
) -> tuple[Any, Any]:  # pragma: no cover - compiled
    """Medians (H,) of the rows of image - surface, then (W,) of the columns of what is left.

    From every ``step_x``-th pixel of a row and every ``step_y``-th of a column.
    """
    height, width = image.shape
    terms = down.shape[1]
    rows, columns = np.empty(height), np.empty(width)
    sample = np.empty((width + step_x - 1) // step_x)
    kept = np.empty((width, (height + step_y - 1) // step_y))
    for i in range(height):
        for n in range(sample.size):
            value = image[i, n * step_x]
            for k in range(terms):
                value -= down[i, k] * across[n * step_x, k]
            sample[n] = value
        rows[i] = np.median(sample)
    # A block of columns at a time: its pixels share lines of memory, and their transpose stays in the cache.
    for left in range(0, width, 64):
        right = min(left + 64, width)
        for m in range(kept.shape[1]):
            i = m * step_y
            for j in range(left, right):
                value = image[i, j] - rows[i]
                for k in range(terms):
                    value -= down[i, k] * across[j, k]
                kept[j, m] = value
        for j in range(left, right):
            columns[j] = np.median(kept[j])
    return rows, columns


@njit(cache=True, nogil=True)
def rest_at(
    image: Any, down: Any, across: Any, rows: Any, columns: Any, step: int
) -> Any:  # pragma: no cover - compiled
    """image - surface - rows - columns of every ``step``-th pixel of the raveled image."""
    width = image.shape[1]
    rest = np.empty((image.size + step - 1) // step)
    for n in range(rest.size):
        i, j = n * step // width, n * step % width
        value = image[i, j] - rows[i] - columns[j]
        for k in range(down.shape[1]):
            value -= down[i, k] * across[j, k]
        rest[n] = value
    return rest


@njit(cache=True, nogil=True)
def far_pixels(
    image: Any, down: Any, across: Any, rows: Any, columns: Any, limit: float
) -> Any:  # pragma: no cover - compiled
    """Flat indices where |image - surface - rows - columns| > limit."""
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    rest = np.empty(width)
    found, number = np.empty(1024, np.intp), 0
    for i in range(height):
        for j in range(width):
            rest[j] = image[i, j] - columns[j] - rows[i]
        for k in range(by_term.shape[0]):
            factor, term = down[i, k], by_term[k]
            for j in range(width):
                rest[j] -= factor * term[j]
        far = 0
        for j in range(width):
            far += 1 if abs(rest[j]) > limit else 0
        if far:
            found = _with_room(found, number, far)
            for j in range(width):
                if abs(rest[j]) > limit:
                    found[number] = i * width + j
                    number += 1
    return found[:number].copy()


@njit(inline="always")
def _with_room(found: Any, number: int, more: int) -> Any:  # pragma: no cover - compiled
    """The list, longer where ``more`` do not fit behind its first ``number``."""
    if number + more <= found.size:
        return found
    longer = np.empty(2 * (number + more), found.dtype)
    longer[:number] = found[:number]
    return longer


@njit(inline="always")
def _surface_line(down: Any, by_term: Any, line: Any) -> None:  # pragma: no cover - compiled
    """One row of the surface into ``line``."""
    line[:] = 0.0
    for k in range(by_term.shape[0]):
        factor, term = down[k], by_term[k]
        for j in range(line.size):
            line[j] += factor * term[j]


@njit(inline="always")
def _detrended_line(
    image: Any, down: Any, by_term: Any, relative: bool, bad: Any, at: int, first: int, surface: Any, line: Any
) -> int:  # pragma: no cover - compiled
    """One row without its surface into ``line``, 0 at the bad pixels; ``first``: flat index of the row.

    Returns where in ``bad`` the next row begins.
    """
    _surface_line(down, by_term, surface)
    if relative:
        for j in range(line.size):
            line[j] = image[j] / surface[j] - 1.0
    else:
        for j in range(line.size):
            line[j] = image[j] - surface[j]
    while at < bad.size and bad[at] < first + line.size:
        line[bad[at] - first] = 0.0
        at += 1
    return at


@njit(cache=True, nogil=True)
def line_sums(
    image: Any, down: Any, across: Any, relative: bool, bad: Any
) -> tuple[Any, Any, float]:  # pragma: no cover - compiled
    """Sums (H,) and (W,) of the rows and columns of image - surface, or image / surface - 1 where ``relative``.

    The pixels ``bad`` (flat indices, sorted) count as 0.  Last comes the least value of the surface.
    """
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    rows, columns = np.empty(height), np.zeros(width)
    surface, line = np.empty(width), np.empty(width)
    at, lowest = 0, np.inf
    for i in range(height):
        at = _detrended_line(image[i], down[i], by_term, relative, bad, at, i * width, surface, line)
        for j in range(width):
            columns[j] += line[j]
        rows[i] = line.sum()
        lowest = min(lowest, surface.min())
    return rows, columns, lowest


@njit(cache=True, nogil=True)
def rest_moments(
    image: Any,
    down: Any,
    across: Any,
    relative: bool,
    bad: Any,
    rows: Any,
    columns: Any,
    starts_y: Any,
    starts_x: Any,
) -> tuple[float, float, Any]:  # pragma: no cover - compiled
    """Sums of the squares and fourth powers of what is left after ``rows`` and ``columns``, and its sums over blocks.

    The pixels ``bad`` count as 0; the blocks begin at the rows and columns ``starts_y`` and ``starts_x``.
    """
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    surface, line = np.empty(width), np.empty(width)
    squares, fourth, total = np.zeros(width), np.zeros(width), np.zeros(width)
    sums = np.zeros((starts_y.size, starts_x.size))
    at = 0
    for y in range(starts_y.size):
        total[:] = 0.0
        for i in range(starts_y[y], starts_y[y + 1] if y + 1 < starts_y.size else height):
            first = at
            at = _detrended_line(image[i], down[i], by_term, relative, bad, at, i * width, surface, line)
            for j in range(width):
                line[j] -= rows[i] + columns[j]
            for n in range(first, at):
                line[bad[n] - i * width] = 0.0
            for j in range(width):
                square = line[j] * line[j]
                total[j] += line[j]
                squares[j] += square
                fourth[j] += square * square
        for x in range(starts_x.size):
            sums[y, x] = total[starts_x[x] : starts_x[x + 1] if x + 1 < starts_x.size else width].sum()
    return squares.sum(), fourth.sum(), sums


@njit(cache=True, nogil=True)
def sum_over_square(image: Any, down: Any, across: Any, bad: Any) -> float:  # pragma: no cover - compiled
    """Sum of image / surface^2 without the pixels ``bad``."""
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    surface, columns = np.empty(width), np.zeros(width)
    for i in range(height):
        _surface_line(down[i], by_term, surface)
        for j in range(width):
            columns[j] += image[i, j] / (surface[j] * surface[j])
    lost = 0.0
    for n in range(bad.size):
        i, j = bad[n] // width, bad[n] % width
        level = 0.0
        for k in range(by_term.shape[0]):
            level += down[i, k] * across[j, k]
        lost += image[i, j] / (level * level)
    return columns.sum() - lost


@njit(cache=True, nogil=True)
def shrunk(
    image: Any, down: Any, across: Any, mean: float, rows: Any, columns: Any, factors: Any
) -> Any:  # pragma: no cover - compiled
    """(H, W) float32: surface + mean + the rows, columns and pixels around them, each times its factor."""
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    surface = np.empty(width)
    pattern = np.empty((height, width), np.float32)
    of_row, of_column, of_pixel = factors
    for i in range(height):
        _surface_line(down[i], by_term, surface)
        for j in range(width):
            smooth = surface[j] + mean
            rest = image[i, j] - smooth - rows[i] - columns[j]
            pattern[i, j] = smooth + of_row * rows[i] + of_column * columns[j] + of_pixel * rest
    return pattern


@njit(cache=True, nogil=True)
def low_pixels(image: Any, down: Any, across: Any, share: float) -> Any:  # pragma: no cover - compiled
    """Flat indices where image < share * surface."""
    height, width = image.shape
    by_term = np.ascontiguousarray(across.T)
    surface = np.empty(width)
    found, number = np.empty(1024, np.intp), 0
    for i in range(height):
        _surface_line(down[i], by_term, surface)
        low = 0
        for j in range(width):
            low += 1 if image[i, j] < share * surface[j] else 0
        if low:
            found = _with_room(found, number, low)
            for j in range(width):
                if image[i, j] < share * surface[j]:
                    found[number] = i * width + j
                    number += 1
    return found[:number].copy()


@njit(cache=True, nogil=True)
def block_sums(image: Any, starts_y: Any, starts_x: Any) -> Any:  # pragma: no cover - compiled
    """Sums of ``image`` over the blocks that begin at these rows and columns."""
    height, width = image.shape
    sums = np.zeros((starts_y.size, starts_x.size))
    line = np.empty(width)
    for y in range(starts_y.size):
        line[:] = 0.0
        for i in range(starts_y[y], starts_y[y + 1] if y + 1 < starts_y.size else height):
            for j in range(width):
                line[j] += image[i, j]
        for x in range(starts_x.size):
            total = 0.0
            for j in range(starts_x[x], starts_x[x + 1] if x + 1 < starts_x.size else width):
                total += line[j]
            sums[y, x] = total
    return sums
