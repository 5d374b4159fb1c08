"""From digital numbers to the samples and compressed tiles of a DNG file, and the tags that describe them.

Stored sample s of a pixel with value x [DN, black included]:

    s = round(x * scale),  scale = 2**extra_bits, halved until white_level * scale <= 65535

Rounding x itself to whole DN would bias local means once the residual noise is below about 0.3 DN, so values with
a fraction are stored finer and black and white level are multiplied by the same scale.  Values that are whole
already (an integer raster) have scale 1 and are stored exactly; those of a float raster whose white level is at
most 255 DN take all 16 bits, because 8-bit files are stored on a curve whose dark steps are far below 1 DN.
s saturates at 0 and 65535: noise below zero DN
cannot be stored in a DNG, and how many pixels that concerned is counted.

Integer samples are lossless JPEG, float samples deflate with the floating-point predictor (Adobe TIFF Technical
Note 3), both in tiles.  References: DNG 1.7.1 specification, chapters 3 to 5.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw.image import AnyRaw, BlackLevel, LinearImage, RawImage
from rawkit.raw.tiff import BYTE, DOUBLE, LONG, RATIONAL, SHORT, SRATIONAL, ByteOrder, Entry

if TYPE_CHECKING:  # sensor builds on raw, so only the type is named here
    from rawkit.sensor.params import NoiseParams

_LARGEST = 65535  # of a 16-bit sample
_ALL_BITS = 16
_COARSE_WHITE = 255  # DN; an 8-bit file, whose values lie on a curve in the file and are finer than 1 DN without it
_TILE = 512  # pixels; small tiles cost tables, large ones make readers wait
_TILE_STEP = 16  # TIFF 6.0, section 15: tile sides are multiples of 16
_FINEST_DENOMINATOR = 1_000_000  # of a black level; all levels found in cameras are exact with it

LOSSLESS_JPEG, DEFLATE = 7, 8
_FLOAT_PREDICTOR, _FLOAT_PREDICTOR_X2 = 3, 34894  # differences to the next pixel, to the one after it
_IEEE_FLOAT = 3
_COLOR_CODE = {"R": 0, "G": 1, "B": 2}


@dataclass(frozen=True, eq=False)
class StoredRaster:
    """What the file stores.

    Parameters
    ----------
    samples : (H, W) of a mosaic or (H, W, C), uint16 or float32
        As they come out of the file: ``round(DN * scale)``.
    scale : float
    white_level : int
        Multiplied by ``scale``.
    saturated : int
        Samples that did not fit and were set to 0 or 65535.
    """

    samples: NDArray
    scale: float
    white_level: int
    saturated: int

    @property
    def planes(self) -> int:
        return 1 if self.samples.ndim == 2 else self.samples.shape[2]

    @property
    def is_float(self) -> bool:
        return self.samples.dtype == np.float32

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        height, width = self.samples.shape[:2]
        return _tile_side(height), _tile_side(width)


def _tile_side(length: int) -> int:
    """Side of equal tiles of at most 512 pixels, with little padding and, from 16 pixels on, inside the image.

    LibRaw 0.22 reports float tiles larger than the image as cut.

    Examples
    --------
    >>> [_tile_side(n) for n in (4310, 600, 512, 200, 9)]
    [480, 304, 512, 112, 16]
    """

    def side(count: int) -> int:
        return -(-length // (count * _TILE_STEP)) * _TILE_STEP

    count = -(-length // _TILE)
    return side(count) if side(count) <= length else side(count + 1)


def pixels_of(image: AnyRaw) -> NDArray:
    """Everything the image stores: (H, W) for a mosaic, (H, W, C) without a color filter array."""
    if isinstance(image, LinearImage):
        return image.pixels
    # dcraw 9.28 reads a monochrome tile of 2 components wrongly: without a CFA, one component per plane.
    return image.raster if image.cfa.shape != (1, 1) else image.raster[:, :, None]


def store(image: AnyRaw, *, extra_bits: int, keep_float: bool) -> StoredRaster:
    """Samples for the file.

    Parameters
    ----------
    image : RawImage or LinearImage
    extra_bits : int, >= 0
        Bits below one DN kept of a float raster (white level at most 255 DN: all there are).
    keep_float : bool
        Store a float raster as it is.

    Raises
    ------
    ValueError
        A value is not finite, or the white level is no whole number of stored steps or above 65535 DN.
    """
    pixels = pixels_of(image)
    if np.issubdtype(pixels.dtype, np.integer):
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"a raster of {pixels.dtype} cannot be stored in a DNG; use uint16 or float32.")
        return StoredRaster(pixels.astype(np.uint16, copy=False), 1.0, _whole(image.white_level, 1.0), 0)
    if not np.isfinite(pixels).all():
        raise ValueError("the raster has values that are not finite; find out which step made them.")
    if keep_float:
        return StoredRaster(pixels.astype(np.float32, copy=False), 1.0, _whole(image.white_level, 1.0), 0)
    if extra_bits < 0:
        raise ValueError(f"extra_bits is {extra_bits}; it is the number of bits kept below one DN, 0 or more.")
    scale = 2.0 ** (_ALL_BITS if image.white_level <= _COARSE_WHITE else extra_bits)
    while image.white_level * scale > _LARGEST and scale > 1:
        scale /= 2
    white = _whole(image.white_level, scale)
    scaled = np.rint(pixels.astype(np.float32, copy=False) * np.float32(scale))
    saturated = int(np.count_nonzero((scaled < 0) | (scaled > _LARGEST)))
    return StoredRaster(np.clip(scaled, 0, _LARGEST).astype(np.uint16), scale, white, saturated)


def _whole(white_level: float, scale: float) -> int:
    white = white_level * scale
    if white != round(white) or not 0 < white <= _LARGEST:
        raise ValueError(
            f"white level {white_level:g} DN times {scale:g} is {white:g}; "
            f"a DNG needs a whole number from 1 to {_LARGEST}."
        )
    return round(white)


def encode_tiles(raster: StoredRaster) -> list[bytes]:
    """Compressed tiles in row-major order, those at the edges padded to full size."""
    from rawkit.raw import ljpeg

    rows, cols = raster.tile_shape
    height, width = raster.samples.shape[:2]
    largest = max(int(raster.samples.max()), raster.white_level) if not raster.is_float else 0
    precision = max(2, largest.bit_length())

    def encode(corner: tuple[int, int]) -> bytes:
        tile = raster.samples[corner[0] : corner[0] + rows, corner[1] : corner[1] + cols]
        tile = _padded(tile, rows, cols, 2 if tile.ndim == 2 else 1)
        return _deflate(tile) if raster.is_float else ljpeg.encode(tile, precision)

    corners = [(top, left) for top in range(0, height, rows) for left in range(0, width, cols)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(encode, corners))


def _padded(tile: NDArray, rows: int, cols: int, period: int) -> NDArray:
    """``tile`` filled up with values that the predictor makes zero differences of.

    To the right the last ``period`` columns go on; rows below repeat the first ``period`` pixels of the last row.
    """
    height, width = tile.shape[:2]
    period = min(period, width)
    full = np.empty((rows, cols, *tile.shape[2:]), tile.dtype)
    full[:height, :width] = tile
    full[:height, width:] = tile[:, width - period + np.arange(cols - width) % period]
    full[height:] = tile[-1, np.arange(cols) % period]
    return full


def _deflate(tile: NDArray[np.float32]) -> bytes:
    """Floats as differences of byte planes, most significant first, then zlib (Adobe TIFF Technical Note 3)."""
    import imagecodecs

    height = tile.shape[0]
    step = 2 if tile.ndim == 2 else tile.shape[2]
    big_endian = np.ascontiguousarray(tile, ">f4").view(np.uint8).reshape(height, -1, 4)
    planes = big_endian.transpose(0, 2, 1)
    planes = planes.reshape(height, -1)
    planes[:, step:] -= planes[:, :-step]
    return bytes(imagecodecs.zlib_encode(planes.tobytes()))


# ---- tags ----


def layout_entries(raster: StoredRaster, tile_sizes: Iterable[int], order: ByteOrder = "<") -> list[Entry]:
    """Tags of geometry and compression; TileOffsets (324) are zeros to be patched."""
    sizes = list(tile_sizes)
    height, width = raster.samples.shape[:2]
    planes, rows_cols = raster.planes, raster.tile_shape
    entries = [
        Entry.make(254, LONG, 0, order),
        Entry.make(256, LONG, width, order),
        Entry.make(257, LONG, height, order),
        Entry.make(258, SHORT, [32 if raster.is_float else 16] * planes, order),
        Entry.make(259, SHORT, DEFLATE if raster.is_float else LOSSLESS_JPEG, order),
        Entry.make(277, SHORT, planes, order),
        Entry.make(284, SHORT, 1, order),
        Entry.make(322, LONG, rows_cols[1], order),
        Entry.make(323, LONG, rows_cols[0], order),
        Entry.make(324, LONG, [0] * len(sizes), order),
        Entry.make(325, LONG, sizes, order),
    ]
    if raster.is_float:
        entries.append(
            Entry.make(317, SHORT, _FLOAT_PREDICTOR_X2 if raster.samples.ndim == 2 else _FLOAT_PREDICTOR, order)
        )
        entries.append(Entry.make(339, SHORT, [_IEEE_FLOAT] * planes, order))
    return entries


def black_entries(black: BlackLevel, scale: float, planes: int, order: ByteOrder = "<") -> list[Entry]:
    """BlackLevelRepeatDim, BlackLevel and, where there are any, BlackLevelDeltaH and BlackLevelDeltaV."""
    rows, cols = black.pattern.shape[:2]
    values = np.broadcast_to(black.pattern.reshape(rows, cols, -1), (rows, cols, planes)) * scale
    entries = [
        Entry.make(50713, SHORT, [rows, cols], order),
        Entry.make(50714, RATIONAL, [_ratio(v, signed=False) for v in values.ravel().tolist()], order),
    ]
    for tag, delta in ((50715, black.delta_h), (50716, black.delta_v)):
        if delta is not None:
            entries.append(
                Entry.make(tag, SRATIONAL, [_ratio(v, signed=True) for v in (delta * scale).tolist()], order)
            )
    return entries


def _ratio(value: float, *, signed: bool) -> tuple[int, int]:
    """Numerator and denominator of a black level [stored DN]; exact for every multiple of 1/256 and of 1/1000."""
    ratio = Fraction(value).limit_denominator(_FINEST_DENOMINATOR)
    limit = 2**31 if signed else 2**32
    if not (-limit if signed else 0) <= ratio.numerator < limit:
        ratio = Fraction(value).limit_denominator(256)
    if not (-limit if signed else 0) <= ratio.numerator < limit:
        raise ValueError(f"black level {value:g} does not fit a DNG rational; it must lie between 0 and 65535 DN.")
    return ratio.numerator, ratio.denominator


def cfa_entries(image: RawImage, order: ByteOrder = "<") -> list[Entry]:
    """CFARepeatPatternDim and CFAPattern, relative to the active area."""
    codes = bytes(_COLOR_CODE[letter] for letter in image.cfa.pattern)
    return [Entry.make(33421, SHORT, list(image.cfa.shape), order), Entry.make(33422, BYTE, codes, order)]


def noise_entries(
    image: AnyRaw, noise: NoiseParams | None, noise_reduction_applied: float | None, order: ByteOrder = "<"
) -> list[Entry]:
    """NoiseProfile and NoiseReductionApplied, those that are given."""
    entries = []
    if noise is not None:
        span = image.white_level - float(np.mean(image.black_level))
        pairs = noise.to_dng(span, image.phases)
        entries.append(Entry.make(51041, DOUBLE, [value for pair in pairs for value in pair], order))
    if noise_reduction_applied is not None:
        if not 0 <= noise_reduction_applied <= 1:
            raise ValueError(f"noise_reduction_applied is {noise_reduction_applied:g}; it is a share from 0 to 1.")
        entries.append(Entry.make(50935, RATIONAL, [_ratio(noise_reduction_applied, signed=False)], order))
    return entries


def check_size(size: int) -> None:
    """Raise when a file grows beyond what 32-bit offsets reach."""
    if size >= 2**32:
        raise UnsupportedRawError(f"the DNG would take {size / 2**30:.1f} GB, and its offsets end at 4 GB; crop it.")
