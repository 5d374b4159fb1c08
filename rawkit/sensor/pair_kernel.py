"""Compiled passes over a pair of frames: every sum that ``frames.pair_statistics`` needs.

Integer frames of 8 and 16 bits are summed in integers, so the result is exact and depends neither on the order of
summation nor on the device (``rawkit.sensor.pair_torch`` computes the same sums); frames of floats in float64.

The floor is memory traffic: two uint16 frames read once, 4 bytes a pair of pixels.  A pair of flats costs about twice
that.  A pair of darks is asked for a histogram, and counting, one increment a pixel, cannot be done several pixels
at a time as sums can.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

CODES = 65536
REACH = 4096  # DN on either side of the histogram of differences
JOINT = 24  # codes on a side of the joint histogram
_CODE_SAMPLE = 1 << 20  # pixels behind the histogram of codes
_CODE_STEP = 8  # rows from one sampled period to the next, at least
_FLUSH = 8192  # rows after which 32-bit sums of columns could overflow


class Limits(NamedTuple):
    """What is near enough to be counted, (P,) float64 [DN]: |A - B - center| <= limit, and A and B not both more than
    reach / 2 above, nor both more than that below middle / 2.

    Parameters
    ----------
    center, limit : center of A - B, and how far from it is too far (telegraph pixels, cosmic rays)
    middle, reach : middle of A + B, and how far from it is too far (hot and dead pixels; darks only); both frames have
        to be too far on the same side, for a single rare event belongs to the noise
    """

    center: np.ndarray
    limit: np.ndarray
    middle: np.ndarray
    reach: np.ndarray

    def differences(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest whole A - B within the limit, (P,) int64."""
        return _whole(self.center, self.limit)

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest whole A + B within reach, (P,) int64."""
        return _whole(self.middle, self.reach)


def _whole(center: np.ndarray, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ceil(center - limit).astype(np.int64), np.floor(center + limit).astype(np.int64)


class PairSums(NamedTuple):
    """Sums over the pixels of a pair; the arrays of lines, histograms and ``hot`` are empty for flats.

    Parameters
    ----------
    moments : (P, 6) number, sum A, sum B, sum D, sum D^2, sum A^2 of the pixels within the limits
    codes : (65536,) int64 histogram of A, from whole CFA periods of rows, about a million pixels
    rows, row_counts : (H, 2) sums and numbers of D per row and parity of the column
    columns, column_counts : (W, 2) the same per column and parity of the row
    differences : (P, 2 REACH + 1) int64 histogram of A - B of the pixels within ``reach``; end bins take the rest
    hot : (N,) int64 positions in the raveled mosaic of the pixels beyond ``reach``
    """

    moments: np.ndarray
    codes: np.ndarray
    rows: np.ndarray
    row_counts: np.ndarray
    columns: np.ndarray
    column_counts: np.ndarray
    differences: np.ndarray
    hot: np.ndarray


def is_exact(frame: np.ndarray) -> bool:
    """Is the frame summed in integers?"""
    return frame.dtype in (np.uint8, np.uint16)


def flat_sums(
    a: np.ndarray, b: np.ndarray, phase_map: np.ndarray, limits: Limits, exclude: np.ndarray | None = None
) -> PairSums:
    """What a pair of flats is asked for: ``moments`` and ``codes``.

    Parameters
    ----------
    a, b : (H, W) mosaics of one type [DN]
    phase_map : (rows, cols) index of the phase of each site of the CFA period
    limits : Limits
        ``middle`` and ``reach`` are not asked.
    exclude : (N,) int, optional
        Positions in the raveled mosaic to leave out.
    """
    phases = int(phase_map.max()) + 1
    excluded = np.empty(0, np.int64) if exclude is None else np.asarray(exclude, np.int64)
    if is_exact(a):
        low, high = limits.differences()
        moments = _flat_moments(a, b, phase_map, low, high, phases) - _moments_at(
            a, b, phase_map, low, high, phases, excluded
        )
    else:
        moments, *_ = _float_sums(a, b, phase_map, *limits._replace(reach=np.full(phases, np.inf)), phases, excluded)
    return no_lines(phases, moments.astype(np.float64), code_histogram(a, len(phase_map)))


def no_lines(phases: int, moments: np.ndarray, codes: np.ndarray) -> PairSums:
    """The sums of a pair of flats: nothing of lines, differences and hot pixels."""
    none = np.zeros((0, 2))
    return PairSums(
        moments, codes, none, none, none, none, np.zeros((phases, 2 * REACH + 1), np.int64), np.empty(0, np.int64)
    )


def dark_sums(a: np.ndarray, b: np.ndarray, phase_map: np.ndarray, limits: Limits) -> PairSums:
    """All sums of a pair of darks.

    Pixels with both 2 A and 2 B beyond middle + reach, or both below middle - reach (hot and dead ones), enter the
    histogram of A only, those with |A - B - center| > limit (telegraph pixels, cosmic rays) all histograms but no
    moments.

    Parameters
    ----------
    a, b : (H, W) mosaics of one type [DN]
    phase_map : (rows, cols) index of the phase of each site of the CFA period
    limits : Limits
    """
    phases = int(phase_map.max()) + 1
    codes = code_histogram(a, len(phase_map))
    low, high = limits.differences()
    if not is_exact(a) or np.any(low <= -REACH) or np.any(high >= REACH):
        none = np.empty(0, np.int64)
        moments, *rest = _float_sums(a, b, phase_map, *limits, phases, none)
        return PairSums(moments, codes, *rest)
    rows, row_counts, columns, column_counts, totals, squares, differences, hot = _dark_lines(
        a, b, phase_map, low, high, *limits.totals(), phases
    )
    moments = moments_of_darks(phase_map, low, high, differences, columns, totals, squares)
    by_column, column_counts = (
        np.stack([part[k::2].sum(axis=0) for k in (0, 1)], axis=1) for part in (columns, column_counts)
    )
    return PairSums(moments, codes, rows, row_counts, by_column, column_counts, differences, hot)


def moments_of_darks(
    phase_map: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    differences: np.ndarray,
    columns: np.ndarray,
    totals: np.ndarray,
    squares: np.ndarray,
) -> np.ndarray:
    """``PairSums.moments`` from the histogram of differences (number, D^2) and from sums of columns (D, A + B, A^2).

    Parameters
    ----------
    low, high : (P,) int64, whole differences within the limit
    columns, totals, squares : (R, W) int64, sums of D, A + B and A^2 of each column's rows i = r modulo R
    """
    phases, (rows, cols) = len(low), phase_map.shape
    moments = np.zeros((phases, 6), np.int64)
    d = np.arange(-REACH, REACH + 1)
    for p in range(phases):
        within = differences[p, low[p] + REACH : high[p] + REACH + 1]
        moments[p, 0] = within.sum()
        moments[p, 4] = (within * d[low[p] + REACH : high[p] + REACH + 1] ** 2).sum()
    for r in range(len(columns)):
        for c in range(cols):
            p = phase_map[r % rows, c]
            sum_d, sum_t = int(columns[r, c::cols].sum()), int(totals[r, c::cols].sum())
            moments[p, 1:4] += ((sum_t + sum_d) // 2, (sum_t - sum_d) // 2, sum_d)  # 2 A and 2 B, so even
            moments[p, 5] += int(squares[r, c::cols].sum())
    return moments.astype(np.float64)


def code_histogram(frame: np.ndarray, period: int) -> np.ndarray:
    """(65536,) int64 histogram of the codes of whole CFA periods of rows, evenly spaced, about a million pixels."""
    step = max(_CODE_STEP, period * (frame.size // _CODE_SAMPLE))
    return _count_codes(frame, period, step)


def joint_histogram(a: np.ndarray, b: np.ndarray, phase_map: np.ndarray, limits: Limits, start: np.ndarray) -> Any:
    """(P, JOINT, JOINT) int64 histogram of the codes (A, B) of the pixels within ``reach``.

    Parameters
    ----------
    start : (P,) int64
        First code of the window.
    """
    return _count_joint(a, b, phase_map, limits.middle, limits.reach, start)


@njit(cache=True, nogil=True)
def _count_codes(frame: Any, period: int, step: int) -> Any:  # pragma: no cover - compiled
    height, width = frame.shape
    codes = np.zeros(CODES, np.int64)
    for top in range(0, height - period + 1, step):
        for i in range(top, top + period):
            for j in range(width):
                code = int(frame[i, j])
                if 0 <= code < CODES:
                    codes[code] += 1
    return codes


@njit(cache=True, nogil=True)
def _count_joint(
    a: Any, b: Any, phase_map: Any, middle: Any, reach: Any, start: Any
) -> Any:  # pragma: no cover - compiled
    height, width = a.shape
    rows, cols = phase_map.shape
    joint = np.zeros((len(start), JOINT, JOINT), np.int64)
    for i in range(height):
        for j in range(width):
            phase = phase_map[i % rows, j % cols]
            x, y = float(a[i, j]), float(b[i, j])
            u, w = int(x) - start[phase], int(y) - start[phase]
            near = 2.0 * min(x, y) <= middle[phase] + reach[phase] and 2.0 * max(x, y) >= middle[phase] - reach[phase]
            if 0 <= u < JOINT and 0 <= w < JOINT and near:
                joint[phase, u, w] += 1
    return joint


@njit(inline="always")
def _lane(
    x: Any, y: Any, first: int, step: int, low: Any, span: Any
) -> tuple[Any, Any, Any, Any, Any]:  # pragma: no cover - compiled
    """Number, sums of x, y, (x - y)^2 and x^2 over every ``step``-th pixel of a row whose x - y lies within limits.

    All casts keep the arithmetic in 32 bits, eight pixels to an AVX2 register; only the squares need 64.
    """
    number, sum_x, sum_y = np.int32(0), np.uint32(0), np.uint32(0)
    squares_d, squares_x = np.int64(0), np.int64(0)
    for k in range((x.size - first + step - 1) // step):
        u, v = np.int32(x[first + step * k]), np.int32(y[first + step * k])
        d = np.int32(u - v)
        keep = np.uint32(d - low) <= span  # one comparison for both ends: what is below wraps around
        u, v, d = (u, v, d) if keep else (np.int32(0), np.int32(0), np.int32(0))
        number = np.int32(number + np.int32(keep))
        sum_x, sum_y = np.uint32(sum_x + np.uint32(u)), np.uint32(sum_y + np.uint32(v))
        squares_d += np.int64(np.uint32(d * d))  # 65535^2 fits 32 bits without a sign
        squares_x += np.int64(np.uint32(u * u))
    return number, sum_x, sum_y, squares_d, squares_x


@njit(cache=True, nogil=True)
def _flat_moments(
    a: Any, b: Any, phase_map: Any, low: Any, high: Any, phases: int
) -> Any:  # pragma: no cover - compiled
    height = a.shape[0]
    rows, cols = phase_map.shape
    moments = np.zeros((phases, 6), np.int64)
    for i in range(height):
        for c in range(cols):
            p = phase_map[i % rows, c]
            bottom, span = np.int32(low[p]), np.uint32(high[p] - low[p])
            # A step the compiler knows makes a vector loop.
            if cols == 1:
                n, sum_a, sum_b, squares_d, squares_a = _lane(a[i], b[i], 0, 1, bottom, span)
            elif cols == 2:
                n, sum_a, sum_b, squares_d, squares_a = _lane(a[i], b[i], c, 2, bottom, span)
            else:
                n, sum_a, sum_b, squares_d, squares_a = _lane(a[i], b[i], c, cols, bottom, span)
            moments[p, 0] += n
            moments[p, 1] += sum_a
            moments[p, 2] += sum_b
            moments[p, 3] += np.int64(sum_a) - np.int64(sum_b)
            moments[p, 4] += squares_d
            moments[p, 5] += squares_a
    return moments


@njit(cache=True, nogil=True)
def _moments_at(
    a: Any, b: Any, phase_map: Any, low: Any, high: Any, phases: int, places: Any
) -> Any:  # pragma: no cover - compiled
    """The same sums over the pixels at ``places`` of the raveled mosaic."""
    width = a.shape[1]
    rows, cols = phase_map.shape
    moments = np.zeros((phases, 6), np.int64)
    for place in places:
        i, j = place // width, place % width
        p = phase_map[i % rows, j % cols]
        x, y = np.int64(a[i, j]), np.int64(b[i, j])
        d = x - y
        if low[p] <= d <= high[p]:
            moments[p, 0] += 1
            moments[p, 1] += x
            moments[p, 2] += y
            moments[p, 3] += d
            moments[p, 4] += d * d
            moments[p, 5] += x * x
    return moments


@njit(cache=True, nogil=True)
def _dark_lines(
    a: Any, b: Any, phase_map: Any, low: Any, high: Any, total_low: Any, total_high: Any, phases: int
) -> Any:  # pragma: no cover - compiled
    """Sums of rows and columns, histogram of differences, positions of hot pixels.

    Limits are spread over the columns first, so that every pass over a row runs over neighbors, whatever the CFA.
    """
    height, width = a.shape
    rows, cols = phase_map.shape
    classes = rows if rows % 2 == 0 else 2 * rows  # of rows: by phase and by parity
    bins = 2 * REACH + 1
    bottom, span = np.empty((classes, width), np.int32), np.empty((classes, width), np.uint32)
    total_bottom, total_top = np.empty((classes, width), np.int32), np.empty((classes, width), np.int32)
    base = np.empty((classes, width), np.int32)
    for r in range(classes):
        for j in range(width):
            p = phase_map[r % rows, j % cols]
            bottom[r, j], span[r, j] = low[p], high[p] - low[p]
            total_bottom[r, j], total_top[r, j] = total_low[p], total_high[p]
            base[r, j] = p * bins + REACH
    row_sums, row_counts = np.zeros((height, 2)), np.zeros((height, 2))
    columns, counts = np.zeros((classes, width), np.int64), np.zeros((classes, width), np.int64)
    totals, squares = np.zeros((classes, width), np.int64), np.zeros((classes, width), np.int64)
    part_columns, part_counts = np.zeros((classes, width), np.int32), np.zeros((classes, width), np.int32)
    part_totals = np.zeros((classes, width), np.uint32)
    # Neighbors count in tables of their own: one count need not wait for the other.  The last bin takes what is hot.
    histogram = np.zeros((2, phases * bins + 1), np.int64)
    hot_bin = np.int32(phases * bins)
    place_of, line, inside = np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32)
    hot, found = np.empty(1024, np.int64), 0
    for i in range(height):
        r = i % classes
        x, y = a[i], b[i]
        far = np.int32(0)
        for j in range(width):
            u, v = np.int32(x[j]), np.int32(y[j])
            d, t = np.int32(u - v), np.int32(u + v)
            size = np.int32(abs(d))  # t -+ |d| is twice the smaller and twice the larger of u and v
            near = (np.int32(t - size) <= total_top[r, j]) & (np.int32(t + size) >= total_bottom[r, j])
            keep = near & (np.uint32(d - bottom[r, j]) <= span[r, j])
            shown = min(max(d, np.int32(-REACH)), np.int32(REACH))
            place_of[j] = np.int32(base[r, j] + shown) if near else hot_bin
            far = np.int32(far + (np.int32(0) if near else np.int32(1)))
            line[j] = d if keep else np.int32(0)
            inside[j] = np.int32(keep)
            part_columns[r, j] += line[j]
            part_counts[r, j] += inside[j]
            part_totals[r, j] += np.uint32(t) if keep else np.uint32(0)
            squares[r, j] += np.int64(np.uint32(u * u)) if keep else np.int64(0)
        for parity in range(2):
            total, number = np.int32(0), np.int32(0)
            for k in range((width - parity + 1) // 2):
                total = np.int32(total + line[parity + 2 * k])
                number = np.int32(number + inside[parity + 2 * k])
            row_sums[i, parity], row_counts[i, parity] = total, number
        for k in range(width // 2):
            histogram[0, place_of[2 * k]] += 1
            histogram[1, place_of[2 * k + 1]] += 1
        if width % 2:
            histogram[0, place_of[width - 1]] += 1
        if far:
            if found + far > hot.size:
                longer = np.empty(2 * (found + far), np.int64)
                longer[:found] = hot[:found]
                hot = longer
            for j in range(width):
                if place_of[j] == hot_bin:
                    hot[found] = i * width + j
                    found += 1
        if i % _FLUSH == _FLUSH - 1 or i == height - 1:
            columns += part_columns
            counts += part_counts
            totals += part_totals
            part_columns[:], part_counts[:], part_totals[:] = 0, 0, 0
    differences = (histogram[0] + histogram[1])[: phases * bins].reshape((phases, bins))
    return row_sums, row_counts, columns, counts, totals, squares, differences, hot[:found].copy()


@njit(cache=True, nogil=True)
def _float_sums(
    a: Any, b: Any, phase_map: Any, center: Any, limit: Any, middle: Any, reach: Any, phases: int, excluded: Any
) -> Any:  # pragma: no cover - compiled
    """All sums of frames of floats, and of integers that differ by more than REACH; ``excluded`` is sorted."""
    height, width = a.shape
    rows, cols = phase_map.shape
    moments = np.zeros((phases, 6))
    row_sum, row_count = np.zeros((height, 2)), np.zeros((height, 2))
    column_sum, column_count = np.zeros((width, 2)), np.zeros((width, 2))
    differences = np.zeros((phases, 2 * REACH + 1), np.int64)
    hot = np.zeros(a.size, np.bool_)
    hidden = np.zeros(a.size, np.bool_)
    hidden[excluded] = True
    line = np.zeros((cols, 6))
    for i in range(height):
        line[:] = 0.0
        for j in range(width):
            site = j % cols
            phase = phase_map[i % rows, site]
            x, y = float(a[i, j]), float(b[i, j])
            d = x - y
            if 2.0 * min(x, y) > middle[phase] + reach[phase] or 2.0 * max(x, y) < middle[phase] - reach[phase]:
                hot[i * width + j] = True
                continue
            if hidden[i * width + j]:
                continue
            bin_of = int(np.floor(d + 0.5)) + REACH
            differences[phase, min(max(bin_of, 0), 2 * REACH)] += 1
            if abs(d - center[phase]) <= limit[phase]:
                line[site, 0] += 1.0
                line[site, 1] += x
                line[site, 2] += y
                line[site, 3] += d
                line[site, 4] += d * d
                line[site, 5] += x * x
                row_sum[i, j % 2] += d
                row_count[i, j % 2] += 1.0
                column_sum[j, i % 2] += d
                column_count[j, i % 2] += 1.0
        for site in range(cols):
            phase = phase_map[i % rows, site]
            for k in range(6):
                moments[phase, k] += line[site, k]
    return moments, row_sum, row_count, column_sum, column_count, differences, np.flatnonzero(hot)
