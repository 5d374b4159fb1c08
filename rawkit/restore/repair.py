"""Replacement of pixels known to be defective, before denoising.

A defective pixel takes the median of its eight nearest pixels of the same color phase that are not defective
themselves; at the border there are fewer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RINGS = 3  # rings of neighbors looked at before giving up


def repair(signal: NDArray[np.float32], positions: NDArray, period: tuple[int, int]) -> NDArray[np.float32]:
    """A copy of a mosaic with the pixels at ``positions`` replaced.

    Parameters
    ----------
    signal : (H, W) float32 [DN]
    positions : (N, 2) int
        Rows and columns; those outside the mosaic are an error.
    period : (rows, columns) of the color filter array

    Raises
    ------
    ValueError
        A position outside the mosaic: the map belongs to another sensor size.

    Examples
    --------
    >>> m = np.zeros((6, 6), np.float32); m[2, 2] = 900
    >>> float(repair(m, np.array([[2, 2]]), (2, 2)).max())
    0.0
    """
    positions = np.asarray(positions, np.intp).reshape(-1, 2)
    if positions.size and (positions.min() < 0 or np.any(positions >= signal.shape)):
        raise ValueError(f"the defect map has pixels outside {signal.shape}; it belongs to another sensor or crop.")
    bad = np.zeros(signal.shape, bool)
    bad[tuple(positions.T)] = True
    out = signal.copy()
    for row, column in positions:
        out[row, column] = _around(signal, bad, row, column, period)
    return out


def _around(
    signal: NDArray[np.float32], bad: NDArray[np.bool_], row: int, column: int, period: tuple[int, int]
) -> np.float32:
    for ring in range(1, _RINGS + 1):
        rows = row + period[0] * np.arange(-ring, ring + 1)
        columns = column + period[1] * np.arange(-ring, ring + 1)
        here = np.ix_(
            rows[(rows >= 0) & (rows < signal.shape[0])], columns[(columns >= 0) & (columns < signal.shape[1])]
        )
        good = signal[here][~bad[here]]
        if good.size:
            return np.float32(np.median(good))
    return signal[row, column]
