"""ISOs that a camera makes digitally: native ones multiplied.

K_p = d K_n and sigma_p = d sigma_n, so sigma_p/K_p = sigma_n/K_n.  Three patterns are searched, each on what the one
before left as native:

* *excursions*: one or two entries whose K/ISO stands off both neighbors' (white level shrinks with d, and values are
  normalized by it, or d is not the ratio of the names);
* *extended* ends of the range: a run whose K/ISO stands off the rest while sigma/K is that of native ISOs;
* *staircase*: third-stop ISOs that repeat sigma/K of the full stop below (d = 1.25) or above (d = 0.8), octave after
  octave.

An entry is only called pushed when its read noise agrees with being made from its native ISO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rawkit.sensor.iso_entries import (
    CLEAR,
    LONGEST_GAP,
    MIN_GAIN_STEP,
    SAME_STOP,
    SCATTER_FLOOR,
    SIGNIFICANT,
    Entries,
    IsoFinding,
    calm_scatters,
    entries_of,
    first_after,
    is_full_stop,
    isos_of,
    last_before,
    stop_place,
)
from rawkit.sensor.iso_laws import LAW_ENTRIES
from rawkit.sensor.params import NoiseParams

_MIN_PUSH = 0.10  # ln K/ISO
_NATURAL_SLOPE = 0.15  # of ln K/ISO over ln ISO; half of darktable's 371 models lie within -0.13 and -0.02
_SAME_READ = 0.1  # ln sigma/K of an extended ISO and its native one, as published tables have them
_AGREEING = 3.0  # standard errors; of what is left of a finding without its strongest piece
_LONGEST_RUN = 8  # entries of an extended range: two octaves and a half in third stops
_PULLED_RANGE = 2.5 * math.log(2.0)  # ln ISO; extended low ISOs are at most some two stops below their native
_ANCHORS = 4  # native entries whose slope is carried to an extended run
_NATIVE_LEFT = 3  # entries at least that an extended run leaves
_LONGEST_ECHO = 4  # entries of a low run in whose table K was assumed, not measured
_EXACT = 1e-6  # ln K/ISO: K was written down in proportion to ISO
_CLASS_DECIDES = 4.0  # chi2, two standard errors: up to here a member follows its class against its own better fit


def excursions(entries: Entries, native: list[int]) -> tuple[list[int], list[IsoFinding]]:
    """Isolated entries (one or two) whose K/ISO stands off both neighbors', which agree: pushed.

    Greedy, the largest first: in the usual pattern native, native, pushed every entry stands off some line.
    """
    found: list[tuple[float, list[int]]] = []
    rest = list(native)
    while True:
        best: tuple[tuple[bool, float], float, list[int]] | None = None
        for length in (1, 2):
            for first in range(1, len(rest) - length):
                left, members, right = rest[first - 1], rest[first : first + length], rest[first + length]
                if entries.u[right] - entries.u[left] > LONGEST_GAP:
                    continue
                w = (entries.u[members] - entries.u[left]) / (entries.u[right] - entries.u[left])
                off = entries.y[members] - (1 - w) * entries.y[left] - w * entries.y[right]
                least = np.min(np.abs(off))
                same_sign = abs(np.sum(np.sign(off))) == length
                gap = entries.u[right] - entries.u[left]
                returns = abs(entries.y[right] - entries.y[left]) < 0.5 * least + _NATURAL_SLOPE * gap
                # Full stops last: between two pushed ISOs a native one stands off, too.
                rank = (not any(is_full_stop(entries.iso[i]) for i in members), float(least))
                if same_sign and returns and least >= _MIN_PUSH and (best is None or rank > best[0]):
                    best = (rank, math.copysign(least, off[0]), members)
        if best is None:
            break
        found.append(best[1:])
        rest = [i for i in rest if i not in best[2]]
    scatter, read_scatter = calm_scatters(entries, rest)
    pushed: list[IsoFinding] = []
    for step, members in found:
        error = math.sqrt(1.5 * (scatter**2 + float(np.mean(entries.gain_se[members] ** 2))))
        for i in members:
            source = _native_of(entries, i, rest, read_scatter)
            if abs(step) >= CLEAR * error and source is not None:
                pushed.append(
                    IsoFinding("pushed", float(entries.iso[i]), step, abs(step) / error, float(entries.iso[source]))
                )
    isos = {f.iso for f in pushed}
    return [i for i in native if float(entries.iso[i]) not in isos], pushed


def _native_of(entries: Entries, i: int, native: list[int], scatter: float) -> int | None:
    """The neighbor on either side whose sigma/K equals that of entry i; the nearer where sigma is unknown.

    None when sigma/K lies outside what the two neighbors span, errors allowed.
    """
    near = [n for n in (last_before(native, i), first_after(native, i)) if n is not None]
    if not near:
        return None
    if not np.isfinite(entries.e[[i, *near]]).all():
        return min(near, key=lambda n: abs(entries.u[n] - entries.u[i]))
    error = math.sqrt(2 * scatter**2 + entries.e_se[i] ** 2 + float(np.max(entries.e_se[near] ** 2)))
    low, high = float(np.min(entries.e[near])), float(np.max(entries.e[near]))
    if not low - SIGNIFICANT * error <= entries.e[i] <= high + SIGNIFICANT * error:
        return None
    return min(near, key=lambda n: abs(entries.e[n] - entries.e[i]))


def extended_ends(entries: Entries, native: list[int], *, from_top: bool) -> tuple[list[int], list[IsoFinding]]:
    """Run at one end whose K/ISO stands off the rest while sigma/K is that of native ISOs.

    Where K is exactly proportional to ISO it was assumed, not measured; then a low run shows by read noise in DN
    that equals that of the ISOs a common factor above.
    """
    order = native[::-1] if from_top else list(native)
    scatter, read_scatter = calm_scatters(entries, native)
    best: tuple[float, float, int] | None = None
    for length in range(1, min(_LONGEST_RUN, len(order) - _NATIVE_LEFT) + 1):
        run, beyond = order[:length], order[length:]
        anchors = beyond[:_ANCHORS]
        slope = float(np.polyfit(entries.u[anchors], entries.y[anchors], 1)[0])
        across = entries.u[run[-1]] - entries.u[beyond[0]]
        step = float(entries.y[run[-1]] - entries.y[beyond[0]] - slope * across)
        # The slope's error, from four entries, counts over the distance it is carried.
        spread = float(np.sum((entries.u[anchors] - entries.u[anchors].mean()) ** 2))
        error = math.sqrt(
            (2 + across**2 / spread) * (scatter**2 + float(np.mean(entries.gain_se[[run[-1], *anchors]] ** 2)))
        )
        if abs(step) < MIN_GAIN_STEP or abs(step) < SIGNIFICANT * error:
            continue
        if not _native_read_noise(entries, run, beyond, read_scatter, from_top=from_top):
            continue
        if best is None or abs(step) > abs(best[0]):
            best = (step, abs(step) / error, length)
    if best is None and not from_top:
        best = _echo(entries, order, scatter, read_scatter)
    if best is None:
        return native, []
    step, size, length = best
    run, rest = order[:length], order[length:]
    findings = []
    for i in run:
        # Values as captured: K of the extended ISO is that of its native one.
        source = min(rest, key=lambda n: abs(entries.gain[n] - entries.gain[i])) if step and not from_top else rest[0]
        native_iso = None if not step and not from_top else float(entries.iso[source])
        findings.append(IsoFinding("extended", float(entries.iso[i]), step, size, native_iso))
    return [i for i in native if i not in run], findings


def _native_read_noise(entries: Entries, run: list[int], beyond: list[int], scatter: float, *, from_top: bool) -> bool:
    """Is sigma/K in the run that of native ISOs, errors allowed?  At the top: not below the last native one's."""
    e = entries.e[run]
    known = np.isfinite(e)
    near = [n for n in beyond if abs(entries.u[n] - entries.u[run[-1]]) <= _PULLED_RANGE and np.isfinite(entries.e[n])]
    if not known.any() or not near:
        return True
    error = math.sqrt(2 * scatter**2 + float(np.mean(entries.e_se[[*run, *near]] ** 2)))
    tolerance = max(SIGNIFICANT * error, _SAME_READ)
    if from_top:
        return bool(np.all(e[known] >= entries.e[near[0]] - tolerance))
    low, high = float(np.min(entries.e[near])), float(np.max(entries.e[near]))
    return bool(np.all((e[known] >= low - tolerance) & (e[known] <= high + tolerance)))


def _echo(entries: Entries, order: list[int], scatter: float, read_scatter: float) -> tuple[float, float, int] | None:
    """A low run of two to four entries whose sigma in DN falls at its end and repeats a factor higher in ISO."""
    if float(np.ptp(entries.y)) > _EXACT:  # K was measured and would have shown the step
        return None
    for length in range(2, min(_LONGEST_ECHO, len(order) - _NATIVE_LEFT) + 1):
        run, beyond = order[:length], [n for n in order[length:] if np.isfinite(entries.read[n])]
        if len(beyond) < 2 or not np.isfinite(entries.read[run]).all():
            continue
        error = math.hypot(read_scatter, float(np.max(entries.read_se[[run[-1], beyond[0]]])))
        fall = float(entries.read[run[-1]] - entries.read[beyond[0]])
        if fall < SIGNIFICANT * math.sqrt(2) * error:
            continue
        shift = float(entries.u[beyond[0]] - entries.u[run[0]])  # lowest extended ISO is the lowest native one
        if shift > _PULLED_RANGE:
            continue
        echo = np.interp(entries.u[run] + shift, entries.u[beyond], entries.read[beyond])
        if np.all(np.abs(entries.read[run] - echo) <= SIGNIFICANT * math.sqrt(2) * error):
            return 0.0, fall / (math.sqrt(2) * error), length
    return None


def staircase(entries: Entries, native: list[int]) -> tuple[list[int], list[IsoFinding]]:
    """ISOs between full stops that repeat sigma/K of the full stop below or above, octave after octave: pushed.

    One such coincidence is chance; a class of ISOs (all a third above a full stop, say) has to follow it, where
    smooth laws through the full stops do not.
    """
    full = [i for i in native if is_full_stop(entries.iso[i]) and np.isfinite(entries.e[i])]
    others = [i for i in native if i not in full and np.isfinite(entries.e[i])]
    findings: list[IsoFinding] = []
    for place in sorted({round(float(stop_place(entries.iso[i])), 1) for i in others}):
        taken = isos_of(findings)
        members = [i for i in others if abs(float(stop_place(entries.iso[i])) - place) < 2 * SAME_STOP]
        members = [i for i in members if float(entries.iso[i]) not in taken]
        for above in (False, True):
            steps = [_Step.of(entries, i, full, above=above) for i in members]
            size = _follows_steps(steps)
            if size is not None:
                findings += _stepped(entries, steps, size)
                break
    isos = isos_of(findings)
    return [i for i in native if float(entries.iso[i]) not in isos], findings


@dataclass(frozen=True, eq=False)
class _Step:
    """One entry between full stops, under two hypotheses; residuals of (K/ISO, sigma/K) in standard errors.

    Parameters
    ----------
    entry : int
    source : int or None
        The full stop below (or above) that it may be made from; None when the table lacks it.
    equal : (2,) or None
        Residuals if it is made digitally from the source.
    smooth : (2,) or None
        Residuals if it is native: from the nearer of the laws through two full stops; None where there are no two.
    telling : bool
        Full stops on both sides, and no gain switch between them: sigma in DN rises.
    """

    entry: int
    source: int | None
    equal: np.ndarray | None
    smooth: np.ndarray | None
    telling: bool

    @classmethod
    def of(cls, entries: Entries, i: int, full: list[int], *, above: bool) -> _Step:
        sides = [n for n in (last_before(full, i), first_after(full, i)) if n is not None]
        near = [n for n in sides if abs(entries.u[n] - entries.u[i]) < math.log(2.0)]
        source = next((n for n in near if (n > i) == above), None)
        if source is None:
            return cls(i, None, None, None, False)
        errors = [
            math.sqrt(2 * SCATTER_FLOOR**2 + se[i] ** 2 + se[source] ** 2) for se in (entries.gain_se, entries.e_se)
        ]
        equal = np.array([entries.y[i] - entries.y[source], entries.e[i] - entries.e[source]]) / errors
        between = len(sides) == 2 and entries.u[sides[1]] - entries.u[sides[0]] < LONGEST_GAP
        # At the ends of the table, and at gaps, the two nearest full stops on the side of the source.
        ends = sides if between else [n for n in full if (n > i) == above][slice(None, 2) if above else slice(-2, None)]
        if len(ends) < 2:
            return cls(i, source, equal, None, False)
        low, high = ends
        w = (entries.u[i] - entries.u[low]) / (entries.u[high] - entries.u[low])
        line, straight = ((1 - w) * values[low] + w * values[high] for values in (entries.y, entries.e))
        read = [entries.e[i] - straight]
        if between:
            read.append(entries.e[i] - _lawful(entries, i, low, high))
        smooth = np.array([entries.y[i] - line, min(read, key=abs)]) / errors
        return cls(i, source, equal, smooth, bool(between and entries.read[high] > entries.read[low]))


def _follows_steps(steps: Sequence[_Step]) -> float | None:
    """Does a class of entries follow its full stops?  Root of its likelihood ratio against smoothness, or None."""
    telling = [(s.smooth, s.equal) for s in steps if s.telling and s.smooth is not None and s.equal is not None]
    if len(telling) < LAW_ENTRIES:
        return None
    smooth, equal = (np.sum(np.square(values), axis=1) for values in zip(*telling, strict=True))
    # What the hypothesis leaves unexplained, two channels an entry, is the scale of the scatter.
    excess = max(1.0, float(np.mean(equal)) / 2)
    support = (smooth - equal) / excess
    size = math.sqrt(max(float(np.sum(support)), 0.0))
    # A gain switch in one octave imitates a step there: the others have to agree.
    others = math.sqrt(max(float(np.sum(support) - np.max(support)), 0.0))
    return size if size >= SIGNIFICANT and others >= _AGREEING else None


def _stepped(entries: Entries, steps: Sequence[_Step], size: float) -> list[IsoFinding]:
    """Members of the class that are pushed: not better explained as native; and those between such, source or not."""

    def fits(step: _Step) -> bool:
        if step.equal is None or step.smooth is None or np.any(np.abs(step.equal) >= SIGNIFICANT):
            return False
        # Where both explanations will do the class decides; at the ends, where classes end, the better one.
        return bool(np.sum(step.equal**2) - np.sum(step.smooth**2) < (_CLASS_DECIDES if step.telling else 0.0))

    fitting = [step.entry for step in steps if fits(step)]
    if not fitting:
        return []
    pushed = [
        step
        for step in steps
        if step.entry in fitting or (step.smooth is None and min(fitting) < step.entry < max(fitting))
    ]
    return [
        IsoFinding(
            "pushed",
            float(entries.iso[s.entry]),
            0.0,
            size,
            None if s.source is None else float(entries.iso[s.source]),
        )
        for s in pushed
    ]


def _lawful(entries: Entries, i: int, below: int, above: int) -> float:
    """ln sigma/K at entry i by the quadrature law through two entries, K as measured."""
    square = np.exp(2 * entries.gain)
    w = (square[i] - square[below]) / (square[above] - square[below])
    var = (1 - w) * math.exp(2 * entries.read[below]) + w * math.exp(2 * entries.read[above])
    return 0.5 * math.log(max(var, np.finfo(float).tiny)) - float(entries.gain[i])


@dataclass(frozen=True)
class PushRule:
    """How a camera makes the ISOs of one place in the octave from native ones.

    Parameters
    ----------
    isos : tuple of float
        Pushed ISOs of the table that follow it.
    ratio : float
        Native ISO over pushed ISO.
    """

    isos: tuple[float, ...]
    ratio: float

    def native(self, iso: float) -> float:
        """Native ISO, nominal, that ``iso`` is made from."""
        return iso * self.ratio


def push_rule(table: Sequence[tuple[float, NoiseParams]], pushed: Sequence[float], iso: float) -> PushRule | None:
    """The rule for an ISO that the table lacks, if pushed ISOs below and above it stand at its place in the octave.

    Of the native entries next below and next above each of them those are the source whose sigma/K agrees best over
    all.  None where the octaves do not repeat, or where the next ISO of that place, up or down, is native.
    """
    entries = entries_of(table)
    is_pushed = np.array([any(math.isclose(known, p, rel_tol=1e-3) for p in pushed) for known in entries.iso])
    octaves = np.log2(entries.iso / iso)
    same = np.abs(octaves - np.round(octaves)) < SAME_STOP
    members = [int(i) for i in np.flatnonzero(is_pushed & same)]
    around = [np.flatnonzero(same & (entries.iso < iso))[-1:], np.flatnonzero(same & (entries.iso > iso))[:1]]
    if not all(side.size and is_pushed[side[0]] for side in around):
        return None
    native = [int(i) for i in np.flatnonzero(~is_pushed)]
    if iso < entries.iso[native[0]] or iso > entries.iso[native[-1]]:
        return None
    best: tuple[float, float] | None = None
    for side in (last_before, first_after):
        pairs = [(i, side(native, i)) for i in members]
        known = [(i, n) for i, n in pairs if n is not None and np.isfinite(entries.e[[i, n]]).all()]
        ratios = np.array([entries.u[n] - entries.u[i] for i, n in known])
        if len(known) < 2 or np.ptp(ratios) > 2 * SAME_STOP * math.log(2.0):
            continue
        disagreement = float(np.mean([(entries.e[i] - entries.e[n]) ** 2 for i, n in known]))
        if best is None or disagreement < best[0]:
            best = (disagreement, math.exp(float(np.median(ratios))))
    if best is None:
        return None
    return PushRule(tuple(float(entries.iso[i]) for i in members), best[1])
