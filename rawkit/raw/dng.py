"""Write a raw image as DNG.

Three forms, chosen by what is given:

    rewrite        ``source`` is a DNG: its structure is kept, only the raw data changes   (``dng_rewrite``)
    fresh mosaic   any ``RawImage``                                                        (``dng_fresh``)
    fresh linear   any ``LinearImage``                                                     (``dng_fresh``)

Stored values are round(DN * scale); ``dng_raster`` says when scale is not 1.  The file appears under its name only
when it is complete: it is written beside it, synced to disk and renamed.

Reference: Adobe, Digital Negative (DNG) Specification 1.7.1.0, 2023.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rawkit.errors import OutputExistsError, UnsupportedRawError
from rawkit.raw import dng_fresh, dng_rewrite
from rawkit.raw.dng_directory import DNG_VERSION, find_raw
from rawkit.raw.dng_raster import encode_tiles, noise_entries, store
from rawkit.raw.image import AnyRaw, RawImage
from rawkit.raw.preview import replace_previews
from rawkit.raw.tiff import TiffFile
from rawkit.resources import replacing

if TYPE_CHECKING:  # sensor builds on raw, so only the type is named here
    from rawkit.sensor.params import NoiseParams

TIFF_MAGICS = (b"II*\0", b"MM\0*")
_NORMALIZED_WHITE = 1  # DN; a float raster on [0, 1] has no digital numbers to round to

Form = Literal["rewrite", "fresh mosaic", "fresh linear"]


@dataclass(frozen=True)
class WrittenDng:
    """What was written.

    Parameters
    ----------
    path : Path
    form : str
        ``"rewrite"``, ``"fresh mosaic"`` or ``"fresh linear"``.
    scale : float
        Stored sample = round(DN * scale).
    size : int
        Bytes of the file.
    saturated : int
        Samples below 0 DN or above 65535 stored, which were set to the limit.
    notes : tuple of str
        Defaults that had to be used, one line each.
    """

    path: Path
    form: Form
    scale: float
    size: int
    saturated: int
    notes: tuple[str, ...] = ()


def is_dng(path: Path | str) -> bool:
    """Whether a file is a DNG, so that it can be the ``source`` of ``write_dng``."""
    with open(path, "rb") as file:
        head = file.read(4)
        if head not in TIFF_MAGICS:
            return False
        data = head + file.read()
    try:
        tiff = TiffFile.parse(data)
        return DNG_VERSION in tiff.ifd(tiff.first_offset)
    except UnsupportedRawError:
        return False


def write_dng(
    image: AnyRaw,
    path: Path | str,
    *,
    source: Path | str | None = None,
    noise: NoiseParams | None = None,
    noise_reduction_applied: float | None = None,
    extra_bits: int = 2,
    whole_numbers: bool = False,
    preview_time: datetime | None = None,
    overwrite: bool = False,
) -> WrittenDng:
    """Write ``image`` as a DNG that raw converters open.

    Parameters
    ----------
    image : RawImage or LinearImage
        An integer raster is stored exactly; a float32 raster as round(DN * scale), scale = 2**extra_bits, reduced
        until white_level * scale <= 65535 (white level at most 255 DN: all bits there are).  Below 0 DN and above
        65535 stored it saturates.  A float raster stays float when the source stores floats or, without a source,
        when its white level is 1.
    path : Path
        The new file.
    source : Path or None
        The DNG the image was read from; everything but its raw data and previews is kept byte for byte.  None: a
        fresh DNG from the image's own metadata.
    noise : NoiseParams or None
        Noise that *remains* in ``image`` [DN], written as NoiseProfile.  None: the recorded NoiseProfile stays, or
        goes if ``noise_reduction_applied`` says that it is no longer true.
    noise_reduction_applied : float in [0, 1] or None
        1.0 asks the converter to add no noise reduction by default; None leaves the tag alone.
    extra_bits : int
        Bits kept below one DN of a float raster.
    whole_numbers : bool
        Store a float image as 16-bit whole numbers even where its source holds floats: RawTherapee 5.9 shows float
        linear DNGs black, and dcraw reads none.
    preview_time : datetime or None
        PreviewDateTime.  None takes the environment's SOURCE_DATE_EPOCH; without that the tag is left out, so that
        the same input gives the same bytes.
    overwrite : bool
        Replace ``path``; never the source.

    Returns
    -------
    WrittenDng

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is false, or ``path`` is the file the image came from.
    UnsupportedRawError
        ``source`` is damaged, no DNG, or stores another raster.
    ValueError
        Values are not finite, or levels cannot be expressed in a DNG.

    Notes
    -----
    Digests, RawDataUniqueID and the DNG version tags are brought up to date.  NoiseProfile is normalized to the
    span from black to white, so the scale does not enter it.

    References
    ----------
    DNG 1.7.1 specification; ITU-T T.81 for the lossless JPEG tiles.
    """
    path = Path(path)
    _spare_inputs(path, [Path(p) for p in (source, image.metadata.source) if p is not None])
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; name another file or ask to overwrite it.")
    notes: list[str] = []
    if source is not None:
        original = Path(source).read_bytes()
        try:
            original = replace_previews(original, image, notes, preview_time)
            tiff = TiffFile.parse(original)
            keep_float = find_raw(tiff).is_float and not whole_numbers
            raster = store(dng_rewrite.full_raster(original, image), extra_bits=extra_bits, keep_float=keep_float)
            noise_tags = noise_entries(image, noise, noise_reduction_applied, tiff.order)
            data = dng_rewrite.rewrite(original, image, raster, encode_tiles(raster), noise_tags)
        except UnsupportedRawError as error:
            raise UnsupportedRawError(f"{source}: {error}") from error
        form: Form = "rewrite"
    else:
        keep_float = image.white_level <= _NORMALIZED_WHITE and not whole_numbers
        raster = store(image, extra_bits=extra_bits, keep_float=keep_float)
        noise_tags = noise_entries(image, noise, noise_reduction_applied)
        name = image.metadata.source.name if image.metadata.source else ""
        data = dng_fresh.build(image, raster, encode_tiles(raster), noise_tags, name, notes, preview_time)
        form = "fresh mosaic" if isinstance(image, RawImage) else "fresh linear"
    with replacing(path, overwrite=overwrite) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenDng(path, form, raster.scale, len(data), raster.saturated, tuple(notes))


def _spare_inputs(path: Path, inputs: list[Path]) -> None:
    if path.exists() and any(p.exists() and path.samefile(p) for p in inputs):
        raise OutputExistsError(f"{path} is the file the image came from, which is never replaced; name another.")
