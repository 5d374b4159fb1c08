"""A TIFF/EP file as Nikon's NEF is built, for tests: LibRaw opens it by its tags.

IFD 0: reduced RGB picture, Make, Model, XMP, EXIF and GPS pointers; its SubIFD: the mosaic, uncompressed, 14 bits in
16-bit words.  The values are drawn by NumPy; nothing of a real camera's file is in it.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from rawkit.raw.tiff import ASCII, BYTE, LONG, RATIONAL, SHORT, UNDEFINED, Entry, serialize_ifd

MAKER_NOTE = b"Nikon\0\2\x10\0\0" + b"MM\0*\0\0\0\x08" + b"\0\1\0\1\0\7\0\0\0\x040210\0\0\0\0" + b"secrets of the maker"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><note>five stars</note></x:xmpmeta>'
LENS = "AF-S Test 18-55mm f/3.5-5.6"


def write_nef(
    path: Path, mosaic: np.ndarray, order: str = ">", model: str = "NIKON D5000", orientation: int = 6
) -> None:
    """Store (H, W) uint16 ``mosaic``, RGGB."""
    data = bytearray((b"MM\0*" if order == ">" else b"II*\0") + bytes(4))

    def make(tag, kind, values):
        return Entry.make(tag, kind, values, order)

    def put(block: bytes) -> int:
        data.extend(bytes(len(data) % 2))
        data.extend(block)
        return len(data) - len(block)

    def directory(entries) -> tuple[int, dict[int, int]]:
        at = len(data) + len(data) % 2
        block, positions = serialize_ifd(entries, at, order)
        return put(block), positions

    height, width = mosaic.shape
    pixels = put(mosaic.astype(mosaic.dtype.newbyteorder(order)).tobytes())
    small = put(bytes(16 * 12 * 3))
    exif, _ = directory([
        make(33434, RATIONAL, [(1, 160)]), make(33437, RATIONAL, [(63, 10)]), make(34855, SHORT, 3200),
        make(36864, UNDEFINED, b"0221"), make(36867, ASCII, "2014:03:09 13:25:51"), make(37386, RATIONAL, [(24, 1)]),
        make(37385, SHORT, 16), make(41989, SHORT, 36), make(42034, RATIONAL, [(18, 1), (55, 1), (7, 2), (28, 5)]),
        make(42036, ASCII, LENS), make(37500, UNDEFINED, MAKER_NOTE),
    ])  # fmt: skip
    gps, _ = directory([
        make(0, BYTE, bytes((2, 2, 0, 0))), make(1, ASCII, "N"), make(2, RATIONAL, [(53, 1), (28, 1), (0, 1)]),
        make(3, ASCII, "W"), make(4, RATIONAL, [(2, 1), (14, 1), (0, 1)]),
    ])  # fmt: skip
    raw, _ = directory([
        make(254, LONG, 0), make(256, LONG, width), make(257, LONG, height), make(258, SHORT, 14),
        make(259, SHORT, 1), make(262, SHORT, 32803), make(273, LONG, pixels), make(277, SHORT, 1),
        make(278, LONG, height), make(279, LONG, 2 * mosaic.size), make(284, SHORT, 1),
        make(33421, SHORT, [2, 2]), make(33422, BYTE, bytes((0, 1, 1, 2))),
    ])  # fmt: skip
    first, _ = directory([
        make(254, LONG, 1), make(256, LONG, 16), make(257, LONG, 12), make(258, SHORT, [8, 8, 8]),
        make(259, SHORT, 1), make(262, SHORT, 2), make(271, ASCII, "NIKON CORPORATION"), make(272, ASCII, model),
        make(273, LONG, small), make(274, SHORT, orientation), make(277, SHORT, 3), make(278, LONG, 12),
        make(279, LONG, 16 * 12 * 3), make(284, SHORT, 1), make(306, ASCII, "2014:03:09 13:25:51"),
        make(315, ASCII, "A. Photographer"), make(330, LONG, raw), make(33432, ASCII, "(c) A. Photographer"),
        make(34665, LONG, exif), make(34853, LONG, gps), make(700, BYTE, XMP),
    ])  # fmt: skip
    struct.pack_into(order + "I", data, 4, first)
    path.write_bytes(data)
