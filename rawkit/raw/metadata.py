"""What raw files say about themselves: EXIF, maker notes, DNG tags.

A number that is not recorded stays None; a recorded 0 (ISO, exposure time, aperture, focal length) means the
same.  Sources in order of trust:

    ISO   PhotographicSensitivity (34855) unless 0 or 65535 ("does not fit 16 bits"), RecommendedExposureIndex
          (34866), ISOSpeed (34867), StandardOutputSensitivity (34865), ExposureIndex (37397, 41493), the maker
          note, LibRaw
    the rest   DNG tags, EXIF, the maker note

References: EXIF 3.0 (CIPA DC-008-2023), section 4.6.7; TIFF/EP (ISO 12234-2); DNG 1.7.1 specification, chapter 4.
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rawkit.raw.dng_pixels import integer, numbers
from rawkit.raw.image import Metadata
from rawkit.raw.tiff import Ifd

_TOO_LARGE = 65535  # PhotographicSensitivity of a higher ISO (EXIF 3.0, tag 34855)
_MOST_STOPS = 32  # of BaselineExposure, either way: twice the range of a 16-bit sensor
_HEAD = 1 << 20  # CR3 keeps its metadata boxes within the first bytes of the file

# DNG tags: (ColorMatrix, CalibrationIlluminant) pairs and opcode lists
_MATRICES = ((50721, 50778), (50722, 50779), (52531, 52529))
_OPCODES = {51008: "OpcodeList1", 51009: "OpcodeList2", 51022: "OpcodeList3"}

Tags = Mapping[str, Any]


def exif_metadata(path: Path, *, serial: str | None = None) -> Metadata:
    """Metadata of any file exifread understands; nothing recorded when it does not.

    A ``serial`` known from elsewhere may save parsing the maker note, which takes as long as decoding the pixels.
    """
    tags = _exif_tags(path, maker_note=False)
    metadata = from_tags(tags)
    if tags and (metadata.iso is None or (metadata.serial or serial) is None):
        metadata = from_tags(_exif_tags(path, maker_note=True))
    return metadata


def _exif_tags(path: Path, *, maker_note: bool) -> dict[str, Any]:
    import exifread

    # exifread reports what it cannot parse through this logger; absence is no news here.
    logging.getLogger("exifread").setLevel(logging.CRITICAL)
    tags: dict[str, Any] = {}
    with _Patient(path.open("rb", buffering=0)) as file:
        for stream in _exif_streams(file):
            try:
                found = exifread.process_file(stream, details=maker_note, extract_thumbnail=False, truncate_tags=False)
            except Exception:  # damaged metadata raise anything; "not recorded" is all that can be said then
                continue
            for name, value in found.items():
                tags.setdefault(name, value)
    return tags


class _Patient(io.BufferedReader):
    """A file that is not read more than so often: exifread reads value by value as many as a damaged tag announces.

    A large maker note takes 160,000 readings.
    """

    _patience = 400_000  # readings, about a second

    def read(self, size: int | None = -1, /) -> bytes:
        self._patience -= 1
        if self._patience < 0:
            raise EOFError("a tag announces more values than a raw file has.")
        return super().read(size)


def _exif_streams(file: BinaryIO) -> list[BinaryIO]:
    """Where a file keeps TIFF-style metadata: itself, the JPEG in a Fujifilm RAF, the CMT boxes of a Canon CR3."""
    head = file.read(16)
    file.seek(0)
    if head[:2] in (b"II", b"MM", b"\xff\xd8") or head[:4] == b"\x89PNG":
        return [file]
    if head[:8] == b"FUJIFILM":
        header = file.read(92)
        if len(header) < 92:
            return []
        offset, length = struct.unpack_from(">II", header, 84)
        file.seek(offset)
        return [_Patient(io.BytesIO(file.read(min(length, 64 * _HEAD))))]
    if head[4:12] == b"ftypcrx ":
        data = file.read(_HEAD)
        boxes = []
        for name in (b"CMT1", b"CMT2"):
            at = data.find(name)
            if at >= 4:
                size = struct.unpack_from(">I", data, at - 4)[0]
                boxes.append(_Patient(io.BytesIO(data[at + 4 : at - 4 + size])))
        return boxes
    return []


def from_tags(tags: Tags) -> Metadata:
    """Metadata from exifread's dictionary of tags."""
    return Metadata(
        make=_text(tags, "Make"),
        model=_text(tags, "Model"),
        serial=_text(tags, "BodySerialNumber", "SerialNumber", "CameraSerialNumber"),
        lens=_text(tags, "LensModel"),
        software=_text(tags, "Software"),
        datetime=_text(tags, "DateTimeOriginal", "DateTimeDigitized", "DateTime"),
        iso=iso_from_tags(tags),
        exposure_time=_positive(tags, "ExposureTime"),
        aperture=_positive(tags, "FNumber"),
        focal_length=_positive(tags, "FocalLength"),
        orientation=_orientation(tags),
        temperature=_temperature(tags),
    )


def iso_from_tags(tags: Tags) -> float | None:
    """ISO speed from exifread's tags, in the order of the module's docstring; None when nowhere recorded."""
    speed = _positive(tags, "ISOSpeedRatings", "PhotographicSensitivity")
    if speed is not None and speed != _TOO_LARGE:
        return speed
    elsewhere = ("RecommendedExposureIndex", "ISOSpeed", "StandardOutputSensitivity", "ExposureIndex")
    return _positive(tags, *elsewhere) or _maker_note_iso(tags)


def _maker_note_iso(tags: Tags) -> float | None:
    """Nikon ISOInfo and ISOSetting, Canon ISO: what exifread decodes of them."""
    info = _values(tags.get("MakerNote ISOInfo"))
    if info and isinstance(info[0], int) and info[0] > 0:
        return round(100 * 2 ** (info[0] / 12 - 5))  # Nikon ISOInfo, first byte, steps of 1/12 stop
    for name in ("MakerNote ISOSetting", "MakerNote ISOSpeedRequested"):
        numbers = [v for v in map(_number, _values(tags.get(name))) if v]
        if numbers:
            return numbers[-1]
    canon = re.fullmatch(r"(?:ISO\s*)?(\d{2,6})", str(tags.get("MakerNote ISO", "")).strip())
    return float(canon[1]) if canon else None


def _find(tags: Tags, *names: str) -> list[Any]:
    """Every recorded tag of these names: EXIF directory before IFD 0 before the maker note."""
    places = [f"{place} {name}" for name in names for place in ("EXIF", "Image", "MakerNote")]
    return [tags[place] for place in places if place in tags]


def _values(tag: Any) -> list[Any]:
    values = getattr(tag, "values", tag)
    if values is None or isinstance(values, str | bytes):
        return [values] if values else []
    return list(values)


def _number(value: Any) -> float | None:
    """A positive finite number, or None: cameras write 0 and 0/0 for *not recorded*."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _positive(tags: Tags, *names: str) -> float | None:
    numbers = (_number(values[0]) for values in map(_values, _find(tags, *names)) if values)
    return next((n for n in numbers if n is not None), None)


def _text(tags: Tags, *names: str) -> str | None:
    words = (str(getattr(tag, "values", tag)).replace("\0", " ").strip() for tag in _find(tags, *names))
    return next((w for w in words if w and w != "[]"), None)


def _temperature(tags: Tags) -> float | None:
    """Degrees Celsius: the maker note's sensor or camera temperature, else EXIF AmbientTemperature (37888)."""
    for tag in _find(tags, "SensorTemperature", "CameraTemperature", "AmbientTemperature", "Tag 0x9400"):
        value: Any = next(iter(_values(tag)), None)
        try:
            return float(value.removesuffix(" C") if isinstance(value, str) else value)  # Canon's, as "23 C"
        except (TypeError, ValueError, ZeroDivisionError):  # 0/0: not recorded
            continue
    return None


def _orientation(tags: Tags) -> int:
    number = _positive(tags, "Orientation")
    return int(number) if number is not None and number in range(1, 9) else 1


def dng_metadata(base: Metadata, first: Ifd, raw: Ifd) -> Metadata:
    """``base`` completed with the DNG tags of IFD 0 and of the raw directory (which may be the same)."""

    def floats(tag: int) -> tuple[float, ...]:
        return numbers(raw, tag) or numbers(first, tag)

    def finite(tag: int) -> float | None:
        values = floats(tag)
        return values[0] if values and math.isfinite(values[0]) else None

    notes = list(base.notes)
    neutral = floats(50728) or None
    if neutral is not None and not all(math.isfinite(v) and v > 0 for v in neutral):
        notes.append(f"AsShotNeutral {neutral} is not a color and was ignored.")
        neutral = None
    if neutral is None and (50729 in first or 50729 in raw):
        notes.append("The white balance is recorded as AsShotWhiteXY, which is not converted to a neutral color.")
    exposure = finite(50730)
    if exposure is not None and abs(exposure) > _MOST_STOPS:
        notes.append(f"BaselineExposure {exposure:g} is no exposure and was ignored.")
        exposure = None
    return replace(
        base,
        make=base.make or first.text(271),
        model=base.model or first.text(272),
        unique_camera_model=first.text(50708),
        serial=base.serial or first.text(50735),
        software=base.software or first.text(305),
        as_shot_neutral=neutral,
        color_matrices=_color_matrices(first),
        baseline_exposure=exposure,
        noise_profile=_noise_profile(floats(51041)),
        noise_reduction_applied=finite(50935),
        opcode_lists={
            name: (raw if tag in raw else first).entries[tag].data
            for tag, name in _OPCODES.items()
            if tag in raw or tag in first
        },
        notes=tuple(notes),
    )


def _color_matrices(first: Ifd) -> tuple[tuple[int, np.ndarray], ...]:
    """(illuminant, 3 x 3 XYZ to camera) for each recorded ColorMatrix of a three-color camera."""
    found = []
    for tag, illuminant in _MATRICES:
        values = numbers(first, tag)
        if len(values) == 9 and np.isfinite(values).all():
            found.append((integer(first, illuminant, 0), np.array(values, np.float64).reshape(3, 3)))
    return tuple(found)


def _noise_profile(values: tuple[float, ...]) -> tuple[tuple[float, float], ...] | None:
    if not values or len(values) % 2 or not np.isfinite(values).all():
        return None
    return tuple(zip(values[::2], values[1::2], strict=True))
