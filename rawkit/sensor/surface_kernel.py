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
            if number + far > found.size:
                longer = np.empty(2 * (number + far), np.intp)
                longer[:number] = found[:number]
                found = longer
            for j in range(width):
                if abs(rest[j]) > limit:
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
