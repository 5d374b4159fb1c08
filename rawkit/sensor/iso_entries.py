"""A table over ISO as logarithms, what its entries scatter by, and how findings about it are told.

Everything is judged in logarithms of three numbers per ISO, the median over all phases:

    y = ln K/ISO            level where the gain follows the ISO's name
    r = ln sigma            read noise [DN]
    e = ln sigma/K          read noise [e-]

against the entries' standard errors and their own scatter, which is measured by second differences: what an entry
differs by from the line through its neighbors (``scatter``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rawkit.sensor.iso_laws import LAW_ENTRIES
from rawkit.sensor.params import NoiseParams

FULL_STOP_ISO = 100.0  # native amplifications of two-stage cameras lie at 100 * 2^n (ISO 12232 full stops)
SCATTER_FLOOR = 0.01  # relative; third-stop ISO names are rounded by up to 1.6 %
MIN_GAIN_STEP = 0.15  # ln K/ISO; a digital step between third stops is 0.22
SIGNIFICANT = 5.0  # standard errors; some 40 boundaries of a table are tested at once
CLEAR = 4.0  # standard errors; of an entry that was picked for its shape already
LONGEST_GAP = math.log(4.2)  # ln ISO; neighbors farther apart say nothing about an ISO between them
SAME_STOP = 0.06  # octaves; third stops are 0.33 apart, their names rounded by 0.02
_MAD = 1.4826  # standard deviation of a normal law over its median absolute value


@dataclass(frozen=True)
class IsoFinding:
    """One thing found in a table over ISO.

    Parameters
    ----------
    kind : str
        ``gain switch`` (sigma/K drops), ``gain step`` (K steps, sigma/K does not drop), ``pushed``
        (multiplied digitally, between native ISOs), ``extended`` (the same, at an end of the range).
    iso : float
        First ISO of the upper segment, or the pushed ISO.
    step : float
        Natural logarithm of the jump of sigma/K (gain switch) or of K/ISO (the others; 0 where only sigma/K told).
    standard_errors : float
        Size of the jump that decided, in standard errors.
    native_iso : float or None
        The ISO that a pushed one was made from, as far as the table shows.
    """

    kind: Literal["gain switch", "gain step", "pushed", "extended"]
    iso: float
    step: float
    standard_errors: float
    native_iso: float | None = None

    def __str__(self) -> str:
        size = f"{100 * math.expm1(self.step):+.0f} %, {self.standard_errors:.0f} standard errors"
        if self.kind == "gain switch":
            return f"ISO {self.iso:g}: gain switch, read noise in electrons steps by {size}"
        if self.kind == "gain step":
            return f"ISO {self.iso:g}: system gain steps by {size}"
        source = "" if self.native_iso is None else f" from ISO {self.native_iso:g}"
        if self.step == 0:
            size = f"{self.standard_errors:.0f} standard errors"
            return f"ISO {self.iso:g}: {self.kind}, made digitally{source}; its read noise tells, by {size}"
        return f"ISO {self.iso:g}: {self.kind}, made digitally{source}; K/ISO differs by {size}"


@dataclass(frozen=True, eq=False)
class Entries:
    """A table over ISO as logarithms, one number over all phases: gain ln K, read ln sigma (NaN where unknown)."""

    iso: np.ndarray
    gain: np.ndarray
    gain_se: np.ndarray
    read: np.ndarray
    read_se: np.ndarray

    @cached_property
    def u(self) -> np.ndarray:
        """ln ISO."""
        return np.log(self.iso)

    @cached_property
    def y(self) -> np.ndarray:
        """ln K/ISO."""
        return self.gain - self.u

    @cached_property
    def e(self) -> np.ndarray:
        """ln of read noise in electrons."""
        return self.read - self.gain

    @cached_property
    def e_se(self) -> np.ndarray:
        return np.hypot(self.read_se, self.gain_se)


def entries_of(table: Sequence[tuple[float, NoiseParams]]) -> Entries:
    gain = np.stack([np.log(np.asarray(p.system_gain, np.float64).reshape(-1)) for _, p in table])
    var = np.stack([np.asarray(p.read_var, np.float64).reshape(-1) for _, p in table])
    with np.errstate(divide="ignore"):
        read = np.where(var > 0, 0.5 * np.log(var), np.nan)
    always = np.all(np.isfinite(read), axis=0)
    if np.any(always):  # a phase that is missing at some ISO would step the mean there
        read = read[:, always]
    rows = np.any(np.isfinite(read), axis=1)
    location = np.full(len(table), np.nan)
    location[rows] = np.nanmedian(read[rows], axis=1)

    def error(p: NoiseParams, value: Any, se: Any, half: float) -> float:
        if se is None:
            return 0.0
        value, se = np.asarray(value, np.float64).reshape(-1), np.asarray(se, np.float64).reshape(-1)
        relative = half * se[value > 0] / value[value > 0]
        return float(np.sqrt(np.mean(relative**2) / relative.size)) if relative.size else 0.0

    return Entries(
        iso=np.array([iso for iso, _ in table], np.float64),
        gain=np.median(gain, axis=1),
        gain_se=np.array([error(p, p.system_gain, p.system_gain_se, 1.0) for _, p in table]),
        read=location,
        read_se=np.array([error(p, p.read_var, p.read_var_se, 0.5) for _, p in table]),
    )


def _second_differences(u: np.ndarray, values: np.ndarray, power: int) -> tuple[np.ndarray, np.ndarray]:
    """ln of a value minus what both neighbors make of it, and the variance of that in units of one entry's.

    Either law may hold, so the smaller of two differences counts: from the straight line of ln value over ln ISO, and
    from that of value^power over ISO^power (affine K: power 1; quadrature of read noise: power 2).
    """
    left, right = u[1:-1] - u[:-2], u[2:] - u[1:-1]
    w = left / (left + right)
    straight = values[1:-1] - (1 - w) * values[:-2] - w * values[2:]
    x = np.exp(power * (u[1:-1] - u[:-2])), np.exp(power * (u[2:] - u[:-2]))
    share = (x[0] - 1) / (x[1] - 1)
    linear = (1 - share) + share * np.exp(power * (values[2:] - values[:-2]))
    curved = values[1:-1] - values[:-2] - np.log(linear) / power
    return np.where(np.abs(straight) < np.abs(curved), straight, curved), 1 + w**2 + (1 - w) ** 2


def _scatter(u: np.ndarray, values: np.ndarray, se: np.ndarray, groups: Sequence[np.ndarray], power: int) -> float:
    """Relative scatter between neighbors beyond the standard errors, robust; never below the rounding of ISO names.

    ``groups`` are indices of entries that follow one law each; NaN when they have fewer than two inner entries.
    """
    pieces = []
    for group in groups:
        good = group[np.isfinite(values[group])]
        if good.size >= LAW_ENTRIES:
            difference, times = _second_differences(u[good], values[good], power)
            near = u[good][2:] - u[good][:-2] < LONGEST_GAP
            pieces.append((difference / np.sqrt(times))[near])
    reduced = np.concatenate(pieces) if pieces else np.empty(0)
    if reduced.size < 2:
        return math.nan
    members = np.concatenate(list(groups))
    total = (_MAD * float(np.median(np.abs(reduced)))) ** 2
    return max(SCATTER_FLOOR, math.sqrt(max(total - float(np.median(se[members] ** 2)), 0.0)))


def scatters(entries: Entries, *groups: list[int]) -> tuple[float, float]:
    """Scatter of K and of sigma (relative) among entries of one law per group; the floor where there are too few."""
    indices = [np.array(group, int) for group in groups if group]
    gain = _scatter(entries.u, entries.gain, entries.gain_se, indices, 1)
    read = _scatter(entries.u, entries.read, entries.read_se, indices, 2)
    return gain if math.isfinite(gain) else SCATTER_FLOOR, read if math.isfinite(read) else SCATTER_FLOOR


def calm_scatters(entries: Entries, native: list[int]) -> tuple[float, float]:
    """The same among full stops only where that is smaller: pushed ISOs not yet found scatter around native ones."""
    every, full = scatters(entries, native), scatters(entries, [i for i in native if is_full_stop(entries.iso[i])])
    return min(every[0], full[0]), min(every[1], full[1])


def stop_place(iso: Any) -> Any:
    """Place of an ISO within its octave, in octaves from the full stop, -0.5 to 0.5."""
    octaves = np.log2(np.asarray(iso, np.float64) / FULL_STOP_ISO)
    return octaves - np.round(octaves)


def is_full_stop(iso: float) -> bool:
    return abs(float(stop_place(iso))) < SAME_STOP


def last_before(native: list[int], i: int) -> int | None:
    return max((n for n in native if n < i), default=None)


def first_after(native: list[int], i: int) -> int | None:
    return min((n for n in native if n > i), default=None)


def isos_of(findings: list[IsoFinding]) -> set[float]:
    return {f.iso for f in findings}
