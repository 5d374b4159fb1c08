"""What a calibration leaves behind: noise parameters over ISO, and the camera they belong to.

``NoiseModel`` answers "which K and read variance at this ISO?":

* At a calibrated ISO the table's own numbers.
* Between two of them, inside one gain segment: K linear in ISO, read variance linear in ISO^2.  Both are exact
  for the laws K = c0 + c1 ISO and v = a + b ISO^2 (downstream noise plus amplified noise in quadrature).
* Outside the table, or between an ISO and a gain switch: K proportional to ISO from the nearest entry of the
  segment, read variance from the segment's fitted law v = a + b ISO^2, a, b >= 0.

A gain switch (dual conversion gain) is an ISO at which the sensor changes its analog circuit; read noise jumps
there and nothing is ever interpolated across it.  ``NoiseParams.origin`` tells which case answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rawkit.errors import ProfileError
from rawkit.resources import profile_validator, replacing
from rawkit.sensor.gain import DEFAULT_BASE_ISO
from rawkit.sensor.params import NoiseParams

SCHEMA = "rawkit-camera-profile/1"
_SAME_ISO = 1e-3  # relative; cameras round ISO to a few digits
_PHYSICAL_GAIN = (1e-6, 1e4)  # DN/e-: from deep-well float images to single-electron sensors at 16 bit


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Noise parameters over ISO.

    Parameters
    ----------
    table : sequence of (float, NoiseParams)
        ISO and what was found there, one value or one per phase; ISOs rising.
    gain_switches : tuple of float
        ISOs at which a new gain segment starts (the first ISO of the upper segment).

    Examples
    --------
    >>> model = NoiseModel([(100, NoiseParams(0.1, 1.0)), (400, NoiseParams(0.4, 4.0))])
    >>> p = model.at(200)
    >>> round(float(p.system_gain), 12), float(p.read_var), p.origin
    (0.2, 1.6, 'interpolated')
    """

    table: Sequence[tuple[float, NoiseParams]]
    gain_switches: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        isos = [iso for iso, _ in self.table]
        if not isos:
            raise ProfileError("a noise model needs at least one ISO.")
        if any(b <= a for a, b in zip(isos, isos[1:], strict=False)) or isos[0] <= 0:
            raise ProfileError(f"the ISOs of a noise model must be positive and rise, found {isos}.")

    @property
    def isos(self) -> tuple[float, ...]:
        """ISOs of the table."""
        return tuple(iso for iso, _ in self.table)

    def _segment(self, iso: float) -> list[tuple[float, NoiseParams]]:
        """Entries on the same side of every gain switch as ``iso``."""
        number = sum(iso >= switch * (1 - _SAME_ISO) for switch in self.gain_switches)
        same = [
            entry
            for entry in self.table
            if sum(entry[0] >= switch * (1 - _SAME_ISO) for switch in self.gain_switches) == number
        ]
        if not same:
            raise ProfileError(
                f"ISO {iso:g} lies in a gain segment without any calibrated ISO (calibrated: "
                f"{', '.join(f'{i:g}' for i in self.isos)}); calibrate one there."
            )
        return same

    def at(self, iso: float) -> NoiseParams:
        """Parameters at an ISO; ``origin`` says measured, interpolated or extrapolated."""
        if not (np.isfinite(iso) and iso > 0):
            raise ValueError(f"ISO must be a positive number, found {iso}.")
        segment = self._segment(iso)
        for known, params in segment:
            if abs(known / iso - 1) < _SAME_ISO:
                return params
        below = [entry for entry in segment if entry[0] < iso]
        above = [entry for entry in segment if entry[0] > iso]
        if below and above:
            return _between(iso, below[-1], above[0])
        return _beyond(iso, segment, below[-1] if below else above[0])


def _weighted(params: Sequence[NoiseParams], weights: Sequence[float], name: str) -> Any:
    """Weighted sum of one attribute; for standard errors, the root of the weighted squares; None if any is missing."""
    values = [getattr(p, name) for p in params]
    if any(v is None for v in values):
        return None
    if name.endswith("_se"):
        return np.sqrt(sum((w * np.asarray(v)) ** 2 for w, v in zip(weights, values, strict=True)))
    return sum(w * np.asarray(v) for w, v in zip(weights, values, strict=True))


def _between(iso: float, low: tuple[float, NoiseParams], high: tuple[float, NoiseParams]) -> NoiseParams:
    linear = (iso - low[0]) / (high[0] - low[0])
    square = (iso**2 - low[0] ** 2) / (high[0] ** 2 - low[0] ** 2)
    pair = (low[1], high[1])
    return NoiseParams(
        _weighted(pair, (1 - linear, linear), "system_gain"),
        _weighted(pair, (1 - square, square), "read_var"),
        _weighted(pair, (1 - linear, linear), "system_gain_se"),
        _weighted(pair, (1 - square, square), "read_var_se"),
        "interpolated",
    )


def _beyond(iso: float, segment: list[tuple[float, NoiseParams]], nearest: tuple[float, NoiseParams]) -> NoiseParams:
    from scipy.optimize import nnls

    ratio = iso / nearest[0]
    read = np.array([np.asarray(p.read_var, np.float64).reshape(-1) for _, p in segment])
    squares = np.array([known for known, _ in segment]) ** 2
    law = []
    for phase in range(read.shape[1]):
        column = np.maximum(read[:, phase], np.finfo(float).tiny)
        design = np.stack([np.ones_like(squares), squares], axis=1) / column[:, None]  # relative residuals
        a, b = nnls(design, np.ones_like(column))[0]
        fitted_here = a + b * nearest[0] ** 2
        # Anchored at the nearest entry, so that the answer is continuous there.
        law.append((a + b * iso**2) * (column[segment.index(nearest)] / fitted_here if fitted_here > 0 else 0.0))
    params = nearest[1]
    read_var = np.array(law).reshape(np.shape(params.read_var))
    growth = float(np.max(read_var)) / max(float(np.max(params.read_var)), np.finfo(float).tiny)
    return NoiseParams(
        np.asarray(params.system_gain) * ratio,
        read_var,
        None if params.system_gain_se is None else np.asarray(params.system_gain_se) * ratio,
        None if params.read_var_se is None else np.asarray(params.read_var_se) * growth,
        "extrapolated",
    )


@dataclass(frozen=True, eq=False)
class CameraProfile:
    """A calibrated camera.

    Parameters
    ----------
    make, model : str
        As the camera writes them into its files; ``aliases`` are other names of the same camera.
    noise : NoiseModel
        In the camera's own DN.
    phases : tuple of str
        Phases that the parameters are listed for, or empty when one value holds for all.
    cfa : str or None
        Bayer letters, 36 X-Trans letters or ``MONO``; None when unknown.
    bit_depth : int or None
        Of the stored values.
    black_level : tuple of float or None
        Mean dark level per phase [DN], measured where darks were there.
    white_level : float or None
        Saturation [DN], black included.
    base_iso : float
    provenance : dict
        Who measured it, with what, when, from which files; licence and source for published data.
    """

    make: str
    model: str
    noise: NoiseModel
    phases: tuple[str, ...] = ()
    cfa: str | None = None
    bit_depth: int | None = None
    black_level: tuple[float, ...] | None = None
    white_level: float | None = None
    base_iso: float = DEFAULT_BASE_ISO
    aliases: tuple[str, ...] = ()
    serial: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.make, self.model) if part)

    @property
    def span(self) -> float:
        """White minus black [DN]; from the bit depth when the levels are not recorded."""
        if self.white_level is not None and self.black_level is not None:
            return self.white_level - float(np.mean(self.black_level))
        if self.bit_depth is not None:
            return 2.0**self.bit_depth - 1.0
        raise ProfileError(f"the profile of {self.name} has neither levels nor a bit depth, so its DN have no scale.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON document, schema ``calibration_data/schema.json``."""

        def numbers(value: Any) -> list[float] | None:
            return None if value is None else [float(v) for v in np.asarray(value, np.float64).reshape(-1)]

        return {
            "schema": SCHEMA,
            "make": self.make,
            "model": self.model,
            "aliases": list(self.aliases),
            "serial": self.serial,
            "cfa": self.cfa,
            "phases": list(self.phases),
            "bit_depth": self.bit_depth,
            "black_level": numbers(self.black_level),
            "white_level": self.white_level,
            "base_iso": self.base_iso,
            "units": {
                "system_gain": "DN/e-",
                "read_var": "DN^2, temporal variance of a dark pixel as stored, quantization included",
                "levels": "DN",
                "se": "standard error, same unit",
            },
            "noise": [
                {
                    "iso": float(iso),
                    "system_gain": numbers(p.system_gain),
                    "read_var": numbers(p.read_var),
                    "system_gain_se": numbers(p.system_gain_se),
                    "read_var_se": numbers(p.read_var_se),
                }
                for iso, p in self.noise.table
            ],
            "gain_switches": [float(s) for s in self.noise.gain_switches],
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, document: Any, *, origin: str = "this profile") -> CameraProfile:
        """Inverse of ``to_dict``; checks schema and physical plausibility.

        Raises
        ------
        ProfileError
        """
        if isinstance(document, dict) and document.get("schema") not in (None, SCHEMA):
            raise ProfileError(f"{origin} says schema {document['schema']!r}; this rawkit reads {SCHEMA!r}.")
        complaint = profile_validator()(document)
        if complaint is not None:
            raise ProfileError(f"{origin} is not a camera profile: {complaint[:200]}.")

        phases = tuple(document["phases"])

        def params(entry: dict[str, Any]) -> NoiseParams:
            columns = {}
            for key in ("system_gain", "read_var", "system_gain_se", "read_var_se"):
                values = entry.get(key)
                if values is not None and len(values) != max(len(phases), 1):
                    raise ProfileError(f"{origin}: ISO {entry['iso']:g} lists {len(values)} {key}, phases {phases}.")
                columns[key] = None if values is None else np.array(values) if phases else values[0]
            gain = np.asarray(columns["system_gain"])
            low, high = _PHYSICAL_GAIN
            if np.any(gain < low) or np.any(gain > high):
                raise ProfileError(
                    f"{origin}: system gain {columns['system_gain']} DN/e- at ISO {entry['iso']:g} is outside "
                    f"{low:g} to {high:g}; is it in electrons per DN?"
                )
            return NoiseParams(**columns)

        table = [(float(entry["iso"]), params(entry)) for entry in document["noise"]]
        return cls(
            make=document["make"],
            model=document["model"],
            noise=NoiseModel(table, tuple(document["gain_switches"])),
            phases=phases,
            cfa=document["cfa"],
            bit_depth=document["bit_depth"],
            black_level=None if document["black_level"] is None else tuple(document["black_level"]),
            white_level=document["white_level"],
            base_iso=document["base_iso"],
            aliases=tuple(document["aliases"]),
            serial=document["serial"],
            provenance=document["provenance"],
        )

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the profile as JSON, whole or not at all."""
        with replacing(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> CameraProfile:
        """Read and check a profile."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ProfileError(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError:
            raise ProfileError(f"{path} is not a camera profile: it is not JSON text.") from None
        return cls.from_dict(document, origin=str(path))
