"""A DNG from nothing but an image: thumbnail, EXIF, color and raw data.

Layout: header, thumbnail, EXIF, raw and preview directories, GPS, IFD 0, then the tiles on 16-byte boundaries, so
that a later rewrite can cut the old raw data off the end.  EXIF, GPS, XMP, IPTC and the maker note are the source's
own (``exif_copy``); every other tag is listed here.  What is not recorded is left out, except two things without which
readers refuse a color file:

* color matrix: when none is known, camera color divided by its neutral is taken as linear sRGB,
  ColorMatrix1 = diag(neutral) * XYZ-to-sRGB(D65).  Grays are right, colors uncalibrated.
* as-shot neutral: when none is known, (1, 1, 1).

Both are reported in the result's notes.

References: DNG 1.7.1 specification, chapters 2 to 4; Exif 2.31; IEC 61966-2-1 (matrix).
"""

from __future__ import annotations

import re
import struct
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw import preview
from rawkit.raw.digest import new_raw_image_digest
from rawkit.raw.dng_directory import CFA_PHOTOMETRIC, LINEAR_RAW
from rawkit.raw.dng_pixels import JPEG
from rawkit.raw.dng_raster import (
    StoredRaster,
    black_entries,
    cfa_entries,
    check_size,
    layout_entries,
    noise_entries,
)
from rawkit.raw.exif_copy import carried_metadata
from rawkit.raw.image import AnyRaw, Metadata, RawImage
from rawkit.raw.tiff import ASCII, BYTE, DOUBLE, LONG, RATIONAL, SHORT, SRATIONAL, UNDEFINED, Entry, serialize_ifd

_XYZ_TO_SRGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)  # IEC 61966-2-1
_D65 = 21  # Exif LightSource
_THUMBNAIL, _PREVIEW = 256, 2048  # pixels, longer side
_MATRIX_DENOMINATOR, _FINE_DENOMINATOR = 10_000, 1_000_000
_CROP_MARGIN = 4  # pixels that demosaicing needs around the default crop
_TILE_ALIGN = 16
_ISO_OVERFLOW = 65535  # Exif: the ISO tag is a SHORT, this value sends the reader to another tag
_RECOMMENDED_EXPOSURE_INDEX = 2  # Exif SensitivityType
_OPCODE_TAGS = {"OpcodeList1": 51008, "OpcodeList2": 51009, "OpcodeList3": 51022}
_DNG_VERSION = (1, 4, 0, 0)
_BACKWARD_LOSSLESS, _BACKWARD_FLOAT = (1, 1, 0, 0), (1, 4, 0, 0)
# DateTime and OriginalRawFileName: the source's own know better than what the image remembers of it
_THEIR_TAGS = (306, 50827)
_ISO_TAGS = (34855, 34864, 34865, 34866, 34867)


def build(
    image: AnyRaw,
    raster: StoredRaster,
    tiles: list[bytes],
    noise_tags: list[Entry],
    name: str,
    notes: list[str],
    preview_time: datetime | None = None,
) -> bytearray:
    """The whole file.

    Parameters
    ----------
    image : RawImage or LinearImage
    raster, tiles
        What to store; see ``rawkit.raw.dng_raster``.
    noise_tags : list of Entry
        NoiseProfile and NoiseReductionApplied, little-endian.
    name : str
        OriginalRawFileName; empty to leave it out.
    notes : list of str
        Remarks for the user are appended.
    preview_time : datetime or None
        PreviewDateTime; see ``rawkit.raw.preview.preview_tags``.

    Returns
    -------
    bytearray

    Raises
    ------
    UnsupportedRawError
        The image has neither 1 nor 3 colors, its metadata hold a number that no DNG can, or the file would grow
        beyond 4 GB.
    """
    if raster.planes not in (1, 3):
        raise UnsupportedRawError(f"a fresh DNG has 1 or 3 color planes, the image has {raster.planes}.")
    small = _preview(image, _THUMBNAIL)
    tags = list(preview.preview_tags("<", preview_time).values())
    carried = carried_metadata(image.metadata.source)
    notes += carried.notes
    data = bytearray(b"II*\0\0\0\0\0") + small.tobytes()

    def put(block: bytes) -> int:
        data.extend(bytes(len(data) % 2))
        data.extend(block)
        return len(data) - len(block)

    def place(entries: list[Entry]) -> tuple[int, dict[int, int]]:
        at = len(data) + len(data) % 2
        block, positions = serialize_ifd(entries, at)
        return put(block), positions

    exif_at, _ = place(_completed(carried.exif, _exif(image.metadata, notes), image.metadata.iso))
    raw_at, positions = place(_raw_entries(image, raster, tiles, noise_tags))
    sub_ifds = [raw_at]
    if max(_default_crop(image)[2:]) > _THUMBNAIL:
        large = _preview(image, _PREVIEW)
        jpeg = preview.jpeg(large)
        sub_ifds.append(place([*_jpeg_entries(large, put(jpeg), len(jpeg)), *tags])[0])
    first = {e.tag: e for e in (*_first_entries(image, raster, name, notes), *tags, *_thumbnail_entries(small))}
    first = {**carried.image, **first, **{tag: carried.image[tag] for tag in _THEIR_TAGS if tag in carried.image}}
    pointers = {330: sub_ifds, 34665: exif_at} | ({34853: place(list(carried.gps.values()))[0]} if carried.gps else {})
    first |= {tag: Entry.make(tag, LONG, value) for tag, value in pointers.items()}
    first_at, _ = place(list(first.values()))
    struct.pack_into("<I", data, 4, first_at)

    offsets = []
    for tile in tiles:
        data.extend(bytes(-len(data) % _TILE_ALIGN))
        offsets.append(len(data))
        data.extend(tile)
        check_size(len(data))
    struct.pack_into(f"<{len(offsets)}I", data, positions[324], *offsets)
    return data


def _raw_entries(image: AnyRaw, raster: StoredRaster, tiles: list[bytes], noise_tags: list[Entry]) -> list[Entry]:
    height, width = raster.samples.shape[:2]
    mosaic = isinstance(image, RawImage) and image.cfa.shape != (1, 1)
    top, left, bottom, right = (image.active_area if isinstance(image, RawImage) else None) or (0, 0, height, width)
    crop_top, crop_left, crop_height, crop_width = _default_crop(image)
    entries = [
        *layout_entries(raster, map(len, tiles)),
        Entry.make(262, SHORT, CFA_PHOTOMETRIC if mosaic else LINEAR_RAW),
        *black_entries(image.black, raster.scale, raster.planes),
        Entry.make(50717, LONG, [raster.white_level] * raster.planes),
        Entry.make(50718, RATIONAL, [(1, 1), (1, 1)]),
        Entry.make(50719, LONG, [crop_left, crop_top]),
        Entry.make(50720, LONG, [crop_width, crop_height]),
        Entry.make(50829, LONG, [top, left, bottom, right]),
    ]
    if isinstance(image, RawImage) and mosaic:
        entries += [*cfa_entries(image), Entry.make(50710, BYTE, bytes((0, 1, 2))), Entry.make(50711, SHORT, 1)]
    recorded, applied = image.metadata.noise_profile, image.metadata.noise_reduction_applied
    if recorded and not noise_tags:  # once noise was reduced, the recorded one is not true
        entries.append(Entry.make(51041, DOUBLE, [value for pair in recorded for value in pair]))
    if applied is not None and 0 <= applied <= 1:
        entries += noise_entries(image, None, applied)
    entries = list({entry.tag: entry for entry in (*entries, *noise_tags)}.values())
    for key, opcodes in image.metadata.opcode_lists.items():
        entries.append(Entry.make(_OPCODE_TAGS[key], UNDEFINED, opcodes))
    return entries


def _first_entries(image: AnyRaw, raster: StoredRaster, name: str, notes: list[str]) -> list[Entry]:
    meta = image.metadata
    digest = new_raw_image_digest(raster.samples)
    entries = [
        Entry.make(274, SHORT, meta.orientation),
        Entry.make(305, ASCII, preview.SOFTWARE),
        Entry.make(50706, BYTE, bytes(_DNG_VERSION)),
        Entry.make(50707, BYTE, bytes(_BACKWARD_FLOAT if raster.is_float else _BACKWARD_LOSSLESS)),
        Entry.make(50708, ASCII, meta.unique_camera_model or meta.camera()),
        Entry.make(50781, BYTE, digest),  # the same identity for the same raw data
        Entry.make(51111, BYTE, digest),
    ]
    texts = {271: meta.make, 272: meta.model, 306: _exif_time(meta.datetime, []), 50735: meta.serial, 50827: name}
    entries += [Entry.make(tag, ASCII, text) for tag, text in texts.items() if text]
    if meta.baseline_exposure is not None:
        entries.append(Entry.make(50730, SRATIONAL, [_fixed(meta.baseline_exposure)]))
    if raster.planes == 3 or (isinstance(image, RawImage) and image.cfa.shape != (1, 1)):
        entries += _color_entries(meta, notes)
    return entries


def _color_entries(meta: Metadata, notes: list[str]) -> list[Entry]:
    """AsShotNeutral, ColorMatrix1 (2) and CalibrationIlluminant1 (2)."""
    neutral = meta.as_shot_neutral
    if neutral is None:
        neutral = (1.0, 1.0, 1.0)
        notes.append("the white balance is not recorded: AsShotNeutral is 1, 1, 1.")
    if len(neutral) != 3:
        raise UnsupportedRawError(f"a fresh DNG has 3 colors, the as-shot neutral has {len(neutral)}.")
    matrices = meta.color_matrices[:2]
    if not matrices:
        matrices = ((_D65, np.diag(neutral) @ _XYZ_TO_SRGB),)
        notes.append("no color matrix is known: white-balanced camera color is taken as linear sRGB.")
    entries = [Entry.make(50728, RATIONAL, [_fixed(n, _FINE_DENOMINATOR, signed=False) for n in neutral])]
    for k, (illuminant, matrix) in enumerate(matrices):
        entries.append(Entry.make(50721 + k, SRATIONAL, [_fixed(v) for v in np.ravel(matrix)]))
        entries.append(Entry.make(50778 + k, SHORT, illuminant))
    return entries


def _fixed(value: float, denominator: int = _MATRIX_DENOMINATOR, *, signed: bool = True) -> tuple[int, int]:
    """(numerator, denominator) in 32 bits each; the denominator is a tenth, a hundredth ... where that is needed.

    Examples
    --------
    >>> _fixed(-0.25), _fixed(5000, 1_000_000, signed=False)
    ((-2500, 10000), (500000000, 100000))
    """
    limit = 2**31 if signed else 2**32
    while abs(value) * denominator >= limit - 1 and denominator > 1:
        denominator //= 10
    if not (-limit if signed else 0) <= value * denominator < limit:  # NaN too
        raise UnsupportedRawError(f"the metadata hold {value:g}, which a DNG cannot; correct it or leave it out.")
    return round(float(value) * denominator), denominator


def _fraction(value: float) -> tuple[int, int]:
    """Exposure time, aperture or focal length as 1/n or with six digits."""
    inverse = 1 / value if 0 < value < 1 else 0.0
    if 1 < inverse < 2**32 and abs(inverse - round(inverse)) < 1e-3 * inverse:
        return 1, round(inverse)
    return _fixed(value, _FINE_DENOMINATOR, signed=False)


def _exif(meta: Metadata, notes: list[str]) -> list[Entry]:
    entries = [Entry.make(36864, UNDEFINED, b"0231")]
    ratios = {33434: meta.exposure_time, 33437: meta.aperture, 37386: meta.focal_length}
    entries += [Entry.make(tag, RATIONAL, [_fraction(v)]) for tag, v in ratios.items() if v is not None]
    texts = {36867: _exif_time(meta.datetime, notes), 42033: meta.serial, 42036: meta.lens}
    entries += [Entry.make(tag, ASCII, text) for tag, text in texts.items() if text]
    if meta.iso is not None:
        iso = round(meta.iso)
        entries.append(Entry.make(34855, SHORT, min(iso, _ISO_OVERFLOW)))
        if iso >= _ISO_OVERFLOW:
            entries.append(Entry.make(34864, SHORT, _RECOMMENDED_EXPOSURE_INDEX))
            entries.append(Entry.make(34866, LONG, iso))
    return entries


def _exif_time(text: str | None, notes: list[str]) -> str | None:
    """``YYYY:MM:DD HH:MM:SS`` from that or from ISO 8601; None when absent or not a date."""
    found = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)", text or "")
    if text and not found:
        notes.append(f"the date {text!r} is neither EXIF nor ISO 8601 and was left out.")
    return "{}:{}:{} {}:{}:{}".format(*found.groups()) if found else None


def _preview(image: AnyRaw, longest: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 sRGB of the default crop, its longer side ``longest`` pixels or, if it is smaller, its own."""
    top, left, height, width = _default_crop(image)
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return preview.fitted(image, *size, (top, left, height, width))


def _default_crop(image: AnyRaw) -> tuple[int, int, int, int]:
    """(top, left, height, width) in the active area: all that needs no neighbors beyond it to be demosaiced."""
    height, width = preview.image_size(image)
    colored = isinstance(image, RawImage) and image.cfa.shape != (1, 1)
    margin = _CROP_MARGIN if colored and min(height, width) > 4 * _CROP_MARGIN else 0
    return margin, margin, height - 2 * margin, width - 2 * margin


def _completed(carried: dict[int, Entry], stated: list[Entry], iso: float | None) -> list[Entry]:
    """EXIF as the camera wrote it, with what it lacks; an ISO the user gave replaces the recorded one."""
    recorded = carried.get(34855)
    if (
        recorded is not None
        and iso is not None
        and next(iter(recorded.values("<")), None) != min(round(iso), _ISO_OVERFLOW)
    ):
        carried = {tag: entry for tag, entry in carried.items() if tag not in _ISO_TAGS}
    return list({**{entry.tag: entry for entry in stated}, **carried}.values())


def _jpeg_entries(picture: NDArray[np.uint8], at: int, size: int) -> list[Entry]:
    height, width = picture.shape[:2]
    return [
        Entry.make(254, LONG, 1),
        Entry.make(256, LONG, width),
        Entry.make(257, LONG, height),
        Entry.make(258, SHORT, [8, 8, 8]),
        Entry.make(259, SHORT, JPEG),
        Entry.make(262, SHORT, 6),
        Entry.make(273, LONG, at),
        Entry.make(277, SHORT, 3),
        Entry.make(278, LONG, height),
        Entry.make(279, LONG, size),
        Entry.make(284, SHORT, 1),
        Entry.make(530, SHORT, [1, 1]),
        Entry.make(531, SHORT, 1),
        Entry.make(532, RATIONAL, [(0, 1), (255, 1), (128, 1), (255, 1), (128, 1), (255, 1)]),
    ]


def _thumbnail_entries(small: NDArray[np.uint8]) -> list[Entry]:
    height, width = small.shape[:2]
    return [
        Entry.make(254, LONG, 1),
        Entry.make(256, LONG, width),
        Entry.make(257, LONG, height),
        Entry.make(258, SHORT, [8, 8, 8]),
        Entry.make(259, SHORT, 1),
        Entry.make(262, SHORT, 2),
        Entry.make(273, LONG, 8),
        Entry.make(277, SHORT, 3),
        Entry.make(278, LONG, height),
        Entry.make(279, LONG, small.size),
        Entry.make(284, SHORT, 1),
    ]
