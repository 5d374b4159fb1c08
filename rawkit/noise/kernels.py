"""One pass over the pixels: light in, stored codes out.

    n = Poisson(max(x, 0) / K * response)                          x, y [DN, black removed]; K [DN/e-]
    y = K n + min(x, 0) + noise + fixed + row + site               site: black level, color bias, column offsets
    code = the converter's code of y, clipped to [0, white]

``noise`` is sigma z, or a table's value at z, or given, with z a standard normal drawn here (white) or given (colored).
Rows are worked off in chunks whose buffers stay in the first-level cache, each step a loop of its own that LLVM turns
into vector instructions.  The arithmetic is that of ``rng``: ``device`` repeats it bit by bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int32, njit
from numpy.typing import NDArray

from rawkit.noise.rng import CHUNK, normals, poisson, row_words

#: Noise tables hold values at z = TABLE_LOW + k / TABLE_STEPS, linear between and beyond.
TABLE_LOW, TABLE_HIGH, TABLE_STEPS = -7.0, 7.0, 64
TABLE_SIZE = int((TABLE_HIGH - TABLE_LOW) * TABLE_STEPS) + 1

#: What ``noise`` is made of.
GAUSSIAN, TABLE, GIVEN = 0, 1, 2

_ZERO, _HALF = np.float32(0.0), np.float32(0.5)
_LOW, _STEPS = np.float32(TABLE_LOW), np.float32(TABLE_STEPS)
_LAST = np.int32(TABLE_SIZE - 2)

FloatImage = NDArray[np.float32]
_jit = njit(cache=True, nogil=True, error_model="numpy")


class Sites(NamedTuple):
    """What repeats every R rows: (R, W) arrays."""

    gain: FloatImage  # K [DN/e-]
    inverse_gain: FloatImage
    sigma: FloatImage  # [DN]
    table: NDArray[np.int32]  # where the site's table starts
    offset: FloatImage  # [DN]


class Noise(NamedTuple):
    """What differs from pixel to pixel: (H, W), or (0, 0) where there is none."""

    kind: int
    tables: FloatImage  # (phases * TABLE_SIZE,) [DN]
    field: FloatImage  # standard normals, or DN when kind is GIVEN
    fixed: FloatImage  # [DN]
    response: FloatImage  # relative to the mean pixel
    rows: FloatImage  # (H,) [DN]


class Converter(NamedTuple):
    """Analog level to code: ``round``, except that edge ``first + k`` lies ``shift[k]`` DN off its place."""

    white: np.float32
    first: int
    shift: FloatImage  # (m,) [DN]
    passes: int  # steps of one code that the largest shift can take


def ideal_converter(white: float) -> Converter:
    """Codes from 0 to ``white``, all one DN wide."""
    return Converter(np.float32(np.floor(white)), 0, np.empty(0, np.float32), 0)


def measured_converter(white: float, first_code: int, edges: NDArray[np.float64]) -> Converter:
    """Codes whose lower edges are ``edges`` [DN] from ``first_code`` on, ideal outside."""
    shift = edges - (first_code + np.arange(edges.size) - 0.5)
    passes = int(np.ceil(np.abs(shift).max())) if shift.size else 0
    return Converter(np.float32(np.floor(white)), int(first_code), shift.astype(np.float32), passes)


@_jit
def _lookup(z: Any, start: Any, tables: Any, index: Any, value: Any, slope: Any, n: Any) -> None:
    for j in range(n):
        k = int32((z[j] - _LOW) * _STEPS)
        k = k if k > int32(0) else int32(0)
        k = k if k < _LAST else _LAST
        index[j] = k
        slope[j] = (z[j] - _LOW) * _STEPS - float32(k)
    for j in range(n):
        k = start[j] + index[j]
        low = tables[k]
        value[j] = low + slope[j] * (tables[k + 1] - low)


@_jit
def _convert(y: Any, first: Any, shift: Any, passes: Any, n: Any) -> None:
    """``y`` to the code whose interval holds it (still float32, not clipped)."""
    if passes == 0:
        for j in range(n):
            y[j] = np.rint(y[j])
        return
    for j in range(n):
        code = np.rint(y[j])
        for _ in range(passes):
            k = int32(code) - first
            if 0 <= k < shift.size and y[j] - (code - _HALF) < shift[k]:
                code -= float32(1.0)
            elif 0 <= k + 1 < shift.size and y[j] - (code + _HALF) >= shift[k + 1]:
                code += float32(1.0)
        y[j] = code


@_jit
def expose(
    clean: Any, codes: Any, analog: Any, rounds: Any, sites: Any, noise: Any, converter: Any, alias: Any, site_row: Any,
    top: Any, left: Any, stream: Any, seed: Any, frame: Any,
) -> None:  # fmt: skip
    """Noisy pixels of a band of rows.

    Parameters
    ----------
    clean : (H, W) float32 [DN, black removed]
    codes : (H, W) uint16, or (0, 0) for analog values
    analog : (H, W) float32, or (0, 0)
    rounds : bool
        Round analog values to codes (not clipped).
    sites, noise, converter : Sites, Noise, Converter
    alias : (6144,) int32
        ``rng.alias_table()``.
    site_row : int
        Row of ``sites`` of the first row.
    top, left, stream, seed, frame : int
        Sensor coordinates of the first pixel and the key of its draws.
    """
    words, index = np.empty((4, CHUNK), np.uint32), np.empty(CHUNK, np.int32)
    x, scratch = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    mean, counts, z, y = (
        np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.float32),
    )
    bits = scratch.view(np.int32)
    period = sites.gain.shape[0]
    for i in range(clean.shape[0]):
        r = (site_row + i) % period
        row = noise.rows[i] if noise.rows.size else _ZERO
        for first in range(0, clean.shape[1], CHUNK):
            n = min(CHUNK, clean.shape[1] - first)
            here = slice(first, first + n)
            light = clean[i, here]
            row_words(words, n, top + i, left + first, stream, seed, frame)

            inverse = sites.inverse_gain[r, here]
            for j in range(n):
                mean[j] = (light[j] if light[j] > _ZERO else _ZERO) * inverse[j]
            if noise.response.size:
                response = noise.response[i, here]
                for j in range(n):
                    mean[j] *= response[j]
            poisson(mean, words, alias, index, x, scratch, bits, counts, n)

            if noise.field.size:
                field = noise.field[i, here]
                for j in range(n):
                    z[j] = field[j]
            else:
                normals(words[2], z, scratch, bits, n)
            if noise.kind == TABLE:
                _lookup(z, sites.table[r, here], noise.tables, index, y, x, n)
            elif noise.kind == GAUSSIAN:
                sigma = sites.sigma[r, here]
                for j in range(n):
                    y[j] = sigma[j] * z[j]
            else:
                for j in range(n):
                    y[j] = z[j]
            if noise.fixed.size:
                fixed = noise.fixed[i, here]
                for j in range(n):
                    y[j] += fixed[j]

            gain, offset = sites.gain[r, here], sites.offset[r, here]
            for j in range(n):
                below = light[j] if light[j] < _ZERO else _ZERO
                y[j] = counts[j] * gain[j] + (y[j] + ((below + offset[j]) + row))
            if codes.size or rounds:
                _convert(y, converter.first, converter.shift, converter.passes, n)
            if codes.size:
                stored = codes[i, here]
                for j in range(n):
                    code: Any = y[j] if y[j] > _ZERO else _ZERO
                    stored[j] = int32(code if code < converter.white else converter.white)
            else:
                values = analog[i, here]
                for j in range(n):
                    values[j] = y[j]


@_jit
def fill_spectrum(
    spectrum: Any, amplitude: Any, top: Any, left: Any, stream: Any, seed: Any, frame: Any
) -> None:  # fmt: skip
    """Complex Gaussian numbers times ``amplitude`` (h, w) float64; their inverse FFT is two real fields.

    Entry (u, v) is drawn at the counter (left + v, top + u): real part from the first word, imaginary from the second.
    """
    words = np.empty((4, CHUNK), np.uint32)
    z, scratch = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    imaginary = np.empty(CHUNK, np.float32)
    bits = scratch.view(np.int32)
    for u in range(spectrum.shape[0]):
        for first in range(0, spectrum.shape[1], CHUNK):
            n = min(CHUNK, spectrum.shape[1] - first)
            row_words(words, n, top + u, left + first, stream, seed, frame)
            normals(words[0], z, scratch, bits, n)
            normals(words[1], imaginary, scratch, bits, n)
            for j in range(n):
                a = amplitude[u, first + j]
                spectrum[u, first + j] = complex(z[j] * a, imaginary[j] * a)


@_jit
def add_block(strip: Any, block: Any, part: Any, window: Any, skip: Any, start: Any) -> None:
    """Add a block's real (part 0) or imaginary part times the column window to ``strip`` from column ``start`` on.

    ``skip`` columns of the block lie left of the strip.
    """
    columns = min(block.shape[1] - skip, strip.shape[1] - start)
    for i in range(strip.shape[0]):
        if part == 0:
            for j in range(columns):
                strip[i, start + j] += float32(block[i, skip + j].real) * window[skip + j]
        else:
            for j in range(columns):
                strip[i, start + j] += float32(block[i, skip + j].imag) * window[skip + j]


def noise_tables(quantile: Any) -> FloatImage:
    """Table of values at the standard normals z: ``quantile(p, q)`` with p = Phi(z), q = 1 - p, both to full precision.

    Parameters
    ----------
    quantile : callable ((m,) float64, (m,) float64) -> (m,) or (phases, m) [DN]

    Returns
    -------
    (phases, TABLE_SIZE) float32
    """
    from scipy.special import ndtr

    z = table_knots()
    return np.atleast_2d(np.asarray(quantile(ndtr(z), ndtr(-z)), np.float32))


def table_knots() -> NDArray[np.float64]:
    """Standard normals at which tables hold values."""
    return TABLE_LOW + np.arange(TABLE_SIZE) / TABLE_STEPS
