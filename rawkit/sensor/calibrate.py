"""Frames in, camera profile out: the only file that knows the order of the steps.

Per ISO: darks -> read variance and dark mean; flats -> photon-transfer curve -> system gain.  Every number enters
the profile with its standard error, every file with its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.resources import sha256
from rawkit.sensor.dark import QUANTIZATION_LIMIT, DarkNoise, fit_darks
from rawkit.sensor.frames import Frame, FrameSet, PairStatistics, pairs
from rawkit.sensor.gain import DEFAULT_BASE_ISO
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.photon_transfer import PhotonTransfer, fit_photon_transfer
from rawkit.sensor.profile import CameraProfile, NoiseModel

_POOR_FIT = 3.0  # chi2 per degree of freedom

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A profile and what it was made from.

    Parameters
    ----------
    profile : CameraProfile
    curves : dict of ISO to PhotonTransfer
    darks : dict of ISO to DarkNoise
    left_out : list of (Path, str)
        Files that were not used, and why.
    remarks : list of str
        What deserves a second look, in words.
    """

    profile: CameraProfile
    curves: dict[float, PhotonTransfer]
    darks: dict[float, DarkNoise]
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def calibrate(
    frames: FrameSet,
    *,
    make: str | None = None,
    model: str | None = None,
    base_iso: float = DEFAULT_BASE_ISO,
    progress: Progress | None = None,
) -> Calibration:
    """Fit K and read variance for every ISO and phase of a set of frames.

    Parameters
    ----------
    frames : FrameSet
    make, model : str, optional
        Name of the camera when the files do not tell.
    base_iso : float
        Recorded in the profile.
    progress : callable (done, total), optional
        Called after every file.

    Returns
    -------
    Calibration

    Raises
    ------
    CalibrationError
        No ISO could be calibrated; the message names the reason of the first.
    """
    table: list[tuple[float, NoiseParams]] = []
    curves: dict[float, PhotonTransfer] = {}
    darks: dict[float, DarkNoise] = {}
    left_out, remarks = list(frames.left_out), []
    failures: list[str] = []
    done, total = 0, len(frames.frames)

    def statistics(of: Iterable[Frame]) -> list[PairStatistics]:
        nonlocal done
        found = []
        for frame, result in pairs(of):
            done += 1 if isinstance(result, str) else 2
            if isinstance(result, str):
                left_out.append((frame.path, result))
            else:
                found.append(result)
            if progress is not None:
                progress(min(done, total), total)
        return found

    for iso in frames.isos:
        try:
            dark = fit_darks(statistics(frames.darks(iso)))
            white = frames.first.white_level - float(np.mean(frames.first.black_level))
            curve = fit_photon_transfer(
                statistics(frames.flats(iso)), dark.mean, dark.read_var, dark.read_var_se, white=white
            )
        except CalibrationError as error:
            failures.append(f"ISO {iso:g}: {error}")
            continue
        darks[iso], curves[iso] = dark, curve
        table.append((iso, NoiseParams(curve.system_gain, dark.read_var, curve.system_gain_se, dark.read_var_se)))
        remarks += _remarks(iso, dark, curve)
    if not table:
        raise CalibrationError("; ".join(failures[:2]) or "no ISO has both flats and darks.")
    first = frames.first
    profile = CameraProfile(
        make=make if make is not None else frames.make,
        model=model or frames.model or "unknown",
        noise=NoiseModel(table),
        phases=first.phases,
        cfa=str(first.cfa),
        bit_depth=int(np.ceil(np.log2(first.white_level + 1))),
        black_level=tuple(
            float(b) for b in np.array(first.black_level) + np.mean([d.mean for d in darks.values()], axis=0)
        ),
        white_level=first.white_level,
        base_iso=base_iso,
        serial=first.metadata.serial,
        provenance=_provenance(frames, left_out),
    )
    return Calibration(profile, curves, darks, left_out, failures + remarks)


def _remarks(iso: float, dark: DarkNoise, curve: PhotonTransfer) -> list[str]:
    remarks = []
    if np.any(dark.read_var < QUANTIZATION_LIMIT):
        remarks.append(
            f"ISO {iso:g}: read noise is below {QUANTIZATION_LIMIT**0.5:g} DN; rounding distorts a plain variance."
        )
    if np.any(curve.chi2_per_dof > _POOR_FIT):
        remarks.append(
            f"ISO {iso:g}: the flats scatter {np.max(curve.chi2_per_dof):.1f} times as much as sampling explains (bent "
            "response, or light that changed within a pair); the standard error of K is widened accordingly."
        )
    if dark.grows:
        remarks.append(f"ISO {iso:g}: dark noise grows with exposure time; read variance is the value at time zero.")
    return remarks


def _provenance(frames: FrameSet, left_out: list[tuple[Path, str]]) -> dict:
    try:
        ours = version("rawkit-camera")
    except PackageNotFoundError:
        ours = "not installed"
    unused = {path for path, _ in left_out}
    return {
        "method": "pair differences; read variance from darks; weighted slope through it up to 70 % of saturation",
        "rawkit_version": ours,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "files": [
            {
                "name": f.path.name,
                "sha256": sha256(f.path),
                "kind": f.kind,
                "iso": f.iso,
                "exposure_time": f.exposure_time,
            }
            for f in frames.frames
            if f.path not in unused
        ],
    }
