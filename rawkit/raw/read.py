"""Raw files into ``RawImage`` and ``LinearImage``.

Three kinds of file, one result: linear digital numbers with black included, and the levels to read them by.

    DNG         TIFF tags are followed to the letter, samples are decoded by ``dng_pixels``.  LibRaw is not
                asked: it knows no JPEG XL, turns floats into 14-bit integers and rounds an odd ActiveArea
                up to even.  Where both can read a file the rasters are identical (tested).
    other raws  LibRaw decodes, exifread reads the metadata.
    mosaics     ``.raw``, ``.npy``, gray TIFF or PNG, described by a ``MosaicSpec`` or a sidecar.

Levels of a DNG are those of the specification's model (chapter 5): BlackLevel (repeating, from the active
area's top-left pixel) + BlackLevelDeltaH + BlackLevelDeltaV; WhiteLevel with its stated default of 2^bits - 1
for integers and 1.0 for floats.  Nothing else has a default.  Values stored on a curve (lossy DNGs) are made
linear by the LinearizationTable and by the value curves at the head of OpcodeList2; what has been applied is
taken out of ``metadata.opcode_lists``.

References: DNG 1.7.1 specification, chapters 4 and 5; LibRaw 0.22 API.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import DamagedDataWarning, MetadataError, RawkitError, UnsupportedRawError
from rawkit.raw import dng_pixels, mosaic, opcodes
from rawkit.raw.digest import digest_mismatch
from rawkit.raw.dng_directory import CFA_PHOTOMETRIC, DNG_VERSION, find_raw
from rawkit.raw.dng_pixels import integer, integers, numbers
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.raw.metadata import dng_metadata, exif_metadata
from rawkit.raw.mosaic import MosaicSpec
from rawkit.raw.tiff import Ifd, TiffFile

_CFA_LETTERS = "RGBCMYW"  # values of CFAPattern (TIFF/EP)
_D65 = 21  # EXIF light source of LibRaw's matrix
_LONGEST_BLACK_PERIOD = 64  # rows or columns of a repeating black level; cameras have at most 6
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEADLESS_SUFFIXES = (".tif", ".tiff")
# LibRaw's flip -> EXIF orientation
_ORIENTATION_OF_FLIP = {0: 1, 3: 3, 5: 8, 6: 6}

_HOW = {
    "black level": "--black-level N (or one per phase: R,Gr,Gb,B)",
    "white level": "--white-level N",
    "CFA": "--cfa RGGB (BGGR, GRBG, GBRG, MONO)",
}


def read_raw(
    path: str | Path,
    *,
    iso: float | None = None,
    black_level: float | Sequence[float] | None = None,
    white_level: float | None = None,
    cfa: str | CFA | None = None,
    mosaic: MosaicSpec | None = None,
) -> RawImage | LinearImage:
    """Read a raw file.

    Parameters
    ----------
    path : path
        A camera raw file, a DNG, or a headless mosaic.
    iso : float or None
        Overrides the recorded ISO; the only source for files that record none.
    black_level : float, sequence of float or None [DN]
        Overrides the black level: one value, or one per phase (R, Gr, Gb, B; planes of a linear image).
    white_level : float or None [DN]
        Overrides the white level (saturation, black included).
    cfa : str, CFA or None
        Overrides the color filter array, relative to the top-left pixel of the active area.
    mosaic : MosaicSpec or None
        Describes a headless mosaic; without it the sidecar ``<file name>.json`` is looked for.

    Returns
    -------
    RawImage
        Raster with masked borders, uint8, uint16 or float32 [DN, black included].
    LinearImage
        For demosaiced files: (H, W, C) of the active area.  A one-plane linear file is a monochrome RawImage.

    Raises
    ------
    UnsupportedRawError
        The file is no raw image, is damaged, or has a layout rawkit does not know.
    MetadataError
        A level or the CFA is neither in the file nor in the arguments.

    Notes
    -----
    A DNG whose raw data do not have the digest it records is read with a ``DamagedDataWarning`` and a line in
    ``metadata.notes``: what decodes may still be useful, but nobody should take it for the camera's.

    White level of files LibRaw decodes: its ``white_level``, the value at which the stored numbers saturate.
    Some cameras also record where they stop being linear (LibRaw's ``linear_max``), which may be lower or per
    channel; it is reported in ``metadata.notes``.
    """
    path = Path(path)
    try:
        head = _head(path)
        spec = mosaic or _sidecar(path, head)
        overrides = {"iso": iso, "black_level": black_level, "white_level": white_level, "cfa": cfa}
        if spec is not None:
            spec.check()
        if spec is not None or _is_headless(path, head):
            return _read_mosaic(path, head, spec or MosaicSpec(), **overrides)
        if head[:4] in _TIFF_MAGICS and (file := _as_dng(path)) is not None:
            return _read_dng(path, file, **overrides)
        return _read_libraw(path, head, **overrides)
    except RawkitError as error:
        raise type(error)(f"{path}: {error}") from error


def _head(path: Path) -> bytes:
    """First bytes of the file, after the checks that need no parsing."""
    if path.is_dir():
        raise UnsupportedRawError("this is a folder; name a raw file.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UnsupportedRawError(f"cannot be opened ({error.strerror}).") from error
    if not head:
        raise UnsupportedRawError("the file is empty.")
    return head


def _is_headless(path: Path, head: bytes) -> bool:
    """Gray PNG, .npy and plain TIFF never state their levels; a TIFF that is a DNG does, whatever its name."""
    if head.startswith((mosaic.PNG_MAGIC, mosaic.NPY_MAGIC)):
        return True
    return head[:4] in _TIFF_MAGICS and path.suffix.lower() in _HEADLESS_SUFFIXES and _as_dng(path) is None


def _sidecar(path: Path, head: bytes) -> MosaicSpec | None:
    """The specification beside a headless file; other programs leave .json files beside camera raws."""
    bare = path.suffix.lower() in (".raw", ".bin")
    sidecar = mosaic.sidecar_path(path)
    if (bare or _is_headless(path, head)) and sidecar.is_file():
        return MosaicSpec.from_json(sidecar)
    return None


def _as_dng(path: Path) -> TiffFile | None:
    """The parsed file when it is a DNG (tag DNGVersion in IFD 0), None when it is another TIFF."""
    try:
        file = TiffFile.parse(path.read_bytes())
        return file if DNG_VERSION in file.ifd(file.first_offset) else None
    except UnsupportedRawError:
        if path.suffix.lower() == ".dng":
            raise
        return None  # a maker's own dialect of TIFF: LibRaw knows those


# ---------------------------------------------------------------------------------------------------------- DNG


def _read_dng(path: Path, file: TiffFile, **overrides: Any) -> RawImage | LinearImage:
    import imagecodecs

    directory = find_raw(file)
    first, raw = directory.first, directory.ifd
    layout = dng_pixels.Layout.from_ifd(raw, len(file.data))
    area = _active_area(raw, layout.height, layout.width)
    is_cfa = raw.first(262) == CFA_PHOTOMETRIC
    if is_cfa and layout.samples != 1:
        raise UnsupportedRawError(f"a mosaic of {layout.samples} samples per pixel.")
    pattern = overrides["cfa"]
    if is_cfa and pattern is None:
        pattern = _dng_cfa(raw)
    black, white = _dng_levels(raw, layout, area, pattern, overrides)
    raster = dng_pixels.decode(file.data, raw)
    mismatch = digest_mismatch(file, directory, raster)
    metadata = replace(
        dng_metadata(exif_metadata(path, serial=first.text(50735)), first, raw),
        source=path,
        file_format="DNG",
        decoder=f"rawkit, imagecodecs {imagecodecs.__version__}",
    )
    if mismatch is not None:
        metadata = replace(metadata, notes=(*metadata.notes, mismatch))
        warnings.warn(f"{path}: {mismatch}", DamagedDataWarning, stacklevel=3)
    top, left, bottom, right = area
    curves, rest = opcodes.split_curves(metadata.opcode_lists.get("OpcodeList2", opcodes.serialize(())))
    if curves:
        linear = opcodes.linearize(raster[top:bottom, left:right], black, white, curves)
        if linear.shape == raster.shape:
            raster = linear
        else:  # the borders stay as stored: the curves are defined on the active area
            raster = raster.astype(np.float32)
            raster[top:bottom, left:right] = linear
        metadata = _without_curves(metadata, curves, rest)
    if layout.samples == 1:
        return _raw_image(raster, pattern or CFA.mono(), area, black, white, metadata, overrides)
    if area != (0, 0, layout.height, layout.width):
        metadata = replace(metadata, notes=(*metadata.notes, f"Cropped to the ActiveArea {area}."))
    return _linear_image(raster[top:bottom, left:right], black, white, metadata, overrides)


def _without_curves(
    metadata: Metadata, curves: tuple[opcodes.Opcode, ...], rest: tuple[opcodes.Opcode, ...]
) -> Metadata:
    """Metadata whose OpcodeList2 holds only what has not been applied."""
    lists = {name: data for name, data in metadata.opcode_lists.items() if name != "OpcodeList2"}
    if rest:
        lists["OpcodeList2"] = opcodes.serialize(rest)
    note = f"Stored on a curve; the first {len(curves)} opcodes of OpcodeList2 were applied to make it linear."
    return replace(metadata, opcode_lists=lists, notes=(*metadata.notes, note))


def _active_area(raw: Ifd, height: int, width: int) -> tuple[int, int, int, int]:
    values = integers(raw, 50829, (0, 0, height, width))
    if len(values) != 4:
        raise UnsupportedRawError(f"ActiveArea has {len(values)} numbers, 4 are needed.")
    top, left, bottom, right = values
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UnsupportedRawError(f"ActiveArea {top, left, bottom, right} is not inside the {width}x{height} raster.")
    return top, left, bottom, right


def _dng_levels(
    raw: Ifd,
    layout: dng_pixels.Layout,
    area: tuple[int, int, int, int],
    pattern: str | CFA | None,
    overrides: dict[str, Any],
) -> tuple[BlackLevel, float]:
    """Recorded black and white level; one that makes no sense is replaced by what is stated, if anything is.

    Levels that make sense are overridden only at the end: the curves of lossy files refer to the recorded ones.
    """
    stated_black, stated_white = overrides["black_level"], overrides["white_level"]
    try:
        black = _dng_black(raw, layout.samples, area)
    except RawkitError:
        if stated_black is None:
            raise
        if layout.samples == 1:
            black = _stated_black(stated_black, _parse_cfa(pattern or CFA.mono()))
        else:
            black = _stated_plane_black(stated_black, layout.samples)
    try:
        white = _dng_white(raw, layout)
    except RawkitError:
        if stated_white is None:
            raise
        white = float(stated_white)
    return black, white


def _dng_black(raw: Ifd, samples: int, area: tuple[int, int, int, int]) -> BlackLevel:
    """BlackLevel, BlackLevelDeltaH and BlackLevelDeltaV; what is absent is 0 (DNG, chapter 4)."""
    repeat = integers(raw, 50713, (1, 1))
    values = np.array(numbers(raw, 50714, (0.0,)), np.float64)
    if not np.isfinite(values).all():
        raise MetadataError(f"BlackLevel is not a number; {_supply('black level')}.")
    if len(repeat) != 2 or not 1 <= min(repeat) <= max(repeat) <= _LONGEST_BLACK_PERIOD:
        raise MetadataError(
            f"BlackLevelRepeatDim is {repeat[:4]}, two numbers from 1 to {_LONGEST_BLACK_PERIOD} are needed; "
            f"{_supply('black level')}."
        )
    rows, cols = repeat
    if values.size == 1:
        values = np.repeat(values, rows * cols * samples)
    if values.size != rows * cols * samples:
        raise MetadataError(
            f"BlackLevel has {values.size} values, {rows}x{cols}x{samples} are needed; {_supply('black level')}."
        )
    pattern = values.reshape((rows, cols) if samples == 1 else (rows, cols, samples))

    def delta(tag: int, name: str, length: int) -> NDArray[np.float64] | None:
        if tag not in raw:
            return None
        steps = np.array(numbers(raw, tag), np.float64)
        if steps.size != length or not np.isfinite(steps).all():
            raise MetadataError(f"{name} has {steps.size} values, the active area needs {length} numbers.")
        return steps

    top, left, bottom, right = area
    return BlackLevel(
        pattern, delta(50715, "BlackLevelDeltaH", right - left), delta(50716, "BlackLevelDeltaV", bottom - top)
    )


def _dng_white(raw: Ifd, layout: dng_pixels.Layout) -> float:
    default = 1.0 if layout.is_float else float(2**layout.bits - 1)
    levels = set(numbers(raw, 50717, (default,)))
    if len(levels) != 1:
        raise UnsupportedRawError(
            f"the planes have different white levels ({', '.join(f'{v:g}' for v in sorted(levels))}); "
            f"rawkit needs one for all, {_supply('white level')}."
        )
    white = levels.pop()
    if not white.is_integer() or white < 1:
        raise UnsupportedRawError(f"white level {white:g}; a DNG has a whole number from 1, {_supply('white level')}.")
    return white


def _dng_cfa(raw: Ifd) -> CFA:
    if integer(raw, 50711, 1) != 1:
        raise UnsupportedRawError("the CFA is staggered (CFALayout is not rectangular), which rawkit cannot pack.")
    shape, values = integers(raw, 33421), integers(raw, 33422)
    if len(shape) != 2 or not values:
        raise MetadataError(f"the file has no CFAPattern; {_supply('CFA')}.")
    if min(shape) < 1 or len(values) != shape[0] * shape[1]:
        raise UnsupportedRawError(f"CFAPattern has {len(values)} values for {shape[0]}x{shape[1]} sites.")
    letters = "".join(_CFA_LETTERS[v] if 0 <= v < len(_CFA_LETTERS) else "?" for v in values)
    return _known_cfa(letters, shape)


def _known_cfa(letters: str, shape: tuple[int, ...]) -> CFA:
    """CFA from its letters, brought to its smallest period."""
    grid = np.array(list(letters)).reshape(shape)
    if np.unique(grid).size == 1:
        return CFA.mono()
    for rows, cols in ((2, 2), (6, 6)):
        if shape[0] % rows == 0 and shape[1] % cols == 0:
            period = grid[:rows, :cols]
            if (np.tile(period, (shape[0] // rows, shape[1] // cols)) == grid).all():
                try:
                    return CFA("".join(period.ravel()), (rows, cols))
                except ValueError:
                    continue
    raise UnsupportedRawError(
        f"the CFA {letters} ({shape[0]}x{shape[1]}) is neither Bayer nor X-Trans; give --cfa if that is wrong."
    )


# ------------------------------------------------------------------------------------------------------- LibRaw


def _read_libraw(path: Path, head: bytes, **overrides: Any) -> RawImage | LinearImage:
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            sizes = raw.sizes
            if sizes.raw_height * sizes.raw_width > dng_pixels.MAX_PIXELS:
                raise UnsupportedRawError(f"the header states {sizes.raw_width}x{sizes.raw_height} pixels.")
            if _known_by_size_only(raw, head):
                raise MetadataError(
                    "nothing in the file says what it is (LibRaw would go by its length alone); describe it in the "
                    f"sidecar {mosaic.sidecar_path(path).name} (width, height, dtype, cfa, black_level, white_level)."
                )
            pixels = raw.raw_image.copy()  # the view dies with the file
            area = (
                sizes.top_margin,
                sizes.left_margin,
                sizes.top_margin + sizes.height,
                sizes.left_margin + sizes.width,
            )
            black = np.array(raw.black_level_per_channel, np.float64)
            white = float(raw.white_level)
            metadata = _libraw_metadata(path, raw)
            indices, description = _libraw_pattern(raw), raw.color_desc.decode("ascii", "replace")
    except rawpy.LibRawError as error:
        raise UnsupportedRawError(_libraw_message(error, head)) from error
    if pixels.ndim == 3:
        planes = min(3, pixels.shape[2])
        top, left, bottom, right = area
        levels = BlackLevel(black[:planes].reshape(1, 1, planes))
        metadata = replace(metadata, notes=(*metadata.notes, "Stored demosaiced; LibRaw delivers all colors."))
        return _linear_image(pixels[top:bottom, left:right, :planes], levels, white, metadata, overrides)
    if indices is None:
        cfa, levels = CFA.mono(), BlackLevel.constant(black[0])
    else:
        if indices.max() >= min(len(description), black.size):  # LibRaw's 6 stands for "no filter"
            raise UnsupportedRawError(
                f"a CFA of colors {np.unique(indices).tolist()}, of which {description} are known."
            )
        letters = "".join(description[i] for i in indices.ravel())
        cfa = overrides["cfa"] or _known_cfa(letters, indices.shape)
        levels = BlackLevel(black[indices])
    return _raw_image(pixels, cfa, area, levels, white, metadata, overrides)


def _libraw_pattern(raw: Any) -> NDArray[np.intp] | None:
    """Color indices of one CFA period from the active area's corner; None for a monochrome or demosaiced file.

    rawpy's ``raw_pattern`` starts at the raster's corner, which is another phase when a margin is no multiple of
    the period.
    """
    if raw.raw_pattern is None:
        return None
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    rows, cols = raw.raw_pattern.shape
    return np.array([[raw.raw_color(top + r, left + c) for c in range(cols)] for r in range(rows)])


def _known_by_size_only(raw: Any, head: bytes) -> bool:
    """LibRaw recognizes headless files by their length: a guess that reads other files of that length as garbage.

    Such a file has no container signature, and LibRaw found neither date, ISO nor exposure time in it.
    """
    signatures = (b"II", b"MM", b"FUJIFILM", b"FOVb", b"\0MRM", b"\xff\xd8", b"ARRI", b"NOKIA", b"XPDS", b"DSC-")
    if head.startswith(signatures) or head[4:8] == b"ftyp":
        return False
    other = raw.other
    return other.iso_speed == 0 and other.shutter_speed == 0 and other.timestamp.replace(tzinfo=UTC) <= _EPOCH


_EPOCH = datetime(1970, 1, 2, tzinfo=UTC)  # LibRaw's timestamp 0, in any time zone


def _libraw_message(error: Exception, head: bytes) -> str:
    found = " ".join(
        (error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)).split()
    )
    kind = "a JPEG picture" if head.startswith(b"\xff\xd8") else "not a raw file rawkit knows, or a damaged one"
    return f"this is {kind} (LibRaw: {found}); a headless mosaic needs a sidecar."


def _libraw_metadata(path: Path, raw: Any) -> Metadata:
    import rawpy

    base = exif_metadata(path)
    other = raw.other
    r, g, b = (float(v) for v in raw.camera_whitebalance[:3])
    matrix = np.array(raw.rgb_xyz_matrix, np.float64)[:3]
    linear = raw.camera_white_level_per_channel
    notes = list(base.notes)
    if linear and any(v not in (0, raw.white_level) for v in linear):
        notes.append(f"The camera states linearity up to {', '.join(str(v) for v in linear)} DN per channel.")
    version = ".".join(str(v) for v in rawpy.libraw_version)
    return replace(
        base,
        iso=base.iso or (float(other.iso_speed) or None),
        exposure_time=base.exposure_time or (float(other.shutter_speed) or None),
        aperture=base.aperture or (float(other.aperture) or None),
        focal_length=base.focal_length or (float(other.focal_length) or None),
        orientation=base.orientation if base.orientation != 1 else _ORIENTATION_OF_FLIP.get(raw.sizes.flip, 1),
        as_shot_neutral=(g / r, 1.0, g / b) if min(r, g, b) > 0 else None,
        color_matrices=((_D65, matrix),) if matrix.any() else (),
        notes=tuple(notes),
        source=path,
        file_format=path.suffix.lstrip(".").upper() or "raw",
        decoder=f"LibRaw {version}",
    )


# ----------------------------------------------------------------------------------------------- headless mosaic


def _read_mosaic(path: Path, head: bytes, spec: MosaicSpec, **overrides: Any) -> RawImage:
    pixels = mosaic.read_pixels(path, spec, head)
    stated = {
        name: value
        for name in ("make", "model", "iso", "exposure_time", "aperture", "focal_length")
        if (value := getattr(spec, name)) is not None
    }
    neutral = None if spec.as_shot_neutral is None else tuple(float(v) for v in spec.as_shot_neutral)
    metadata = replace(
        exif_metadata(path),
        **stated,
        as_shot_neutral=neutral,
        orientation=spec.orientation,
        source=path,
        file_format=f"{path.suffix.lstrip('.').upper() or 'bare'} mosaic",
        decoder="rawkit",
    )
    black = overrides["black_level"] if overrides["black_level"] is not None else spec.black_level
    white = overrides["white_level"] if overrides["white_level"] is not None else spec.white_level
    cfa: str | CFA | None = overrides["cfa"] or spec.cfa
    for name, value in (("CFA", cfa), ("black level", black), ("white level", white)):
        if value is None:
            raise MetadataError(
                f"this file does not state its {name}; {_supply(name)}, or write it into the sidecar "
                f"{mosaic.sidecar_path(path).name}."
            )
    overrides = {**overrides, "black_level": black, "white_level": white, "cfa": cfa}
    return _raw_image(pixels, cfa or "", None, BlackLevel.constant(0.0), float("nan"), metadata, overrides)


# ---------------------------------------------------------------------------------------------------- assembling


def _supply(name: str) -> str:
    return f"say it with {_HOW[name]}"


def _raw_image(
    raster: NDArray,
    cfa: str | CFA,
    area: tuple[int, int, int, int] | None,
    black: BlackLevel,
    white: float,
    metadata: Metadata,
    overrides: dict[str, Any],
) -> RawImage:
    """Apply the overrides and check the levels."""
    array = _parse_cfa(overrides["cfa"] or cfa)
    if area == (0, 0, *raster.shape):
        area = None
    stated = overrides["black_level"]
    if stated is not None:
        black = _stated_black(stated, array)
    white = float(overrides["white_level"]) if overrides["white_level"] is not None else white
    metadata = _with_iso(metadata, overrides["iso"])
    _check_levels(black, white)
    image = RawImage(raster=raster, cfa=array, active_area=area, black=black, white_level=white, metadata=metadata)
    if any(size < period for size, period in zip(image.mosaic.shape, array.shape, strict=True)):
        raise UnsupportedRawError(f"the image of {image.mosaic.shape} pixels is smaller than one CFA period.")
    return image


def _linear_image(
    pixels: NDArray, black: BlackLevel, white: float, metadata: Metadata, overrides: dict[str, Any]
) -> LinearImage:
    if overrides["cfa"] is not None:
        raise MetadataError("this file is demosaiced: it has no CFA, leave out --cfa.")
    stated = overrides["black_level"]
    if stated is not None:
        black = _stated_plane_black(stated, pixels.shape[2])
    white = float(overrides["white_level"]) if overrides["white_level"] is not None else white
    _check_levels(black, white)
    return LinearImage(pixels=pixels, black=black, white_level=white, metadata=_with_iso(metadata, overrides["iso"]))


def _parse_cfa(cfa: str | CFA) -> CFA:
    if isinstance(cfa, CFA):
        return cfa
    try:
        return CFA.parse(cfa)
    except ValueError as error:
        raise MetadataError(str(error)) from error


def _stated_black(stated: float | Sequence[float], cfa: CFA) -> BlackLevel:
    try:
        return BlackLevel.per_phase(tuple(float(v) for v in np.atleast_1d(stated)), cfa)
    except ValueError as error:
        raise MetadataError(str(error)) from error


def _stated_plane_black(stated: float | Sequence[float], planes: int) -> BlackLevel:
    values = np.atleast_1d(np.asarray(stated, np.float64))
    if values.size not in (1, planes):
        raise MetadataError(f"{values.size} black levels for an image of {planes} planes.")
    return BlackLevel(np.broadcast_to(values, (1, 1, planes)).copy())


def _with_iso(metadata: Metadata, iso: float | None) -> Metadata:
    if iso is None:
        return metadata
    if not (np.isfinite(iso) and iso > 0):
        raise MetadataError(f"ISO must be a positive number, found {iso}.")
    return replace(metadata, iso=float(iso))


def _check_levels(black: BlackLevel, white: float) -> None:
    highest = float(np.max(black.pattern))
    if not np.isfinite(np.append(black.pattern, white)).all() or white <= highest:
        raise MetadataError(
            f"the white level {white:g} is not above the black level {highest:g}; "
            f"{_supply('black level')} and {_HOW['white level']}."
        )
