"""DNG opcode lists, as far as they decide whether stored values are linear.

Lossy DNGs store values on a curve and undo it with the first opcodes of OpcodeList2.  With u the stored value,
black removed and divided by its span to [0, 1],

    MapPolynomial (8)   u -> sum_i c_i u^i
    MapTable (7)        u -> T[round(65535 u)] / 65535, beyond the table's end its last entry

both on the planes and pixels of an area.  ``linearize`` applies those at the head of the list, up to the first
opcode of another kind, and hands back the rest: a list that has been applied must not be written again.

    GainMap (9)         x -> x g(row, column)

corrects lens shading, mostly with one map for each site of a Bayer array.  g is bilinear between the points of a map,
whose spacing and origin are parts of the picture's height and width; pixel r is at (r + 1/2) / height.  Denoising
leaves gain maps to the raw converter; what is demosaiced or shown here gets them (``apply_gain_maps``), as nothing
after it could.  Everything else (bad pixels, lens corrections) is left to the raw converter.

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

FIX_VIGNETTE_RADIAL, MAP_TABLE, MAP_POLYNOMIAL, GAIN_MAP = 3, 7, 8, 9
_PLACE = struct.Struct(">10I4dI")  # a GainMap's area, pitch, points, spacing, origin, planes; its gains follow
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


def _second(lists: dict[str, bytes]) -> tuple[Opcode, ...]:
    return parse(lists["OpcodeList2"]) if "OpcodeList2" in lists else ()


def for_demosaiced(lists: dict[str, bytes]) -> dict[str, bytes]:
    """Of a mosaic's opcode lists what still holds for the demosaiced picture.

    OpcodeList3 is defined on demosaiced colors, and radial vignetting (in OpcodeList2) on every pixel alike.  All else
    in the first two lists names stored values, sites of the color filter array or the mosaic's single plane: a gain
    map of the red sites, which demosaicing applies, would brighten every second red value of every second row.

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
    radial = tuple(o for o in _second(lists) if o.number == FIX_VIGNETTE_RADIAL)
    return {**kept, "OpcodeList2": serialize(radial)} if radial else kept


def apply_gain_maps(signal: NDArray[np.float32], lists: dict[str, bytes]) -> NDArray[np.float32]:
    """Multiply a signal by the gain maps of OpcodeList2, in place.

    Parameters
    ----------
    signal : (H, W) or (H, W, C) [DN, black removed]
        The active area.
    lists : dict of str to bytes
        ``Metadata.opcode_lists``.

    Returns
    -------
    ``signal``; not clipped.

    Raises
    ------
    UnsupportedRawError
        A map is damaged.
    """
    for opcode in _second(lists):
        if opcode.number == GAIN_MAP:
            _multiply(signal if signal.ndim == 3 else signal[:, :, None], opcode)
    return signal


def _multiply(image: NDArray[np.float32], opcode: Opcode) -> None:
    top, left, bottom, right, plane, planes, row_pitch, col_pitch, *rest = _place(opcode)
    points_v, points_h, step_v, step_h, origin_v, origin_h, maps = rest
    gains = np.frombuffer(opcode.parameters, ">f4", points_v * points_h * maps, _PLACE.size).astype(np.float32)
    if not np.isfinite(gains).all():
        raise UnsupportedRawError("a gain map holds values that are not numbers: the file is damaged.")
    gains = gains.reshape(points_v, points_h, maps)
    height, width, samples = image.shape
    rows = np.arange(top, min(bottom, height), row_pitch)
    columns = slice(left, min(right, width), col_pitch)
    low, high, part = _between(np.arange(width)[columns], width, step_h, origin_h, points_h)
    for number in range(plane, min(plane + planes, samples)):
        own = gains[:, :, min(number - plane, maps - 1)]
        along = own[:, low] * (1 - part) + own[:, high] * part
        above, below, share = _between(rows, height, step_v, origin_v, points_v)
        for row, a, b, t in zip(rows, above, below, share, strict=True):
            image[row, columns, number] *= along[a] * (1 - t) + along[b] * t


def _between(
    pixels: NDArray[np.integer], size: int, step: float, origin: float, points: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel along an axis the points of a map on both sides, and the part of the way to the second."""
    with np.errstate(over="ignore"):  # steps next to nothing end at the last point
        at = np.clip(((pixels + 0.5) / size - origin) / step, 0, points - 1)
    low = np.minimum(at.astype(np.intp), points - 1)
    return low, np.minimum(low + 1, points - 1), (at - low).astype(np.float32)


def _place(opcode: Opcode) -> tuple:
    try:
        place = _PLACE.unpack_from(opcode.parameters)
    except struct.error as error:
        raise UnsupportedRawError("a gain map runs past its end: the file is damaged.") from error
    row_pitch, col_pitch, points_v, points_h, step_v, step_h, origin_v, origin_h, maps = place[6:]
    if (
        min(row_pitch, col_pitch, points_v, points_h, maps) < 1
        or not np.isfinite([step_v, step_h, origin_v, origin_h]).all()
        or (points_v > 1 and step_v <= 0)
        or (points_h > 1 and step_h <= 0)
        or 4 * points_v * points_h * maps > len(opcode.parameters) - _PLACE.size
    ):
        raise UnsupportedRawError("a gain map without points, steps or values: the file is damaged.")
    return (*place[:10], step_v if points_v > 1 else 1.0, step_h if points_h > 1 else 1.0, *place[12:])


def of_part(lists: dict[str, bytes], size: tuple[int, int], part: tuple[int, int, int, int]) -> dict[str, bytes]:
    """Opcode lists whose gain maps hold for a part of the picture, taken as a picture of its own.

    Parameters
    ----------
    size : height, width of the picture
    part : top, left, bottom, right [pixels], ends excluded

    Raises
    ------
    UnsupportedRawError
        A map is damaged.
    """
    opcodes = _second(lists)
    if all(o.number != GAIN_MAP for o in opcodes):
        return lists
    return {**lists, "OpcodeList2": serialize(tuple(_moved(o, size, part) for o in opcodes))}


def _moved(opcode: Opcode, size: tuple[int, int], part: tuple[int, int, int, int]) -> Opcode:
    if opcode.number != GAIN_MAP:
        return opcode
    top, left, bottom, right, *middle, step_v, step_h, origin_v, origin_h, maps = _place(opcode)
    row_pitch, col_pitch = middle[2:4]
    scale_v, scale_h = size[0] / (part[2] - part[0]), size[1] / (part[3] - part[1])
    # the first row of the area that lies in the part keeps its place in the pitch
    moved_top, moved_left = _first(top - part[0], row_pitch), _first(left - part[1], col_pitch)
    place = _PLACE.pack(
        moved_top, moved_left, max(bottom - part[0], 0), max(right - part[1], 0), *middle,
        step_v * scale_v, step_h * scale_h,
        (origin_v - part[0] / size[0]) * scale_v, (origin_h - part[1] / size[1]) * scale_h, maps,
    )  # fmt: skip
    return Opcode(opcode.number, opcode.data[:16] + place + opcode.parameters[_PLACE.size :])


def _first(start: int, pitch: int) -> int:
    return start if start >= 0 else start % pitch


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
