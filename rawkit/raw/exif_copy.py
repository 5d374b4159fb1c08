"""Metadata of a raw file, carried as it stands into a fresh DNG.

    IFD 0       description, artist, copyright, rating, resolution, date, XMP, IPTC; from a DNG also its color profile
    EXIF, GPS   every tag but pointers, in the DNG's byte order
    maker note  DNGPrivateData (50740), in the block DNG readers know:
                'Adobe' 0 | 'MakN' | u32 length | 'II' or 'MM' | u32 original offset | the bytes as they were

Both numbers are big-endian; the length counts the two-byte order mark, the offset and the note.  The original offset
lets a reader resolve the note's own absolute offsets.  Read without other programs from TIFF-based raws (NEF, ARW, CR2,
PEF, ORF, RW2 ...), the JPEG inside a Fujifilm RAF, and the boxes of a Canon CR3, whose maker note is a TIFF of its
own and is not carried.

References: DNG 1.7.1 specification, chapter 4 (DNGPrivateData) and its appendix on Adobe's private data; EXIF 3.0
(CIPA DC-008-2023); XMP specification part 3; TIFF 6.0 specification.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rawkit.errors import UnsupportedRawError
from rawkit.raw.dng_directory import DNG_VERSION
from rawkit.raw.tiff import BYTE, RATIONAL, Entry, Ifd, TiffFile, value_item

_EXIF_POINTER, _GPS_POINTER, _INTEROP_POINTER, _MAKER_NOTE = 34665, 34853, 40965, 37500
_XMP, _PRIVATE_DATA, _LENS_SPECIFICATION, _LENS_INFO, _IFD_TYPE = 700, 50740, 42034, 50736, 13
# ImageDescription, resolution, DateTime, Artist, HostComputer, XMP, Rating, Copyright, IPTC
_IMAGE_TAGS = frozenset((270, 282, 283, 296, 306, 315, 316, _XMP, 18246, 18249, 33432, 33723))
# Of a DNG: what describes color, lens and camera, not the stored raster
_DNG_TAGS = frozenset(
    (50708, 50709, *range(50721, 50729), 50730, 50731, 50732, 50734, 50735, _LENS_INFO, 50739, _PRIVATE_DATA, 50741,
     50778, 50779, 50827, 50931, 50932, 50934, *range(50936, 50943), 50964, 50965, 50981, 50982, *range(51107, 51111),
     *range(52529, 52536), 52537, 52538)
)  # fmt: skip
# TIFF with other magic numbers: Olympus ORF, Panasonic RW2
_DIALECTS = {b"IIRO": b"II*\0", b"IIRS": b"II*\0", b"MMOR": b"MM\0*", b"IIU\0": b"II*\0"}
_RAF, _RAF_JPEG = b"FUJIFILM", 84  # position of the embedded JPEG's offset and length
_CR3 = b"ftypcrx "
_CR3_HEAD = 1 << 20  # its metadata boxes lie within the first bytes of the file
_CR3_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MAX_JPEG = 64 << 20
_EXIF_MARK, _XMP_MARK = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class Carried:
    """Little-endian entries for IFD 0, the EXIF and the GPS directory, and remarks on what could not be carried."""

    image: dict[int, Entry] = field(default_factory=dict)
    exif: dict[int, Entry] = field(default_factory=dict)
    gps: dict[int, Entry] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def carried_metadata(path: Path | None) -> Carried:
    """What a raw file records, ready for a fresh DNG; nothing where the file is of no known container.

    Parameters
    ----------
    path : Path or None
        The raw file; None, or a file that is gone, carries nothing.
    """
    if path is None:
        return Carried()
    try:
        return _carried(path)
    except FileNotFoundError:
        return Carried(notes=(f"{path} is gone: only what was read from it before is carried.",))
    except (UnsupportedRawError, struct.error) as error:
        return Carried(notes=(f"EXIF and maker note are not carried: {error}",))


def _carried(path: Path) -> Carried:
    with path.open("rb") as file:
        head = file.read(100)
        file.seek(0)
        if head[:4] in (b"II*\0", b"MM\0*", *_DIALECTS):
            data = file.read()
            return _from_tiff(_DIALECTS.get(data[:4], data[:4]) + data[4:], 0)
        if head.startswith(_RAF) and len(head) >= _RAF_JPEG + 8:
            offset, length = struct.unpack_from(">II", head, _RAF_JPEG)
            file.seek(offset)
            return _from_jpeg(file.read(min(length, _MAX_JPEG)), offset)
        if head[4:12] == _CR3:
            return _from_cr3(file.read(_CR3_HEAD))
    return Carried()


def _from_tiff(data: bytes, base: int) -> Carried:
    """``base``: where ``data`` starts in the file."""
    tiff = TiffFile.parse(data)
    first = tiff.ifd(tiff.first_offset)
    wanted = _IMAGE_TAGS | _DNG_TAGS if DNG_VERSION in first else _IMAGE_TAGS
    image = _little_endian(first, wanted.__contains__)
    exif, gps = (next((tiff.ifd(o) for o in first.whole_numbers(tag)), None) for tag in (_EXIF_POINTER, _GPS_POINTER))
    pointers = (_EXIF_POINTER, _GPS_POINTER, _INTEROP_POINTER, _MAKER_NOTE)
    exif_tags = {} if exif is None else _little_endian(exif, lambda tag: tag not in pointers)
    if exif is not None and _MAKER_NOTE in exif and _PRIVATE_DATA not in image:
        note = exif.entries[_MAKER_NOTE]
        image[_PRIVATE_DATA] = Entry.make(_PRIVATE_DATA, BYTE, maker_note_block(note, exif.order, base))
    if _LENS_SPECIFICATION in exif_tags and exif_tags[_LENS_SPECIFICATION].type == RATIONAL:
        lens = exif_tags[_LENS_SPECIFICATION]
        image.setdefault(_LENS_INFO, Entry(_LENS_INFO, RATIONAL, lens.count, lens.data))
    return Carried(image, exif_tags, {} if gps is None else _little_endian(gps, lambda tag: True))


def _from_jpeg(data: bytes, base: int) -> Carried:
    """APP1 segments of a JPEG that starts at byte ``base`` of the file."""
    carried, xmp = Carried(), b""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        size = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + size]
        if body.startswith(_EXIF_MARK):
            start = position + 4 + len(_EXIF_MARK)
            carried = _from_tiff(body[len(_EXIF_MARK) :], base + start)
        elif body.startswith(_XMP_MARK):
            xmp = body[len(_XMP_MARK) :]
        position += 2 + size
    return _with_xmp(carried, xmp)


def _from_cr3(head: bytes) -> Carried:
    """CMT1 (IFD 0), CMT2 (EXIF) and CMT4 (GPS): each box is a TIFF of its own."""

    def box(name: bytes) -> Ifd | None:
        at = head.find(name)
        if at < 4:
            return None
        tiff = TiffFile.parse(head[at + 4 : at - 4 + struct.unpack_from(">I", head, at - 4)[0]])
        return tiff.ifd(tiff.first_offset)

    first, exif, gps = box(b"CMT1"), box(b"CMT2"), box(b"CMT4")
    carried = Carried(
        {} if first is None else _little_endian(first, _IMAGE_TAGS.__contains__),
        {} if exif is None else _little_endian(exif, lambda tag: tag not in (_MAKER_NOTE, _INTEROP_POINTER)),
        {} if gps is None else _little_endian(gps, lambda tag: True),
        notes=("the maker note of a CR3 is not carried.",) if b"CMT3" in head else (),
    )
    at = head.find(_CR3_XMP)
    return carried if at < 8 else _with_xmp(carried, head[at + 16 : at - 8 + struct.unpack_from(">I", head, at - 8)[0]])


def _with_xmp(carried: Carried, xmp: bytes) -> Carried:
    if xmp:
        carried.image[_XMP] = Entry.make(_XMP, BYTE, xmp)
    return carried


def maker_note_block(note: Entry, order: str, base: int = 0) -> bytes:
    """DNGPrivateData that holds a maker note, padded to an even length.

    Parameters
    ----------
    note : Entry
        EXIF tag 37500; its offset counts from ``base``.
    order : str
        Byte order of the file it comes from, ``<`` or ``>``.

    Examples
    --------
    >>> maker_note_block(Entry(37500, 7, 3, b"abc", 258), "<").hex(" ")
    '41 64 6f 62 65 00 4d 61 6b 4e 00 00 00 09 49 49 00 00 01 02 61 62 63 00'
    """
    mark = b"II" if order == "<" else b"MM"
    body = mark + struct.pack(">I", base + note.offset) + note.data
    return b"Adobe\0MakN" + struct.pack(">I", len(body)) + body + bytes(len(body) % 2)


def _little_endian(ifd: Ifd, wanted: Callable[[int], bool]) -> dict[int, Entry]:
    """Wanted entries with their values in little-endian order; pointers to directories stay behind."""
    return {
        tag: Entry(tag, entry.type, entry.count, _swapped(entry) if ifd.order == ">" else entry.data)
        for tag, entry in ifd.entries.items()
        if wanted(tag) and entry.type != _IFD_TYPE
    }


def _swapped(entry: Entry) -> bytes:
    return np.frombuffer(entry.data, f"u{value_item(entry.type)}").byteswap().tobytes()
