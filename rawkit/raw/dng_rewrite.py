"""Same-structure rewrite of a DNG: new raw data, everything else byte for byte where it was.

EXIF, maker notes, XMP and previews keep their file positions, so offsets inside maker notes stay true.  The bytes
that belonged to the old raw data (its tiles, its directory, the values that change) are zeroed and become free
space; the new directory and tiles are laid into it, first fit, and what does not fit goes behind the end.  A file
that is rewritten twice therefore does not grow.

What changes: the raw directory's geometry-of-storage and compression tags, the levels (times the storage scale),
NoiseProfile and NoiseReductionApplied when given, the digests and RawDataUniqueID, and the DNG versions where a
feature came or went.  Stored values are linear, so a LinearizationTable is dropped, and so are the opcodes of
OpcodeList2 that the reader has applied.

References: DNG 1.7.1 specification, chapters 2 to 4; TIFF 6.0 specification, section 2.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw import dng_pixels, opcodes
from rawkit.raw.digest import new_raw_image_digest, raw_image_digest
from rawkit.raw.dng_raster import (
    CFA_PHOTOMETRIC,
    LINEAR_RAW,
    StoredRaster,
    black_entries,
    cfa_entries,
    check_size,
    layout_entries,
)
from rawkit.raw.image import AnyRaw, RawImage
from rawkit.raw.tiff import BYTE, LONG, UNDEFINED, ByteOrder, Entry, Ifd, TiffFile, serialize_ifd

DNG_VERSION, _BACKWARD_VERSION = 50706, 50707
_SUB_IFDS, _TILE_OFFSETS = 330, 324
_BLACK, _WHITE, _CFA_DIM, _CFA_PATTERN = 50714, 50717, 33421, 33422
_NEW_DIGEST, _OLD_DIGEST, _UNIQUE_ID = 51111, 50972, 50781
_NOISE_PROFILE, _NOISE_REDUCTION_APPLIED = 51041, 50935
_LINEARIZATION, _OPCODE_LIST_1, _OPCODE_LIST_2 = 50712, 51008, 51009
_JPEG_XL, _TRANSPARENCY_MASK = 52546, 4

# Tags that say how the old samples were stored; those that still apply are written anew.
_LAYOUT_TAGS = frozenset(
    (254, 256, 257, 258, 259, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 347, 529, 530, 531, 532)
) | {_LINEARIZATION, 50974, 50975, 52547, 52553, 52554, 52555}
# Tags a rewrite may set; their values never stay behind in the middle of free space.
_MOVABLE_TAGS = frozenset(
    (33421, 33422, 50706, 50707, 50713, 50714, 50715, 50716, 50717, 50781, 50935, 50972, 51009, 51041, 51111)
)
# OpcodeList1 acts on stored values; these opcodes carry such values or depend on them (DNG 1.7.1, chapter 7).
_VALUE_OPCODES = frozenset([4, 7, 8, 10, 11, 12, 13])

_GAP = 16  # bytes between our own tiles that are padding and not somebody's data
_POINTERS = (34665, 34853, 40965)  # EXIF, GPS, interoperability directories
_DATA_EXTENTS = ((273, 279), (324, 325), (513, 514))  # offsets and byte counts

# First DNG version with a tag or feature that a rewrite may add.
_SINCE = {_NEW_DIGEST: (1, 4, 0, 0), _NOISE_PROFILE: (1, 3, 0, 0), _NOISE_REDUCTION_APPLIED: (1, 2, 0, 0)}
_FLOAT_SINCE, _LOSSLESS_SINCE, _WITHOUT_JPEG_XL = (1, 4, 0, 0), (1, 1, 0, 0), (1, 4, 0, 0)


@dataclass(frozen=True)
class RawDirectory:
    """The main raw image of a DNG: its directory and the byte position of the pointer to it."""

    ifd: Ifd
    pointer: int

    @property
    def is_float(self) -> bool:
        return self.ifd.first(339, 1) == 3

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return int(self.ifd.first(257, 0)), int(self.ifd.first(256, 0))

    @property
    def acts_on_values(self) -> bool:
        """Whether OpcodeList1 depends on the scale of the stored values."""
        entry = self.ifd.entries.get(_OPCODE_LIST_1)
        return entry is not None and any(o.number in _VALUE_OPCODES for o in opcodes.parse(entry.data))


def _directories(tiff: TiffFile) -> Iterator[tuple[Ifd, int]]:
    """Every image directory with the position of the 4 bytes that point to it."""
    pointer = 4
    for ifd in tiff.chain():
        yield ifd, pointer
        subs = ifd.entries.get(_SUB_IFDS)
        if subs is not None:
            for k, offset in enumerate(subs.values(tiff.order)):
                yield tiff.ifd(int(offset)), subs.offset + 4 * k
        pointer = _directory_end(tiff, ifd) - 4


def _directory_end(tiff: TiffFile, ifd: Ifd) -> int:
    count = struct.unpack_from(tiff.order + "H", tiff.data, ifd.offset)[0]
    return ifd.offset + 2 + 12 * count + 4


def find_raw(tiff: TiffFile) -> RawDirectory:
    """The one full-resolution raw image of a DNG.

    Raises
    ------
    UnsupportedRawError
        This is no DNG, or it has no raw image or several.
    """
    if DNG_VERSION not in tiff.ifd(tiff.first_offset):
        raise UnsupportedRawError("the source is a TIFF but not a DNG (no DNGVersion); write a fresh DNG without it.")
    found = [
        RawDirectory(ifd, pointer)
        for ifd, pointer in _directories(tiff)
        if ifd.first(254, 0) == 0 and ifd.first(262) in (CFA_PHOTOMETRIC, LINEAR_RAW)
    ]
    if len(found) != 1:
        raise UnsupportedRawError(f"the source DNG has {len(found)} main raw images, one is needed; write a fresh DNG.")
    for start, end in _data_extents(found[0].ifd):
        if end > len(tiff.data):
            raise UnsupportedRawError(
                f"raw data should run from byte {start} to {end}, the source ends at {len(tiff.data)}: it is cut."
            )
    return found[0]


def _data_extents(ifd: Ifd) -> list[tuple[int, int]]:
    """(start, end) of every strip, tile and embedded JPEG of a directory."""
    return [
        (int(start), int(start) + int(size))
        for offsets, counts in _DATA_EXTENTS
        for start, size in zip(ifd.get(offsets), ifd.get(counts), strict=False)
    ]


def _long_values(entries: Iterable[Entry]) -> list[tuple[int, int]]:
    """(start, end) of the values that lie outside their directory."""
    return [(e.offset, e.offset + len(e.data)) for e in entries if len(e.data) > 4 and e.offset >= 0]


def _other_extents(tiff: TiffFile, raw: Ifd) -> list[tuple[int, int]]:
    """Every known extent that does not belong to the raw directory."""
    todo = [ifd for ifd, _ in _directories(tiff) if ifd.offset != raw.offset]
    extents = [(0, 8)]
    for parent in [raw, *todo]:
        for tag in _POINTERS:
            offset = parent.first(tag)
            if offset:
                todo.append(tiff.ifd(int(offset)))
    for ifd in todo:
        extents += [(ifd.offset, _directory_end(tiff, ifd)), *_long_values(ifd.entries.values()), *_data_extents(ifd)]
    return extents


def _overlaps(extent: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    return any(start < extent[1] and extent[0] < end for start, end in others)


@dataclass
class _Space:
    """Free byte ranges of the file being rewritten; the last one has no end."""

    data: bytearray
    ranges: list[list[int]] = field(default_factory=list)

    @classmethod
    def freed(cls, source: bytes, own: list[tuple[int, int]], others: list[tuple[int, int]]) -> _Space:
        """Zero the ranges in ``own`` that nobody else uses; a range at the file's end is cut off."""
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
        if free and len(source) - free[-1][1] <= _GAP:
            del data[free.pop()[0] :]
        return cls(data, free)

    def put(self, block: bytes, align: int) -> int:
        """Place ``block`` in the first range where it fits, else at the end; its position."""
        at = self.reserve(len(block), align)
        self.data[at : at + len(block)] = block
        return at

    def reserve(self, size: int, align: int) -> int:
        for r in self.ranges:
            start = r[0] + -r[0] % align
            if start + size <= r[1]:
                r[0] = start + size
                return start
        self.data += bytes(-len(self.data) % align)
        start = len(self.data)
        self.data += bytes(size)
        return start


def full_raster(source: bytes, image: AnyRaw) -> AnyRaw:
    """A linear image that was cropped to the active area, with the source's border around it again."""
    directory = find_raw(TiffFile.parse(source))
    raw, shape = directory.ifd, directory.shape
    area = tuple(int(v) for v in raw.get(50829))
    if isinstance(image, RawImage) or len(area) != 4:
        return image
    top, left, bottom, right = area
    if image.pixels.shape[:2] != (bottom - top, right - left) or area == (0, 0, *shape):
        return image
    pixels = dng_pixels.decode(source, raw).astype(image.pixels.dtype)
    pixels[top:bottom, left:right] = image.pixels
    return replace(image, pixels=pixels)


def rewrite(
    source: bytes, image: AnyRaw, raster: StoredRaster, tiles: list[bytes], noise_tags: list[Entry]
) -> bytearray:
    """The source DNG with other raw data.

    Parameters
    ----------
    source : bytes
        The DNG.
    image : RawImage or LinearImage
        Its levels and color filter array.
    raster, tiles
        What to store; see ``rawkit.raw.dng_raster``.
    noise_tags : list of Entry
        NoiseProfile and NoiseReductionApplied in the source's byte order.
    """
    tiff = TiffFile.parse(source)
    order, raw = tiff.order, find_raw(tiff)
    if raw.shape != raster.samples.shape[:2] or int(raw.ifd.first(277, 1)) != raster.planes:
        raise UnsupportedRawError(
            f"the source stores {raw.shape[1]} x {raw.shape[0]} pixels, the image has {raster.samples.shape[1]} x "
            f"{raster.samples.shape[0]} with {raster.planes} planes; give the DNG the image was read from."
        )
    if raw.acts_on_values and (raster.scale != 1 or _LINEARIZATION in raw.ifd):
        raise UnsupportedRawError(
            "OpcodeList1 of the source depends on its stored values, which would change; write with extra_bits=0 or "
            "a fresh DNG."
        )
    first = tiff.ifd(tiff.first_offset)
    raw_is_first = first.offset == raw.ifd.offset

    changed = {e.tag: e for e in layout_entries(raster, map(len, tiles), order)}
    changed |= {e.tag: e for e in _level_entries(image, raster, raw.ifd, order)}
    changed |= {e.tag: e for e in noise_tags}
    in_first = _identity_entries(raster, tiff, first, raw_is_first)
    in_first |= {e.tag: e for e in noise_tags if e.tag in first}
    # Noise was reduced and nobody says what remains: the source's NoiseProfile is no longer true.
    given = {e.tag for e in noise_tags}
    stale = {_NOISE_PROFILE} if _NOISE_REDUCTION_APPLIED in given and _NOISE_PROFILE not in given else set()
    added = [tag for tag in changed if tag not in raw.ifd] + [tag for tag in in_first if tag not in first]
    in_first |= _version_entries(tiff, first, raw.ifd, raster, added)
    if raw_is_first:
        changed |= in_first

    dropped = _LAYOUT_TAGS | stale
    if _OPCODE_LIST_2 in raw.ifd and image.metadata.source is not None:  # as it was read, so less what was applied
        dropped |= {_OPCODE_LIST_2}
        left = image.metadata.opcode_lists.get("OpcodeList2")
        changed |= {} if left is None else {_OPCODE_LIST_2: Entry.make(_OPCODE_LIST_2, UNDEFINED, left)}

    kept = {t: e for t, e in raw.ifd.entries.items() if t not in dropped and t not in changed}
    gone = [e for t, e in raw.ifd.entries.items() if t not in kept or t in _MOVABLE_TAGS]
    kept = {t: replace(e, offset=-1) if t in _MOVABLE_TAGS else e for t, e in kept.items()}
    own = [(raw.ifd.offset, _directory_end(tiff, raw.ifd)), *_data_extents(raw.ifd)]
    own += _long_values(gone)
    others = [*_other_extents(tiff, raw.ifd), *_long_values(kept.values())]
    check_size(len(source) + sum(map(len, tiles)))
    space = _Space.freed(source, own, others)

    entries = [*kept.values(), *changed.values()]
    block, _ = serialize_ifd(entries, 0, order, raw.ifd.next_offset, keep_values=True)
    at = space.reserve(len(block), 2)
    struct.pack_into(order + "I", space.data, raw.pointer, at)
    if not raw_is_first:  # parsed again, because the pointer to the raw directory may lie in it
        _update(space, TiffFile.parse(bytes(space.data)).ifd(first.offset), in_first, stale, order)
    offsets = [space.put(tile, 2) for tile in tiles]
    changed[_TILE_OFFSETS] = Entry.make(_TILE_OFFSETS, LONG, offsets, order)
    block, _ = serialize_ifd([*kept.values(), *changed.values()], at, order, raw.ifd.next_offset, keep_values=True)
    space.data[at : at + len(block)] = block
    check_size(len(space.data))
    return space.data


def _update(space: _Space, ifd: Ifd, entries: dict[int, Entry], stale: set[int], order: ByteOrder) -> None:
    """Change and drop tags of IFD 0: in place when all keep their size, otherwise in a new directory."""
    old = ifd.entries
    same_size = all(t in old and (old[t].type, old[t].count) == (e.type, e.count) for t, e in entries.items())
    if same_size and stale.isdisjoint(old):
        for tag, entry in entries.items():
            space.data[old[tag].offset : old[tag].offset + len(entry.data)] = entry.data
        return
    kept = [e for t, e in old.items() if t not in entries and t not in stale]
    block, _ = serialize_ifd([*kept, *entries.values()], 0, order, ifd.next_offset, keep_values=True)
    at = space.reserve(len(block), 2)
    block, _ = serialize_ifd([*kept, *entries.values()], at, order, ifd.next_offset, keep_values=True)
    space.data[at : at + len(block)] = block
    struct.pack_into(order + "I", space.data, 4, at)


def _level_entries(image: AnyRaw, raster: StoredRaster, raw: Ifd, order: ByteOrder) -> list[Entry]:
    """Levels and CFA of the new raw directory, as far as they differ from what is there."""
    planes = raster.planes
    black = {e.tag: e for e in black_entries(image.black, raster.scale, planes, order)}
    entries = []
    for tag in (50715, 50716):
        if tag in raw and tag not in black:  # no deltas any more
            black[tag] = Entry.make(tag, raw.entries[tag].type, [(0, 1)] * raw.entries[tag].count, order)
    unset = _BLACK not in raw and not np.any(image.black.pattern)
    if not unset and any(raw.get(t) != e.values(order) for t, e in black.items()):
        entries += black.values()
    white = [round(w * raster.scale) for w in raw.get(_WHITE) if image.white_level in raw.get(_WHITE)]
    white = white or [raster.white_level] * planes
    if raw.get(_WHITE) != tuple(white):
        entries.append(Entry.make(_WHITE, LONG, white, order))
    if isinstance(image, RawImage) and raw.first(262) == CFA_PHOTOMETRIC:
        dim, pattern = cfa_entries(image, order)
        if raw.get(_CFA_DIM) != dim.values(order) or raw.get(_CFA_PATTERN) != pattern.values(order):
            entries += [dim, pattern]
    return entries


def _identity_entries(raster: StoredRaster, tiff: TiffFile, first: Ifd, raw_is_first: bool) -> dict[int, Entry]:
    """Digests and identity of the raw data, as far as IFD 0 has them; a rebuilt IFD 0 gains the digest."""
    entries: dict[int, bytes] = {}
    digest = new_raw_image_digest(raster.samples, _transparency_mask(tiff))
    if raw_is_first or _NEW_DIGEST in first:
        entries[_NEW_DIGEST] = digest
    if _OLD_DIGEST in first:
        entries[_OLD_DIGEST] = raw_image_digest(raster.samples)
    if _UNIQUE_ID in first:
        seed = first.entries[_UNIQUE_ID].data + digest
        entries[_UNIQUE_ID] = hashlib.md5(seed, usedforsecurity=False).digest()
    return {tag: Entry.make(tag, BYTE, data) for tag, data in entries.items()}


def _transparency_mask(tiff: TiffFile) -> NDArray | None:
    """(H, W) pixels of the transparency mask; None without one."""
    masks = [ifd for ifd, _ in _directories(tiff) if ifd.first(254) == _TRANSPARENCY_MASK]
    return dng_pixels.decode(tiff.data, masks[0]) if masks else None


def _version_entries(tiff: TiffFile, first: Ifd, raw: Ifd, raster: StoredRaster, added: list[int]) -> dict[int, Entry]:
    """DNGVersion and DNGBackwardVersion where a feature came or went.

    JPEG XL is why a DNG asks for a reader of 1.7; once no image of the file uses it, 1.4 reads everything here.
    """
    version = tuple(int(v) for v in first.get(DNG_VERSION))
    backward = tuple(int(v) for v in first.get(_BACKWARD_VERSION, (*version[:2], 0, 0)))
    elsewhere = any(i.first(259) == _JPEG_XL for i, _ in _directories(tiff) if i.offset != raw.offset)
    if raw.first(259) == _JPEG_XL and not elsewhere:
        backward = min(backward, _WITHOUT_JPEG_XL)
    backward = max(backward, _FLOAT_SINCE if raster.is_float else _LOSSLESS_SINCE)
    version = max([version, backward, *(_SINCE[tag] for tag in added if tag in _SINCE)])
    new = {DNG_VERSION: version, _BACKWARD_VERSION: backward}
    return {tag: Entry.make(tag, BYTE, bytes(v)) for tag, v in new.items() if first.get(tag) != v}
