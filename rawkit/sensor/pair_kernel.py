"""One compiled pass over a pair of frames: every sum that ``frames.pair_statistics`` needs.

The floor is memory traffic, two uint16 frames read once; the arithmetic is about ten operations a pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

CODES = 65536
REACH = 4096  # DN on either side of the histogram of differences
JOINT = 24  # codes on a side of the joint histogram


class PairSums(NamedTuple):
    """Sums over the pixels of a pair.

    Parameters
    ----------
    moments : (P, 6) number, sum A, sum B, sum D, sum D^2, sum A^2 of the pixels within the limit
    rows, row_counts : (H, 2) sums and numbers of D per row and parity of the column
    columns, column_counts : (W, 2) the same per column and parity of the row
    codes : (65536,) int64 histogram of A
    differences : (P, 2 REACH + 1) int64 histogram of A - B
    joint : (P, JOINT, JOINT) int64 histogram of (A, B) around the mean
    """

    moments: np.ndarray
    rows: np.ndarray
    row_counts: np.ndarray
    columns: np.ndarray
    column_counts: np.ndarray
    codes: np.ndarray
    differences: np.ndarray
    joint: np.ndarray


def flat_sums(
    a: np.ndarray, b: np.ndarray, phase_map: np.ndarray, center: np.ndarray, limit: np.ndarray, excluded: np.ndarray,
    phases: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """``moments`` and ``codes`` of ``PairSums``, the codes from every eighth row: what a pair of flats is asked for."""
    return _moments(a, b, phase_map, center, limit, excluded, phases)


def pair_sums(
    a: np.ndarray,
    b: np.ndarray,
    phase_map: np.ndarray,
    center: np.ndarray,
    limit: np.ndarray,
    middle: np.ndarray,
    reach: np.ndarray,
    start: np.ndarray,
    phases: int,
) -> PairSums:
    """All sums of two (H, W) mosaics.

    Pixels with |A + B - middle| > reach (hot and dead ones) enter the histogram of A only, those with
    |A - B - center| > limit (telegraph pixels, cosmic rays) all histograms but no moments.

    Parameters
    ----------
    phase_map : (rows, cols) index of the phase of each site of the CFA period
    center, limit, middle, reach : (P,) float64 [DN]
    start : (P,) int64
        First code of the joint histogram's window.
    """
    return PairSums(*_sums(a, b, phase_map, center, limit, middle, reach, start, phases))


@njit(cache=True, nogil=True)
def _moments(
    a: Any, b: Any, phase_map: Any, center: Any, limit: Any, excluded: Any, phases: int
) -> Any:  # pragma: no cover
    height, width = a.shape
    rows, cols = phase_map.shape
    moments = np.zeros((phases, 6))
    codes = np.zeros(CODES, np.int64)
    masked = excluded.size > 1
    for i in range(height):
        if i % 8 < rows and i // 8 * 8 + rows <= height:
            for j in range(width):
                code = int(a[i, j])
                if 0 <= code < CODES:
                    codes[code] += 1
        for site in range(cols):
            phase = phase_map[i % rows, site]
            middle, far = center[phase], limit[phase]
            number, sum_a, sum_b, sum_d, squares_d, squares_a = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(site, width, cols):
                x, y = float(a[i, j]), float(b[i, j])
                d = x - y
                keep = 1.0 if abs(d - middle) <= far else 0.0
                if masked and excluded[i, j]:
                    keep = 0.0
                number += keep
                sum_a += keep * x
                sum_b += keep * y
                sum_d += keep * d
                squares_d += keep * d * d
                squares_a += keep * x * x
            moments[phase, 0] += number
            moments[phase, 1] += sum_a
            moments[phase, 2] += sum_b
            moments[phase, 3] += sum_d
            moments[phase, 4] += squares_d
            moments[phase, 5] += squares_a
    return moments, codes


@njit(cache=True, nogil=True)
def _sums(a: Any, b: Any, phase_map: Any, center: Any, limit: Any, middle: Any, reach: Any, start: Any,
          phases: int) -> Any:  # fmt: skip # pragma: no cover
    height, width = a.shape
    rows, cols = phase_map.shape
    moments = np.zeros((phases, 6))
    row_sum, row_count = np.zeros((height, 2)), np.zeros((height, 2))
    column_sum, column_count = np.zeros((width, 2)), np.zeros((width, 2))
    codes = np.zeros(CODES, np.int64)
    differences = np.zeros((phases, 2 * REACH + 1), np.int64)
    joint = np.zeros((phases, JOINT, JOINT), np.int64)
    line = np.zeros((cols, 6))
    for i in range(height):
        line[:] = 0.0
        for site in range(cols):
            phase = phase_map[i % rows, site]
            for j in range(site, width, cols):
                x, y = float(a[i, j]), float(b[i, j])
                d = x - y
                code = int(x)
                if 0 <= code < CODES:
                    codes[code] += 1
                if abs(x + y - middle[phase]) > reach[phase]:
                    continue
                bin_of = int(np.floor(d + 0.5)) + REACH
                differences[phase, min(max(bin_of, 0), 2 * REACH)] += 1
                u, w = code - start[phase], int(y) - start[phase]
                if 0 <= u < JOINT and 0 <= w < JOINT:
                    joint[phase, u, w] += 1
                if abs(d - center[phase]) <= limit[phase]:
                    line[site, 0] += 1.0
                    line[site, 1] += x
                    line[site, 2] += y
                    line[site, 3] += d
                    line[site, 4] += d * d
                    line[site, 5] += x * x
                    column_sum[j, i % 2] += d
                    column_count[j, i % 2] += 1.0
        for site in range(cols):
            phase = phase_map[i % rows, site]
            for k in range(6):
                moments[phase, k] += line[site, k]
            row_sum[i, site % 2] += line[site, 3]
            row_count[i, site % 2] += line[site, 0]
    return moments, row_sum, row_count, column_sum, column_count, codes, differences, joint
