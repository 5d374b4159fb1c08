"""Mosaics without a header that says what they are: bare ``.raw``, ``.npy``, gray TIFF and PNG.

The pixels are in the file; what they mean comes from a ``MosaicSpec``, from a JSON file beside the picture
(``flat_001.png.json`` for ``flat_001.png``) or from arguments.  Nothing is guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import MetadataError, UnsupportedRawError
from rawkit.raw.dng_pixels import MAX_PIXELS
from rawkit.resources import parse_json

PNG_MAGIC, NPY_MAGIC = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_KINDS = ("u1", "u2", "f4")
_POSITIVE = ("white_level", "iso", "exposure_time", "aperture", "focal_length")


@dataclass(frozen=True, kw_only=True)
class MosaicSpec:
    """What a headless mosaic does not say itself.  The JSON sidecar has the same keys.

    Parameters
    ----------
    width, height : int
        Pixels; needed for a bare ``.raw``, otherwise checked against the file when given.
    dtype : str
        Of a bare ``.raw``: ``"<u2"`` (16-bit little-endian), ``">u2"``, ``"u1"`` or ``"<f4"``.
    offset : int
        Bytes before the first pixel of a bare ``.raw``.
    cfa : str
        ``"RGGB"`` ..., 36 X-Trans letters, or ``"MONO"``.
    black_level : float or sequence of float [DN]
        One for all, or one per phase (R, Gr, Gb, B).
    white_level : float [DN]
        Saturation, black included.
    iso, exposure_time [s], aperture, focal_length [mm], make, model, as_shot_neutral, orientation
        As in ``Metadata``, numbers positive; leave out what is not known.

    Raises
    ------
    MetadataError
        From ``check`` and ``from_json``: a value of the wrong kind or out of range.
    """

    width: int | None = None
    height: int | None = None
    dtype: str | None = None
    offset: int = 0
    cfa: str | None = None
    black_level: float | Sequence[float] | None = None
    white_level: float | None = None
    iso: float | None = None
    exposure_time: float | None = None
    aperture: float | None = None
    focal_length: float | None = None
    make: str | None = None
    model: str | None = None
    as_shot_neutral: Sequence[float] | None = None
    orientation: int = 1

    @classmethod
    def from_json(cls, path: Path) -> MosaicSpec:
        """Read a sidecar; ``MetadataError`` when it is not JSON or has unknown keys."""
        try:
            content = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise MetadataError(f"the sidecar {path} is not readable JSON ({error}).") from error
        known = [f.name for f in fields(cls)]
        if not isinstance(content, dict) or set(content) - set(known):
            unknown = sorted(set(content) - set(known)) if isinstance(content, dict) else type(content).__name__
            raise MetadataError(f"the sidecar {path} has {unknown}; its keys may be {', '.join(known)}.")
        spec = cls(**content)
        spec.check()
        return spec

    def check(self) -> None:
        """Raise ``MetadataError`` for values of the wrong kind."""
        for name in ("width", "height", "offset", "orientation"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise MetadataError(f"{name} must be a whole number, found {value!r}.")
        if self.orientation not in range(1, 9):
            raise MetadataError(f"orientation must be one of EXIF's, 1 to 8, found {self.orientation}.")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise MetadataError(f"{name} must be a positive number, found {value!r}; leave out what is not known.")
        black: Any = self.black_level
        listed = black if isinstance(black, list | tuple) else [] if black is None else [black]
        if not all(_is_number(v) for v in listed):
            raise MetadataError(f"black_level must be a number or a list of numbers, found {black!r}.")
        neutral = self.as_shot_neutral
        if neutral is not None and not (
            isinstance(neutral, list | tuple) and len(neutral) == 3 and all(_is_number(v) and v > 0 for v in neutral)
        ):
            raise MetadataError(f"as_shot_neutral must be a list of three positive numbers, found {neutral!r}.")
        for name in ("dtype", "cfa", "make", "model"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise MetadataError(f"{name} must be text, found {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def sidecar_path(path: Path) -> Path:
    """Where the JSON for ``path`` would be.

    Examples
    --------
    >>> sidecar_path(Path("dark.raw")).name
    'dark.raw.json'
    """
    return path.with_name(path.name + ".json")


def read_pixels(path: Path, spec: MosaicSpec, head: bytes) -> NDArray:
    """(H, W) uint8, uint16 or float32 mosaic of the .npy, PNG, TIFF or bare file whose first bytes are ``head``."""
    if head.startswith(NPY_MAGIC):
        mosaic = map_npy(path)
    elif head.startswith(PNG_MAGIC):
        mosaic = _read_png(path)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        mosaic = _read_tiff(path)
    else:
        mosaic = _read_bare(path, spec)
    if mosaic.ndim != 2 or mosaic.dtype.newbyteorder("=").str[1:] not in _KINDS or mosaic.size == 0:
        raise UnsupportedRawError(
            f"the file holds a {mosaic.dtype} array of shape {mosaic.shape}; "
            "a mosaic is two-dimensional, of 8 or 16-bit unsigned integers or 32-bit floats."
        )
    stated = (spec.height or mosaic.shape[0], spec.width or mosaic.shape[1])
    if stated != mosaic.shape:
        raise MetadataError(
            f"the file holds {mosaic.shape[1]}x{mosaic.shape[0]} pixels, {stated[1]}x{stated[0]} were stated."
        )
    return np.ascontiguousarray(mosaic, mosaic.dtype.newbyteorder("="))


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnsupportedRawError(
            f"the header states {width}x{height} pixels; rawkit reads up to {MAX_PIXELS // 10**6} megapixels."
        )


def map_npy(path: Path) -> NDArray:
    """The array of an .npy file, not yet read; ``UnsupportedRawError`` when it is damaged or holds objects."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python's literals: a damaged one raises anything
        raise UnsupportedRawError(f"this .npy file is damaged ({' '.join(str(error).split())}).") from error
    if mapped.ndim == 2:
        _check_size(*mapped.shape)
    return mapped


def _read_png(path: Path) -> NDArray:
    import imagecodecs

    data = path.read_bytes()
    if len(data) < 26:
        raise UnsupportedRawError("this PNG file is cut.")
    _check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    if data[25] != 0:
        raise UnsupportedRawError("this PNG is a color or palette picture, not a 16-bit gray mosaic.")
    try:
        return imagecodecs.png_decode(data)
    except (RuntimeError, ValueError) as error:
        raise UnsupportedRawError(f"this PNG file is damaged ({' '.join(str(error).split())}).") from error


def _read_tiff(path: Path) -> NDArray:
    import tifffile

    # tifffile tells what it finds odd through this logger; what cannot be read is raised all the same.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0].aspage()
            if len(page.shape) != 2:
                raise UnsupportedRawError(f"this TIFF is a picture of shape {page.shape}, not a gray mosaic.")
            _check_size(*page.shape)
            if any(o + c > path.stat().st_size for o, c in zip(page.dataoffsets, page.databytecounts, strict=True)):
                raise UnsupportedRawError("this TIFF file is cut.")
            return page.asarray()
    except UnsupportedRawError:
        raise
    except Exception as error:  # tifffile has no common base class for what damaged files raise
        raise UnsupportedRawError(f"this TIFF file cannot be read ({' '.join(str(error).split())}).") from error


def _read_bare(path: Path, spec: MosaicSpec) -> NDArray:
    if spec.width is None or spec.height is None or spec.dtype is None:
        missing = [name for name in ("width", "height", "dtype") if getattr(spec, name) is None]
        raise MetadataError(
            f"a bare mosaic needs {', '.join(missing)}; write them into the sidecar {sidecar_path(path).name}."
        )
    try:
        dtype = np.dtype(spec.dtype)
    except (TypeError, ValueError, SyntaxError) as error:  # NumPy parses whole structures from such text
        raise MetadataError(f'dtype {spec.dtype!r} is not known; use "<u2", ">u2", "u1" or "<f4".') from error
    if dtype.str[1:] not in _KINDS:
        raise MetadataError(f'dtype {spec.dtype!r} is not supported; use "<u2", ">u2", "u1" or "<f4".')
    _check_size(spec.height, spec.width)
    needed, size = spec.offset + spec.width * spec.height * dtype.itemsize, path.stat().st_size
    if needed != size:
        raise MetadataError(
            f"the file has {size} bytes; {spec.width}x{spec.height} pixels of {dtype.itemsize} bytes after an offset "
            f"of {spec.offset} make {needed}. Check width, height, dtype and offset."
        )
    return np.fromfile(path, dtype, offset=spec.offset).reshape(spec.height, spec.width)
