"""What a calibration leaves behind: noise parameters over ISO, and the camera they belong to.

``NoiseModel`` answers "which K and read variance at this ISO?":

* At a calibrated ISO the table's own numbers.
* Between two native ISOs of one gain segment: K linear in ISO, read variance linear in ISO^2.  Both are exact
  for the laws K = c0 + c1 ISO and v = a + b ISO^2 (downstream noise plus amplified noise in quadrature).  Where the
  entries around follow a power of ISO more closely, linear in the logarithms.
* Outside the table, or between an ISO and a gain switch: the segment's laws (``iso_laws``), scaled to pass through
  the nearest entry; K in proportion to ISO where the segment has too few entries for a law.

A gain switch (dual conversion gain) is an ISO at which the sensor changes its analog circuit; read noise jumps
there and nothing is ever interpolated across it.  A *pushed* ISO is a native one multiplied digitally; native ISOs
are interpolated from native ones, and pushed ones as their native ISO times the digital factor of their like
(the same place in other octaves), or within a run of pushed ISOs.  ``NoiseParams.origin`` tells measured,
interpolated or extrapolated.

Standard errors of an interpolated answer hold the errors of the entries used and the interpolation's own: the root
mean square by which entries, left out one at a time, are missed by their neighbors (over twice the distance, so an
upper bound), their own errors subtracted.  An answer whose error nobody can tell has None.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rawkit.errors import CalibrationWarning, ProfileError
from rawkit.resources import parse_json, profile_validator, replacing, sha256
from rawkit.sensor.gain import DEFAULT_BASE_ISO
from rawkit.sensor.iso_details import UNITS, IsoDetails
from rawkit.sensor.iso_laws import gain_law, read_law
from rawkit.sensor.iso_pushed import push_rule
from rawkit.sensor.iso_structure import find_structure
from rawkit.sensor.params import NoiseParams

if TYPE_CHECKING:
    import pandas

SCHEMA = "rawkit-camera-profile/1"
_SAME_ISO = 1e-3  # relative; cameras round ISO to a few digits
_NEAR_ISO = 0.1  # relative; names of ISOs are rounded by less, third stops apart by 0.26
_SAME_RUN = 0.15  # relative; K/ISO of neighbors pushed by one factor; factors a third stop apart differ by 0.22
_POSSIBLE_ISO = (1e-3, 1e9)
_LEAST_ERROR = 1e-9  # of a number, relative: fits take the inverse square as a weight
_PHYSICAL_GAIN = (1e-9, 1e4)  # DN/e-: from deep-well images on the [0, 1] scale to single electrons at 16 bit
PHYSICAL_READ_NOISE = (0.1, 500.0)  # e-: from deep sub-electron sensors to hot, fast machine vision
_GAIN_FALL = (0.1, 1 / 3)  # K between neighbors, relative: to be looked at; not a system gain in DN/e- at all
_DOUBTFUL = 5.0  # standard errors
# Relative; where a segment is too short to show how K follows ISO.  Scale of |K/(c ISO) - 1| over the 371 models of
# darktable 4.2.1's noise database: median 4.7 % / 0.6745.
_PROPORTIONALITY_SE = 0.07
_LAW_NEIGHBORS = 3  # entries on either side that choose the shape of an interpolation

Entry = tuple[float, NoiseParams]


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Noise parameters over ISO.

    Parameters
    ----------
    table : sequence of (float, NoiseParams)
        ISO and what was found there, one value or one per phase; ISOs rising.
    gain_switches : tuple of float
        ISOs at which a new gain segment starts (the first ISO of the upper segment).
    pushed : tuple of float
        ISOs of the table that are native ones multiplied digitally.

    Examples
    --------
    >>> model = NoiseModel([(100, NoiseParams(0.1, 1.0)), (400, NoiseParams(0.4, 4.0))])
    >>> p = model.at(200)
    >>> round(float(p.system_gain), 12), float(p.read_var), p.origin
    (0.2, 1.6, 'interpolated')
    """

    table: Sequence[Entry]
    gain_switches: tuple[float, ...] = ()
    pushed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        isos = [iso for iso, _ in self.table]
        if not isos:
            raise ProfileError("a noise model needs at least one ISO.")
        if any(b <= a for a, b in zip(isos, isos[1:], strict=False)) or isos[0] <= 0:
            raise ProfileError(f"the ISOs of a noise model must be positive and rise, found {isos}.")
        for iso in self.pushed:
            if not any(_same(iso, known) for known in isos):
                raise ProfileError(f"pushed ISO {iso:g} is not in the table, which has {isos}.")

    @classmethod
    def from_table(cls, table: Sequence[Entry]) -> NoiseModel:
        """A table with the gain switches and pushed ISOs that ``iso_structure.find_structure`` finds in it."""
        structure = find_structure(table)
        return cls(table, structure.boundaries, structure.pushed)

    @property
    def isos(self) -> tuple[float, ...]:
        """ISOs of the table."""
        return tuple(iso for iso, _ in self.table)

    def segment_number(self, iso: float) -> int:
        """Gain segment of an ISO, 0 for the lowest."""
        return sum(iso >= switch * (1 - _SAME_ISO) for switch in self.gain_switches)

    def is_pushed(self, iso: float) -> bool:
        """Is this ISO of the table made digitally from another?"""
        return any(_same(iso, pushed) for pushed in self.pushed)

    def native(self, segment: int) -> list[Entry]:
        """Entries of a gain segment that are not pushed."""
        return [e for e in self.table if self.segment_number(e[0]) == segment and not self.is_pushed(e[0])]

    def at(self, iso: float) -> NoiseParams:
        """Parameters at an ISO; ``origin`` says measured, interpolated or extrapolated.

        Raises
        ------
        ProfileError
            The ISO lies in a gain segment of which the table has no entry.
        """
        if not (np.isfinite(iso) and iso > 0):
            raise ValueError(f"ISO must be a positive number, found {iso}.")
        for known, params in self.table:
            if _same(known, iso):
                return params
        return self._pushed_at(iso) or self._native_at(iso)

    def _native_at(self, iso: float) -> NoiseParams:
        native = self.native(self.segment_number(iso))
        if not native:
            raise ProfileError(
                f"ISO {iso:g} lies in a gain segment without any calibrated ISO (calibrated: "
                f"{', '.join(f'{i:g}' for i in self.isos)}); calibrate one there."
            )
        below = [entry for entry in native if entry[0] < iso]
        above = [entry for entry in native if entry[0] > iso]
        if below and above:
            return _between(iso, below[-1], above[0], self._own_error, segment=native)
        return _beyond(iso, native, below[-1] if below else above[0], self._own_error)

    def _pushed_at(self, iso: float) -> NoiseParams | None:
        """Parameters at an ISO that must be a pushed one; None if it need not be."""
        if not self.pushed:
            return None
        rule = push_rule(self.table, self.pushed, iso)
        if rule is not None:
            return self._by_rule(iso, rule.isos, rule.ratio)
        below, above = [e for e in self.table if e[0] < iso], [e for e in self.table if e[0] > iso]
        if below and above:
            low, high = below[-1], above[0]
            both = self.is_pushed(low[0]) and self.is_pushed(high[0])
            if both and self.segment_number(low[0]) == self.segment_number(high[0]):
                step = _log_gain(high) - _log_gain(low) - math.log(high[0] / low[0])
                if abs(step) < _SAME_RUN:
                    return _between(iso, low, high, self._own_error)
            return None
        end = below[-1] if below else above[0]
        if not self.is_pushed(end[0]):
            return None
        return replace(end[1].scaled(iso / end[0]), origin="extrapolated")  # all of it digital

    def _by_rule(self, iso: float, like: Sequence[float], ratio: float) -> NoiseParams:
        """A pushed ISO as its native one times the digital factor of its like in other octaves."""

        def native_of(pushed: float) -> NoiseParams:
            nominal = pushed * ratio
            known = min(self.native(self.segment_number(pushed)) or self.table, key=lambda e: abs(e[0] / nominal - 1))
            return known[1] if abs(known[0] / nominal - 1) < _NEAR_ISO else self._native_at(nominal)

        table = dict(self.table)
        factors = np.array([_log_gain((p, table[p])) - _log_gain((p, native_of(p))) for p in like])
        factor = math.exp(float(np.interp(math.log(iso), np.log(like), factors)))
        # How far the factor of one octave is from that of the next: the error of carrying it over.
        spread = float(np.sqrt(np.mean(np.diff(factors) ** 2)))
        scaled = native_of(iso).scaled(factor)
        return NoiseParams(
            scaled.system_gain,
            scaled.read_var,
            _combined(scaled.system_gain, scaled.system_gain_se, (spread, self._own_error[0])),
            _combined(scaled.read_var, scaled.read_var_se, (2 * spread, self._own_error[1])),
            "interpolated",
        )

    @cached_property
    def _own_error(self) -> tuple[float | None, float | None]:
        """Relative error of an interpolation itself, of K and of v: from entries left out one at a time."""
        return _left_out_error(self, "system_gain"), _left_out_error(self, "read_var")


def _same(a: float, b: float) -> bool:
    return abs(a / b - 1) < _SAME_ISO


def _log_gain(entry: Entry) -> float:
    return float(np.median(np.log(entry[1].system_gain)))


def _left_out_error(model: NoiseModel, name: str) -> float | None:
    squares, expected = [], []
    for segment in range(len(model.gain_switches) + 1):
        native = model.native(segment)
        for low, (iso, params), high in zip(native, native[1:], native[2:], strict=False):
            rest = [e for e in native if e[0] != iso]
            value, guess = (
                np.asarray(getattr(params, name)),
                _between(iso, low, high, (None, None), segment=rest, own=False),
            )
            guessed = np.asarray(getattr(guess, name))
            if np.any(value <= 0) or np.any(guessed <= 0):
                continue
            squares.append(float(np.mean(np.log(value / guessed) ** 2)))
            errors = [getattr(params, f"{name}_se"), getattr(guess, f"{name}_se")]
            scales = (value, guessed)
            expected.append(
                sum(
                    float(np.mean((np.asarray(e) / v) ** 2))
                    for e, v in zip(errors, scales, strict=True)
                    if e is not None
                )
            )
    return math.sqrt(max(float(np.mean(squares)) - float(np.mean(expected)), 0.0)) if squares else None


def _combined(value: Any, se: Any, relative: Sequence[float | None]) -> Any:
    """Standard error of a value from one of its own and relative ones; None when nothing at all is known."""
    known = [r for r in relative if r is not None]
    if len(known) < len(relative):
        return None
    own = 0.0 if se is None else np.asarray(se, np.float64)
    return np.sqrt(own**2 + sum(r**2 for r in known) * np.asarray(value, np.float64) ** 2)


def _between(
    iso: float,
    low: Entry,
    high: Entry,
    own_error: tuple[float | None, float | None],
    *,
    segment: Sequence[Entry] = (),
    own: bool = True,
) -> NoiseParams:
    """Both neighbors joined by the family of law that the entries around them follow.

    K linear in ISO and v linear in ISO^2, or ln K and ln v linear in ln ISO where that law leaves smaller residuals
    in up to six entries around.
    """
    near = [e for e in segment if e[0] <= low[0]][-_LAW_NEIGHBORS:] + [e for e in segment if e[0] >= high[0]][
        :_LAW_NEIGHBORS
    ]
    gain, gain_se = _carried(iso, low, high, near, "system_gain")
    var, var_se = _carried(iso, low, high, near, "read_var")
    if own:
        gain_se, var_se = _combined(gain, gain_se, (own_error[0],)), _combined(var, var_se, (own_error[1],))
    return NoiseParams(gain, var, gain_se, var_se, "interpolated")


def _carried(iso: float, low: Entry, high: Entry, near: Sequence[Entry], name: str) -> tuple[Any, Any]:
    """Value at ``iso`` between two entries, and the share of their standard errors in it (None: not stated)."""
    left, right = (np.asarray(getattr(e[1], name), np.float64) for e in (low, high))
    exponent = 1 if name == "system_gain" else 2
    x, x_low, x_high = (i**exponent for i in (iso, low[0], high[0]))
    w = (x - x_low) / (x_high - x_low)
    value, weights = (1 - w) * left + w * right, (1 - w, w)
    if len(near) > 2 and all(np.all(np.asarray(getattr(p, name)) > 0) for _, p in near):
        isos = [known for known, _ in near]
        typical = [math.exp(float(np.median(np.log(getattr(p, name))))) for _, p in near]  # phases share the shape
        law = (gain_law if name == "system_gain" else read_law)(isos, typical)
        if law.family == "power" and law.coefficients[1] > 0:
            w = math.log(iso / low[0]) / math.log(high[0] / low[0])
            value = left ** (1 - w) * right**w
            weights = ((1 - w) * value / left, w * value / right)
    errors = [getattr(e[1], f"{name}_se") for e in (low, high)]
    if any(e is None for e in errors):
        return value, None
    squares = [(weight * np.asarray(e, np.float64)) ** 2 for weight, e in zip(weights, errors, strict=True)]
    return value, np.sqrt(squares[0] + squares[1])


def _beyond(
    iso: float, segment: list[Entry], nearest: Entry, own_error: tuple[float | None, float | None]
) -> NoiseParams:
    """The segment's laws, scaled to pass through the nearest entry, so that the answer is continuous there."""
    gain, gain_se = _extrapolated(iso, segment, nearest, "system_gain", own_error[0])
    var, var_se = _extrapolated(iso, segment, nearest, "read_var", own_error[1])
    return NoiseParams(gain, var, gain_se, var_se, "extrapolated")


def _extrapolated(
    iso: float, segment: list[Entry], nearest: Entry, name: str, own_error: float | None
) -> tuple[Any, Any]:
    isos = np.array([known for known, _ in segment])
    shape = np.shape(getattr(nearest[1], name))
    values = np.stack([np.asarray(getattr(p, name), np.float64).reshape(-1) for _, p in segment])
    errors = [getattr(p, f"{name}_se") for _, p in segment]
    known = all(e is not None for e in errors)
    relative = np.stack([np.asarray(e, np.float64).reshape(-1) for e in errors]) / values if known else None
    if relative is not None and not (np.all(np.isfinite(relative)) and np.all(relative > 0)):
        relative = None
    at = [known for known, _ in segment].index(nearest[0])
    result, error = np.empty(values.shape[1]), np.full(values.shape[1], np.nan)
    for phase in range(values.shape[1]):
        here, positive = values[at, phase], values[:, phase] > 0
        result[phase], error[phase] = _law_beyond(
            iso,
            nearest[0],
            isos[positive],
            values[positive, phase],
            None if relative is None else relative[positive, phase],
            gain=name == "system_gain",
        )
        result[phase] *= here
    total = None
    if np.all(np.isfinite(error)):
        # A one-entry segment states no error of its law; what it states of its entry still counts.
        entry = np.zeros_like(result) if relative is None else relative[at]
        total = (result * np.sqrt(error**2 + entry**2 + (own_error or 0.0) ** 2)).reshape(shape)
    return result.reshape(shape), total


def _law_beyond(
    iso: float, anchor: float, isos: np.ndarray, values: np.ndarray, relative: np.ndarray | None, *, gain: bool
) -> tuple[float, float]:
    """Value at ``iso`` over value at ``anchor``, and its relative standard error (NaN: unknown)."""
    if gain:
        law = gain_law(isos, values, relative) if isos.size > 2 else None
        if law is None or not law.value(iso) > 0:
            return iso / anchor, _PROPORTIONALITY_SE
    elif isos.size == 0:
        return 1.0, math.nan
    else:
        law = read_law(isos, values, relative)
    return float(law.value(iso) / law.value(anchor)), float(law.log_ratio_se(iso, anchor))


class SidecarMaps(Mapping[str, np.ndarray]):
    """Arrays of a profile in an ``.npz`` beside it: read, and checked against their hash, on first access.

    Parameters
    ----------
    path : Path
    expected_sha256 : str
    names : tuple of str
        What the profile says is in it.
    """

    def __init__(self, path: Path, expected_sha256: str, names: tuple[str, ...]) -> None:
        self.path, self.expected_sha256, self.names = path, expected_sha256, names

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            raise ProfileError(f"{self.path} with the profile's maps is missing; copy it beside the profile.")
        if sha256(self.path) != self.expected_sha256:
            raise ProfileError(f"{self.path} is not the file that the profile was saved with; copy both together.")
        with np.load(self.path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


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
    details : mapping of ISO to IsoDetails
        Whatever else was measured there.
    maps : mapping of str to array
        Dark shading, fixed pattern, defects and the like, in an ``.npz`` beside the saved profile.
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
    details: Mapping[float, IsoDetails] = field(default_factory=dict)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for iso in self.details:
            if float(iso) not in {float(known) for known in self.noise.isos}:
                raise ProfileError(f"details of ISO {iso:g}, which is not in the profile ({self.noise.isos}).")

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

        details = {float(iso): found for iso, found in self.details.items()}
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
            }
            | (UNITS if details else {}),
            "noise": [
                {
                    "iso": float(iso),
                    "system_gain": numbers(p.system_gain),
                    "read_var": numbers(p.read_var),
                    "system_gain_se": numbers(p.system_gain_se),
                    "read_var_se": numbers(p.read_var_se),
                }
                | ({"details": details[float(iso)].to_dict()} if float(iso) in details else {})
                for iso, p in self.noise.table
            ],
            "gain_switches": [float(s) for s in self.noise.gain_switches],
            "pushed": [float(s) for s in self.noise.pushed],
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
            return NoiseParams(**columns)

        table = [(float(entry["iso"]), params(entry)) for entry in document["noise"]]
        profile = cls(
            make=document["make"],
            model=document["model"],
            noise=NoiseModel(table, tuple(document["gain_switches"]), tuple(document.get("pushed", ()))),
            phases=phases,
            cfa=document["cfa"],
            bit_depth=document["bit_depth"],
            black_level=None if document["black_level"] is None else tuple(document["black_level"]),
            white_level=document["white_level"],
            base_iso=document["base_iso"],
            aliases=tuple(document["aliases"]),
            serial=document["serial"],
            provenance=document["provenance"],
            details={
                float(entry["iso"]): IsoDetails.from_dict(entry["details"])
                for entry in document["noise"]
                if entry.get("details") is not None
            },
        )
        check_plausible(profile, origin=origin)
        return profile

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the profile as JSON, its maps as ``<stem>.npz`` beside it; each whole or not at all.

        The JSON holds the hash of the maps' file.

        Raises
        ------
        OutputExistsError
            Either file exists and ``overwrite`` is False.
        """
        path = Path(path)
        document = self.to_dict()
        if not self.maps:
            with replacing(path, overwrite=overwrite) as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            return
        packed = _packed({name: np.asarray(array) for name, array in self.maps.items()})
        sidecar = path.with_suffix(".npz")
        # Both are complete before either takes its name.
        with replacing(path, overwrite=overwrite) as temporary, replacing(sidecar, overwrite=overwrite) as beside:
            beside.write_bytes(packed)
            document["maps"] = {"file": sidecar.name, "sha256": sha256(beside), "names": sorted(self.maps)}
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> CameraProfile:
        """Read and check a profile.  Its maps are read, and checked against their hash, when first asked for."""
        path = Path(path)
        try:
            document = parse_json(path.read_bytes())
        except OSError as error:
            raise ProfileError(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise ProfileError(f"{path} is not a camera profile: it is not JSON ({error}).") from None
        profile = cls.from_dict(document, origin=str(path))
        entry = document.get("maps")
        if entry is None:
            return profile
        maps = SidecarMaps(path.parent / entry["file"], entry["sha256"], tuple(entry["names"]))
        return replace(profile, maps=maps)

    def to_frame(self) -> pandas.DataFrame:
        """Everything per ISO and phase as a table; ``frame.attrs["units"]`` holds the units.

        Returns
        -------
        pandas.DataFrame
            One row per ISO and phase (phase "all" where one value holds for all), columns iso, phase, segment, pushed,
            system_gain, read_var, read_noise, read_noise_e, their standard errors ``_se``, and the details there are.
        """
        import pandas

        rows = []
        for iso, params in self.noise.table:
            details = self.details.get(iso)
            for index, phase in enumerate(self.phases or ("all",)):
                row = {"iso": float(iso), "phase": phase, "segment": self.noise.segment_number(iso)}
                row |= {"pushed": self.noise.is_pushed(iso)} | _derived(params, index)
                if details is not None:
                    row |= {key: _of_phase(value, index) for key, value in details.to_dict().items()}
                rows.append(row)
        frame = pandas.DataFrame(rows)
        units = {"iso": "1", "system_gain": "DN/e-", "read_var": "DN^2", "read_noise": "DN", "read_noise_e": "e-"}
        units |= {name: unit for name, unit in UNITS.items() if name in frame}
        units |= {f"{name}_se": unit for name, unit in units.items() if f"{name}_se" in frame}
        frame.attrs["units"] = units
        return frame


def _of_phase(value: Any, index: int) -> Any:
    if isinstance(value, list):
        return value[index] if not value or not isinstance(value[0], str) else "; ".join(value)
    return value


def _derived(params: NoiseParams, index: int) -> dict[str, float]:
    """Columns of one row of ``to_frame``; NaN where unknown."""

    def pick(value: Any) -> float:
        flat = np.asarray(np.nan if value is None else value, np.float64).reshape(-1)
        return float(flat[index if flat.size > 1 else 0])

    gain, var, gain_se, var_se = (
        pick(v) for v in (params.system_gain, params.read_var, params.system_gain_se, params.read_var_se)
    )
    noise = math.sqrt(var)
    noise_se = var_se / (2 * noise) if noise > 0 else math.nan
    noise_e = noise / gain
    relative = math.hypot(noise_se / noise, gain_se / gain) if noise > 0 else math.nan
    return {
        "system_gain": gain,
        "system_gain_se": gain_se,
        "read_var": var,
        "read_var_se": var_se,
        "read_noise": noise,
        "read_noise_se": noise_se,
        "read_noise_e": noise_e,
        "read_noise_e_se": noise_e * relative,
    }


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Bytes of an ``.npz`` without pickled objects."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ProfileError(f"map {name} holds Python objects; a profile's maps are plain arrays of numbers.")
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def check_plausible(profile: CameraProfile, *, origin: str = "this profile") -> None:
    """Could a camera be like this?

    Per ISO (within 1e-3 to 1e9) and phase: K within 1e-9 to 1e4 DN/e-; read noise 0 (unknown) or 0.1 to 500 e-;
    standard errors not below 1e-9 of their number, which no count of frames reaches; details within the ranges of
    ``iso_details``.  Over ISO, inside a gain segment and pushed ISOs aside, K may not fall: by a third and more is an
    error, by a tenth and more than five standard errors (where stated) a ``CalibrationWarning``.

    Raises
    ------
    ProfileError
        Names the number and the likely mistake.
    """
    levels = (profile.white_level, profile.black_level)
    if levels[0] is not None and levels[1] is not None and float(np.max(levels[1])) >= levels[0]:
        raise ProfileError(f"{origin}: black level {levels[1]} DN is not below the white level {levels[0]:g} DN.")
    for iso, params in profile.noise.table:
        gain, var = np.asarray(params.system_gain, np.float64), np.asarray(params.read_var, np.float64)
        low, high = _PHYSICAL_GAIN
        if np.any(gain < low) or np.any(gain > high):
            raise ProfileError(
                f"{origin}: system gain {params.system_gain} DN/e- at ISO {iso:g} is outside {low:g} to {high:g}; "
                "is it in electrons per DN?"
            )
        electrons = np.sqrt(var) / gain
        low, high = PHYSICAL_READ_NOISE
        if np.any((electrons > 0) & (electrons < low)) or np.any(electrons > high):
            raise ProfileError(
                f"{origin}: read variance {params.read_var} DN^2 at ISO {iso:g} makes a read noise of "
                f"{np.max(electrons):.3g} e-, outside {low:g} to {high:g}; is it a standard deviation, or in e-^2?"
            )
        for name in ("system_gain", "read_var"):
            value, error = np.asarray(getattr(params, name), np.float64), getattr(params, f"{name}_se")
            if error is not None and not np.all((value == 0) | (np.asarray(error) >= _LEAST_ERROR * value)):
                raise ProfileError(f"{origin}: {name} at ISO {iso:g} cannot be as sure as its standard error, {error}.")
        if not _POSSIBLE_ISO[0] <= iso <= _POSSIBLE_ISO[1]:
            raise ProfileError(f"{origin}: ISO {iso:g} is outside {_POSSIBLE_ISO[0]:g} to {_POSSIBLE_ISO[1]:g}.")
    for iso, details in profile.details.items():
        details.check(phases=profile.phases, white_level=profile.white_level, where=f"{origin}: ISO {iso:g}")
    for segment in range(len(profile.noise.gain_switches) + 1):
        native = profile.noise.native(segment)
        for (low_iso, below), (high_iso, above) in zip(native, native[1:], strict=False):
            _check_rise(low_iso, below, high_iso, above, origin)


def _check_rise(low_iso: float, below: NoiseParams, high_iso: float, above: NoiseParams, origin: str) -> None:
    before, after = (np.asarray(p.system_gain, np.float64) for p in (below, above))
    fall = float(np.median(1 - after / before))
    said = (
        f"{origin}: system gain falls by {100 * fall:.0f} % from ISO {low_iso:g} to {high_iso:g}, no gain switch there"
    )
    if fall >= _GAIN_FALL[1]:
        raise ProfileError(f"{said}; is it in electrons per DN?")
    errors = [np.asarray(p.system_gain_se, np.float64) for p in (below, above) if p.system_gain_se is not None]
    sure = np.median((before - after) / np.sqrt(sum(e**2 for e in errors))) > _DOUBTFUL if len(errors) == 2 else True
    if fall >= _GAIN_FALL[0] and sure:
        warnings.warn(
            f"{said}; mark pushed ISOs and gain switches in the profile, or calibrate again.",
            CalibrationWarning,
            stacklevel=3,
        )
