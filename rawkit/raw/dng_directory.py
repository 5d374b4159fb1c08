"""The directories of a DNG: which one holds the raw image, what bytes each of them owns, where it is pointed from.

The main raw image has NewSubfileType 0 and PhotometricInterpretation CFA or LinearRaw; a DNG has exactly one.

Reference: DNG 1.7.1 specification, chapters 2 and 4 (NewSubfileType, SubIFD trees).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rawkit.errors import UnsupportedRawError
from rawkit.raw import opcodes
from rawkit.raw.tiff import Entry, Ifd, TiffFile

DNG_VERSION, SUB_IFDS = 50706, 330
CFA_PHOTOMETRIC, LINEAR_RAW = 32803, 34892
_OPCODE_LIST_1 = 51008
# OpcodeList1 acts on stored values; these opcodes carry such values or depend on them (DNG 1.7.1, chapter 7).
_VALUE_OPCODES = frozenset([4, 7, 8, 10, 11, 12, 13])
_IEEE_FLOAT = 3  # SampleFormat
_MAX_SUB_IFDS = 64  # a directory with more is damage
DATA_TAGS = ((273, 279), (324, 325), (513, 514))  # offsets and byte counts of strips, tiles, an embedded JPEG


@dataclass(frozen=True)
class RawDirectory:
    """The main raw image of a DNG: IFD 0, its own directory and the byte position of the pointer to that."""

    first: Ifd
    ifd: Ifd
    pointer: int

    @property
    def is_float(self) -> bool:
        return self.ifd.first(339, 1) == _IEEE_FLOAT

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        height, width = (next(iter(self.ifd.whole_numbers(tag)), 0) for tag in (257, 256))
        return height, width

    @property
    def acts_on_values(self) -> bool:
        """Whether OpcodeList1 depends on the scale of the stored values."""
        entry = self.ifd.entries.get(_OPCODE_LIST_1)
        return entry is not None and any(o.number in _VALUE_OPCODES for o in opcodes.parse(entry.data))


def find_raw(tiff: TiffFile) -> RawDirectory:
    """The one full-resolution raw image of a DNG.

    Raises
    ------
    UnsupportedRawError
        This is no DNG, or it has no raw image or several.
    """
    first = tiff.ifd(tiff.first_offset)
    if DNG_VERSION not in first:
        raise UnsupportedRawError("the source is a TIFF but not a DNG (no DNGVersion); write a fresh DNG without it.")
    found = {
        ifd.offset: RawDirectory(first, ifd, pointer)
        for ifd, pointer in directories(tiff)
        if ifd.first(254, 0) == 0 and ifd.first(262) in (CFA_PHOTOMETRIC, LINEAR_RAW)
    }
    if len(found) != 1:
        raise UnsupportedRawError(f"a DNG has one main raw image, this file has {len(found)}.")
    return found.popitem()[1]


def directories(tiff: TiffFile) -> Iterator[tuple[Ifd, int]]:
    """Every image directory with the position of the 4 bytes that point to it."""
    pointer = 4
    for ifd in tiff.chain():
        yield ifd, pointer
        subs = ifd.entries.get(SUB_IFDS)
        if subs is not None:
            for k, offset in enumerate(ifd.whole_numbers(SUB_IFDS)[:_MAX_SUB_IFDS]):
                yield tiff.ifd(offset), subs.offset + 4 * k
        pointer = directory_end(tiff, ifd) - 4


def directory_end(tiff: TiffFile, ifd: Ifd) -> int:
    """First byte behind a directory and its pointer to the next one."""
    count = struct.unpack_from(tiff.order + "H", tiff.data, ifd.offset)[0]
    return ifd.offset + 2 + 12 * count + 4


def data_extents(ifd: Ifd) -> list[tuple[int, int]]:
    """(start, end) of every strip, tile and embedded JPEG of a directory."""
    return [
        (start, start + size)
        for offsets, counts in DATA_TAGS
        for start, size in zip(ifd.whole_numbers(offsets), ifd.whole_numbers(counts), strict=False)
    ]


def long_values(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    """(start, end) of the values that lie outside their directory."""
    return [(e.offset, e.offset + len(e.data)) for e in entries if len(e.data) > 4 and e.offset >= 0]
