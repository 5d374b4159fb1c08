"""What a camera's noise does over ISO: laws inside a gain segment, gain switches, digitally pushed ISOs.

Inside one gain segment (one analog circuit, only its amplification changes)

    K(ISO) = c0 + c1 ISO                     system gain [DN/e-]
    v(ISO) = a + b ISO^2,   a, b >= 0        read variance [DN^2]: noise after and before the amplifier, in quadrature

so read noise in electrons, sigma/K, falls with ISO, and read noise in DN never does.  Where the log-linear law
ln y = p0 + p1 ln ISO leaves a smaller residual it replaces the above.  The table of measured ISOs comes first; laws
only answer beyond it (``rawkit.sensor.profile``).

* A *gain switch* (dual conversion gain) starts a new segment: sigma/K drops there by more than the laws of the two
  sides and the noise of the entries allow.  A step of K alone starts one too, without the name.
* A *pushed* ISO is a native one multiplied digitally: K_p = d K_n and sigma_p = d sigma_n, so sigma_p/K_p =
  sigma_n/K_n.  Extended ISOs at the ends of the range are such; so are the third-stop ISOs of some cameras
  (d = 1.25 of the full stop below, or 0.8 of the one above).  Where white level shrinks with d and the values are
  normalized, K/ISO of pushed ISOs stands off their neighbors'.

Everything is judged in logarithms against the entries' standard errors and their own scatter (half the variance of
second differences), and every finding carries the step and its size in standard errors.

References: K. Wei et al., CVPR 2020, and H. Feng et al., ACM MM 2022, for tables of this kind; the quadrature law is
that of two noise sources around an amplifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rawkit.sensor.params import NoiseParams

Family = Literal["affine", "quadratic", "power"]

FULL_STOP_ISO = 100.0  # native amplifications of two-stage cameras lie at 100 * 2^n (ISO 12232 full stops)
_SCATTER_FLOOR = 0.01  # relative; third-stop ISO names are rounded by up to 1.6 %
_MIN_SWITCH = 0.10  # ln sigma/K; smaller steps do not hurt an interpolation
_MIN_GAIN_STEP = 0.15  # ln K/ISO; a digital step between third stops is 0.22
_MIN_PUSH = 0.10  # ln K/ISO
_NATURAL_SLOPE = 0.15  # of ln K/ISO over ln ISO; half of darktable's 371 models lie within -0.13 and -0.02
_SAME_READ = 0.1  # ln sigma/K of an extended ISO and its native one, as published tables have them
_SIGNIFICANT = 5.0  # standard errors; some 40 boundaries of a table are tested at once
_AGREEING = 3.0  # standard errors; of what is left of a finding without its strongest piece
_CLEAR = 4.0  # standard errors; of an entry that was picked for its shape already
_LONGEST_RUN = 8  # entries of an extended range: two octaves and a half in third stops
_LONGEST_GAP = math.log(4.2)  # ln ISO; neighbors farther apart say nothing about an ISO between them
_SAME_STOP = 0.06  # octaves; third stops are 0.33 apart, their names rounded by 0.02
_WINDOW = 6  # entries on either side of a boundary that judge it; far ones may follow another law
_LAW_ENTRIES = 3  # a two-parameter law needs one more to leave a residual
_PULLED_RANGE = 2.5 * math.log(2.0)  # ln ISO; extended low ISOs are at most some two stops below their native


@dataclass(frozen=True, eq=False)
class IsoLaw:
    """A two-parameter law of ISO with its covariance.

    Parameters
    ----------
    family : str
        ``affine`` c0 + c1 ISO, ``quadratic`` c0 + c1 ISO^2, ``power`` exp(c0 + c1 ln ISO).
    coefficients : (2,) float64
    covariance : (2, 2) float64 or None
        None when neither standard errors nor a residual tell it.
    residual : float
        Root mean square relative residual of the fitted entries.

    Examples
    --------
    >>> law = fit_law([100, 200, 400], [1.0, 2.0, 4.0], family="affine")
    >>> round(float(law.value(800)), 6)
    8.0
    """

    family: Family
    coefficients: np.ndarray
    covariance: np.ndarray | None
    residual: float

    def _basis(self, iso: Any) -> np.ndarray:
        iso = np.asarray(iso, np.float64)
        second = {"affine": iso, "quadratic": iso**2, "power": np.log(iso)}[self.family]
        return np.stack([np.ones_like(second), second], axis=-1)

    def value(self, iso: Any) -> Any:
        """The law at an ISO, in the unit of the fitted values."""
        linear = self._basis(iso) @ self.coefficients
        return np.exp(linear) if self.family == "power" else linear

    def _log_gradient(self, iso: Any) -> np.ndarray:
        basis = self._basis(iso)
        return basis if self.family == "power" else basis / np.asarray(self.value(iso))[..., None]

    def log_se(self, iso: Any) -> Any:
        """Relative standard error of the law at an ISO; NaN when unknown."""
        return self._log_error(self._log_gradient(iso))

    def log_ratio_se(self, iso: Any, anchor: Any) -> Any:
        """Relative standard error of ``value(iso) / value(anchor)``; NaN when unknown."""
        return self._log_error(self._log_gradient(iso) - self._log_gradient(anchor))

    def _log_error(self, gradient: np.ndarray) -> Any:
        if self.covariance is None:
            return np.full(gradient.shape[:-1], np.nan)
        return np.sqrt(np.maximum(np.einsum("...i,ij,...j", gradient, self.covariance, gradient), 0.0))

    def interval(self, iso: Any, *, z: float = 1.96) -> tuple[Any, Any]:
        """Confidence interval of the law (95 % by default), log-normal."""
        value, error = self.value(iso), self.log_se(iso)
        return value * np.exp(-z * error), value * np.exp(z * error)


def fit_law(iso: Any, values: Any, relative_se: Any = None, *, family: Family) -> IsoLaw:
    """Weighted fit of one family, relative residuals.

    Parameters
    ----------
    iso, values : (N,) positive; N = 1 gives the proportional law
    relative_se : (N,), optional
        Relative standard errors; without them the residual scatter tells the covariance (N >= 3).
    family : str

    Returns
    -------
    IsoLaw
        Quadratic coefficients are never negative.  The covariance is widened where the residuals exceed
        the errors (chi2 per degree of freedom above 1).
    """
    iso, values = np.asarray(iso, np.float64), np.asarray(values, np.float64)
    known = relative_se is not None
    error = np.asarray(relative_se, np.float64) if known else np.ones_like(values)
    if iso.size == 1:
        exponent = {"affine": 1, "quadratic": 2, "power": 1}[family]
        only = float(values[0] / iso[0] ** exponent)
        coefficients = np.array([math.log(only), 1.0]) if family == "power" else np.array([0.0, only])
        return IsoLaw(family, coefficients, None, 0.0)
    probe = IsoLaw(family, np.zeros(2), None, 0.0)
    basis = probe._basis(iso)
    if family == "power":
        design, target = basis / error[:, None], np.log(values) / error
    else:
        design, target = basis / (values * error)[:, None], 1.0 / error
    free = np.ones(2, bool)
    scale = np.linalg.norm(design, axis=0)
    if family == "quadratic":
        from scipy.optimize import nnls

        coefficients = nnls(design / scale, target)[0] / scale
        free = coefficients > 0
    else:
        coefficients = np.linalg.lstsq(design / scale, target, rcond=None)[0] / scale
    law = IsoLaw(family, coefficients, None, 0.0)
    fitted = law.value(iso)
    if np.any(fitted <= 0):
        return IsoLaw(family, coefficients, None, math.inf)
    relative = np.log(fitted / values)
    dof = iso.size - 2
    chi2_per_dof = float(np.sum((relative / error) ** 2) / dof) if dof > 0 else math.nan
    covariance = None
    if known or dof > 0:
        widened = max(1.0, chi2_per_dof) if known and dof > 0 else 1.0 if known else chi2_per_dof
        normal = (design / scale).T @ (design / scale)
        covariance = np.zeros((2, 2))
        inside = np.ix_(free, free)
        covariance[inside] = np.linalg.inv(normal[inside]) * widened
        covariance /= np.outer(scale, scale)
    return IsoLaw(family, coefficients, covariance, float(np.sqrt(np.mean(relative**2))))


def gain_law(iso: Any, system_gain: Any, relative_se: Any = None) -> IsoLaw:
    """K(ISO): affine, or log-linear where that leaves the smaller residual."""
    return _better(iso, system_gain, relative_se, "affine")


def read_law(iso: Any, read_var: Any, relative_se: Any = None) -> IsoLaw:
    """v(ISO): quadratic, or log-linear where that leaves the smaller residual."""
    return _better(iso, read_var, relative_se, "quadratic")


def _better(iso: Any, values: Any, relative_se: Any, physical: Family) -> IsoLaw:
    law = fit_law(iso, values, relative_se, family=physical)
    if np.size(iso) < _LAW_ENTRIES and math.isfinite(law.residual):
        return law
    other = fit_law(iso, values, relative_se, family="power")
    # The physical law may not pass zero in the range it will be asked for.
    allowed = math.isfinite(law.residual) and np.all(law.value(np.min(iso) / 4.0) > 0) and law.coefficients[1] >= 0
    other_allowed = other.coefficients[1] >= 0  # neither K nor read noise in DN falls with ISO inside a segment
    return law if allowed and (law.residual <= other.residual or not other_allowed) else other


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


@dataclass(frozen=True, eq=False)
class _Entries:
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


def _entries(table: Sequence[tuple[float, NoiseParams]]) -> _Entries:
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

    return _Entries(
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
        if good.size >= _LAW_ENTRIES:
            difference, times = _second_differences(u[good], values[good], power)
            near = u[good][2:] - u[good][:-2] < _LONGEST_GAP
            pieces.append((difference / np.sqrt(times))[near])
    reduced = np.concatenate(pieces) if pieces else np.empty(0)
    if reduced.size < 2:
        return math.nan
    members = np.concatenate(list(groups))
    total = (1.4826 * float(np.median(np.abs(reduced)))) ** 2
    return max(_SCATTER_FLOOR, math.sqrt(max(total - float(np.median(se[members] ** 2)), 0.0)))


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
    entries = _entries(table)
    native = list(range(entries.iso.size))
    native, pushed = _excursions(entries, native)
    for from_top in (False, True):
        native, extended = _extended(entries, native, from_top=from_top)
        pushed += extended
    native, stairs = _staircase(entries, native)
    pushed += stairs
    boundaries = _boundaries(entries, native)
    starts = [entries.iso.searchsorted(f.iso) for f in boundaries]
    number = np.array([sum(i >= s for s in starts) for i in native])
    segments = [[i for i, k in zip(native, number, strict=True) if k == n] for n in range(len(starts) + 1)]
    gain_scatter, read_scatter = _scatters(entries, *segments)
    return IsoStructure(
        segments=tuple(tuple(float(entries.iso[i]) for i in segment) for segment in segments),
        gain_switches=tuple(f.iso for f in boundaries if f.kind == "gain switch"),
        gain_steps=tuple(f.iso for f in boundaries if f.kind == "gain step"),
        pushed=tuple(sorted(f.iso for f in pushed)),
        findings=tuple(sorted([*pushed, *boundaries], key=lambda f: f.iso)),
        gain_scatter=gain_scatter,
        read_scatter=read_scatter,
    )


def _scatters(entries: _Entries, *groups: list[int]) -> tuple[float, float]:
    """Scatter of K and of sigma (relative) among entries of one law per group; the floor where there are too few."""
    indices = [np.array(group, int) for group in groups if group]
    gain = _scatter(entries.u, entries.gain, entries.gain_se, indices, 1)
    read = _scatter(entries.u, entries.read, entries.read_se, indices, 2)
    return gain if math.isfinite(gain) else _SCATTER_FLOOR, read if math.isfinite(read) else _SCATTER_FLOOR


def _calm_scatters(entries: _Entries, native: list[int]) -> tuple[float, float]:
    """The same among full stops only where that is smaller: pushed ISOs not yet found scatter around native ones."""
    every, full = _scatters(entries, native), _scatters(entries, [i for i in native if _is_full_stop(entries.iso[i])])
    return min(every[0], full[0]), min(every[1], full[1])


def _excursions(entries: _Entries, native: list[int]) -> tuple[list[int], list[IsoFinding]]:
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
                if entries.u[right] - entries.u[left] > _LONGEST_GAP:
                    continue
                w = (entries.u[members] - entries.u[left]) / (entries.u[right] - entries.u[left])
                off = entries.y[members] - (1 - w) * entries.y[left] - w * entries.y[right]
                least = np.min(np.abs(off))
                same_sign = abs(np.sum(np.sign(off))) == length
                gap = entries.u[right] - entries.u[left]
                returns = abs(entries.y[right] - entries.y[left]) < 0.5 * least + _NATURAL_SLOPE * gap
                # Full stops last: between two pushed ISOs a native one stands off, too.
                rank = (not any(_is_full_stop(entries.iso[i]) for i in members), float(least))
                if same_sign and returns and least >= _MIN_PUSH and (best is None or rank > best[0]):
                    best = (rank, math.copysign(least, off[0]), members)
        if best is None:
            break
        found.append(best[1:])
        rest = [i for i in rest if i not in best[2]]
    scatter, read_scatter = _calm_scatters(entries, rest)
    pushed: list[IsoFinding] = []
    for step, members in found:
        error = math.sqrt(1.5 * (scatter**2 + float(np.mean(entries.gain_se[members] ** 2))))
        for i in members:
            source = _native_of(entries, i, rest, read_scatter)
            if abs(step) >= _CLEAR * error and source is not None:
                pushed.append(
                    IsoFinding("pushed", float(entries.iso[i]), step, abs(step) / error, float(entries.iso[source]))
                )
    isos = {f.iso for f in pushed}
    return [i for i in native if float(entries.iso[i]) not in isos], pushed


def _native_of(entries: _Entries, i: int, native: list[int], scatter: float) -> int | None:
    """The neighbor on either side whose sigma/K equals that of entry i; the nearer where sigma is unknown.

    None when sigma/K lies outside what the two neighbors span, errors allowed.
    """
    near = [n for n in (_last(native, i), _first(native, i)) if n is not None]
    if not near:
        return None
    if not np.isfinite(entries.e[[i, *near]]).all():
        return min(near, key=lambda n: abs(entries.u[n] - entries.u[i]))
    error = math.sqrt(2 * scatter**2 + entries.e_se[i] ** 2 + float(np.max(entries.e_se[near] ** 2)))
    low, high = float(np.min(entries.e[near])), float(np.max(entries.e[near]))
    if not low - _SIGNIFICANT * error <= entries.e[i] <= high + _SIGNIFICANT * error:
        return None
    return min(near, key=lambda n: abs(entries.e[n] - entries.e[i]))


def _last(native: list[int], i: int) -> int | None:
    return max((n for n in native if n < i), default=None)


def _first(native: list[int], i: int) -> int | None:
    return min((n for n in native if n > i), default=None)


def _extended(entries: _Entries, native: list[int], *, from_top: bool) -> tuple[list[int], list[IsoFinding]]:
    """Run at one end whose K/ISO stands off the rest while sigma/K is that of native ISOs.

    Where K is exactly proportional to ISO it was assumed, not measured; then a low run shows by read noise in DN
    that equals that of the ISOs a common factor above.
    """
    order = native[::-1] if from_top else list(native)
    scatter, read_scatter = _calm_scatters(entries, native)
    best: tuple[float, float, int] | None = None
    for length in range(1, min(_LONGEST_RUN, len(order) - 3) + 1):
        run, beyond = order[:length], order[length:]
        anchors = beyond[:4]
        slope = float(np.polyfit(entries.u[anchors], entries.y[anchors], 1)[0])
        across = entries.u[run[-1]] - entries.u[beyond[0]]
        step = float(entries.y[run[-1]] - entries.y[beyond[0]] - slope * across)
        # The slope's error, from four entries, counts over the distance it is carried.
        spread = float(np.sum((entries.u[anchors] - entries.u[anchors].mean()) ** 2))
        error = math.sqrt(
            (2 + across**2 / spread) * (scatter**2 + float(np.mean(entries.gain_se[[run[-1], *anchors]] ** 2)))
        )
        if abs(step) < _MIN_GAIN_STEP or abs(step) < _SIGNIFICANT * error:
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


def _native_read_noise(entries: _Entries, run: list[int], beyond: list[int], scatter: float, *, from_top: bool) -> bool:
    """Is sigma/K in the run that of native ISOs, errors allowed?  At the top: not below the last native one's."""
    e = entries.e[run]
    known = np.isfinite(e)
    near = [n for n in beyond if abs(entries.u[n] - entries.u[run[-1]]) <= _PULLED_RANGE and np.isfinite(entries.e[n])]
    if not known.any() or not near:
        return True
    error = math.sqrt(2 * scatter**2 + float(np.mean(entries.e_se[[*run, *near]] ** 2)))
    tolerance = max(_SIGNIFICANT * error, _SAME_READ)
    if from_top:
        return bool(np.all(e[known] >= entries.e[near[0]] - tolerance))
    low, high = float(np.min(entries.e[near])), float(np.max(entries.e[near]))
    return bool(np.all((e[known] >= low - tolerance) & (e[known] <= high + tolerance)))


def _echo(entries: _Entries, order: list[int], scatter: float, read_scatter: float) -> tuple[float, float, int] | None:
    """A low run of two to four entries whose sigma in DN falls at its end and repeats a factor higher in ISO."""
    if float(np.ptp(entries.y)) > 1e-6:  # K was measured and would have shown the step
        return None
    for length in range(2, min(4, len(order) - 3) + 1):
        run, beyond = order[:length], [n for n in order[length:] if np.isfinite(entries.read[n])]
        if len(beyond) < 2 or not np.isfinite(entries.read[run]).all():
            continue
        error = math.hypot(read_scatter, float(np.max(entries.read_se[[run[-1], beyond[0]]])))
        fall = float(entries.read[run[-1]] - entries.read[beyond[0]])
        if fall < _SIGNIFICANT * math.sqrt(2) * error:
            continue
        shift = float(entries.u[beyond[0]] - entries.u[run[0]])  # lowest extended ISO is the lowest native one
        if shift > _PULLED_RANGE:
            continue
        echo = np.interp(entries.u[run] + shift, entries.u[beyond], entries.read[beyond])
        if np.all(np.abs(entries.read[run] - echo) <= _SIGNIFICANT * math.sqrt(2) * error):
            return 0.0, fall / (math.sqrt(2) * error), length
    return None


def _stop(iso: Any) -> Any:
    """Place of an ISO within its octave, in octaves from the full stop, -0.5 to 0.5."""
    octaves = np.log2(np.asarray(iso, np.float64) / FULL_STOP_ISO)
    return octaves - np.round(octaves)


def _is_full_stop(iso: float) -> bool:
    return abs(float(_stop(iso))) < _SAME_STOP


def _staircase(entries: _Entries, native: list[int]) -> tuple[list[int], list[IsoFinding]]:
    """ISOs between full stops that repeat sigma/K of the full stop below or above, octave after octave: pushed.

    One such coincidence is chance; a class of ISOs (all a third above a full stop, say) has to follow it, where
    smooth laws through the full stops do not.
    """
    full = [i for i in native if _is_full_stop(entries.iso[i]) and np.isfinite(entries.e[i])]
    others = [i for i in native if i not in full and np.isfinite(entries.e[i])]
    findings: list[IsoFinding] = []
    for place in sorted({round(float(_stop(entries.iso[i])), 1) for i in others}):
        taken = _isos(findings)
        members = [i for i in others if abs(float(_stop(entries.iso[i])) - place) < 2 * _SAME_STOP]
        members = [i for i in members if float(entries.iso[i]) not in taken]
        for above in (False, True):
            steps = [_Step.of(entries, i, full, above=above) for i in members]
            size = _follows_steps(steps)
            if size is not None:
                findings += _stepped(entries, steps, size)
                break
    isos = _isos(findings)
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
    def of(cls, entries: _Entries, i: int, full: list[int], *, above: bool) -> _Step:
        sides = [n for n in (_last(full, i), _first(full, i)) if n is not None]
        near = [n for n in sides if abs(entries.u[n] - entries.u[i]) < math.log(2.0)]
        source = next((n for n in near if (n > i) == above), None)
        if source is None:
            return cls(i, None, None, None, False)
        errors = [
            math.sqrt(2 * _SCATTER_FLOOR**2 + se[i] ** 2 + se[source] ** 2) for se in (entries.gain_se, entries.e_se)
        ]
        equal = np.array([entries.y[i] - entries.y[source], entries.e[i] - entries.e[source]]) / errors
        between = len(sides) == 2 and entries.u[sides[1]] - entries.u[sides[0]] < _LONGEST_GAP
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
    if len(telling) < _LAW_ENTRIES:
        return None
    smooth, equal = (np.sum(np.square(values), axis=1) for values in zip(*telling, strict=True))
    # What the hypothesis leaves unexplained, two channels an entry, is the scale of the scatter.
    excess = max(1.0, float(np.mean(equal)) / 2)
    support = (smooth - equal) / excess
    size = math.sqrt(max(float(np.sum(support)), 0.0))
    # A gain switch in one octave imitates a step there: the others have to agree.
    others = math.sqrt(max(float(np.sum(support) - np.max(support)), 0.0))
    return size if size >= _SIGNIFICANT and others >= _AGREEING else None


def _stepped(entries: _Entries, steps: Sequence[_Step], size: float) -> list[IsoFinding]:
    """Members of the class that are pushed: not better explained as native; and those between such, source or not."""

    def fits(step: _Step) -> bool:
        if step.equal is None or step.smooth is None or np.any(np.abs(step.equal) >= _SIGNIFICANT):
            return False
        # Where both explanations will do the class decides; at the ends, where classes end, the better one.
        return bool(np.sum(step.equal**2) - np.sum(step.smooth**2) < (4.0 if step.telling else 0.0))

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


def _isos(findings: list[IsoFinding]) -> set[float]:
    return {f.iso for f in findings}


def _lawful(entries: _Entries, i: int, below: int, above: int) -> float:
    """ln sigma/K at entry i by the quadrature law through two entries, K as measured."""
    square = np.exp(2 * entries.gain)
    w = (square[i] - square[below]) / (square[above] - square[below])
    var = (1 - w) * math.exp(2 * entries.read[below]) + w * math.exp(2 * entries.read[above])
    return 0.5 * math.log(max(var, np.finfo(float).tiny)) - float(entries.gain[i])


def _boundaries(entries: _Entries, native: list[int]) -> list[IsoFinding]:
    """Where native entries do not follow one law: binary segmentation, the boundary that explains most first."""
    best: tuple[float, int, IsoFinding] | None = None
    for cut in range(1, len(native)):
        low, high = native[:cut], native[cut:]
        # Most pairs of neighbors cannot be a boundary, whatever the scatter.
        drop, step = entries.e[low[-1]] - entries.e[high[0]], entries.y[high[0]] - entries.y[low[-1]]
        if drop < 0.5 * _MIN_SWITCH and abs(step) < 0.3 * _MIN_GAIN_STEP:
            continue
        # The scatter around two laws: a boundary between them is no scatter.
        gain_scatter, read_scatter = _scatters(entries, low, high)
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


def _read_side(entries: _Entries, side: list[int], read_error: np.ndarray) -> tuple[list[int], IsoLaw | None]:
    """Entries of a side with known read noise, and their law of read variance over K."""
    known = [i for i in side if np.isfinite(entries.read[i])]
    if len(known) < _LAW_ENTRIES:
        return known, None
    gain = np.exp(entries.gain[known] - entries.gain[known[0]])
    return known, read_law(gain, np.exp(2 * entries.read[known]), 2 * read_error[known])


def _misfit(entries: _Entries, side: list[int], gain_error: np.ndarray, read_error: np.ndarray) -> float:
    """chi2 of the segment's laws; robust against single bad entries."""
    known, law = _read_side(entries, side, read_error)
    chi2 = 0.0
    if law is not None:
        gain = np.exp(entries.gain[known] - entries.gain[known[0]])
        residual = (0.5 * np.log(law.value(gain)) - entries.read[known]) / read_error[known]
        chi2 += float(np.sum(residual**2))
    if len(side) >= _LAW_ENTRIES:
        line = np.polynomial.Polynomial.fit(entries.u[side], entries.y[side], 1)
        chi2 += float(np.sum(((entries.y[side] - line(entries.u[side])) / gain_error[side]) ** 2))
    return chi2


def _read_at(
    entries: _Entries, side: list[int], nearest: int, gain: float, read_error: np.ndarray
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
    entries: _Entries, low: list[int], high: list[int], gain_error: np.ndarray, read_error: np.ndarray
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
        shown = local >= 0.5 * _MIN_SWITCH and local >= _CLEAR * math.hypot(read_error[last], read_error[first])
        if shown:
            # ln sigma/K on either side of the middle of the gap; K of each side continued in proportion to ISO.
            half = 0.5 * (entries.u[first] - entries.u[last])
            below = _read_at(entries, known_low, last, entries.gain[last] + half, read_error)
            above = _read_at(entries, known_high, first, entries.gain[first] - half, read_error)
            drop = below[0] - above[0] + entries.y[first] - entries.y[last]
            error = math.hypot(below[1], above[1])
            if drop >= _MIN_SWITCH and drop >= _SIGNIFICANT * error and local >= 0.5 * drop:
                return IsoFinding("gain switch", iso, -drop, drop / error)
    if abs(step) >= _MIN_GAIN_STEP and abs(step) >= _SIGNIFICANT * step_error:
        return IsoFinding("gain step", iso, step, abs(step) / step_error)
    return None


def _local_drop(entries: _Entries, low: list[int], high: list[int]) -> float:
    """Drop of ln sigma/K between the two entries at a boundary, beyond the slope of their neighbors."""
    last, first = low[-1], high[0]
    slopes = [
        (entries.e[b] - entries.e[a]) / (entries.u[b] - entries.u[a])
        for side in (low[-3:], high[:3])
        for a, b in zip(side, side[1:], strict=False)
    ]
    slope = float(np.clip(np.median(slopes), -1.0, 0.0)) if slopes else -1.0
    return float(entries.e[last] - entries.e[first] + slope * (entries.u[first] - entries.u[last]))


def _gain_step(entries: _Entries, low: list[int], high: list[int], gain_error: np.ndarray) -> tuple[float, float]:
    """Step of ln K/ISO at a boundary beyond the neighbors' slope, and its standard error."""
    last, first = low[-1], high[0]
    across = entries.u[first] - entries.u[last]
    step, variance = float(entries.y[first] - entries.y[last]), float(gain_error[last] ** 2 + gain_error[first] ** 2)
    sides = [side for side in (low[-4:], high[:4]) if len(side) >= _LAW_ENTRIES]
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
    entries = _entries(table)
    is_pushed = np.array([any(math.isclose(known, p, rel_tol=1e-3) for p in pushed) for known in entries.iso])
    octaves = np.log2(entries.iso / iso)
    same = np.abs(octaves - np.round(octaves)) < _SAME_STOP
    members = [int(i) for i in np.flatnonzero(is_pushed & same)]
    around = [np.flatnonzero(same & (entries.iso < iso))[-1:], np.flatnonzero(same & (entries.iso > iso))[:1]]
    if not all(side.size and is_pushed[side[0]] for side in around):
        return None
    native = [int(i) for i in np.flatnonzero(~is_pushed)]
    if iso < entries.iso[native[0]] or iso > entries.iso[native[-1]]:
        return None
    best: tuple[float, float] | None = None
    for side in (_last, _first):
        pairs = [(i, side(native, i)) for i in members]
        known = [(i, n) for i, n in pairs if n is not None and np.isfinite(entries.e[[i, n]]).all()]
        ratios = np.array([entries.u[n] - entries.u[i] for i, n in known])
        if len(known) < 2 or np.ptp(ratios) > 2 * _SAME_STOP * math.log(2.0):
            continue
        disagreement = float(np.mean([(entries.e[i] - entries.e[n]) ** 2 for i, n in known]))
        if best is None or disagreement < best[0]:
            best = (disagreement, math.exp(float(np.median(ratios))))
    if best is None:
        return None
    return PushRule(tuple(float(entries.iso[i]) for i in members), best[1])
