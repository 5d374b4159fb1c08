"""Free space inside a DNG that is being changed, so that everything else stays at its byte.

Bytes that belonged to replaced pictures and directories are zeroed and used again, first fit; what does not fit
goes behind the end.  A range is free only when no other directory of the file reaches into it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from rawkit.raw.dng_directory import data_extents, directories, directory_end, long_values
from rawkit.raw.tiff import Entry, Ifd, TiffFile, serialize_ifd

_GAP = 16  # bytes between our own tiles that are padding and not somebody's data
_POINTERS = (34665, 34853, 40965)  # EXIF, GPS, interoperability directories


def other_extents(tiff: TiffFile, own: Sequence[Ifd], pictures: Sequence[Ifd] = ()) -> list[tuple[int, int]]:
    """Every known extent that does not belong to the directories ``own`` or to the pixels of ``pictures``."""
    mine, replaced = {ifd.offset for ifd in own}, {ifd.offset for ifd in pictures}
    others = [ifd for ifd, _ in directories(tiff) if ifd.offset not in mine]
    todo, seen = [*own, *others], {*mine, *(ifd.offset for ifd in others)}
    while todo:  # the interoperability directory hangs on EXIF's, EXIF's on an image's
        parent = todo.pop()
        for offset in (o for tag in _POINTERS for o in parent.whole_numbers(tag)[:1] if o and o not in seen):
            seen.add(offset)
            others.append(tiff.ifd(offset))
            todo.append(others[-1])
    extents = [(0, 8)]
    for ifd in others:
        extents += [(ifd.offset, directory_end(tiff, ifd)), *long_values(ifd.entries.values())]
        extents += [] if ifd.offset in replaced else data_extents(ifd)
    return extents


def _overlaps(extent: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    return any(start < extent[1] and extent[0] < end for start, end in others)


@dataclass
class Space:
    """Free byte ranges of the file being rewritten; the last one has no end."""

    data: bytearray
    ranges: list[list[int]] = field(default_factory=list)

    @classmethod
    def freed(cls, source: bytes, own: list[tuple[int, int]], others: list[tuple[int, int]]) -> Space:
        """Zero the ranges in ``own`` that nobody else uses; a range at the file's end is cut off.

        Examples
        --------
        >>> Space.freed(bytes(100), [(50, 90)], [(10, 20)])  # doctest: +ELLIPSIS
        Space(data=bytearray(...), ranges=[])
        >>> Space.freed(bytes(100), [(50, 90)], [(92, 100)]).ranges
        [[50, 90]]
        """
        mine = [r for r in sorted(own) if not _overlaps(r, others)]
        free: list[list[int]] = []
        for start, end in mine:
            last = free[-1][1] if free else -1
            if free and start - last <= _GAP and not _overlaps((last, start), others):
                free[-1][1] = max(last, end)
            else:
                free.append([start, end])
        data = bytearray(source)
        for start, end in free:
            data[start:end] = bytes(end - start)
        end = len(source)
        if free and end - free[-1][1] <= _GAP and not _overlaps((free[-1][1], end), others):
            del data[free.pop()[0] :]
        return cls(data, free)

    def put(self, block: bytes, align: int) -> int:
        """Place ``block`` in the first range where it fits, else at the end; its position."""
        at = self.reserve(len(block), align)
        self.data[at : at + len(block)] = block
        return at

    def reserve(self, size: int, align: int) -> int:
        """Position of ``size`` bytes that nobody else uses from now on, a multiple of ``align``."""
        for r in self.ranges:
            start = r[0] + -r[0] % align
            if start + size <= r[1]:
                r[0] = start + size
                return start
        self.data += bytes(-len(self.data) % align)
        start = len(self.data)
        self.data += bytes(size)
        return start


def update_directory(
    space: Space, ifd: Ifd, pointer: int, entries: dict[int, Entry], stale: Collection[int] = ()
) -> None:
    """Change and drop tags of a directory: in place when all keep their size, otherwise in a new directory.

    Parameters
    ----------
    pointer : int
        Position of the 4 bytes that point to the directory.
    entries : dict of int to Entry
        New values by tag, in the file's byte order.
    stale : set of int
        Tags that go.
    """
    old, order = ifd.entries, ifd.order
    same_size = all(t in old and (old[t].type, old[t].count) == (e.type, e.count) for t, e in entries.items())
    if same_size and not any(tag in old for tag in stale):
        for tag, entry in entries.items():
            space.data[old[tag].offset : old[tag].offset + len(entry.data)] = entry.data
        return
    kept = [e for t, e in old.items() if t not in entries and t not in stale]
    block, _ = serialize_ifd([*kept, *entries.values()], 0, order, ifd.next_offset, keep_values=True)
    at = space.reserve(len(block), 2)
    block, _ = serialize_ifd([*kept, *entries.values()], at, order, ifd.next_offset, keep_values=True)
    space.data[at : at + len(block)] = block
    struct.pack_into(order + "I", space.data, pointer, at)
