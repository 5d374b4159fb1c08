"""Clean pictures in, noisy raw files out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rawkit.errors import MetadataError, UnsupportedRawError
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.noise.unprocess import photograph_to_raw
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.resources import bundled_profiles, library_folder
from rawkit.sensor.database import FoundNoise, best_match, find_noise
from rawkit.sensor.profile import CameraProfile

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")


def noisy_raw(
    source: Path,
    *,
    iso: float,
    seed: int,
    profile: CameraProfile | Path | None = None,
    camera: str | None = None,
    darktable: Path | None = None,
    cfa: str | None = None,
    black_level: float | None = None,
    white_level: float | None = None,
    exposure: float = 1.0,
) -> tuple[RawImage, FoundNoise]:
    """The raw image a camera would have taken of a clean picture.

    Parameters
    ----------
    source : Path
        A clean raw file (low ISO; its own levels and CFA are used), or a photograph (PNG, JPEG, TIFF, WebP), which
        is taken back to linear light and put behind the camera's CFA.
    iso, seed : float, int
    profile, camera, darktable
        Where the noise comes from, as for ``find_noise``.
    cfa, black_level, white_level
        Of the simulated camera, where its profile does not say.
    exposure : float
        Multiplies a photograph's light; 1 lets its white just clip.

    Returns
    -------
    RawImage with uint16 raster, FoundNoise

    Raises
    ------
    MetadataError, ProfileError, UnsupportedRawError
    """
    if source.suffix.lower() in PHOTOGRAPHS:
        clean = _from_photograph(source, profile, camera, cfa, black_level, white_level, exposure)
    else:
        raw = read_raw(source, iso=iso, black_level=black_level, white_level=white_level, cfa=cfa)
        if not isinstance(raw, RawImage):
            raise UnsupportedRawError(f"{source} is demosaiced; noise is made on a sensor's own mosaic.")
        clean = raw
    clean = replace(clean, metadata=replace(clean.metadata, iso=iso))
    found = find_noise(clean, profile=profile, camera=camera, darktable=darktable)
    return NoiseSynthesizer(found.params).image(clean, iso=iso, seed=seed), found


def synthesize_file(source: Path, target: Path, *, overwrite: bool = False, **options) -> str:
    """``noisy_raw`` written as a DNG with the NoiseProfile of its noise; returns where the noise came from."""
    image, found = noisy_raw(source, **options)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_dng(image, target, noise=found.params, overwrite=overwrite)
    return found.description


def _from_photograph(
    source: Path,
    profile: CameraProfile | Path | None,
    camera: str | None,
    cfa: str | None,
    black_level: float | None,
    white_level: float | None,
    exposure: float,
) -> RawImage:
    known = _camera_profile(profile, camera)
    if known is not None:
        cfa = cfa or known.cfa
        if black_level is None and known.black_level is not None:
            black_level = float(np.mean(known.black_level))
        white_level = white_level if white_level is not None else known.white_level
    missing = [
        option
        for option, value in (("--cfa", cfa), ("--black-level", black_level), ("--white-level", white_level))
        if value is None
    ]
    if cfa is None or black_level is None or white_level is None:
        name = known.name if known is not None else camera or "the camera"
        raise MetadataError(f"{source}: to make a raw of a photograph, say {', '.join(missing)} of {name}.")
    array = CFA.parse(cfa)
    if array.shape == (1, 1):
        raise UnsupportedRawError(f"{source}: a monochrome sensor is not simulated from a color photograph.")
    rgb = _read_photograph(source)
    raw = photograph_to_raw(rgb, cfa=array, black=black_level, white_level=white_level, exposure=exposure)
    names = Metadata(make=known.make, model=known.model) if known is not None else Metadata(model=camera)
    return replace(raw, metadata=replace(raw.metadata, make=names.make, model=names.model))


def _read_photograph(source: Path) -> np.ndarray:
    """(H, W, 3) uint8, or float32 in [0, 1] for 16-bit files; gray becomes three equal colors, alpha is dropped."""
    import imagecodecs
    import tifffile

    try:
        is_tiff = source.suffix.lower() in (".tif", ".tiff")
        pixels = np.asarray(tifffile.imread(source) if is_tiff else imagecodecs.imread(source))
    except Exception as error:  # decoders of six formats, each with errors of its own
        raise UnsupportedRawError(f"{source} is not a picture that can be read ({type(error).__name__}).") from None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise UnsupportedRawError(
            f"{source} holds {pixels.shape} {pixels.dtype}; a photograph has 8 or 16 bits, gray or RGB."
        )
    rgb = pixels[:, :, :3]
    return rgb if rgb.dtype == np.uint8 else (rgb / np.float32(65535)).astype(np.float32)


def _camera_profile(profile: CameraProfile | Path | None, camera: str | None) -> CameraProfile | None:
    if isinstance(profile, CameraProfile):
        return profile
    if profile is not None:
        return CameraProfile.load(profile)
    if camera is None:
        return None
    for paths in (sorted(library_folder().glob("*.json")), bundled_profiles()):
        match = best_match(paths, Metadata(model=camera))
        if match is not None:
            return match[1]
    return None
