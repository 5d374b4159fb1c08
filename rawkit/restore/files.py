"""One raw file in, one denoised file out: read, find the noise, denoise, write.

The chain of ``rawkit denoise`` for one file, importable by name, so that other processes can run it.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import DamagedDataWarning, OutputExistsError
from rawkit.raw.develop import demosaic
from rawkit.raw.dng import is_dng, write_dng
from rawkit.raw.image import AnyRaw, RawImage
from rawkit.raw.read import read_raw
from rawkit.resources import find_weights, library_digest, sha256
from rawkit.restore.denoise import AUTO, CLASSICAL, Denoiser, default_denoiser
from rawkit.restore.repair import known_defects
from rawkit.restore.tiling import Progress
from rawkit.sensor.database import FoundNoise, find_noise

DNG, LINEAR_DNG, TIFF = "dng", "linear-dng", "tiff"
_FINE_WHITE = 255  # DN; a float image on a finer scale than this loses its shadows in whole numbers


@dataclass(frozen=True)
class DenoiseSettings:
    """What decides the result of a file, and where it is computed.

    Parameters
    ----------
    model : str
        As of ``Denoiser.load``.
    strength, chroma_strength, self_ensemble
        As of ``Denoiser.__call__``.
    format : "dng", "linear-dng" or "tiff"
    profile, camera, darktable
        As of ``find_noise``.
    reading : mapping
        Keywords of ``read_raw``.
    exiftool : bool
        ExifTool adds the tags that a fresh DNG lacks.
    device : str
        As of ``Denoiser.load``.
    threads : int or None
        As ``workers`` of ``Denoiser.__call__``.
    """

    model: str = CLASSICAL
    strength: float = 1.0
    chroma_strength: float | None = None
    self_ensemble: bool = False
    format: str = DNG
    profile: Path | None = None
    camera: str | None = None
    darktable: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    exiftool: bool = False
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.model == AUTO:  # the same for every process that these settings travel to
            object.__setattr__(self, "model", default_denoiser())

    @property
    def suffix(self) -> str:
        """Of the file that is written."""
        return ".tif" if self.format == TIFF else ".dng"

    def parameters(self) -> dict[str, Any]:
        """Everything that decides the result, as plain values; files by their SHA-256.

        Without a profile the user's own ones count: which of them a file takes is only known once it is read.
        Device and threads are left out: they change no more than the last bits.
        """
        weights = None if self.model == CLASSICAL else find_weights(self.model, also=(CLASSICAL,))
        plain = {name: asdict(v) if is_dataclass(v) else v for name, v in self.reading.items()}  # pyright: ignore
        return {
            "model": self.model if weights is None else sha256(weights),
            "strength": self.strength,
            "chroma_strength": self.chroma_strength,
            "self_ensemble": self.self_ensemble,
            "format": self.format,
            "profile": library_digest() if self.profile is None else sha256(self.profile),
            "camera": self.camera,
            "darktable": None if self.darktable is None else sha256(self.darktable),
            "exiftool": self.exiftool,
            **{f"reading {name}": value for name, value in plain.items() if value is not None},
        }


def denoise_file(
    source: Path, target: Path, settings: DenoiseSettings, *, write: Path | None, progress: Progress | None = None
) -> Generator[None, None, dict[str, Any]]:
    """Denoise a file, in three steps: read it, compute, write.

    Parameters
    ----------
    source : Path
    target : Path
        Name of the result; XMP sidecars of the source are copied under it.
    settings : DenoiseSettings
    write : Path or None
        Where to write the result, which the caller then renames to ``target``.  None: only tell the noise.
    progress : callable(done, total) or None

    Yields
    ------
    None
        Before the computation and after it, so that several files' steps can overlap.

    Returns
    -------
    dict
        ``model``, ``noise`` (``noise_numbers``), ``notes``; of a written file also ``noise_check`` and what the writer
        tells.
    """
    image, notes = read_noted(source, reading=settings.reading)
    found = find_noise(image, profile=settings.profile, camera=settings.camera, darktable=settings.darktable)
    result: dict[str, Any] = {"model": settings.model, "noise": noise_numbers(image, found), "notes": notes}
    if write is None:
        return result
    strengths = (settings.strength, settings.strength if settings.chroma_strength is None else settings.chroma_strength)
    defects = defects_to_repair(image, found, notes) if max(strengths) > 0 else None
    yield
    denoiser = _denoiser(settings.model, settings.device)
    clean, check = denoiser.with_check(
        image,
        found.params,
        strength=settings.strength,
        chroma_strength=settings.chroma_strength,
        self_ensemble=settings.self_ensemble,
        defects=defects,
        workers=settings.threads,
        progress=progress,
    )
    left = denoiser.remaining_variance(min(strengths), planes=len(image.plane_phases))
    yield
    written = _write(clean, write, source, settings, found, left, changed=max(strengths) > 0)
    notes += written.pop("notes")
    return {**result, **written, "noise_check": check.to_dict(), "sidecars": _sidecars(source, target, notes)}


def read_noted(path: Path, *, reading: Mapping[str, Any]) -> tuple[AnyRaw, list[str]]:
    """``read_raw`` with its keywords, and what is damaged, which would be a warning else; importable by name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DamagedDataWarning)
        image = read_raw(path, **reading)
    notes = []
    for warning in caught:
        if issubclass(warning.category, DamagedDataWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return image, notes


def noise_numbers(image: AnyRaw, found: FoundNoise) -> dict[str, Any]:
    """Noise parameters of a picture, for people and machines."""
    count = len(image.phases)
    return {
        "source": found.kind,
        "description": found.description,
        "phases": list(image.phases),
        "system_gain": np.broadcast_to(np.asarray(found.params.system_gain, float).reshape(-1), (count,)).tolist(),
        "read_var": np.broadcast_to(np.asarray(found.params.read_var, float).reshape(-1), (count,)).tolist(),
        "origin": found.params.origin,
    }


def defects_to_repair(image: AnyRaw, found: FoundNoise, notes: list[str]) -> NDArray | None:
    """Defective pixels that the camera's profile knows; what became of its map is noted."""
    if found.profile is None or not isinstance(image, RawImage):
        return None
    try:
        places = known_defects(image, found.params, found.profile)
    except ValueError as error:
        notes.append(f"no defective pixel is repaired: {error}")
        return None
    if len(places):
        notes.append(f"{len(places)} pixels repaired that the profile knows to be defective")
    return places


@lru_cache(maxsize=1)
def _denoiser(model: str, device: str) -> Denoiser:
    """Loaded once per process."""
    return Denoiser.load(model, device=device)


def _write(
    clean: AnyRaw, path: Path, source: Path, settings: DenoiseSettings, found: FoundNoise, left: float, *, changed: bool
) -> dict[str, Any]:
    """Write in the chosen format; ``left`` is the share of the noise variance that remains at least somewhere."""
    from rawkit.raw.exiftool import add_missing
    from rawkit.raw.tiff_export import write_linear_tiff

    path.parent.mkdir(parents=True, exist_ok=True)
    if settings.format == TIFF:
        write_linear_tiff(clean, path)
        return {"notes": []}
    fresh = settings.format == LINEAR_DNG and isinstance(clean, RawImage)
    stored = demosaic(clean) if fresh else clean  # pyright: ignore[reportArgumentType]
    lost = stored.metadata.notes[len(clean.metadata.notes) :]
    written = write_dng(
        stored,
        path,
        source=source if is_dng(source) and not fresh else None,
        noise=None if fresh else found.params.attenuated(left),
        noise_reduction_applied=1.0 if changed else None,
        whole_numbers=changed and clean.white_level > _FINE_WHITE,
    )
    result = {"form": written.form, "scale": written.scale, "bytes": written.size, "notes": [*lost, *written.notes]}
    if settings.exiftool and written.form != "rewrite":
        added = add_missing(source, path)
        result["exiftool_added"] = list(added)
        result["notes"].append(f"exiftool added {len(added)} tags{': ' * bool(added)}{', '.join(added)}")
    return result


def _sidecars(source: Path, target: Path, notes: list[str]) -> list[str]:
    """Copies of the XMP sidecars; one that is there already stays, which is noted."""
    from rawkit.raw.sidecar import copy_sidecars

    try:
        return [str(path) for path in copy_sidecars(source, target)]
    except OutputExistsError as error:
        notes.append(f"sidecar not copied: {error}")
        return []
