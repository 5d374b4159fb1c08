"""Small DNG files for tests, packed by NumPy, struct and the codecs' own encoders."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from rawkit.raw import ljpeg
from rawkit.raw.tiff import ASCII, BYTE, LONG, RATIONAL, SHORT, SRATIONAL, Entry, serialize_ifd

LETTERS = "RGB"
D65 = 21


def pack_bits(rows: np.ndarray, bits: int) -> bytes:
    """Integers (rows, samples) as a big-endian bit stream, each row padded to a whole byte."""
    shifts = np.arange(bits - 1, -1, -1)
    stream = ((rows[:, :, None] >> shifts) & 1).astype(np.uint8).reshape(len(rows), -1)
    return np.packbits(stream, axis=1).tobytes()


def differences(block: np.ndarray, step: int) -> np.ndarray:
    """Each value minus the one ``step`` pixels to its left."""
    out = block.copy()
    out[:, step:] = block[:, step:] - block[:, :-step]
    return out


def float_bytes(block: np.ndarray, step: int) -> bytes:
    """Floating-point predictor: byte planes, most significant first, then byte differences within a row."""
    rows, _, samples = block.shape
    width = block.dtype.itemsize
    big = block.astype(block.dtype.newbyteorder(">")).reshape(rows, -1).view(np.uint8).reshape(rows, -1, width)
    planes = np.ascontiguousarray(big.transpose(0, 2, 1)).reshape(rows, -1)
    out = planes.copy()
    out[:, samples * step :] -= planes[:, : -samples * step]
    return out.tobytes()


def encode(block: np.ndarray, *, compression: int, bits: int, order: str, predictor: int = 1, fold: str = "") -> bytes:
    """One strip or tile (rows, columns, samples)."""
    rows, cols, samples = block.shape
    if compression == 7 and (samples > 1 or fold == "components"):
        return ljpeg.encode(block if samples > 1 else block[:, :, 0], bits)
    if compression == 7:
        flat = block[:, :, 0].reshape(rows // 2, cols * 2) if fold == "rows" else block[:, :, 0]
        return imagecodecs.ljpeg_encode(np.ascontiguousarray(flat), bitspersample=bits)
    if compression == 34892:
        return imagecodecs.jpeg8_encode(np.ascontiguousarray(np.squeeze(block)), level=98)
    if compression == 52546:
        return imagecodecs.jpegxl_encode(
            np.ascontiguousarray(np.squeeze(block, 2) if samples == 1 else block), lossless=True
        )
    if predictor in (3, 34894, 34895):
        raw = float_bytes(block, {3: 1, 34894: 2, 34895: 4}[predictor])
    else:
        if predictor != 1:
            block = differences(block, {2: 1, 34892: 2, 34893: 4}[predictor])
        if bits in (8, 16, 32):
            raw = block.astype(block.dtype.newbyteorder(order)).tobytes()
        else:
            raw = pack_bits(block.reshape(rows, -1), bits)
    return zlib.compress(raw) if compression == 8 else raw


def interleaved(raster: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The fields of an image side by side."""
    return np.concatenate(
        [np.concatenate([raster[i::rows, j::cols] for j in range(cols)], axis=1) for i in range(rows)], axis=0
    )


def build(
    raster: np.ndarray,
    *,
    order: str = "<",
    compression: int = 1,
    bits: int | None = None,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    planar: bool = False,
    predictor: int = 1,
    interleave: tuple[int, int] = (1, 1),
    fold: str = "",
    cfa: str | None = "RGGB",
    raw_tags: Sequence[Entry] = (),
    first_tags: Sequence[Entry] = (),
    preview: bool = False,
) -> bytes:
    """A DNG whose main image stores ``raster`` (H, W) or (H, W, C); ``cfa`` None makes it LinearRaw.

    ``fold``: lossless JPEG of h x w samples as h/2 x 2w (``"rows"``) or h x w/2 with 2 components (``"components"``).
    """
    image = raster[:, :, None] if raster.ndim == 2 else raster
    bits = bits or image.dtype.itemsize * 8
    height, width, samples = image.shape
    stored = interleaved(image, *interleave)
    tile_height, tile_width = tile or (rows_per_strip or height, width)
    groups = [slice(s, s + 1) for s in range(samples)] if planar else [slice(0, samples)]

    data = bytearray(struct.pack(("<" if order == "<" else ">") + "2sHI", b"II" if order == "<" else b"MM", 42, 0))
    offsets, counts = [], []
    for group in groups:
        for top in range(0, height, tile_height):
            for left in range(0, width, tile_width):
                block = stored[top : top + tile_height, left : left + tile_width, group]
                if tile:
                    pad = (tile_height - block.shape[0], tile_width - block.shape[1])
                    block = np.pad(block, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
                part = encode(block, compression=compression, bits=bits, order=order, predictor=predictor, fold=fold)
                offsets.append(len(data))
                counts.append(len(part))
                data += part + b"\0" * (len(part) % 2)

    def tag(number: int, kind: int, values) -> Entry:
        return Entry.make(number, kind, values, order)

    raw = [
        tag(254, LONG, 0), tag(256, LONG, width), tag(257, LONG, height), tag(258, SHORT, [bits] * samples),
        tag(259, SHORT, compression), tag(262, SHORT, 32803 if cfa else 34892), tag(277, SHORT, samples),
        tag(284, SHORT, 2 if planar else 1),
    ]  # fmt: skip
    if image.dtype.kind == "f":
        raw.append(tag(339, SHORT, [3] * samples))
    if predictor != 1:
        raw.append(tag(317, SHORT, predictor))
    if interleave != (1, 1):
        raw += [tag(50975, SHORT, interleave[0]), tag(52547, SHORT, interleave[1])]
    if tile:
        raw += [
            tag(322, LONG, tile_width),
            tag(323, LONG, tile_height),
            tag(324, LONG, offsets),
            tag(325, LONG, counts),
        ]
    else:
        raw += [tag(273, LONG, offsets), tag(278, LONG, tile_height), tag(279, LONG, counts)]
    if cfa:
        side = int(len(cfa) ** 0.5)
        raw += [tag(33421, SHORT, [side, side]), tag(33422, BYTE, bytes(LETTERS.index(c) for c in cfa))]
    first = [
        tag(50706, BYTE, bytes([1, 7, 0, 0])), tag(50707, BYTE, bytes([1, 1, 0, 0])),
        tag(271, ASCII, "Maker"), tag(272, ASCII, "Maker M1"), tag(50708, ASCII, "Maker M1"),
        tag(50721, SRATIONAL, [(10000, 10000) if i % 4 == 0 else (0, 10000) for i in range(9)]),
        tag(50778, SHORT, D65), tag(50728, RATIONAL, [(1, 2), (1, 1), (5, 8)]),
    ]  # fmt: skip

    def merged(base: list[Entry], more: Sequence[Entry]) -> list[Entry]:
        return list({e.tag: e for e in [*base, *more]}.values())

    raw, first = merged(raw, raw_tags), merged(first, first_tags)
    if preview:
        sub_at = len(data)
        data += serialize_ifd(raw, sub_at, order)[0]
        data += b"\0" * (len(data) % 2)
        pixels_at = len(data)
        data += bytes(4 * 4 * 3)
        first = merged(first, [
            tag(254, LONG, 1), tag(256, LONG, 4), tag(257, LONG, 4), tag(258, SHORT, [8, 8, 8]), tag(259, SHORT, 1),
            tag(262, SHORT, 2), tag(273, LONG, pixels_at), tag(277, SHORT, 3), tag(278, LONG, 4), tag(279, LONG, 48),
            tag(284, SHORT, 1), tag(330, LONG, sub_at),
        ])  # fmt: skip
    else:
        first = merged(first, raw)
    at = len(data)
    data[4:8] = struct.pack(order + "I", at)
    data += serialize_ifd(first, at, order)[0]
    return bytes(data)


def write(folder: Path, raster: np.ndarray, name: str = "image.dng", **options) -> Path:
    path = folder / name
    path.write_bytes(build(raster, **options))
    return path
