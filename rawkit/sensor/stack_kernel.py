"""Compiled passes over stacks of integer frames: the sums behind ``pixel_moments``.

The floor is memory traffic: the sums of a pixel, 4 + 8 bytes, are read and written once for all frames that come
together, so two frames at a time cost little more than one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def add_frames(
    frames: tuple[NDArray, ...], total: NDArray[np.uint32], squares: NDArray[np.uint64], period: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Add (H, W) uint8 or uint16 ``frames`` to the sums of y and y^2 of every pixel, in place.

    Returns
    -------
    rows : (L, H, cols) int64, sum of each row of each frame per column of the period
    columns : (L, rows, W) uint32, the same of each column
    """
    return _add(frames, total, squares, *period)


@njit(inline="always")
def _sum(x: Any, first: int, step: int) -> Any:  # pragma: no cover - compiled
    total = np.uint32(0)  # 65536 pixels of 65535 DN fit
    for k in range((x.size - first + step - 1) // step):
        total = np.uint32(total + np.uint32(x[first + step * k]))
    return total


@njit(cache=True, nogil=True)
def _add(frames: Any, total: Any, squares: Any, rows: int, cols: int) -> Any:  # pragma: no cover - compiled
    height, width = total.shape
    row_sums = np.zeros((len(frames), height, cols), np.int64)
    columns = np.zeros((len(frames), rows, width), np.uint32)
    for i in range(height):
        for f in range(len(frames)):
            x = frames[f][i]
            r = i % rows
            for j in range(width):
                value = np.uint32(x[j])
                total[i, j] += value
                squares[i, j] += np.uint64(np.uint32(value * value))  # 65535^2 fits 32 bits
                columns[f, r, j] += value
            for c in range(cols):
                # A step the compiler knows makes a vector loop.
                if cols == 1:
                    row_sums[f, i, c] = _sum(x, 0, 1)
                elif cols == 2:
                    row_sums[f, i, c] = _sum(x, c, 2)
                else:
                    row_sums[f, i, c] = _sum(x, c, cols)
    return row_sums, columns


@njit(cache=True, nogil=True)
def mean_and_variance(
    total: Any, squares: Any, count: int, mean: Any, variance: Any
) -> None:  # pragma: no cover - compiled
    """Float64 ``mean`` and float32 ``variance`` (ddof 1), (H, W), from the sums of y and y^2 over ``count`` frames.

    They may lie in the memory of ``squares`` and ``total``.
    """
    height, width = total.shape
    for i in range(height):
        for j in range(width):
            one, two = np.int64(total[i, j]), np.int64(squares[i, j])
            mean[i, j] = one / count
            variance[i, j] = (count * two - one * one) / (count * (count - 1))
