"""Clean pictures in, noisy raw files out."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rawkit.errors import MetadataError, ProfileError, UnsupportedRawError
from rawkit.noise.synthesis import Mode, NoiseSynthesizer, stated_black
from rawkit.noise.unprocess import (
    PLAIN_MATRIX,
    PLAIN_NEUTRAL,
    ColorRanges,
    photograph_to_raw,
    reduce_raw,
)
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.resources import bundled_profiles, library_folder, sha256
from rawkit.sensor.database import FoundNoise, best_match, find_noise
from rawkit.sensor.profile import CameraProfile

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
_D65 = 21  # EXIF light source


@dataclass(frozen=True, kw_only=True)
class SimulatedCamera:
    """The camera that clean pictures are put into; every option may be left out.

    Parameters
    ----------
    profile, camera, darktable
        Where the noise comes from, as for ``find_noise``.
    mode : str or None
        Noise model, as for ``NoiseSynthesizer``; None: the best that the profile holds.
    cfa, black_level, white_level
        Of the simulated camera, where its profile does not say.
    like : Path or None
        A raw file whose CFA, levels, color matrix and neutral a photograph is given.
    ranges : ColorRanges or None
        Draw matrix, neutral and exposure for each photograph, with ``color_seed``, and undo its curves as they say.
    color_seed : int
    exposure : float
        Multiplies a photograph's light; 1 lets its white just clip.
    reduce : int
        Average this many pixels each way, to remove the clean picture's own noise.
    """

    profile: CameraProfile | Path | None = None
    camera: str | None = None
    darktable: Path | None = None
    mode: Mode | None = None
    cfa: str | None = None
    black_level: float | None = None
    white_level: float | None = None
    like: Path | None = None
    ranges: ColorRanges | None = None
    color_seed: int = 0
    exposure: float = 1.0
    reduce: int = 1

    def settings(self) -> dict[str, Any]:
        """Everything that decides about a picture's bytes, as plain data; files by their content."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("profile", "darktable", "like"):
            path = plain[name]
            if isinstance(path, Path):
                plain[name] = {"file": path.name, "sha256": sha256(path) if path.is_file() else None}
            elif isinstance(path, CameraProfile):
                plain[name] = {"profile": path.name}
        if self.ranges is not None:
            plain["ranges"] = {f.name: getattr(self.ranges, f.name) for f in fields(self.ranges)}
        return plain

    def clean(self, source: Path) -> RawImage:
        """The camera's noiseless raw of a clean picture.

        Parameters
        ----------
        source : Path
            A clean raw file (low ISO; its own levels and CFA are used), or a photograph (PNG, JPEG, TIFF, WebP), which
            is taken back to linear light and put behind the camera's CFA.

        Raises
        ------
        MetadataError, ProfileError, UnsupportedRawError
        """
        if source.suffix.lower() in PHOTOGRAPHS:
            return self._of_photograph(source)
        raw = read_raw(source, black_level=self.black_level, white_level=self.white_level, cfa=self.cfa)
        if not isinstance(raw, RawImage):
            raise UnsupportedRawError(f"{source} is demosaiced; noise is made on a sensor's own mosaic.")
        return raw if self.reduce == 1 else reduce_raw(raw, self.reduce)

    def noisy(self, clean: RawImage, *, iso: float, seed: int, frame: int = 0) -> tuple[RawImage, FoundNoise]:
        """The exposure that the camera would have taken at ``iso``, and where its noise came from.

        Raises
        ------
        ProfileError
            Nobody knows the camera, or the chosen mode needs a profile that there is none of.
        """
        scene = replace(clean, metadata=replace(clean.metadata, iso=iso))
        found = find_noise(scene, profile=_loaded(self.profile), camera=self.camera, darktable=self.darktable)
        if self.mode in ("eld", "measured") and found.profile is None:
            raise ProfileError(
                f"mode {self.mode} needs a profile on the picture's own scale; found {found.description}."
            )
        noise = found.params if found.profile is None else found.profile
        synthesizer = NoiseSynthesizer(noise, mode=self.mode)
        image = synthesizer.image(scene, iso=iso, seed=seed, frame=frame)
        return image, replace(found, description=f"{found.description}, mode {synthesizer.mode_at(iso)}")

    def _of_photograph(self, source: Path) -> RawImage:
        known = _camera_profile(self.profile, self.camera)
        like = None if self.like is None else _example(self.like)
        cfa, black, white = self.cfa, self.black_level, self.white_level
        if known is not None:
            cfa = cfa or known.cfa
            black = self._black_of(known) if black is None else black
            white = known.white_level if white is None else white
        if like is not None:
            cfa = cfa or str(like.cfa)
            black = float(np.mean(like.black_level)) if black is None else black
            white = like.white_level if white is None else white
        if cfa is None or black is None or white is None:
            values = (("--cfa", cfa), ("--black-level", black), ("--white-level", white))
            missing = ", ".join(option for option, value in values if value is None)
            name = known.name if known is not None else self.camera or "the camera"
            raise MetadataError(f"{source}: to make a raw of a photograph, say {missing} of {name}.")
        matrix, neutral, exposure = self._color(source, like)
        raw = photograph_to_raw(
            _read_photograph(source), cfa=CFA.parse(cfa), black=black, white_level=white, as_shot_neutral=neutral,
            color_matrix=matrix, exposure=exposure, reduce=self.reduce,
            **({} if self.ranges is None else self.ranges.curves),
        )  # fmt: skip
        names = Metadata(make=known.make, model=known.model) if known is not None else Metadata(model=self.camera)
        return replace(raw, metadata=replace(raw.metadata, make=names.make, model=names.model))

    def _black_of(self, known: CameraProfile) -> float | None:
        """Black level [DN] to state: the models of darks bring what real darks have above what the camera states."""
        if known.black_level is None:
            return None
        return float(np.mean(known.black_level)) if self.mode == "pg" else stated_black(known)

    def _color(self, source: Path, like: RawImage | None) -> tuple[np.ndarray, tuple[float, ...], float]:
        """Color matrix, neutral and exposure."""
        if self.ranges is not None:
            color = self.ranges.draw(np.random.default_rng([self.color_seed, int(sha256(source), 16)]))
            return color.color_matrix, color.as_shot_neutral, color.exposure * self.exposure
        if like is None:
            return PLAIN_MATRIX, PLAIN_NEUTRAL, self.exposure
        matrices = dict(like.metadata.color_matrices)
        if not matrices or like.metadata.as_shot_neutral is None:
            raise MetadataError(f"{self.like} records no color matrix or no neutral; imitate a DNG that does.")
        matrix = matrices.get(_D65, next(iter(matrices.values())))
        return np.asarray(matrix), like.metadata.as_shot_neutral, self.exposure


def synthesize_file(
    source: Path, target: Path, camera: SimulatedCamera, *, iso: float, seed: int, write: Path | None
) -> Generator[None, None, dict[str, str]]:
    """One noisy exposure of a clean picture as a DNG with its NoiseProfile.

    Parameters
    ----------
    target : Path
        Name of the result.
    write : Path or None
        Where to write it, which the caller then renames to ``target``; None: nowhere.

    Yields
    ------
    None
        After reading and before writing, so that several files' steps can overlap.

    Returns
    -------
    dict
        ``noise``: where it came from.
    """
    clean = camera.clean(source)
    yield
    image, found = camera.noisy(clean, iso=iso, seed=seed)
    yield
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        write_dng(image, write, noise=found.params)
    return {"noise": found.description}


@lru_cache(maxsize=2)
def _example(path: Path) -> RawImage:
    raw = read_raw(path)
    if not isinstance(raw, RawImage):
        raise UnsupportedRawError(f"{path} is demosaiced; imitate a raw file with a mosaic.")
    return raw


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
    if profile is not None:
        return _loaded(profile)
    if camera is None:
        return None
    for paths in (sorted(library_folder().glob("*.json")), bundled_profiles()):
        match = best_match(paths, Metadata(model=camera))
        if match is not None:
            return match[1]
    return None


def _loaded(profile: CameraProfile | Path | None) -> CameraProfile | None:
    """A profile, read once however many pictures are made with it."""
    if not isinstance(profile, Path):
        return profile
    return _load(profile, profile.stat().st_mtime_ns if profile.is_file() else 0)


@lru_cache(maxsize=4)
def _load(path: Path, changed: int) -> CameraProfile:
    return CameraProfile.load(path)
