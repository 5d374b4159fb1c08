"""The stored samples of one DNG image directory, decoded and put in their places.

    segments (strips or tiles) --codec, predictor--> samples --assemble--> stored raster
    stored raster --undo row/column interleave--> --LinearizationTable--> linear raster [DN, black included]

The raster is everything the directory stores, masked borders included.  Black, white and the active area are
not touched here.  Every size, count and offset is checked against the file before memory is taken.

References: DNG 1.7.1 specification, chapter 2 (compression, predictors, float formats), chapter 4 (tags
RowInterleaveFactor, ColumnInterleaveFactor, SubTileBlockSize) and chapter 5 (LinearizationTable); TIFF 6.0,
sections 3 (strips), 14 (differencing predictor), 15 (tiles); Adobe Photoshop TIFF technical note 3 (floating
point predictor).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw.dng_directory import directories
from rawkit.raw.tiff import ByteOrder, Ifd, TiffFile

MAX_PIXELS = 400_000_000  # a larger header is damage: no sensor in use delivers more in one frame
_MAX_SAMPLES_PER_PIXEL = 8
_MAX_TILE_PADDING = 4  # stored area with tile padding, in multiples of the image area (plus one tile)

UNCOMPRESSED, JPEG, DEFLATE, LOSSY_JPEG, JPEG_XL = 1, 7, 8, 34892, 52546
_COMPRESSIONS = (UNCOMPRESSED, JPEG, DEFLATE, LOSSY_JPEG, JPEG_XL)

# What the densest stream can hold, so that no memory is taken for a picture that cannot be there: a sample takes a bit
# of lossless JPEG, a block of 64 takes two bits of baseline JPEG, deflate repeats 258 bytes in 2 bits.  By compression,
# or by compression and bits; JPEG XL has no such bound.
_MOST_SAMPLES_PER_BYTE: dict[int | tuple[int, int], int] = {
    UNCOMPRESSED: 1, JPEG: 8, (JPEG, 8): 256, LOSSY_JPEG: 512, DEFLATE: 1032,
}  # fmt: skip

# Predictor tag -> (samples from one value to the one it is predicted by, in pixels; on float bytes?)
_PREDICTORS = {2: (1, False), 34892: (2, False), 34893: (4, False), 3: (1, True), 34894: (2, True), 34895: (4, True)}

_LOSSLESS_FRAME = 0xC3  # JPEG SOF3
_UINT, _FLOAT = 1, 3  # SampleFormat
_TRANSPARENCY_MASK = 4  # NewSubfileType


@dataclass(frozen=True)
class Layout:
    """How one directory stores its samples.

    Parameters
    ----------
    height, width, samples : int
        Pixels, pixels, samples per pixel.
    bits : int
        Stored bits per sample.
    is_float : bool
    tile_height, tile_width : int
        Of one segment; a strip is a tile as wide as the image.
    tiled : bool
        Tiles are stored whole; the last strip may be short.
    offsets, counts : tuple of int
        First byte and size of each segment.
    """

    height: int
    width: int
    samples: int
    bits: int
    is_float: bool
    compression: int
    predictor: int
    planar: bool
    tiled: bool
    tile_height: int
    tile_width: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    order: ByteOrder

    @classmethod
    def from_ifd(cls, ifd: Ifd, file_size: int) -> Layout:
        """Read and check the layout tags of ``ifd``."""
        width, height, samples = integer(ifd, 256, 0), integer(ifd, 257, 0), integer(ifd, 277, 1)
        if width <= 0 or height <= 0 or not 1 <= samples <= _MAX_SAMPLES_PER_PIXEL:
            raise UnsupportedRawError(f"the header states a {width}x{height} image of {samples} samples per pixel.")
        if width * height > MAX_PIXELS:
            raise UnsupportedRawError(
                f"the header states {width}x{height} pixels; rawkit reads up to {MAX_PIXELS // 10**6} megapixels."
            )
        compression = integer(ifd, 259, UNCOMPRESSED)
        if compression not in _COMPRESSIONS:
            raise UnsupportedRawError(
                f"compression {compression} is not one of {', '.join(map(str, _COMPRESSIONS))}; "
                "convert the file with Adobe DNG Converter first."
            )
        bits = _one_value(ifd, 258, 1, "bits per sample")
        sample_format = _one_value(ifd, 339, _UINT, "sample format")
        if sample_format not in (_UINT, _FLOAT):
            raise UnsupportedRawError(f"sample format {sample_format} is neither unsigned integer (1) nor float (3).")
        is_float = sample_format == _FLOAT
        allowed = (16, 24, 32) if is_float else tuple(range(8, 17))
        if bits not in allowed:
            raise UnsupportedRawError(
                f"{bits}-bit {'float' if is_float else 'integer'} samples; rawkit reads 8 to 16-bit integers "
                "and 16, 24 and 32-bit floats."
            )
        if integer(ifd, 266, 1) != 1:
            raise UnsupportedRawError("FillOrder 2 (reversed bits) is not allowed in a DNG.")
        if any(size != 1 for size in numbers(ifd, 50974)):
            raise UnsupportedRawError("pixels in sub-tile blocks (tag SubTileBlockSize) cannot be read.")
        tiled = 322 in ifd
        tile_width = integer(ifd, 322, 0) if tiled else width
        tile_height = integer(ifd, 323, 0) if tiled else min(integer(ifd, 278, height), height)
        layout = cls(
            height=height,
            width=width,
            samples=samples,
            bits=bits,
            is_float=is_float,
            compression=compression,
            predictor=integer(ifd, 317, 1),
            planar=integer(ifd, 284, 1) == 2,
            tiled=tiled,
            tile_height=tile_height,
            tile_width=tile_width,
            offsets=integers(ifd, 324 if tiled else 273),
            counts=integers(ifd, 325 if tiled else 279),
            order=ifd.order,
        )
        layout._check(file_size)
        return layout

    def _check(self, file_size: int) -> None:
        if self.tile_height <= 0 or self.tile_width <= 0:
            raise UnsupportedRawError(f"tiles of {self.tile_width}x{self.tile_height} pixels.")
        down, across = self.grid
        stored = down * self.tile_height * across * self.tile_width
        if stored > _MAX_TILE_PADDING * self.height * self.width + self.tile_height * self.tile_width or (
            self.tile_height * self.tile_width > MAX_PIXELS
        ):
            raise UnsupportedRawError(
                f"tiles of {self.tile_width}x{self.tile_height} do not suit an image of {self.width}x{self.height}."
            )
        needed = down * across * (self.samples if self.planar else 1)
        if len(self.offsets) != needed or len(self.counts) != needed:
            raise UnsupportedRawError(
                f"{len(self.offsets)} offsets and {len(self.counts)} sizes of strips or tiles, {needed} are needed."
            )
        for offset, count in zip(self.offsets, self.counts, strict=True):
            if offset + count > file_size or count == 0:
                raise UnsupportedRawError(
                    f"a strip or tile of {count} bytes should lie at byte {offset}, the file has {file_size}: "
                    "it is cut or damaged; copy it again."
                )
        densest = _MOST_SAMPLES_PER_BYTE.get(
            (self.compression, self.bits), _MOST_SAMPLES_PER_BYTE.get(self.compression)
        )
        if densest is not None and self.height * self.width * self.samples > densest * sum(self.counts):
            raise UnsupportedRawError(
                f"{self.width}x{self.height} pixels are stored in {sum(self.counts)} bytes, more than "
                f"{self.height * self.width * self.samples // densest} are needed: the file is cut or damaged."
            )
        known = self.predictor in _PREDICTORS and self.compression == DEFLATE
        if self.predictor != 1 and (not known or _PREDICTORS[self.predictor][1] != self.is_float):
            raise UnsupportedRawError(f"predictor {self.predictor} with compression {self.compression}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Segments down and across, of one plane."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)

    @property
    def dtype(self) -> np.dtype:
        """Of the decoded raster: uint8, uint16 or float32."""
        if self.is_float:
            return np.dtype(np.float32)
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def segments(self) -> Iterator[tuple[int, int, slice, int, int]]:
        """Top row, left column, planes, first byte and size of each segment."""
        down, across = self.grid
        groups = [slice(s, s + 1) for s in range(self.samples)] if self.planar else [slice(0, self.samples)]
        places = ((r * self.tile_height, c * self.tile_width, g) for g in groups for r in range(down)
                  for c in range(across))  # fmt: skip
        for (top, left, group), offset, count in zip(places, self.offsets, self.counts, strict=True):
            yield top, left, group, offset, count


def numbers(ifd: Ifd, tag: int, default: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Values of a numeric tag; ``default`` when it is absent."""
    values = ifd.get(tag, default)
    if any(isinstance(v, bytes) for v in values):
        raise UnsupportedRawError(f"tag {tag} holds text where numbers were expected: the file is damaged.")
    return tuple(float(v) for v in values)


def integers(ifd: Ifd, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Values of a tag of whole numbers; ``default`` when it is absent."""
    return ifd.whole_numbers(tag, default)


def integer(ifd: Ifd, tag: int, default: int) -> int:
    """First value of a tag of whole numbers; ``default`` when it is absent or empty."""
    return next(iter(integers(ifd, tag)), default)


def _one_value(ifd: Ifd, tag: int, default: int, name: str) -> int:
    values = set(integers(ifd, tag, (default,)))
    if len(values) != 1:
        raise UnsupportedRawError(f"the {name} differ between planes: {sorted(values)}.")
    return values.pop()


def decode(data: bytes, ifd: Ifd, *, workers: int | None = None) -> NDArray:
    """Linear raster of an image directory.

    Parameters
    ----------
    data : bytes
        The whole file.
    ifd : Ifd
        The directory of the image.
    workers : int or None
        Threads; None takes one per processor, at most 8.  The result does not depend on it.

    Returns
    -------
    (H, W) or (H, W, C) uint8, uint16 or float32 [DN, black included]
        Interleaving undone, LinearizationTable applied.

    Raises
    ------
    UnsupportedRawError
        The layout is unknown, or the data are cut or damaged.
    """
    layout = Layout.from_ifd(ifd, len(data))
    stored = _assemble(data, layout, workers or min(os.cpu_count() or 1, 8))
    rows, cols = integer(ifd, 50975, 1), integer(ifd, 52547, 1)
    if rows < 1 or cols < 1:
        raise UnsupportedRawError(f"row and column interleave factors of {rows} and {cols}.")
    raster = deinterleave(stored, rows, cols)
    table = integers(ifd, 50712)
    if table:
        if layout.is_float:
            raise UnsupportedRawError("a LinearizationTable on float samples.")
        raster = linearize(raster, _table(table))
    return raster if layout.samples > 1 else raster[:, :, 0]


def transparency_mask(tiff: TiffFile) -> NDArray | None:
    """(H, W) pixels of the transparency mask of a DNG; None without one."""
    masks = [ifd for ifd, _ in directories(tiff) if ifd.first(254) == _TRANSPARENCY_MASK]
    return decode(tiff.data, masks[0]) if masks else None


def deinterleave(stored: NDArray, rows: int, cols: int) -> NDArray:
    """Undo RowInterleaveFactor and ColumnInterleaveFactor, over the whole image.

    The stored image is the fields side by side: field (i, j) holds the pixels of rows i, i + ``rows`` ... and
    columns j, j + ``cols`` ...; when the size is not a multiple, the first fields are one larger.

    Parameters
    ----------
    stored : (H, W, ...)

    Examples
    --------
    >>> deinterleave(np.array([[0, 2, 4, 1, 3]]), 1, 2).tolist()
    [[0, 1, 2, 3, 4]]
    """
    return _woven(_woven(stored, rows, 0), cols, 1)


def _woven(stored: NDArray, fields: int, axis: int) -> NDArray:
    """One axis of ``deinterleave``; each on its own takes ``rows`` + ``cols`` steps and not their product."""
    length = stored.shape[axis]
    # A factor that leaves fields without pixels is no interleave (the DNG SDK ignores it likewise).
    if fields == 1 or fields >= length:
        return stored
    image = np.empty_like(stored)
    source, target = np.moveaxis(stored, axis, 0), np.moveaxis(image, axis, 0)
    start = 0
    for i in range(fields):
        size = len(range(i, length, fields))
        target[i::fields] = source[start : start + size]
        start += size
    return image


def linearize(raster: NDArray, table: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Look stored values up in a LinearizationTable; values beyond its end take its last entry (DNG, chapter 5).

    Examples
    --------
    >>> linearize(np.array([[0, 1, 9]], np.uint16), np.array([5, 50, 500], np.uint16)).tolist()
    [[5, 50, 500]]
    """
    return table.take(raster, mode="clip")


def _table(values: tuple[int, ...]) -> NDArray[np.uint16]:
    if min(values) < 0 or max(values) > np.iinfo(np.uint16).max:
        raise UnsupportedRawError(f"the LinearizationTable runs from {min(values)} to {max(values)}, not in 16 bits.")
    return np.array(values, np.uint16)


def _assemble(data: bytes, layout: Layout, workers: int) -> NDArray:
    image = np.empty((layout.height, layout.width, layout.samples), layout.dtype)
    view = memoryview(data)

    def place(segment: tuple[int, int, slice, int, int]) -> None:
        top, left, group, offset, count = segment
        rows = layout.tile_height if layout.tiled else min(layout.tile_height, layout.height - top)
        shape = (rows, layout.tile_width, group.stop - group.start)
        pixels = _decode_segment(view[offset : offset + count], shape, layout)
        image[top : top + rows, left : left + layout.tile_width, group] = pixels[
            : layout.height - top, : layout.width - left
        ]

    segments = list(layout.segments())
    if workers == 1 or len(segments) == 1:
        for segment in segments:
            place(segment)
    else:  # the codecs release the interpreter lock
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(place, segments))
    return image


def _decode_segment(data: memoryview, shape: tuple[int, int, int], layout: Layout) -> NDArray:
    """One strip or tile as (rows, columns, samples)."""
    if layout.compression in (JPEG, LOSSY_JPEG):
        return _decode_jpeg(data, shape, layout)
    if layout.compression == JPEG_XL:
        return _decode_jpeg_xl(data, shape, layout)
    rows, cols, samples = shape
    needed = rows * (-(-cols * samples * layout.bits // 8))
    if layout.compression == DEFLATE:
        raw = _inflate(data, needed)
        if layout.predictor != 1:
            step, on_bytes = _PREDICTORS[layout.predictor]
            undo = _undo_float_predictor if on_bytes else _undo_predictor
            return undo(raw, shape, layout, step)
    else:
        raw = bytes(data[:needed]) if layout.bits not in (8, 16, 32) else data[:needed]
    if len(raw) < needed:
        raise UnsupportedRawError(f"a strip or tile has {len(raw)} bytes, {needed} are needed: the file is damaged.")
    return _samples(raw, shape, layout)


def _samples(raw: bytes | memoryview, shape: tuple[int, int, int], layout: Layout) -> NDArray:
    """Samples from uncompressed bytes; below 16 bits packed from the most significant bit, rows byte-aligned."""
    rows, cols, samples = shape
    if layout.is_float and layout.bits == 24:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.uint32)
        high, middle, low = (parts[:, i] for i in ((0, 1, 2) if layout.order == ">" else (2, 1, 0)))
        return float24(high << 16 | middle << 8 | low).reshape(shape)
    if layout.bits in (8, 16, 32):
        kind = "f" if layout.is_float else "u"
        return np.frombuffer(raw, f"{layout.order}{kind}{layout.bits // 8}").reshape(shape)
    import imagecodecs

    packed = imagecodecs.packints_decode(bytes(raw), np.uint16, layout.bits, runlen=cols * samples)
    return packed[: rows * cols * samples].reshape(shape)


def float24(word: NDArray[np.integer]) -> NDArray[np.float32]:
    """24-bit floats: 1 sign bit, 7 exponent bits (bias 63), 16 fraction bits, as IEEE 754 reads them.

    Examples
    --------
    >>> float24(np.array([0x3F0000, 0xBF8000, 0x000001], np.uint32)).tolist() == [1.0, -1.5, 2.0**-78]
    True
    """
    sign = np.where(word >> 23 & 1, -1.0, 1.0)
    exponent = (word >> 16 & 0x7F).astype(np.int64)
    fraction = (word & 0xFFFF).astype(np.float64) / 2**16
    value = np.where(exponent > 0, 1 + fraction, fraction) * np.exp2(np.maximum(exponent, 1) - 63.0)
    value = np.where(exponent == 0x7F, np.where(fraction > 0, np.nan, np.inf), value)
    return (sign * value).astype(np.float32)


def _inflate(data: memoryview, needed: int) -> bytes:
    """zlib stream of exactly ``needed`` bytes or more; never expands further than that."""
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(data, needed)
    except zlib.error as error:
        raise UnsupportedRawError(f"a deflate-compressed strip or tile is damaged ({error}).") from error
    if len(raw) < needed:
        raise UnsupportedRawError(
            f"a deflate strip or tile holds {len(raw)} bytes, {needed} are needed: it is cut or damaged."
        )
    return raw


def _undo_predictor(raw: bytes, shape: tuple[int, int, int], layout: Layout, step: int) -> NDArray:
    """Horizontal differences of integers: each value plus the one ``step`` pixels to its left, modulo 2^bits."""
    if layout.bits not in (8, 16):
        raise UnsupportedRawError(f"predictor {layout.predictor} on {layout.bits}-bit samples.")
    values = _samples(raw, shape, layout).astype(layout.dtype)
    for first in range(step):
        lane = values[:, first::step]
        np.cumsum(lane, axis=1, dtype=layout.dtype, out=lane)
    return values


def _undo_float_predictor(raw: bytes, shape: tuple[int, int, int], layout: Layout, step: int) -> NDArray:
    """Byte differences of floats: a row holds all most significant bytes, then the next ones, whatever the order."""
    rows, cols, samples = shape
    width = layout.bits // 8
    flat = np.frombuffer(raw, np.uint8).reshape(rows, width * cols * samples).copy()
    stride = samples * step
    for first in range(min(stride, flat.shape[1])):
        lane = flat[:, first::stride]
        np.cumsum(lane, axis=1, dtype=np.uint8, out=lane)
    big_endian = np.ascontiguousarray(flat.reshape(rows, width, cols * samples).transpose(0, 2, 1))
    if width == 3:
        parts = big_endian.reshape(-1, 3).astype(np.uint32)
        return float24(parts[:, 0] << 16 | parts[:, 1] << 8 | parts[:, 2]).reshape(shape)
    return big_endian.view(f">f{width}").reshape(shape)


def _decode_jpeg(data: memoryview, shape: tuple[int, int, int], layout: Layout) -> NDArray:
    """Lossless JPEG (frame type SOF3), or baseline JPEG for 8-bit samples."""
    import imagecodecs

    frame, height, width, components = jpeg_frame(data)
    # A writer may fold a tile, e.g. h x w/2 with two components, one per CFA column: only the count of samples
    # must agree (DNG, chapter 2).  A last strip may be stored at full height.
    rows, cols, samples = shape
    per_row = cols * samples
    if height * width * components < rows * per_row or height * width * components > layout.tile_height * per_row:
        raise UnsupportedRawError(
            f"a JPEG of {width}x{height} pixels and {components} components where {cols}x{rows} pixels and "
            f"{samples} were announced: the file is damaged."
        )
    if frame != _LOSSLESS_FRAME and (layout.bits != 8 or (height, width, components) != shape):
        raise UnsupportedRawError(
            f"a lossy JPEG (frame type 0x{frame:X}) where {cols}x{rows} pixels of {layout.bits} bits were announced."
        )
    try:
        if frame == _LOSSLESS_FRAME:
            pixels = imagecodecs.ljpeg_decode(bytes(data))
        else:
            # The codec fills up what is missing with gray and does not complain.
            if not bytes(data[-64:]).rstrip(b"\0").endswith(b"\xff\xd9"):
                raise UnsupportedRawError("a JPEG strip or tile has no end marker: it is cut or damaged.")
            pixels = imagecodecs.jpeg8_decode(bytes(data))
    except (RuntimeError, ValueError) as error:
        raise UnsupportedRawError(f"a JPEG strip or tile is damaged ({_one_line(error)}).") from error
    if pixels.size < rows * per_row:  # the codec went by another frame header than the first one
        raise UnsupportedRawError(f"a JPEG strip or tile holds {pixels.size} samples, {rows * per_row} are needed.")
    return _checked(pixels.reshape(-1)[: rows * per_row].reshape(shape), layout)


def jpeg_frame(data: bytes | memoryview) -> tuple[int, int, int, int]:
    """Frame type, height, width and components of a JPEG stream, from its SOF marker."""
    at = frame_header(data)
    return data[at + 1], data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8], data[at + 9]


def frame_header(data: bytes | memoryview) -> int:
    """Position of a JPEG stream's SOF marker, at least 10 bytes before its end (ITU-T T.81, B.2.2).

    Raises
    ------
    UnsupportedRawError
        This is no JPEG, or its header is cut.
    """
    position = 2
    if bytes(data[:2]) != b"\xff\xd8":
        raise UnsupportedRawError("a strip or tile should be a JPEG and is not: the file is damaged.")
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # DHT, JPG and DAC are no frames
            return position
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    raise UnsupportedRawError("a JPEG strip or tile has no frame header: the file is damaged.")


def _decode_jpeg_xl(data: memoryview, shape: tuple[int, int, int], layout: Layout) -> NDArray:
    import imagecodecs

    # ``out`` makes the codec compare the stream's own size with ours before it takes memory.
    out_shape = shape if shape[2] > 1 else shape[:2]
    dtypes: tuple[DTypeLike, ...] = (np.float32, np.float16) if layout.is_float else (layout.dtype,)
    errors = []
    for dtype in dtypes:  # half floats come as float16 or, when the stream was lossy, as float32
        try:
            pixels = imagecodecs.jpegxl_decode(bytes(data), out=np.empty(out_shape, dtype), numthreads=1)
            return _checked(pixels.reshape(shape), layout)
        except (RuntimeError, ValueError) as error:
            errors.append(_one_line(error))
    raise UnsupportedRawError(f"a JPEG XL strip or tile is damaged or of another size ({'; '.join(errors)}).")


def _checked(pixels: NDArray, layout: Layout) -> NDArray:
    """Refuse samples that do not fit the announced bits."""
    if layout.is_float or layout.bits == 16 or pixels.dtype == np.uint8:
        return pixels
    highest = int(pixels.max(initial=0))
    if highest >> layout.bits:
        raise UnsupportedRawError(
            f"a sample of {highest} where {layout.bits} bits were announced: the file is damaged."
        )
    return pixels


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
