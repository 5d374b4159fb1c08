"""TIFF directories, read and written byte for byte.

Only the container: directories (IFDs) of tagged entries, in either byte order, classic TIFF (32-bit offsets).
What the tags mean is the business of ``read`` and ``dng``.  Every offset and count is checked against the file
before it is followed, so a damaged or hostile file ends in ``UnsupportedRawError`` and allocates nothing.

References: TIFF 6.0 specification (Adobe, 1992), section 2; DNG 1.7.1 specification, chapter 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rawkit.errors import UnsupportedRawError

ByteOrder = Literal["<", ">"]

# Field type -> (bytes per value, struct code of one value or of one half of a rational)
_TYPES: dict[int, tuple[int, str]] = {
    1: (1, "B"), 2: (1, "s"), 3: (2, "H"), 4: (4, "I"), 5: (8, "I"), 6: (1, "b"), 7: (1, "B"),
    8: (2, "h"), 9: (4, "i"), 10: (8, "i"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I"),
}  # fmt: skip
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL, DOUBLE = 1, 2, 3, 4, 5, 7, 10, 12

_MAX_NUMBERS = 1 << 22  # of one tag: the offsets of the largest picture in tiles of 10 x 10
_MAX_ENTRIES = 4096  # a directory with more is damage, not a picture


@dataclass(frozen=True)
class Entry:
    """One tag of a directory.

    Parameters
    ----------
    tag, type, count : int
        As in the file; ``count`` values of field type ``type``.
    data : bytes
        The values in the file's byte order, without padding.
    offset : int
        Where ``data`` starts in the file (inside the directory itself when it has at most 4 bytes).
    """

    tag: int
    type: int
    count: int
    data: bytes
    offset: int = -1

    @classmethod
    def make(cls, tag: int, type: int, values: Any, order: ByteOrder = "<") -> Entry:
        """Encode values: text for ASCII, bytes for BYTE/UNDEFINED, (numerator, denominator) pairs for rationals."""
        if isinstance(values, str):
            values = values.encode("utf-8", "replace") + b"\0"
        if isinstance(values, bytes | bytearray):
            return cls(tag, type, len(values) // _TYPES[type][0], bytes(values))
        if isinstance(values, int | float):
            values = [values]
        flat = [part for pair in values for part in pair] if type in (RATIONAL, SRATIONAL) else list(values)
        data = struct.pack(f"{order}{len(flat)}{_TYPES[type][1]}", *flat)
        return cls(tag, type, len(values), data)

    def values(self, order: ByteOrder) -> tuple:
        """Decode: numbers, floats for rationals (nan for 0/0), one bytes object for ASCII."""
        size, code = _TYPES[self.type]
        if self.type == ASCII:
            return (self.data,)
        if self.type in (RATIONAL, SRATIONAL):
            parts = struct.unpack(f"{order}{2 * self.count}{code}", self.data)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            return tuple(n / d if d else float("nan" if n == 0 else "inf") for n, d in pairs)
        return struct.unpack(f"{order}{self.count}{code}", self.data[: self.count * size])

    def text(self) -> str:
        """ASCII value without its terminator."""
        return self.data.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class Ifd:
    """A directory: where it starts, its entries by tag, where the next one starts (0 for none)."""

    offset: int
    entries: dict[int, Entry]
    next_offset: int
    order: ByteOrder

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def get(self, tag: int, default: tuple = ()) -> tuple:
        """All values of a tag; ``UnsupportedRawError`` where it holds more numbers than any picture needs."""
        entry = self.entries.get(tag)
        if entry is None:
            return default
        if entry.count > _MAX_NUMBERS and entry.type != ASCII:  # text is one value
            raise UnsupportedRawError(f"tag {tag} holds {entry.count} numbers: the file is damaged.")
        return entry.values(self.order)

    def whole_numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """All values of a tag of whole numbers; ``UnsupportedRawError`` where it holds others, or text."""
        values = self.get(tag, default)
        if not all(isinstance(v, int | float) and float(v).is_integer() for v in values):
            raise UnsupportedRawError(f"tag {tag} holds {values[:4]} where whole numbers were expected.")
        return tuple(int(v) for v in values)

    def first(self, tag: int, default: float | None = None) -> Any:
        """First value of a tag."""
        return next(iter(self.get(tag)), default)

    def text(self, tag: int) -> str | None:
        """Text of a tag; None when absent or blank."""
        entry = self.entries.get(tag)
        return (entry.text() or None) if entry is not None else None


@dataclass(frozen=True)
class TiffFile:
    """Byte order and main directory chain of a TIFF held in memory."""

    data: bytes
    order: ByteOrder
    first_offset: int

    @classmethod
    def parse(cls, data: bytes) -> TiffFile:
        """Read the 8-byte header; ``UnsupportedRawError`` if this is not a classic TIFF."""
        if data[:4] in (b"II*\0", b"MM\0*") and len(data) >= 8:
            order: ByteOrder = "<" if data[:2] == b"II" else ">"
            return cls(data, order, struct.unpack_from(order + "I", data, 4)[0])
        if data[:4] in (b"II+\0", b"MM\0+"):
            raise UnsupportedRawError("this is a BigTIFF, which rawkit does not read; convert it to a DNG below 4 GB.")
        raise UnsupportedRawError("this is not a TIFF or DNG file (its first bytes are none of a TIFF's).")

    def ifd(self, offset: int) -> Ifd:
        """The directory at ``offset``."""
        data, order = self.data, self.order
        if not 8 <= offset <= len(data) - 2:
            raise UnsupportedRawError(
                f"a directory should be at byte {offset} of {len(data)}: the file is damaged or cut."
            )
        count = struct.unpack_from(order + "H", data, offset)[0]
        end = offset + 2 + 12 * count
        if count > _MAX_ENTRIES or end > len(data):
            raise UnsupportedRawError(f"the directory at byte {offset} runs past the file's end: it is damaged or cut.")
        entries: dict[int, Entry] = {}
        total = 0
        for position in range(offset + 2, end, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, position)
            if kind not in _TYPES:
                continue  # field types of later TIFF versions: readers skip them (TIFF 6.0, section 2)
            size = _TYPES[kind][0] * number
            where = position + 8 if size <= 4 else struct.unpack_from(order + "I", data, position + 8)[0]
            if where + size > len(data):
                raise UnsupportedRawError(f"tag {tag} ends at byte {where + size}, the file at {len(data)}: it is cut.")
            total += size
            if total > len(data):  # a directory of entries that all hold the whole file multiplies it in memory
                raise UnsupportedRawError(
                    f"the directory at byte {offset} holds more than the file's {len(data)} bytes: it is damaged."
                )
            entries[tag] = Entry(tag, kind, number, data[where : where + size], where)
        next_offset = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
        return Ifd(offset, entries, next_offset, order)

    def chain(self) -> Iterator[Ifd]:
        """IFD 0 and those linked after it."""
        offset, seen = self.first_offset, set()
        while offset and offset not in seen and len(seen) < 64:
            seen.add(offset)
            directory = self.ifd(offset)
            yield directory
            offset = directory.next_offset

    def with_sub_ifds(self) -> Iterator[Ifd]:
        """IFD 0, its SubIFDs (tag 330) and the rest of the chain, SubIFDs one level deep."""
        for directory in self.chain():
            yield directory
            for offset in directory.whole_numbers(330)[:64]:
                yield self.ifd(offset)


def value_item(kind: int) -> int:
    """Bytes of one number of a field type (of one half of a rational): what a change of byte order swaps."""
    size, code = _TYPES[kind]
    return min(size, struct.calcsize(code))


def serialize_ifd(
    entries: Sequence[Entry], at: int, order: ByteOrder = "<", next_offset: int = 0, *, keep_values: bool = False
) -> tuple[bytes, dict[int, int]]:
    """Lay out a directory that starts at byte ``at`` (even) of a file.

    Parameters
    ----------
    keep_values : bool
        Values read from this same file (``Entry.offset`` >= 0) stay where they are; only the directory moves.

    Returns
    -------
    bytes
        The directory, sorted by tag, and behind it the values that take more than 4 bytes, word-aligned.
    dict
        For each tag the file position of its values, so that offsets can be patched once they are known.
    """
    if at % 2:
        raise ValueError("a TIFF directory starts at an even byte.")
    ordered = sorted(entries, key=lambda e: e.tag)
    directory = bytearray(struct.pack(order + "H", len(ordered)))
    tail = bytearray()
    tail_start = at + 2 + 12 * len(ordered) + 4
    positions: dict[int, int] = {}
    for entry in ordered:
        directory += struct.pack(order + "HHI", entry.tag, entry.type, entry.count)
        if len(entry.data) <= 4:
            positions[entry.tag] = at + len(directory)
            directory += entry.data.ljust(4, b"\0")
        elif keep_values and entry.offset >= 0:
            positions[entry.tag] = entry.offset
            directory += struct.pack(order + "I", entry.offset)
        else:
            positions[entry.tag] = tail_start + len(tail)
            directory += struct.pack(order + "I", tail_start + len(tail))
            tail += entry.data + b"\0" * (len(entry.data) % 2)
    directory += struct.pack(order + "I", next_offset)
    return bytes(directory + tail), positions
