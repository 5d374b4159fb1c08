"""Which noise parameters belong to this picture?

Sources, in this order; the first that knows the camera answers, and says who it was:

1. a profile file given by the user,
2. the user's own library folder (``resources.library_folder``),
3. the profiles bundled with rawkit (``calibration_data``),
4. the picture's own DNG NoiseProfile tag,
5. darktable's database, given by path,
6. the picture itself: an estimate, with its interval,
7. darktable's database where darktable is installed.

darktable measures demosaiced, filtered pixels; its numbers are scaled to a mosaic's by factors that hold to 30 %, so
without being asked for they come after what the picture itself shows (docs/design/0002).  A demosaiced image asks
only 1, 4, 5, 7 and 6, in this order: a mosaic's parameters do not describe it.  Where another camera was named the
picture is not asked.

Scale.  A profile holds for its camera's own DN.  Files of one camera come with other bit depths, so parameters
are multiplied by the power of two next to the ratio of the two (white - black) spans.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rawkit.errors import CalibrationError, ProfileError
from rawkit.raw.image import AnyRaw, LinearImage, Metadata
from rawkit.resources import bundled_profiles, library_folder
from rawkit.sensor.exchange import COMPANY_WORDS, darktable_cameras, darktable_table
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

_DARKTABLE_PLACES = (
    "/usr/share/darktable/noiseprofiles.json",
    "/usr/local/share/darktable/noiseprofiles.json",
    "/opt/darktable/share/darktable/noiseprofiles.json",
    "/Applications/darktable.app/Contents/Resources/share/darktable/noiseprofiles.json",
    "C:/Program Files/darktable/share/darktable/noiseprofiles.json",
)
# darktable measures demosaiced, filtered pixels.  Ratio of published raw-domain parameters to its green a and b:
# medians over four cameras (EOS 5D Mark IV, 70D, 700D, D850) at ISO 400, 1600 and 6400; K scatters by 30 %, read
# noise by a factor of 2.
_MOSAIC_GAIN = 9.8
_MOSAIC_READ_VAR = 8.0
_MAX_OCTAVE_ERROR = 0.3  # spans of one camera differ by its white level setting, a few percent; more is another scale


@dataclass(frozen=True, eq=False)
class FoundNoise:
    """Noise parameters for one picture and where they come from.

    Parameters
    ----------
    params : NoiseParams
        In the picture's DN, one value or one per phase of the picture.
    kind : str
        ``given``, ``library``, ``bundled``, ``file tag``, ``darktable`` or ``estimated``.
    description : str
        For the user: the source's name, and how its answer at this ISO came about.
    profile : CameraProfile or None
        The source, where it is a profile on the picture's own scale and phases: what else it knows fits the picture.
    """

    params: NoiseParams
    kind: str
    description: str
    profile: CameraProfile | None = None


def find_noise(
    image: AnyRaw,
    *,
    profile: CameraProfile | Path | str | None = None,
    camera: str | None = None,
    library: Path | None = None,
    darktable: Path | str | None = None,
) -> FoundNoise:
    """Noise parameters for a picture, from the first source that knows its camera (see module).

    Parameters
    ----------
    image : RawImage or LinearImage
    profile : CameraProfile or path, optional
        Used whatever the camera.
    camera : str, optional
        Look the noise up under this name instead of the picture's own make and model.
    library : Path, optional
        The user's own profiles; default ``resources.library_folder()``.
    darktable : path, optional
        A ``noiseprofiles.json``; default: the places where darktable installs it.

    Raises
    ------
    ProfileError
        Nobody knows the camera, or the profile does not fit the picture's levels.
    MetadataError
        The picture does not record its ISO.
    """
    if profile is not None:
        chosen = profile if isinstance(profile, CameraProfile) else CameraProfile.load(profile)
        name = chosen.name if isinstance(profile, CameraProfile) else f"{profile} ({chosen.name})"
        return _answer(image, chosen, "given", f"profile {name}")
    metadata = image.metadata
    if camera is not None:
        metadata = replace(metadata, make=None, model=camera, unique_camera_model=None, serial=None)
    if not isinstance(image, LinearImage):
        folder = library_folder() if library is None else library
        for kind, paths in (("library", sorted(folder.glob("*.json"))), ("bundled", bundled_profiles())):
            match = best_match(paths, metadata)
            if match is not None:
                return _answer(image, match[1], kind, f"{kind} profile {match[0].name}")
    if image.metadata.noise_profile is not None and camera is None:
        span = _span(image)
        params = NoiseParams.from_dng(image.metadata.noise_profile, span, image.phases)
        return FoundNoise(params, "file tag", "the file's own NoiseProfile tag")
    mosaic = not isinstance(image, LinearImage)
    reason = "another camera's name was given" if camera is not None else None
    if mosaic and darktable is None and camera is None:
        # Of a mosaic the picture itself knows more than a database made from demosaiced pixels (design note 2).
        estimated = _estimated(image)
        if isinstance(estimated, FoundNoise):
            return estimated
        reason = estimated
    path = darktable_database(darktable)
    model = darktable_model(path, metadata) if path is not None else None
    if path is not None and model is not None:
        return _from_darktable(model, path, image)
    if camera is None and reason is None:
        estimated = _estimated(image)
        if isinstance(estimated, FoundNoise):
            return estimated
        reason = estimated
    raise ProfileError(
        f"no noise profile for {metadata.camera()}, nor can the picture show its noise ({reason}): give one with "
        "--profile FILE (made by 'rawkit calibrate'), point --darktable to a noiseprofiles.json that lists it, or name "
        "a camera of the same sensor with --camera."
    )


def _from_darktable(model: NoiseModel, path: Path, image: AnyRaw) -> FoundNoise:
    """darktable's numbers in the picture's DN; for a mosaic those of green, scaled to raw pixels, in all phases."""
    params = model.at(image.iso)
    span = _span(image)
    said = f"darktable database {path}, {params.origin}"
    if isinstance(image, LinearImage):
        return FoundNoise(_for_phases(params, ("R", "G", "B"), image).scaled(span), "darktable", said)
    green = NoiseParams(
        _MOSAIC_GAIN * np.asarray(params.system_gain)[1], _MOSAIC_READ_VAR * np.asarray(params.read_var)[1],
        origin=params.origin,
    )  # fmt: skip
    said += f", green scaled to raw pixels (K x {_MOSAIC_GAIN:g}, read variance x {_MOSAIC_READ_VAR:g}: a rough guide)"
    return FoundNoise(green.scaled(span), "darktable", said)


def _estimated(image: AnyRaw) -> FoundNoise | str:
    """Noise of the picture itself, or why it cannot be told."""
    from rawkit.sensor.single_image import estimate  # heavy, and the last resort

    try:
        found = estimate(image)
    except CalibrationError as error:
        return str(error).rstrip(".")
    gain, noise = np.asarray(found.system_gain_interval), np.sqrt(found.read_var_interval)
    said = f"estimated from the picture itself: K {_range(gain)} DN/e-, read noise {_range(noise)} DN (95 % intervals)"
    if not np.all(found.identifiable):
        said += "; no area is dark enough to show the read noise well"
    return FoundNoise(found.to_params(), "estimated", said)


def _range(interval: np.ndarray) -> str:
    """Lowest to highest bound over the phases."""
    return f"{np.min(interval):.3g} to {np.max(interval):.3g}"


def _answer(image: AnyRaw, profile: CameraProfile, kind: str, description: str) -> FoundNoise:
    params = noise_for(profile, image)
    same = round(math.log2(_span(image) / profile.span)) == 0 and profile.phases in ((), image.phases)
    description = f"{description}, ISO {image.iso:g} {params.origin}"
    return FoundNoise(params, kind, description, profile if same else None)


def _span(image: AnyRaw) -> float:
    return image.white_level - float(np.mean(image.black_level))


def noise_for(profile: CameraProfile, image: AnyRaw) -> NoiseParams:
    """A profile's parameters at the picture's ISO, in the picture's DN and phases.

    Raises
    ------
    ProfileError
        The spans differ by a factor that is no power of two, or the phases do not correspond.
    """
    span = _span(image)
    octaves = math.log2(span / profile.span)
    factor = 2.0 ** round(octaves)
    if abs(octaves - round(octaves)) > _MAX_OCTAVE_ERROR:
        raise ProfileError(
            f"the picture spans {span:g} DN from black to white, the profile of {profile.name} {profile.span:g} DN; "
            "they should agree up to a power of two. Check --black-level and --white-level, or the profile."
        )
    return _for_phases(profile.noise.at(image.iso), profile.phases, image).scaled(factor)


def _for_phases(params: NoiseParams, phases: tuple[str, ...], image: AnyRaw) -> NoiseParams:
    """Reorder parameters listed for ``phases`` to the phases of ``image``; greens stand in for one another."""
    if np.size(params.system_gain) == 1 or phases == image.phases:
        return params
    if set(image.phases) == {"Y"} or len(phases) == 1:
        raise ProfileError(
            f"the profile lists the phases {', '.join(phases) or 'none'}, the picture has {', '.join(image.phases)}."
        )
    letters = [name[0] for name in phases]
    weights = np.array([[letter == name[0] for letter in letters] for name in image.phases], float)
    weights /= weights.sum(axis=1, keepdims=True)

    def mix(value: Any, power: float = 1.0) -> Any:
        return None if value is None else (weights**power @ np.asarray(value) ** power) ** (1 / power)

    return NoiseParams(
        mix(params.system_gain),
        mix(params.read_var),
        mix(params.system_gain_se, 2.0),
        mix(params.read_var_se, 2.0),
        params.origin,
    )


def best_match(paths: Iterable[Path], metadata: Metadata) -> tuple[Path, CameraProfile] | None:
    """Among profile files the one of this camera; of several the one with most ISOs."""
    found = [(path, profile) for path, profile in ((p, _load_cached(p)) for p in paths) if is_camera(profile, metadata)]
    return max(found, key=lambda pair: len(pair[1].noise.isos), default=None)


@lru_cache(maxsize=256)
def _load_cached(path: Path) -> CameraProfile:
    return CameraProfile.load(path)


def is_camera(profile: CameraProfile, metadata: Metadata) -> bool:
    """Is the profile of the camera that the picture names?  A recorded serial number must agree where both have one."""
    ours = {_plain(name) for name in (profile.name, *profile.aliases)}
    theirs = {_plain(name) for name in (metadata.camera(), metadata.unique_camera_model or "")} - {""}
    same_body = not (profile.serial and metadata.serial) or profile.serial == metadata.serial
    return bool(ours & theirs) and same_body


def _plain(name: str) -> str:
    """Camera name without case, punctuation, company suffixes and a repeated make."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    words = [word for word in words if word not in COMPANY_WORDS]
    return " ".join(dict.fromkeys(words))


def darktable_database(given: Path | str | None = None) -> Path | None:
    """Path of darktable's noise database: the one given, else an installed one, else None."""
    if given is not None:
        if not Path(given).is_file():
            raise ProfileError(f"{given} is not there; --darktable wants the path of a noiseprofiles.json.")
        return Path(given)
    return next((Path(place) for place in _DARKTABLE_PLACES if Path(place).is_file()), None)


@lru_cache(maxsize=4)
def _darktable_entries(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    return darktable_cameras(path)


def darktable_model(path: Path, metadata: Metadata) -> NoiseModel | None:
    """darktable's entry for a camera as noise over ISO on the [0, 1] scale, phases R, G, B; None if unknown.

    Gain switches and pushed ISOs are looked for in the table, so that nothing is interpolated across one.
    """
    names = {_plain(name) for name in (metadata.camera(), metadata.unique_camera_model or "")} - {""}
    for name, profiles in _darktable_entries(path):
        if _plain(name) in names:
            table = darktable_table(profiles)
            if table:
                return NoiseModel.from_table(table)
    return None
