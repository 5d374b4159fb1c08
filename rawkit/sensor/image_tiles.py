"""Tiles of one photograph and their power at high frequencies.

Each plane of the mosaic is cut into tiles of 6 x 6 of its pixels, and each tile is turned by the orthonormal discrete
cosine transform.  White noise of variance s^2 [DN^2] gives every coefficient variance s^2.  Frequencies (u, v), 0 to 5:

    high    u, v >= 1 and u + v >= 5    (19 of 36) measure the noise: they vanish for gradients and for anything of
            the form f(row) + g(column), and natural pictures are weakest there
    top     u, v >= 1 and u + v >= 7    (10) of the high ones: a cross-check
    low     2 < u + v, not high         (11) tell texture
    the rest                            is left to lawful gradients
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit

from rawkit.errors import CalibrationError
from rawkit.raw.image import BlackLevel, LinearImage, RawImage

TILE = 6  # pixels of one plane
MIN_TILES = 60  # tiles in the fit, all planes together: below it intervals mean little

_HIGH = 5  # u + v from which a frequency measures noise
_TOP = 7  # u + v of the cross-check
_SMOOTH = 2  # u + v up to which a frequency is left to lawful gradients
_STRIP_ROWS = 512  # of the raster, measured at a time by one thread
_MONO_STRIDE = 2
_LINEAR_STRIDE = 4  # pixels; demosaicing and mild resampling mix neighbors, hardly beyond this distance
_PILE = 1e-4  # share of the pixels at one extreme value that shows clipping


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tile statistics: Q planes on a grid of R x C tiles.

    Parameters
    ----------
    mean : (Q, R, C) [DN]
    high, top, low : (Q, R, C) [DN^2]
        Mean square of the high and the highest frequencies, sum of squares of the low ones.
    peak : (Q, R, C) [DN]
        Largest signal of the tile.
    plane_phases : (Q,) int
    floor, white : (Q,) [DN, black removed]
        Smallest value that the file can hold (-inf: no limit seen) and saturation.
    pixels : (Q, R, C) or () int
        Pixels behind each mean.
    mixed : bool
        Noise is correlated between planes, so that one plane cannot judge another.
    """

    mean: np.ndarray
    high: np.ndarray
    top: np.ndarray
    low: np.ndarray
    peak: np.ndarray
    plane_phases: np.ndarray
    floor: np.ndarray
    white: np.ndarray
    pixels: np.ndarray
    mixed: bool


def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """DCT matrix (TILE, TILE), and which (u, v) are high, top, low."""
    u = np.arange(TILE)
    matrix = np.sqrt(2.0 / TILE) * np.cos(np.pi * (u[None] + 0.5) * u[:, None] / TILE)
    matrix[0] = np.sqrt(1.0 / TILE)
    order = u[:, None] + u[None]
    inner = (u[:, None] > 0) & (u[None] > 0)
    high = (order >= _HIGH) & inner
    return matrix, high, (order >= _TOP) & inner, ~high & (order > _SMOOTH)


_DCT, _IS_HIGH, _IS_TOP, _IS_LOW = _frequencies()
_CLASS = _IS_HIGH * 1 + _IS_TOP * 1 + _IS_LOW * 3  # 1 high, 2 high and top, 3 low, 0 unused
N_HIGH, N_TOP, N_LOW = int(_IS_HIGH.sum()), int(_IS_TOP.sum()), int(_IS_LOW.sum())


@njit(cache=True, nogil=True, fastmath=True)
def _measure(plane, dct, kind, mean, high, top, low, peak):
    """Fill the statistics (rows, columns) of the tiles of one plane (h, w); sums, not means."""
    size = dct.shape[0]
    tile = np.empty((size, size), np.float32)
    half = np.empty((size, size), np.float32)
    for r in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            total = np.float32(0.0)
            largest = np.float32(-np.inf)
            for i in range(size):
                for j in range(size):
                    value = plane[r * size + i, c * size + j]
                    tile[i, j] = value
                    total += value
                    largest = max(largest, value)
            middle = total / np.float32(size * size)
            for i in range(size):
                for j in range(size):
                    tile[i, j] -= middle
            for u in range(size):
                for j in range(size):
                    s = np.float32(0.0)
                    for i in range(size):
                        s += dct[u, i] * tile[i, j]
                    half[u, j] = s
            a = np.float32(0.0)
            b = np.float32(0.0)
            d = np.float32(0.0)
            for u in range(size):
                for v in range(size):
                    which = kind[u, v]
                    if which == 0:
                        continue
                    s = np.float32(0.0)
                    for j in range(size):
                        s += dct[v, j] * half[u, j]
                    if which == 3:
                        d += s * s
                    else:
                        a += s * s
                        if which == 2:
                            b += s * s
            mean[r, c] = middle
            high[r, c] = a
            top[r, c] = b
            low[r, c] = d
            peak[r, c] = largest


def _geometry(image: RawImage | LinearImage) -> tuple[list[tuple[int, int, int]], np.ndarray, tuple[int, int]]:
    """Planes as (row, column, channel) offsets, their phases, and their stride in pixels."""
    if isinstance(image, LinearImage):
        step = _LINEAR_STRIDE
        sites = [(r, c, p) for p in range(len(image.phases)) for r in range(step) for c in range(step)]
        return sites, np.array([p for _, _, p in sites]), (step, step)
    if image.cfa.shape == (1, 1):
        step = _MONO_STRIDE
        return [(r, c, 0) for r in range(step) for c in range(step)], np.zeros(step * step, int), (step, step)
    return [(r, c, 0) for r, c in image.cfa.sites], np.array(image.plane_phases), image.cfa.shape


def _strip_black(black: BlackLevel, top: int, bottom: int) -> BlackLevel:
    """Black level of rows ``top`` to ``bottom``."""
    shifted = np.roll(black.pattern, -(top % black.pattern.shape[0]), axis=0)
    return BlackLevel(shifted, black.delta_h, None if black.delta_v is None else black.delta_v[top:bottom])


def _extremes(stored: np.ndarray, white_level: float) -> tuple[float, float]:
    """Stored value at which pixels clip below (-inf where none is seen) and above."""
    smallest, largest = float(stored.min()), float(stored.max())
    needed = _PILE * stored.size
    below = smallest == 0.0 or np.count_nonzero(stored == smallest) > needed
    above = largest < white_level and np.count_nonzero(stored == largest) > needed
    return (smallest if below else -np.inf), (largest if above else white_level)


def measure_tiles(image: RawImage | LinearImage, workers: int) -> Tiles:
    """Statistics of every tile, strip by strip."""
    stored = image.pixels if isinstance(image, LinearImage) else image.mosaic
    sites, phases, (down, right) = _geometry(image)
    grid = (stored.shape[0] // (down * TILE), stored.shape[1] // (right * TILE))
    if grid[0] * grid[1] * len(sites) < MIN_TILES:
        raise CalibrationError(
            f"the picture is {stored.shape[1]}x{stored.shape[0]} pixels, too small to estimate noise from; "
            f"at least {MIN_TILES} tiles of {TILE * down}x{TILE * right} pixels are needed."
        )
    arrays = [np.empty((len(sites), *grid), np.float32) for _ in range(5)]
    kernel = _DCT.astype(np.float32), _CLASS.astype(np.int8)
    rows = max(1, _STRIP_ROWS // (down * TILE))

    def strip(first: int) -> None:
        last = min(first + rows, grid[0])
        top, bottom = first * down * TILE, last * down * TILE
        signal = _strip_black(image.black, top, bottom).remove(stored[top:bottom])
        signal = signal.reshape(*signal.shape[:2], -1)
        for index, (r, c, channel) in enumerate(sites):
            _measure(signal[r::down, c::right, channel], *kernel, *(a[index, first:last] for a in arrays))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(strip, range(0, grid[0], rows)))
    mean, high, top, low, peak = arrays
    lowest, highest = _extremes(stored, image.white_level)
    black = np.array(image.black_level)[phases]
    return Tiles(
        mean=mean,
        high=high / N_HIGH,
        top=top / N_TOP,
        low=low,
        peak=peak,
        plane_phases=phases,
        floor=lowest - black,
        white=highest - black,
        pixels=np.array(TILE**2),
        mixed=isinstance(image, LinearImage),
    )


def neighbor_sum(grid: np.ndarray) -> np.ndarray:
    """(..., R, C) sums over 3 x 3 tiles, mirrored at the border."""
    rows, cols = grid.shape[-2:]
    wide = [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)]
    padded = np.pad(grid, wide, mode="reflect" if min(rows, cols) > 1 else "edge")
    return np.sum([padded[..., i : i + rows, j : j + cols] for i in range(3) for j in range(3)], axis=0)
