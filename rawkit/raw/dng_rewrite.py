"""Same-structure rewrite of a DNG: new raw data, everything else byte for byte where it was.

EXIF, maker notes and XMP keep their file positions, so offsets inside maker notes stay true.  The bytes
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
from dataclasses import replace

import numpy as np

from rawkit.errors import UnsupportedRawError
from rawkit.raw import dng_pixels
from rawkit.raw.digest import new_raw_image_digest, raw_image_digest
from rawkit.raw.dng_directory import (
    CFA_PHOTOMETRIC,
    DNG_VERSION,
    data_extents,
    directories,
    directory_end,
    find_raw,
    long_values,
)
from rawkit.raw.dng_raster import (
    StoredRaster,
    black_entries,
    cfa_entries,
    check_size,
    layout_entries,
)
from rawkit.raw.dng_space import Space, other_extents, update_directory
from rawkit.raw.image import AnyRaw, RawImage
from rawkit.raw.tiff import BYTE, LONG, UNDEFINED, ByteOrder, Entry, Ifd, TiffFile, serialize_ifd

_BACKWARD_VERSION, _TILE_OFFSETS = 50707, 324
_BLACK_DIM, _BLACK, _WHITE, _CFA_DIM, _CFA_PATTERN = 50713, 50714, 50717, 33421, 33422
_NEW_DIGEST, _OLD_DIGEST, _UNIQUE_ID = 51111, 50972, 50781
_NOISE_PROFILE, _NOISE_REDUCTION_APPLIED = 51041, 50935
_LINEARIZATION, _OPCODE_LIST_2 = 50712, 51009
_JPEG_XL = 52546

# Tags that say how the old samples were stored; those that still apply are written anew.
_LAYOUT_TAGS = frozenset(
    (254, 256, 257, 258, 259, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 339, 347, 529, 530, 531, 532)
) | {_LINEARIZATION, 50974, 50975, 52547, 52553, 52554, 52555}
# Tags a rewrite may set; their values never stay behind in the middle of free space.
_MOVABLE_TAGS = frozenset(
    (33421, 33422, 50706, 50707, 50713, 50714, 50715, 50716, 50717, 50781, 50935, 50972, 51009, 51041, 51111)
)

# First DNG version with a tag or feature that a rewrite may add.
_SINCE = {_NEW_DIGEST: (1, 4, 0, 0), _NOISE_PROFILE: (1, 3, 0, 0), _NOISE_REDUCTION_APPLIED: (1, 2, 0, 0)}
_FLOAT_SINCE, _LOSSLESS_SINCE, _WITHOUT_JPEG_XL = (1, 4, 0, 0), (1, 1, 0, 0), (1, 4, 0, 0)


def full_raster(source: bytes, image: AnyRaw) -> AnyRaw:
    """A linear image that was cropped to the active area, with the source's border around it again.

    Mosaics, which keep their borders, and linear images of any other size come back as they are.
    """
    directory = find_raw(TiffFile.parse(source))
    raw, shape = directory.ifd, directory.shape
    area = raw.whole_numbers(50829)
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

    Returns
    -------
    bytearray
        The file.

    Raises
    ------
    UnsupportedRawError
        The source is damaged or stores another raster, its OpcodeList1 depends on stored values that would change,
        or the file would grow beyond 4 GB.
    """
    tiff = TiffFile.parse(source)
    order, raw = tiff.order, find_raw(tiff)
    for start, end in data_extents(raw.ifd):
        if end > len(source):
            raise UnsupportedRawError(
                f"raw data should run from byte {start} to {end}, the source ends at {len(source)}: it is cut."
            )
    if raw.shape != raster.samples.shape[:2] or raw.ifd.whole_numbers(277, (1,))[:1] != (raster.planes,):
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
    own = [(raw.ifd.offset, directory_end(tiff, raw.ifd)), *data_extents(raw.ifd)]
    own += long_values(gone)
    others = [*other_extents(tiff, [raw.ifd]), *long_values(kept.values())]
    check_size(len(source) + sum(map(len, tiles)))
    space = Space.freed(source, own, others)

    entries = [*kept.values(), *changed.values()]
    block, _ = serialize_ifd(entries, 0, order, raw.ifd.next_offset, keep_values=True)
    at = space.reserve(len(block), 2)
    struct.pack_into(order + "I", space.data, raw.pointer, at)
    if not raw_is_first:  # parsed again, because the pointer to the raw directory may lie in it
        update_directory(space, TiffFile.parse(bytes(space.data)).ifd(first.offset), 4, in_first, stale)
    offsets = [space.put(tile, 2) for tile in tiles]
    changed[_TILE_OFFSETS] = Entry.make(_TILE_OFFSETS, LONG, offsets, order)
    block, _ = serialize_ifd([*kept.values(), *changed.values()], at, order, raw.ifd.next_offset, keep_values=True)
    space.data[at : at + len(block)] = block
    check_size(len(space.data))
    return space.data


def _level_entries(image: AnyRaw, raster: StoredRaster, raw: Ifd, order: ByteOrder) -> list[Entry]:
    """Levels and CFA of the new raw directory, as far as they differ from what is there."""
    planes = raster.planes
    black = {e.tag: e for e in black_entries(image.black, raster.scale, planes, order)}
    entries = []
    for tag in (50715, 50716):
        if tag in raw and tag not in black:  # no deltas any more
            black[tag] = Entry.make(tag, raw.entries[tag].type, [(0, 1)] * raw.entries[tag].count, order)
    if _BLACK not in raw and not np.any(image.black.pattern):  # 0 where there is none (DNG, chapter 4)
        black = {tag: entry for tag, entry in black.items() if tag not in (_BLACK, _BLACK_DIM)}
    if any(raw.get(t) != e.values(order) for t, e in black.items()):
        entries += black.values()
    white = [round(w * raster.scale) for w in raw.get(_WHITE) if image.white_level in raw.get(_WHITE)]
    white = white or [raster.white_level] * planes
    if raw.get(_WHITE) != tuple(white):
        entries.append(Entry.make(_WHITE, LONG, white, order))
    # An image without colors leaves the source's array alone: DNG has no letter for "no filter".
    if isinstance(image, RawImage) and image.cfa.shape != (1, 1) and raw.first(262) == CFA_PHOTOMETRIC:
        dim, pattern = cfa_entries(image, order)
        if raw.get(_CFA_DIM) != dim.values(order) or raw.get(_CFA_PATTERN) != pattern.values(order):
            entries += [dim, pattern]
    return entries


def _identity_entries(raster: StoredRaster, tiff: TiffFile, first: Ifd, raw_is_first: bool) -> dict[int, Entry]:
    """Digests and identity of the raw data, as far as IFD 0 has them; a rebuilt IFD 0 gains the digest."""
    entries: dict[int, bytes] = {}
    digest = new_raw_image_digest(raster.samples, dng_pixels.transparency_mask(tiff))
    if raw_is_first or _NEW_DIGEST in first:
        entries[_NEW_DIGEST] = digest
    if _OLD_DIGEST in first:
        entries[_OLD_DIGEST] = raw_image_digest(raster.samples)
    if _UNIQUE_ID in first:
        seed = first.entries[_UNIQUE_ID].data + digest
        entries[_UNIQUE_ID] = hashlib.md5(seed, usedforsecurity=False).digest()
    return {tag: Entry.make(tag, BYTE, data) for tag, data in entries.items()}


def _version_entries(tiff: TiffFile, first: Ifd, raw: Ifd, raster: StoredRaster, added: list[int]) -> dict[int, Entry]:
    """DNGVersion and DNGBackwardVersion where a feature came or went.

    JPEG XL is why a DNG asks for a reader of 1.7; once no image of the file uses it, 1.4 reads everything here.
    """
    version = first.whole_numbers(DNG_VERSION)
    backward = first.whole_numbers(_BACKWARD_VERSION, (*version[:2], 0, 0))
    if any(len(v) != 4 or not all(0 <= part <= 255 for part in v) for v in (version, backward)):
        raise UnsupportedRawError(f"DNGVersion {version} and DNGBackwardVersion {backward} are not four bytes each.")
    elsewhere = any(i.first(259) == _JPEG_XL for i, _ in directories(tiff) if i.offset != raw.offset)
    if raw.first(259) == _JPEG_XL and not elsewhere:
        backward = min(backward, _WITHOUT_JPEG_XL)
    backward = max(backward, _FLOAT_SINCE if raster.is_float else _LOSSLESS_SINCE)
    version = max([version, backward, *(_SINCE[tag] for tag in added if tag in _SINCE)])
    new = {DNG_VERSION: version, _BACKWARD_VERSION: backward}
    return {tag: Entry.make(tag, BYTE, bytes(v)) for tag, v in new.items() if first.get(tag) != v}
