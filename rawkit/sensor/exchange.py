"""Noise profiles in other programs' formats, and two profiles side by side.

    darktable noiseprofiles.json   var = a x + b per color (R, G, B), x in [0, 1]:  a = K/span,  b = v/span^2
    DNG NoiseProfile, tag 51041    sigma(x) = sqrt(S x + O) per color plane:        S = K/span,  O = v/span^2
    ELD parameters                 ln sigma = slope ln K + bias, with a scatter, for Gaussian and row noise; K range
    CSV                            one row per ISO and phase, units in the header

with span = white - black [DN], K [DN/e-], v [DN^2] (``rawkit.sensor.params``).

darktable's file is GPL-3 data; it is read from wherever the user has it and never comes with rawkit.  ELD is K. Wei,
Y. Fu, J. Yang and H. Huang, "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rawkit.errors import ProfileError
from rawkit.resources import parse_json, replacing
from rawkit.sensor.gain import DEFAULT_BASE_ISO
from rawkit.sensor.iso_details import UNITS, IsoDetails
from rawkit.sensor.iso_laws import fit_law
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import PHYSICAL_READ_NOISE, CameraProfile, NoiseModel

RGB = ("R", "G", "B")
_DARKTABLE_LEAST_ISOS = 4  # darktable's own check of a camera's list
_ELD_PHASES = ("R", "Gr", "Gb", "B")
_LARGEST_LOG = 50.0  # of a standard deviation [ln DN]
_CSV_MARK = "# rawkit noise profile"
_CSV_DETAILS = tuple(f.name for f in fields(IsoDetails) if f.name != "remarks")


# ---------------------------------------------------------------------------------------------- darktable


def darktable_cameras(path: Path | str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every camera of a ``noiseprofiles.json``, "maker model", with its entries (those marked skip left out).

    Raises
    ------
    ProfileError
        The file is not such a database.
    """
    try:
        document = parse_json(Path(path).read_bytes())
        return [
            (f"{maker['maker']} {model['model']}", [p for p in model["profiles"] if not p.get("skip")])
            for maker in document["noiseprofiles"]
            for model in maker["models"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ProfileError(f"{path} is not a darktable noise database (noiseprofiles.json).") from None


def darktable_table(entries: Sequence[dict[str, Any]]) -> list[tuple[float, NoiseParams]]:
    """A camera's entries over ISO on the [0, 1] scale, phases R, G, B.

    darktable fits var = a x + b on demosaiced pixels with negatives clipped, so b can come out negative: it is taken
    as 0 there, which stands for unknown.  Where a color's fit failed (a = 0) green stands in: all colors of a sensor
    share one amplifier.

    Raises
    ------
    ProfileError
        An entry lacks its ISO, or its three a and three b.
    """
    table = {}
    for entry in entries:
        try:
            iso = float(entry["iso"])
            gain, offset = np.array(entry["a"], np.float64), np.array(entry["b"], np.float64)
        except (KeyError, TypeError, ValueError):
            iso, gain, offset = math.nan, np.empty(0), np.empty(0)
        if not iso > 0 or gain.shape != (len(RGB),) or offset.shape != gain.shape:
            raise ProfileError(f"{str(entry)[:60]} is not an entry of darktable's: needed are iso and three a and b.")
        gain, offset = np.where(gain > 0, gain, gain[1]), np.where(gain > 0, offset, offset[1])
        if np.all(gain > 0):
            table[iso] = NoiseParams(gain, np.maximum(offset, 0.0))
    return sorted(table.items(), key=lambda item: item[0])


def from_darktable(path: Path | str, camera: str) -> CameraProfile:
    """One camera of darktable's database as a profile on the [0, 1] scale: black 0, white 1.

    Parameters
    ----------
    path : path of a ``noiseprofiles.json``
    camera : str
        Maker and model, or the model alone; case and punctuation do not matter.

    Returns
    -------
    CameraProfile
        Phases R, G, B, gain switches and pushed ISOs as found in the table.  A read noise that no sensor has (below
        0.1 e- or above 500 e-) is set to 0, unknown, and named in the provenance.

    Raises
    ------
    ProfileError
        The file is no such database, or does not list the camera.
    """
    wanted = _words(camera)
    cameras = darktable_cameras(path)
    found = [item for item in cameras if wanted and wanted in (_words(item[0]), _words(_model(item[0])))]
    if not found:
        near = [name for name, _ in cameras if all(word in _words(name) for word in wanted)]
        hint = f"; near: {', '.join(near[:5])}" if near else ""
        raise ProfileError(f"{path} does not list the camera {camera!r}{hint}; give its name as darktable has it.")
    name, entries = found[0]
    table = darktable_table(entries)
    if not table:
        raise ProfileError(f"{path} has no usable entry for {name}: every fit of its green failed.")
    left_out = []
    low, high = PHYSICAL_READ_NOISE
    for index, (iso, params) in enumerate(table):
        with np.errstate(over="ignore"):  # infinite is unphysical as well
            electrons = np.sqrt(params.read_var) / params.system_gain
        bad = (electrons > 0) & ((electrons < low) | (electrons > high))
        if np.any(bad):
            left_out.append(iso)
            table[index] = (iso, NoiseParams(params.system_gain, np.where(bad, 0.0, params.read_var)))
    maker = name[: len(name) - len(_model(name))].strip()
    provenance: dict[str, Any] = {
        "method": "darktable's entries as published: var = a x + b of one defocused shot, demosaiced, x in [0, 1]; "
        "negative b taken as 0 (unknown)",
        "source": "darktable noiseprofiles.json",
        "license": "GPL-3.0-or-later",
    }
    if left_out:
        provenance["implausible_read_noise_left_out_at"] = left_out
    return CameraProfile(
        make=maker,
        model=_model(name),
        noise=NoiseModel.from_table(table),
        phases=RGB,
        black_level=(0.0, 0.0, 0.0),
        white_level=1.0,
        base_iso=DEFAULT_BASE_ISO,
        provenance=provenance,
    )


def to_darktable(profiles: Sequence[CameraProfile]) -> dict[str, Any]:
    """Profiles as a ``noiseprofiles.json`` document of version 0.

    darktable finds a camera by the maker and model it has cleaned from EXIF ("Canon", "EOS 5D Mark IV"), some of its
    tools by what EXIF says ("Canon EOS 5D Mark IV"): every name of the profile is listed.  Colors of several phases
    (Gr, Gb) are averaged; a monochrome camera's values are repeated for all three.

    Raises
    ------
    ProfileError
        A profile has fewer than the four ISOs that darktable asks for, or its DN have no scale.
    """
    makers: dict[str, dict[str, Any]] = {}
    for profile in profiles:
        if len(profile.noise.isos) < _DARKTABLE_LEAST_ISOS:
            raise ProfileError(
                f"{profile.name} has {len(profile.noise.isos)} ISOs, darktable wants {_DARKTABLE_LEAST_ISOS} or more; "
                "calibrate more."
            )
        for maker, model in _darktable_names(profile):
            entries = []
            for iso, params in profile.noise.table:
                pairs = _planes(params, profile)
                a, b = ([float(value) for value in column] for column in zip(*pairs, strict=True))
                entry = {"name": f"{model} iso {iso:g}", "iso": int(iso) if iso == int(iso) else float(iso)}
                entries.append(entry | {"a": a, "b": b})
            comment = f"{profile.name}, exported by rawkit"
            makers.setdefault(maker, {})[model] = {"comment": comment, "model": model, "profiles": entries}
    return {
        "version": 0,
        "noiseprofiles": [
            {"maker": maker, "models": [models[m] for m in sorted(models)]} for maker, models in sorted(makers.items())
        ],
    }


def save_darktable(profiles: Sequence[CameraProfile], path: Path | str, *, overwrite: bool = False) -> None:
    """Write ``to_darktable`` as a file, whole or not at all; load it with ``darktable --noiseprofiles FILE``."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(to_darktable(profiles), indent=1) + "\n", encoding="utf-8")


_CLEAN_MAKERS = {  # EXIF make, in words -> the maker as darktable lists it
    "canon": "Canon",
    "dji": "DJI",
    "fujifilm": "Fujifilm",
    "hasselblad": "Hasselblad",
    "konica minolta": "Minolta",
    "minolta": "Minolta",
    "nikon": "Nikon",
    "olympus": "Olympus",
    "om": "OM System",
    "oneplus": "OnePlus",
    "panasonic": "Panasonic",
    "pentax": "Pentax",
    "phase one": "Phase One",
    "ricoh": "Ricoh",
    "samsung": "Samsung",
    "sony": "Sony",
    "leica": "Leica",
}
COMPANY_WORDS = ("corporation", "corp", "company", "ltd", "inc", "co", "imaging", "digital", "system", "solutions")


def _words(name: str) -> tuple[str, ...]:
    """Words of a camera's name without case and punctuation."""
    return tuple("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _model(name: str) -> str:
    """The model of "maker model", where the maker is one of darktable's."""
    makers = sorted(_CLEAN_MAKERS.values(), key=len, reverse=True)
    maker = next((m for m in makers if name.lower().startswith(m.lower() + " ")), name.split(" ")[0])
    return name[len(maker) :].strip() or name


def _darktable_names(profile: CameraProfile) -> list[tuple[str, str]]:
    """(maker, model) pairs to list a profile under: cleaned, and as EXIF says."""
    plain = " ".join(word for word in _words(profile.make) if word not in COMPANY_WORDS)
    clean_maker = _CLEAN_MAKERS.get(plain, profile.make.strip())
    model = profile.model.strip()
    prefix = next((m for m in (profile.make, clean_maker) if m and model.lower().startswith(m.lower() + " ")), "")
    clean_model = model[len(prefix) :].strip()
    names = [(clean_maker or profile.make, clean_model)]
    if (clean_maker, model) not in names:
        names.append((clean_maker, model))
    if profile.make and profile.make != clean_maker:
        names.append((profile.make, model))
    return names


# ---------------------------------------------------------------------------------------------- DNG


def _planes(params: NoiseParams, profile: CameraProfile) -> tuple[tuple[float, float], ...]:
    """(S, O) of three color planes on the [0, 1] scale."""
    phases = profile.phases or RGB
    pairs = params.to_dng(profile.span, phases)
    if len(pairs) == 1:
        return pairs * 3
    if len(pairs) != 3:
        raise ProfileError(f"the phases {', '.join(phases)} of {profile.name} are not those of red, green and blue.")
    return pairs


def dng_noise_profile(profile: CameraProfile, iso: float) -> tuple[tuple[float, float], ...]:
    """Values of the DNG NoiseProfile tag (51041, DOUBLE, in IFD order) at an ISO.

    Parameters
    ----------
    profile : CameraProfile
    iso : float

    Returns
    -------
    tuple of (S, O)
        sigma(x) = sqrt(S x + O), x in [0, 1], black 0 and white 1; planes R, G, B, or one where one pair holds for all
        (a monochrome camera, or a profile without phases).

    Raises
    ------
    ProfileError
        The profile's DN have no scale, or it has no answer at the ISO.
    """
    params = profile.noise.at(iso)
    if np.size(params.system_gain) == 1:
        return params.to_dng(profile.span, ("Y",))
    return params.to_dng(profile.span, profile.phases)


def dng_noise_profile_text(profile: CameraProfile, iso: float) -> str:
    """The tag's values in one line, as metadata tools take them: S and O of every plane, blanks between."""
    return " ".join(f"{value:.10g}" for pair in dng_noise_profile(profile, iso) for value in pair)


# ---------------------------------------------------------------------------------------------- ELD


def eld_parameters(path: Path | str, camera: str) -> Mapping[str, Any]:
    """One camera's parameters in an ELD-type JSON file, at its top or under ``params``.

    Raises
    ------
    ProfileError
        The file is not such JSON, or does not list the camera.
    """
    try:
        document = parse_json(Path(path).read_bytes())
        return document.get("params", document)[camera]
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ProfileError(f"{path} holds no ELD parameters of {camera}.") from None


def from_eld(
    parameters: Mapping[str, Any],
    *,
    make: str,
    model: str,
    isos: Sequence[float] = (100, 200, 400, 800, 1600, 3200, 6400),
    bit_depth: int = 14,
    segment: str = "Profile-1",
) -> CameraProfile:
    """ELD parameters of one camera, evaluated at ISOs between which K is spread evenly in its logarithm.

        v = exp(2 (s_g ln K + b_g)) + exp(2 (s_r ln K + b_r))      g: Gaussian pixel noise, r: row noise [DN^2]

    Parameters
    ----------
    parameters : mapping
        Keys ``Kmin``, ``Kmax`` [DN/e-], and ``segment`` with ``g_scale`` and ``R_scale`` = {slope, bias, sigma},
        natural logarithms; optionally ``G_scale`` (Tukey-lambda scale) and ``G_shape`` (its lambdas).
    make, model : str
    isos : rising; the first has Kmin, the last Kmax
    bit_depth : int
        Of the DN that the parameters are in.

    Returns
    -------
    CameraProfile
        The standard error of the read variance is the law's published scatter; K has none.

    Raises
    ------
    ProfileError
        A parameter is missing, or no camera can be like that.
    """
    try:
        low, high = float(parameters["Kmin"]), float(parameters["Kmax"])
        laws = parameters[segment]
        gaussian, row = laws["g_scale"], laws["R_scale"]
        numbers = [[float(law[key]) for key in ("slope", "bias", "sigma")] for law in (gaussian, row)]
        scale = laws.get("G_scale")
        tukey = None if scale is None else (float(scale["slope"]), float(scale["bias"]))
        shape = [float(value) for value in np.atleast_1d(parameters.get("G_shape") or ())]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProfileError(
            f"these are not ELD parameters: {error} is missing; needed are Kmin, Kmax and {segment} with g_scale and "
            "R_scale, each slope, bias and sigma."
        ) from None
    bounds = (math.log(low), math.log(high)) if 0 < low <= high < math.inf else (math.nan, math.nan)
    lines = [(slope, bias) for slope, bias, _ in numbers] + ([] if tukey is None else [tukey])
    if not all(abs(slope * k + bias) < _LARGEST_LOG for slope, bias in lines for k in bounds):
        raise ProfileError(f"no camera has Kmin {low:g}, Kmax {high:g} and the laws {numbers} (slope, bias, sigma).")
    table, details = [], {}
    span = math.log(isos[-1] / isos[0]) if len(isos) > 1 else 1.0
    for iso in isos:
        log_gain = math.log(low) + math.log(high / low) * math.log(iso / isos[0]) / span
        sigmas = [math.exp(slope * log_gain + bias) for slope, bias, _ in numbers]
        var = sum(sigma**2 for sigma in sigmas)
        # d(sigma^2) = 2 sigma^2 d(ln sigma)
        error = math.hypot(*(2 * sigma**2 * law[2] for sigma, law in zip(sigmas, numbers, strict=True)))
        table.append((float(iso), NoiseParams(math.exp(log_gain), var, None, error)))
        details[float(iso)] = IsoDetails(
            row_noise=sigmas[1],
            row_noise_se=sigmas[1] * numbers[1][2],
            tukey_scale=None if tukey is None else math.exp(tukey[0] * log_gain + tukey[1]),
            tukey_lambda=float(np.mean(shape)) if shape else None,
        )
    return CameraProfile(
        make=make,
        model=model,
        noise=NoiseModel(table),
        bit_depth=bit_depth,
        details=details,
        provenance={
            "method": f"Log-linear law of ELD, {segment}: read_var = sigma_G^2 + sigma_row^2, sigma = exp(slope ln K + "
            f"bias); K from Kmin at ISO {isos[0]:g} to Kmax at ISO {isos[-1]:g}, evenly in its logarithm. The standard "
            "error of read_var is the law's published scatter.",
            "reference": "K. Wei, Y. Fu, J. Yang and H. Huang, A physics-based noise formation model for extreme "
            "low-light raw denoising, CVPR 2020",
        },
    )


def to_eld(profile: CameraProfile) -> dict[str, Any]:
    """ELD parameters of a profile: log-linear fits over K, one ``Profile-n`` per gain segment.

    Pixel noise (``g_scale``) is sqrt(v - row noise^2) of the phases' mean, row noise (``R_scale``) is taken from the
    details where they have it.  ``G_scale`` and ``G_shape`` are there where the Tukey-lambda law was measured.
    ``color_bias`` is the black-level error per ISO and phase R, Gr, Gb, B [DN] where measured.

    Returns
    -------
    dict
        ``Kmin``, ``Kmax``, ``Profile-n``: {``g_scale``, ...: {slope, bias, sigma}}; natural logarithms, the
        profile's DN.  sigma is the scatter of the ISOs around the line.

    Raises
    ------
    ProfileError
        No gain segment has three ISOs.
    """
    document: dict[str, Any] = {}
    gains = [_mean(params.system_gain) for _, params in profile.noise.table]
    document["Kmin"], document["Kmax"] = min(gains), max(gains)
    number = 0
    for segment in range(len(profile.noise.gain_switches) + 1):
        native = [
            (iso, params) for iso, params in profile.noise.native(segment) if np.all(np.asarray(params.read_var) > 0)
        ]
        if len(native) < 3:
            continue
        number += 1
        gain = np.array([_mean(p.system_gain) for _, p in native])
        row = np.array([_mean(_detail(profile, iso, "row_noise"), 0.0) for iso, _ in native])
        var = np.array([_mean(p.read_var) for _, p in native])
        laws = {"g_scale": np.sqrt(np.maximum(var - row**2, 0.0)), "R_scale": row}
        laws["G_scale"] = np.array([_mean(_detail(profile, iso, "tukey_scale"), 0.0) for iso, _ in native])
        document[f"Profile-{number}"] = {
            name: _log_line(gain, sigma) for name, sigma in laws.items() if np.all(sigma > 0)
        }
    if not number:
        raise ProfileError(f"{profile.name}: no gain segment has the three ISOs that a law needs; calibrate more.")
    shapes = [_detail(profile, iso, "tukey_lambda") for iso in profile.noise.isos]
    document["G_shape"] = [_mean(shape) for shape in shapes if shape is not None]
    offsets = [_detail(profile, iso, "black_offset") for iso in profile.noise.isos]
    if profile.phases == _ELD_PHASES and any(isinstance(o, tuple) for o in offsets):
        document["color_bias"] = [list(o) for o in offsets if isinstance(o, tuple)]
    return document


def _detail(profile: CameraProfile, iso: float, name: str) -> Any:
    details = profile.details.get(iso)
    return None if details is None else getattr(details, name)


def _mean(value: Any, missing: float = math.nan) -> float:
    return missing if value is None else float(np.mean(value))


def _log_line(gain: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    """ln sigma = slope ln K + bias; ``sigma`` of the result is the residual's standard deviation, two degrees lost."""
    law = fit_law(gain, sigma, family="power")
    residual = law.residual * math.sqrt(gain.size / (gain.size - 2))
    bias, slope = (float(c) for c in law.coefficients)
    return {"slope": slope, "bias": bias, "sigma": residual}


# ---------------------------------------------------------------------------------------------- CSV

_CSV_UNITS = {"system_gain": "DN/e-", "read_var": "DN^2"}


def to_csv(profile: CameraProfile, path: Path | str, *, overwrite: bool = False) -> None:
    """One row per ISO and phase, units in the header; what is not per ISO as "# name: JSON" lines above it.

    ``from_csv`` reads it back to the same profile, maps excepted.
    """
    document = profile.to_dict()
    stream = io.StringIO()
    stream.write(f"{_CSV_MARK}, {document['schema']}\n")
    remarks = {f"{iso:g}": list(d.remarks) for iso, d in profile.details.items() if d.remarks}
    for key, value in document.items():
        if key not in ("schema", "noise", "units"):
            stream.write(f"# {key}: {json.dumps(value)}\n")
    if remarks:
        stream.write(f"# remarks: {json.dumps(remarks)}\n")
    quantities = ["system_gain", "system_gain_se", "read_var", "read_var_se"]
    used = [n for n in _CSV_DETAILS if any(getattr(d, n) is not None for d in profile.details.values())]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["iso", "phase", *(_headed(name) for name in quantities + used)])
    for iso, params in profile.noise.table:
        for index, phase in enumerate(profile.phases or ("all",)):
            row = [_cell(getattr(params, name), index) for name in quantities]
            row += [_cell(_detail(profile, iso, name), index) for name in used]
            writer.writerow([f"{iso!r}", phase, *row])
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(stream.getvalue(), encoding="utf-8")


def _headed(name: str) -> str:
    unit = {**UNITS, **_CSV_UNITS}.get(name.removesuffix("_se"))
    return name if unit is None else f"{name} [{unit}]"


def _cell(value: Any, index: int) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    flat = np.asarray(value, np.float64).reshape(-1)
    return repr(float(flat[index if flat.size > 1 else 0]))


def from_csv(path: Path | str, *, make: str = "", model: str | None = None) -> CameraProfile:
    """Inverse of ``to_csv``; also a plain table with the columns iso, system_gain, read_var (units may be left out).

    Parameters
    ----------
    path : path
    make, model : str
        Name of the camera where the file does not tell.

    Raises
    ------
    ProfileError
        A needed column is missing, a unit is another, a cell is no number, or a phase is missing at some ISO.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} cannot be read as text: {error}.") from None
    head: dict[str, Any] = {}
    for line in lines:
        key, colon, value = line.removeprefix("#").partition(":")
        if line.startswith("#") and colon:
            try:
                head[key.strip()] = parse_json(value)
            except ValueError:
                continue  # a comment of the user's own
    try:
        rows = list(csv.DictReader(line for line in lines if line.strip() and not line.startswith("#")))
    except csv.Error as error:
        raise ProfileError(f"{path} is not a table ({error}).") from None
    if not rows:
        raise ProfileError(f"{path} has no rows; needed are columns iso, system_gain and read_var.")
    names = {column: _plain_column(column, path) for column in rows[0] if column}
    missing = {"iso", "system_gain", "read_var"} - set(names.values())
    if missing:
        raise ProfileError(f"{path} lacks the column {', '.join(sorted(missing))}; it has {', '.join(names.values())}.")
    records = [{names[column]: cell for column, cell in row.items() if column in names} for row in rows]
    phases = tuple(dict.fromkeys(r.get("phase") or "all" for r in records))
    by_iso: dict[float, dict[str, dict[str, str]]] = {}
    for record in records:
        by_iso.setdefault(_number(record["iso"], "iso", path), {})[record.get("phase") or "all"] = record
    told = head.get("remarks")
    told = told if isinstance(told, dict) else {}
    noise = []
    for iso, of_phase in sorted(by_iso.items()):
        if set(of_phase) != set(phases):
            raise ProfileError(f"{path}: ISO {iso:g} has the phases {', '.join(of_phase)}, others {', '.join(phases)}.")
        entry: dict[str, Any] = {"iso": iso}
        details: dict[str, Any] = {}
        for name in names.values():
            cells = [of_phase[phase][name] for phase in phases]
            if name in ("iso", "phase") or not any(cells):
                continue
            values = [_number(cell, name, path) for cell in cells]
            if name in ("system_gain", "read_var", "system_gain_se", "read_var_se"):
                entry[name] = values
            elif name in ("flat_frames", "dark_frames"):
                details[name] = int(values[0])
            else:
                details[name] = values[0] if len(set(values)) == 1 else values
        remarks = told.get(f"{iso:g}")
        if remarks:
            details["remarks"] = remarks
        noise.append(entry | ({"details": details} if details else {}))
    blank = CameraProfile(make, model or Path(path).stem, NoiseModel([(1.0, NoiseParams(1.0, 1.0))])).to_dict()
    document = blank | {key: value for key, value in head.items() if key in blank} | {"noise": noise}
    document["phases"] = [] if phases == ("all",) else list(phases)
    return CameraProfile.from_dict(document, origin=str(path))


def _plain_column(header: str, path: Path | str) -> str:
    name, _, unit = header.strip().partition("[")
    name, unit = name.strip(), unit.rstrip("] ").strip()
    known = {**UNITS, **_CSV_UNITS}.get(name.removesuffix("_se"))
    if unit and known and unit != known:
        raise ProfileError(f"{path}: column {name} is in {unit}, needed is {known}; convert it.")
    return name


def _number(cell: str | None, name: str, path: Path | str) -> float:
    try:
        number = float(cell or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ProfileError(f"{path}: {name} {cell!r} is not a number.")
    return number


# ---------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class ProfileRatio:
    """Two profiles at one ISO and phase: b over a, in electrons where DN differ.

    Parameters
    ----------
    iso : float
    phase : str
    gain_ratio : K/span of b over that of a [1]
    read_noise_ratio : sigma/K of b over that of a [1], in electrons; NaN where either is unknown
    gain_ratio_se, read_noise_ratio_se : float
        NaN where either profile states no standard error.
    origins : (str, str)
        Measured, interpolated or extrapolated, in a and in b.
    """

    iso: float
    phase: str
    gain_ratio: float
    gain_ratio_se: float
    read_noise_ratio: float
    read_noise_ratio_se: float
    origins: tuple[str, str]


def compare(a: CameraProfile, b: CameraProfile) -> tuple[ProfileRatio, ...]:
    """System gain on the [0, 1] scale and read noise in electrons, b over a, over the ISO range that both share.

    Every ISO of either table within the range; greens stand in for one another where the phases differ.

    Raises
    ------
    ProfileError
        The ranges do not overlap, or the phases do not correspond.
    """
    low, high = max(a.noise.isos[0], b.noise.isos[0]), min(a.noise.isos[-1], b.noise.isos[-1])
    isos = sorted({float(iso) for iso in (*a.noise.isos, *b.noise.isos) if low <= iso <= high})
    if not isos:
        raise ProfileError(
            f"{a.name} (ISO {a.noise.isos[0]:g} to {a.noise.isos[-1]:g}) and {b.name} (ISO {b.noise.isos[0]:g} to "
            f"{b.noise.isos[-1]:g}) share no ISO; there is nothing to compare."
        )
    rows = []
    for iso in isos:
        left, right = a.noise.at(iso), b.noise.at(iso)
        for phase, i, j in _phase_pairs(a, b):
            one, two = _in_electrons(left, i, a.span), _in_electrons(right, j, b.span)
            gain, read = two[0] / one[0], two[2] / one[2] if one[2] > 0 and two[2] > 0 else math.nan
            rows.append(
                ProfileRatio(
                    iso=iso,
                    phase=phase,
                    gain_ratio=gain,
                    gain_ratio_se=gain * math.hypot(one[1], two[1]),
                    read_noise_ratio=read,
                    read_noise_ratio_se=read * math.hypot(one[3], two[3]),
                    origins=(left.origin, right.origin),
                )
            )
    return tuple(rows)


def _phase_pairs(a: CameraProfile, b: CameraProfile) -> list[tuple[str, int, int]]:
    """(name, index in a, index in b) of every phase of the profile that lists more."""
    if not a.phases and not b.phases:
        return [("all", 0, 0)]
    longer = a.phases if len(a.phases) >= len(b.phases) else b.phases

    def index(phases: tuple[str, ...], phase: str) -> int:
        if not phases:
            return 0
        if phase in phases:
            return phases.index(phase)
        same = [k for k, name in enumerate(phases) if name[0] == phase[0]]
        if not same:
            raise ProfileError(f"the profiles list the phases {', '.join(a.phases)} and {', '.join(b.phases)}.")
        return same[0]

    return [(phase, index(a.phases, phase), index(b.phases, phase)) for phase in longer]


def _in_electrons(params: NoiseParams, index: int, span: float) -> tuple[float, float, float, float]:
    """K on the [0, 1] scale, its relative error, read noise [e-], its relative error; NaN errors where not stated."""

    def pick(value: Any) -> float:
        flat = np.asarray(np.nan if value is None else value, np.float64).reshape(-1)
        return float(flat[index if flat.size > 1 else 0])

    gain, var = pick(params.system_gain), pick(params.read_var)
    gain_error = pick(params.system_gain_se) / gain
    read_error = pick(params.read_var_se) / (2 * var) if var > 0 else math.nan
    return gain / span, gain_error, math.sqrt(var) / gain, math.hypot(read_error, gain_error)
