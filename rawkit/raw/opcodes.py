"""DNG opcode lists, as far as they decide whether stored values are linear.

Lossy DNGs store values on a curve and undo it with the first opcodes of OpcodeList2.  With u the stored value,
black removed and divided by its span to [0, 1],

    MapPolynomial (8)   u -> sum_i c_i u^i
    MapTable (7)        u -> T[round(65535 u)] / 65535, beyond the table's end its last entry

both on the planes and pixels of an area.  ``linearize`` applies those at the head of the list, up to the first
opcode of another kind, and hands back the rest: a list that has been applied must not be written again.
Everything else (gain maps, bad pixels, lens corrections) is left to the raw converter.

Opcode lists are big-endian whatever the file: count, then id, version, flags, size and parameters of each.

References: DNG 1.7.1 specification, chapter 7 (opcode list processing).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw.image import BlackLevel

FIX_VIGNETTE_RADIAL, MAP_TABLE, MAP_POLYNOMIAL = 3, 7, 8
_MAX_DEGREE = 8  # DNG 1.7.1, MapPolynomial
_FULL = 65535  # a MapTable's scale
_BAND = 256  # rows per task

Curve = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Opcode:
    """One opcode: its number and its whole encoding, header included."""

    number: int
    data: bytes

    @property
    def parameters(self) -> bytes:
        return self.data[16:]


def parse(data: bytes) -> tuple[Opcode, ...]:
    """Opcodes of a list; ``UnsupportedRawError`` when it runs past its end."""

    def opcodes() -> Iterator[Opcode]:
        (count,) = struct.unpack_from(">I", data)
        position = 4
        for _ in range(count):
            number, _version, _flags, size = struct.unpack_from(">4I", data, position)
            end = position + 16 + size
            if end > len(data):
                raise UnsupportedRawError("an opcode list runs past its end: the file is damaged.")
            yield Opcode(number, data[position:end])
            position = end

    try:
        return tuple(opcodes())
    except struct.error as error:
        raise UnsupportedRawError("an opcode list runs past its end: the file is damaged.") from error


def serialize(opcodes: tuple[Opcode, ...]) -> bytes:
    """Inverse of ``parse``."""
    return struct.pack(">I", len(opcodes)) + b"".join(o.data for o in opcodes)


def split_curves(data: bytes) -> tuple[tuple[Opcode, ...], tuple[Opcode, ...]]:
    """The value curves at the head of a list, and the rest."""
    opcodes = parse(data)
    head = next((i for i, o in enumerate(opcodes) if o.number not in (MAP_TABLE, MAP_POLYNOMIAL)), len(opcodes))
    return opcodes[:head], opcodes[head:]


def for_demosaiced(lists: dict[str, bytes]) -> dict[str, bytes]:
    """Of a mosaic's opcode lists what still holds for the demosaiced picture.

    OpcodeList3 is defined on demosaiced colors, and radial vignetting (in OpcodeList2) on every pixel alike.  All else
    in the first two lists names stored values, sites of the color filter array or the mosaic's single plane: a gain
    map of the red sites would brighten every second red value of every second row.

    Parameters
    ----------
    lists : dict of str to bytes
        ``Metadata.opcode_lists``: OpcodeList1, 2, 3.

    Examples
    --------
    >>> radial, gains = (Opcode(n, struct.pack(">4I", n, 0, 0, 0)) for n in (3, 9))
    >>> kept = for_demosaiced({"OpcodeList1": serialize((gains,)), "OpcodeList2": serialize((gains, radial))})
    >>> {name: parse(data) == (radial,) for name, data in kept.items()}
    {'OpcodeList2': True}
    """
    kept = {name: data for name, data in lists.items() if name not in ("OpcodeList1", "OpcodeList2")}
    radial = tuple(o for o in parse(lists.get("OpcodeList2", serialize(()))) if o.number == FIX_VIGNETTE_RADIAL)
    return {**kept, "OpcodeList2": serialize(radial)} if radial else kept


@dataclass(frozen=True)
class _Area:
    rows: slice
    cols: slice
    planes: range


def linearize(
    pixels: NDArray, black: BlackLevel, white_level: float, curves: tuple[Opcode, ...]
) -> NDArray[np.float32]:
    """Apply value curves to the active area.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C) [DN, black included]
    black, white_level
        The levels of ``pixels``, which the result keeps.
    curves : tuple of Opcode
        MapPolynomial and MapTable.

    Returns
    -------
    float32 of the same shape [DN, black included], linear; values beyond black and white are not clipped.
    """
    steps = [_decode(curve) for curve in curves]
    span = np.float32(white_level - np.max(black.pattern))
    tables = _tables(pixels, black, span, steps)
    if tables is not None:
        return _look_up(pixels, tables)
    linear = black.remove(pixels)
    image = linear if linear.ndim == 3 else linear[:, :, None]

    def band(top: int) -> None:
        part = image[top : top + _BAND]
        part /= span
        for area, curve in steps:
            rows = _rows_within(area.rows, top, part.shape[0])
            for plane in area.planes:
                if plane < part.shape[2]:
                    part[rows, area.cols, plane] = curve(part[rows, area.cols, plane])
        part *= span

    _in_bands(band, image.shape[0])
    return black.add(linear)


def _in_bands(task: Callable[[int], None], height: int) -> None:
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(task, range(0, height, _BAND)))


def _tables(
    pixels: NDArray, black: BlackLevel, span: np.float32, steps: list[tuple[_Area, Curve]]
) -> list[NDArray[np.float32]] | None:
    """The same mapping as one table per plane, where integers have one black level and one curve per whole plane."""
    height, width, samples = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    whole = (slice(0, height, 1), slice(0, width, 1))
    if (
        pixels.dtype.kind != "u"
        or black.pattern.shape[:2] != (1, 1)
        or black.delta_h is not None
        or black.delta_v is not None
        or any((area.rows, area.cols) != whole for area, _ in steps)
    ):
        return None
    levels = np.broadcast_to(black.pattern.reshape(-1), (samples,)).astype(np.float32)
    stored = np.arange(np.iinfo(pixels.dtype).max + 1, dtype=np.float32)
    tables = [(stored - level) / span for level in levels]
    for area, curve in steps:
        for plane in area.planes:
            if plane < samples:
                tables[plane] = curve(tables[plane])
    return [table * span + level for table, level in zip(tables, levels, strict=True)]


def _look_up(pixels: NDArray, tables: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    image = pixels if pixels.ndim == 3 else pixels[:, :, None]
    linear = np.empty(image.shape, np.float32)

    def band(top: int) -> None:
        for plane, table in enumerate(tables):
            linear[top : top + _BAND, :, plane] = table[image[top : top + _BAND, :, plane]]

    _in_bands(band, image.shape[0])
    return linear if pixels.ndim == 3 else linear[:, :, 0]


def _rows_within(rows: slice, top: int, height: int) -> slice:
    """The part of a strided slice of image rows that falls into the ``height`` rows from ``top``."""
    start, step = rows.start, rows.step
    if start < top:
        start += -(-(top - start) // step) * step
    return slice(start - top, max(min(rows.stop - top, height), 0), step)


def _decode(opcode: Opcode) -> tuple[_Area, Curve]:
    data = opcode.parameters
    try:
        top, left, bottom, right, plane, planes, row_pitch, col_pitch, count = struct.unpack_from(">9I", data)
        if row_pitch < 1 or col_pitch < 1 or planes < 1:
            raise UnsupportedRawError("a value curve has an empty area: the file is damaged.")
        area = _Area(
            slice(top, bottom, row_pitch), slice(left, right, col_pitch), range(plane, min(plane + planes, plane + 8))
        )
        if opcode.number == MAP_POLYNOMIAL:
            if count > _MAX_DEGREE:
                raise UnsupportedRawError(f"a MapPolynomial of degree {count}: the file is damaged.")
            coefficients = struct.unpack_from(f">{count + 1}d", data, 36)
            return area, _polynomial(coefficients)
        if not 1 <= count <= _FULL + 1:
            raise UnsupportedRawError(f"a MapTable of {count} entries: the file is damaged.")
        table = np.frombuffer(data, ">u2", count, 36).astype(np.float32) / np.float32(_FULL)
    except (struct.error, ValueError) as error:
        raise UnsupportedRawError("a value curve runs past its end: the file is damaged.") from error
    return area, lambda u: table.take(np.rint(u * _FULL).astype(np.int32), mode="clip")


def _polynomial(coefficients: tuple[float, ...]) -> Curve:
    highest, *others = [np.float32(c) for c in reversed(coefficients)]

    def curve(u: NDArray[np.float32]) -> NDArray[np.float32]:
        result = np.full_like(u, highest)
        for c in others:
            result *= u
            result += c
        return result

    return curve
