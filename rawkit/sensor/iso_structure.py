"""Gain segments of a camera: gain switches, steps of K, and the ISOs that are made digitally.

* A *gain switch* (dual conversion gain) starts a new segment: sigma/K drops there by more than the laws of the two
  sides and the noise of the entries allow.  A step of K alone starts one too, without the name.
* A *pushed* ISO is a native one multiplied digitally (``iso_pushed``); it belongs to no segment.

Boundaries are found among native ISOs by binary segmentation: of all places where neighbors differ by more than
either side's law (``iso_laws``) explains, the one that explains most splits first, and its sides are searched again.
Every finding carries the step and its size in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.sensor.iso_entries import (
    CLEAR,
    MIN_GAIN_STEP,
    SIGNIFICANT,
    Entries,
    IsoFinding,
    entries_of,
    scatters,
)
from rawkit.sensor.iso_laws import LAW_ENTRIES, IsoLaw, read_law
from rawkit.sensor.iso_pushed import excursions, extended_ends, staircase
from rawkit.sensor.params import NoiseParams

_MIN_SWITCH = 0.10  # ln sigma/K; smaller steps do not hurt an interpolation
_WINDOW = 6  # entries on either side of a boundary that judge it; far ones may follow another law
_SLOPE_READ, _SLOPE_GAIN = 3, 4  # entries on either side whose slope is carried across, of sigma/K and of K/ISO
_POSSIBLE_SWITCH, _POSSIBLE_STEP = 0.5 * _MIN_SWITCH, 0.3 * MIN_GAIN_STEP  # neighbors closer than this cannot be one
_SHOWN = 0.5  # share of a step that the two entries at the boundary have to show themselves


@dataclass(frozen=True)
class IsoStructure:
    """Gain segments of a table over ISO.

    Parameters
    ----------
    segments : tuple of tuple of float
        Native ISOs of each segment.
    gain_switches : tuple of float
        First ISO of each segment that starts with a drop of sigma/K.
    gain_steps : tuple of float
        First ISO of each segment that starts with a step of K only.
    pushed : tuple of float
    findings : tuple of IsoFinding
        The evidence, by ISO.
    gain_scatter, read_scatter : float
        Relative scatter of K and sigma between neighbors that the standard errors do not explain.
    """

    segments: tuple[tuple[float, ...], ...]
    gain_switches: tuple[float, ...]
    gain_steps: tuple[float, ...]
    pushed: tuple[float, ...]
    findings: tuple[IsoFinding, ...]
    gain_scatter: float
    read_scatter: float

    @property
    def boundaries(self) -> tuple[float, ...]:
        """First ISO of every segment but the lowest: what nothing is interpolated across."""
        return tuple(sorted(self.gain_switches + self.gain_steps))


def find_structure(table: Sequence[tuple[float, NoiseParams]]) -> IsoStructure:
    """Gain segments, gain switches and pushed ISOs of a table.

    Parameters
    ----------
    table : sequence of (ISO, NoiseParams)
        Rising ISOs; any number of phases; standard errors are used where they are there.  A read variance of 0 is
        taken as unknown.

    Returns
    -------
    IsoStructure

    Examples
    --------
    >>> def entry(iso, downstream, upstream):
    ...     return iso, NoiseParams(0.01 * iso, downstream + upstream * iso**2)
    >>> low = [entry(iso, 4.0, 1e-4) for iso in (100, 200, 400, 800)]
    >>> high = [entry(iso, 1.0, 1e-5) for iso in (1600, 3200, 6400, 12800)]
    >>> find_structure(low + high).gain_switches
    (1600.0,)
    """
    entries = entries_of(table)
    native = list(range(entries.iso.size))
    native, pushed = excursions(entries, native)
    for from_top in (False, True):
        native, extended = extended_ends(entries, native, from_top=from_top)
        pushed += extended
    native, stairs = staircase(entries, native)
    pushed += stairs
    bounds = _boundaries(entries, native)
    starts = [entries.iso.searchsorted(f.iso) for f in bounds]
    number = np.array([sum(i >= s for s in starts) for i in native])
    segments = [[i for i, k in zip(native, number, strict=True) if k == n] for n in range(len(starts) + 1)]
    gain_scatter, read_scatter = scatters(entries, *segments)
    return IsoStructure(
        segments=tuple(tuple(float(entries.iso[i]) for i in segment) for segment in segments),
        gain_switches=tuple(f.iso for f in bounds if f.kind == "gain switch"),
        gain_steps=tuple(f.iso for f in bounds if f.kind == "gain step"),
        pushed=tuple(sorted(f.iso for f in pushed)),
        findings=tuple(sorted([*pushed, *bounds], key=lambda f: f.iso)),
        gain_scatter=gain_scatter,
        read_scatter=read_scatter,
    )


def _boundaries(entries: Entries, native: list[int]) -> list[IsoFinding]:
    """Where native entries do not follow one law: binary segmentation, the boundary that explains most first."""
    best: tuple[float, int, IsoFinding] | None = None
    for cut in range(1, len(native)):
        low, high = native[:cut], native[cut:]
        # Most pairs of neighbors cannot be a boundary, whatever the scatter.
        drop, step = entries.e[low[-1]] - entries.e[high[0]], entries.y[high[0]] - entries.y[low[-1]]
        if drop < _POSSIBLE_SWITCH and abs(step) < _POSSIBLE_STEP:
            continue
        # The scatter around two laws: a boundary between them is no scatter.
        gain_scatter, read_scatter = scatters(entries, low, high)
        gain_error = np.hypot(entries.gain_se, gain_scatter)
        read_error = np.hypot(entries.read_se, read_scatter)
        finding = _judge(entries, low, high, gain_error, read_error)
        if finding is None:
            continue
        misfits = [_misfit(entries, side, gain_error, read_error) for side in (native, low, high)]
        explained = misfits[0] - misfits[1] - misfits[2]
        if best is None or explained > best[0]:
            best = (explained, cut, finding)
    if best is None:
        return []
    _, cut, finding = best
    return [*_boundaries(entries, native[:cut]), finding, *_boundaries(entries, native[cut:])]


def _read_side(entries: Entries, side: list[int], read_error: np.ndarray) -> tuple[list[int], IsoLaw | None]:
    """Entries of a side with known read noise, and their law of read variance over K."""
    known = [i for i in side if np.isfinite(entries.read[i])]
    if len(known) < LAW_ENTRIES:
        return known, None
    gain = np.exp(entries.gain[known] - entries.gain[known[0]])
    return known, read_law(gain, np.exp(2 * entries.read[known]), 2 * read_error[known])


def _misfit(entries: Entries, side: list[int], gain_error: np.ndarray, read_error: np.ndarray) -> float:
    """chi2 of the segment's laws; robust against single bad entries."""
    known, law = _read_side(entries, side, read_error)
    chi2 = 0.0
    if law is not None:
        gain = np.exp(entries.gain[known] - entries.gain[known[0]])
        residual = (0.5 * np.log(law.value(gain)) - entries.read[known]) / read_error[known]
        chi2 += float(np.sum(residual**2))
    if len(side) >= LAW_ENTRIES:
        line = np.polynomial.Polynomial.fit(entries.u[side], entries.y[side], 1)
        chi2 += float(np.sum(((entries.y[side] - line(entries.u[side])) / gain_error[side]) ** 2))
    return chi2


def _read_at(
    entries: Entries, side: list[int], nearest: int, gain: float, read_error: np.ndarray
) -> tuple[float, float]:
    """ln sigma that a side, all of known read noise, predicts at ln K = ``gain``, and its standard error.

    A side too short for a law states its nearest entry: sigma in DN does not fall with K, so the step across the
    boundary is underestimated, never invented.
    """
    known, law = _read_side(entries, side, read_error)
    if law is None:
        return float(entries.read[nearest]), float(read_error[nearest])
    k = math.exp(gain - entries.gain[known[0]])
    return 0.5 * math.log(float(law.value(k))), 0.5 * float(law.log_se(k))


def _judge(
    entries: Entries, low: list[int], high: list[int], gain_error: np.ndarray, read_error: np.ndarray
) -> IsoFinding | None:
    """Is there a boundary between two groups of neighbors?  sigma/K has to drop, or K/ISO to step, beyond error."""
    iso = float(entries.iso[high[0]])
    step, step_error = _gain_step(entries, low, high, gain_error)
    known_low = [i for i in low if np.isfinite(entries.read[i])][-_WINDOW:]
    known_high = [i for i in high if np.isfinite(entries.read[i])][:_WINDOW]
    if known_low and known_high:
        last, first = known_low[-1], known_high[0]
        # Laws may be carried too far; the two entries themselves have to show most of the drop.
        local = _local_drop(entries, known_low, known_high)
        shown = local >= _SHOWN * _MIN_SWITCH and local >= CLEAR * math.hypot(read_error[last], read_error[first])
        if shown:
            # ln sigma/K on either side of the middle of the gap; K of each side continued in proportion to ISO.
            half = 0.5 * (entries.u[first] - entries.u[last])
            below = _read_at(entries, known_low, last, entries.gain[last] + half, read_error)
            above = _read_at(entries, known_high, first, entries.gain[first] - half, read_error)
            drop = below[0] - above[0] + entries.y[first] - entries.y[last]
            error = math.hypot(below[1], above[1])
            if drop >= _MIN_SWITCH and drop >= SIGNIFICANT * error and local >= _SHOWN * drop:
                return IsoFinding("gain switch", iso, -drop, drop / error)
    if abs(step) >= MIN_GAIN_STEP and abs(step) >= SIGNIFICANT * step_error:
        return IsoFinding("gain step", iso, step, abs(step) / step_error)
    return None


def _local_drop(entries: Entries, low: list[int], high: list[int]) -> float:
    """Drop of ln sigma/K between the two entries at a boundary, beyond the slope of their neighbors."""
    last, first = low[-1], high[0]
    slopes = [
        (entries.e[b] - entries.e[a]) / (entries.u[b] - entries.u[a])
        for side in (low[-_SLOPE_READ:], high[:_SLOPE_READ])
        for a, b in zip(side, side[1:], strict=False)
    ]
    slope = float(np.clip(np.median(slopes), -1.0, 0.0)) if slopes else -1.0
    return float(entries.e[last] - entries.e[first] + slope * (entries.u[first] - entries.u[last]))


def _gain_step(entries: Entries, low: list[int], high: list[int], gain_error: np.ndarray) -> tuple[float, float]:
    """Step of ln K/ISO at a boundary beyond the neighbors' slope, and its standard error."""
    last, first = low[-1], high[0]
    across = entries.u[first] - entries.u[last]
    step, variance = float(entries.y[first] - entries.y[last]), float(gain_error[last] ** 2 + gain_error[first] ** 2)
    sides = [side for side in (low[-_SLOPE_GAIN:], high[:_SLOPE_GAIN]) if len(side) >= LAW_ENTRIES]
    if sides:
        slopes = [float(np.polyfit(entries.u[side], entries.y[side], 1)[0]) for side in sides]
        spreads = [
            float(np.mean(gain_error[side] ** 2) / np.sum((entries.u[side] - entries.u[side].mean()) ** 2))
            for side in sides
        ]
        # Either side may be bent (K = c0 + c1 ISO is, in these coordinates); the disagreement counts as error.
        step -= float(np.mean(slopes)) * across
        variance += across**2 * (float(np.mean(spreads)) + (float(np.ptp(slopes)) / 2) ** 2)
    return step, math.sqrt(variance)
