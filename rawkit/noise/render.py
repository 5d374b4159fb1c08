"""A picture cut into bands of rows, each with all that the kernel needs to know of its pixels.

What a mode adds in the dark (``ReadNoise``) belongs to the whole sensor; here it is laid out for one tile of it.  The
numba kernel and the torch engine both work from these bands, so they differ in their arithmetic alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import ProfileError
from rawkit.noise.kernels import GAUSSIAN, GIVEN, TABLE, TABLE_SIZE, Noise, Sites
from rawkit.noise.read_noise import TELEGRAPH_STREAM, ReadNoise, inside
from rawkit.noise.rng import MAX_MEAN, pixel_words
from rawkit.raw.image import CFA, BlackLevel
from rawkit.sensor.params import NoiseParams

_ROWS_PER_TASK = 64
#: No map: nothing of this kind is added.
NONE = np.empty((0, 0), np.float32)
_NO_TABLES = np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class Tile:
    """Where a picture lies on the sensor, and which draw it gets.

    Parameters
    ----------
    cfa : CFA
        Relative to the first pixel.
    seed, frame : int
    origin : (row, column)
        Sensor coordinates of the first pixel: they key the draws.
    place : (row, column)
        Its coordinates in the sensor's maps, which cover the active area.
    """

    cfa: CFA
    seed: int
    frame: int
    origin: tuple[int, int]
    place: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Band:
    """Inputs of the kernel for some rows of a picture."""

    first: int
    clean: NDArray[np.float32]
    noise: Noise


def make_bands(
    signal: NDArray[np.float32],
    iso: float | None,
    read: ReadNoise,
    tile: Tile,
    black: BlackLevel,
    params: NoiseParams,
    workers: int,
) -> list[Callable[[], Iterator[Band]]]:
    """The picture cut into jobs, one or more for each worker, each a generator of bands of rows."""
    height, width = signal.shape
    seed, frame = tile.seed, tile.frame
    top, left = tile.origin
    signal, fixed = with_defects(signal, read, tile)
    response = read.part(read.response, signal.shape, tile.place, "response")
    rows = np.zeros(height, np.float32) if read.rows is None else read.rows(seed, frame, top, height)
    if black.delta_v is not None:
        rows = rows + np.asarray(black.delta_v, np.float32)
    tables = _NO_TABLES if read.tables is None else np.ascontiguousarray(read.tables.reshape(-1))
    kind = GIVEN if read.source is not None else GAUSSIAN if read.tables is None else TABLE

    def band(first: int, last: int, field: NDArray[np.float32]) -> Band:
        here = slice(first, last)
        noise = Noise(
            kind,
            tables,
            field,
            NONE if fixed is None else fixed[here],
            NONE if response is None else response[here],
            rows[here],
        )
        return Band(first, signal[here], noise)

    def job(first: int, last: int) -> Callable[[], Iterator[Band]]:
        def bands() -> Iterator[Band]:
            shape, origin = (last - first, width), (top + first, left)
            if read.source is not None:
                dark = read.source(iso, shape, seed, frame, *origin)
                if np.shape(dark) != shape:
                    raise ValueError(f"the dark source gave {np.shape(dark)} for a tile of {shape}.")
                yield band(first, last, np.ascontiguousarray(dark, np.float32))
            elif read.field is not None:
                for start, field in read.field.bands(shape, seed=seed, frame=frame, origin=origin):
                    yield band(first + start, first + start + len(field), np.ascontiguousarray(field))
            else:
                yield band(first, last, NONE)

        return bands

    rows_per_job = max(1, -(-height // workers))
    if read.field is not None:  # jobs that share a row of blocks would both compute it
        step = read.field.stride[0]
        rows_per_job = -(-rows_per_job // step) * step
    elif workers > 1:
        rows_per_job = min(rows_per_job, _ROWS_PER_TASK)
    return [job(first, min(first + rows_per_job, height)) for first in range(0, height, rows_per_job)]


@dataclass(frozen=True, eq=False)
class TileDefects:
    """Hot and telegraph pixels of a tile: rows and columns in it (n,), and what they have [DN]."""

    hot: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]] | None
    telegraph: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]] | None


def tile_defects(read: ReadNoise, tile: Tile, shape: tuple[int, int]) -> TileDefects:
    """Defects of a tile; telegraph pixels with the level they have in this frame."""

    def local(
        defects: tuple[NDArray[np.intp], NDArray[np.float32]] | None,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]] | None:
        if defects is None:
            return None
        within, places = inside(defects[0], shape, tile.place)
        return (places[:, 0], places[:, 1], defects[1][within]) if within.any() else None

    telegraph = local(read.telegraph)
    if telegraph is not None:
        i, j, half = telegraph
        words = pixel_words(i + tile.origin[0], j + tile.origin[1], TELEGRAPH_STREAM, tile.seed, tile.frame)
        telegraph = (i, j, np.where(words >> np.uint32(31), half, -half))
    return TileDefects(local(read.hot), telegraph)


def with_defects(
    signal: NDArray[np.float32], read: ReadNoise, tile: Tile
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Light and fixed pattern of a tile, with hot pixels' dark electrons as light and telegraph pixels' level."""
    fixed = read.part(read.fixed, signal.shape, tile.place, "fixed pattern")
    if fixed is None:
        return signal, None
    defects = tile_defects(read, tile, signal.shape)
    if defects.hot is not None or defects.telegraph is not None:
        fixed = fixed.copy()
    if defects.hot is not None:
        i, j, excess = defects.hot
        # Below black there is no light to add to: there the excess stays in the fixed pattern.
        lit = np.where(signal[i, j] >= 0, excess, 0)
        signal = signal.copy()
        signal[i, j] += lit
        fixed[i, j] -= lit
    if defects.telegraph is not None:
        i, j, level = defects.telegraph
        fixed[i, j] += level
    return signal, fixed


def make_sites(params: NoiseParams, read: ReadNoise, tile: Tile, black: BlackLevel, width: int) -> Sites:
    """What each column of the first rows has, until CFA and black level repeat."""
    cfa = tile.cfa
    pattern = np.asarray(black.pattern, np.float64)
    rows = math.lcm(cfa.shape[0], pattern.shape[0])
    column = np.arange(width)
    phase = cfa.phase_map[np.arange(rows)[:, None] % cfa.shape[0], column % cfa.shape[1]]
    gain = per_phase(params.system_gain, cfa)[phase]
    sigma = np.zeros(1) if read.sigma is None else np.asarray(read.sigma, np.float64)
    offset = pattern[np.arange(rows)[:, None] % pattern.shape[0], column % pattern.shape[1]]
    if read.offset is not None:
        offset = offset + read.offset[phase]
    if read.columns is not None:
        offset = offset + read.columns(tile.seed, tile.frame, tile.origin[1], width)
    if black.delta_h is not None:
        offset = offset + black.delta_h
    table = phase if read.tables is not None and len(read.tables) > 1 else np.zeros_like(phase)
    return Sites(
        gain.astype(np.float32),
        (1.0 / gain).astype(np.float32),
        np.ascontiguousarray(np.broadcast_to(sigma, (len(cfa.phases),))[phase], np.float32),
        (table * TABLE_SIZE).astype(np.int32),
        offset.astype(np.float32),
    )


def check_signal(clean: NDArray, least_gain: float) -> NDArray[np.float32]:
    """The clean mosaic as contiguous float32, or ``ValueError``."""
    if clean.ndim != 2:
        raise ValueError(f"clean is {clean.shape}; a mosaic is (H, W), planes go to planes().")
    # Writeable and in C order, as every caller's array then is: the kernel is compiled for one kind of array only.
    signal = np.require(clean, np.float32, ["C", "W"])
    ceiling = MAX_MEAN * least_gain
    if signal.size:
        low, high = float(signal.min()), float(signal.max())
        if not (math.isfinite(low) and math.isfinite(high) and high <= ceiling):
            raise ValueError(f"the clean signal must be finite and at most {ceiling:g} DN, found {low} to {high}.")
    return signal


def per_phase(values: object, cfa: CFA) -> NDArray[np.float64]:
    """One value per phase of a CFA, from one for all or one each.

    Raises
    ------
    ProfileError
        Another number of values.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    if flat.size not in (1, len(cfa.phases)):
        raise ProfileError(f"noise parameters for {flat.size} phases, the image has {len(cfa.phases)}.")
    return np.broadcast_to(flat, (len(cfa.phases),))
