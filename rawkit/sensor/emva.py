"""The figures of EMVA Standard 1288, release 4.0 Linear, from a set of frames.

Model of a linear camera, per CFA phase, mu_p photons on a pixel during the exposure:

    mu_y  = mu_y.dark + K eta mu_p                                                       [DN]
    s2_y  = s2_y.dark + K (mu_y - mu_y.dark),    s2_y.dark = K^2 sigma_d^2 + 1/12        [DN^2]

K system gain [DN/e-], eta quantum efficiency, sigma_d temporal dark noise [e-], R = K eta responsivity [DN/photon].

    sensitivity threshold    mu_e.min = sigma_y.dark / K + 1/2,     mu_p.min = mu_e.min / eta       (SNR = 1)
    saturation               mu_p.sat at the maximum of s2_y,       mu_e.sat = eta mu_p.sat
    SNR_max = sqrt(mu_e.sat),    dynamic range = mu_p.sat / mu_p.min
    dark current             mu_I.mean = d mu_y.dark / dt / K,      mu_I.var = d s2_y.dark / dt / K^2   [e-/s]
    linearity error          100 (y - fit) / fit of the line through y over 5 % to 95 % of saturation, weights 1 / y^2
    DSNU, PRNU               ``uniformity``

``convention="emva1288"`` gives the standard's own estimates: unweighted slopes through the origin up to 70 % of
saturation, first two frames of a level, nothing rejected, sigma_y.dark not below sqrt(0.24) DN.
``convention="default"`` keeps every definition and replaces the estimates that can be improved (``DIFFERENCES``).

Standard errors.  A variance from nu degrees of freedom has error s2 sqrt(2 / nu).  Slopes take the larger of that,
propagated, and of the scatter about the line.  Derived figures propagate K, R, s2_y.dark and the saturation as
independent.  The photon counts are taken as given: their calibration is not part of any error here.

References
----------
EMVA Standard 1288, Release 4.0 Linear (2021): sections 2, 6 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import RawImage
from rawkit.sensor.dark import fit_darks
from rawkit.sensor.defects import DefectHistogram, defect_histogram
from rawkit.sensor.frames import Frame, FrameSet, PairStatistics, pair_statistics
from rawkit.sensor.photon_transfer import fit_slope
from rawkit.sensor.pixel_moments import PixelAccumulator, PixelMoments
from rawkit.sensor.spectra import Spectrogram, spectrogram
from rawkit.sensor.uniformity import Convention, Nonuniformity, combine, dsnu, prnu

FloatArray = NDArray[np.floating]
Progress = Callable[[int, int], None]
Estimate = tuple[float, float]  # value, standard error
PairNumbers = tuple[FloatArray, FloatArray, FloatArray, FloatArray]  # mean, variance, dof, ceiling; (P,) each

SENSITIVITY_RANGE = 0.7  # of saturation: slopes of R and K (EMVA 1288, section 6.6)
LINEARITY_RANGE = (0.05, 0.95)  # of saturation (section 6.7)
QUANTIZATION_VAR = 1.0 / 12.0  # DN^2
DARK_VAR_FLOOR = 0.24  # DN^2: below it the standard calls the temporal noise undetermined (section 6.8)
MIN_LEVELS = 3
_SIGNIFICANT = 3.0  # standard errors
_RESPONSE_ORDER = 4  # of the smooth response under the gain fit: bends of every common shape
_LEVELS_PER_TERM = 4  # fewer, and the response follows the scatter of the levels

DIFFERENCES = {
    "system_gain": "weighted by model variance, slope-corrected for a bent response; the unweighted slope has 2 to 3 "
    "times the error and, where the response bends, no meaning at small signal",
    "responsivity": "slope at zero light of a smooth weighted response with an intercept: an exposure offset or stray "
    "light is no response",
    "quantum_efficiency": "ratio of the two above",
    "temporal_dark_noise_dn": "all darks pooled (intercept only where the growth with time is significant), outliers "
    "left out; no floor: below 0.6 DN from the likelihood of the codes",
    "temporal_dark_noise": "from the two above",
    "sensitivity_threshold": "exact solution of SNR = 1, 1/2 + sqrt(1/4 + var / K^2), instead of sigma / K + 1/2",
    "saturation_capacity": "from the code on which pixels pile up where one is seen, not the brightest level taken",
    "dsnu": "shading and outliers removed, temporal row and column noise and drift subtracted",
    "prnu": "shading and outliers removed, temporal row and column noise and flicker subtracted",
}


# ------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Figure:
    """One number of the report.

    Parameters
    ----------
    name : str
    symbol : str
        As in the standard.
    value : float
        NaN when it cannot be stated; ``note`` then says why.
    se : float
        Standard error; NaN when none can be derived.
    unit : str
    note : str
        How the default convention departs from the standard, or why the value is missing.
    """

    name: str
    symbol: str
    value: float
    se: float
    unit: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Levels:
    """Temporal statistics of the levels of one phase, rising exposure; (n,) each.

    Parameters
    ----------
    exposure_time : [s], NaN when not known
    photons : [photons per pixel], NaN when not given
    mean : [DN, as stored]
    variance : [DN^2]
        Temporal.
    dof : [1]
    ceiling : [DN, as stored]
        Code on which pixels pile up; NaN when none does.
    """

    exposure_time: FloatArray
    photons: FloatArray
    mean: FloatArray
    variance: FloatArray
    dof: FloatArray
    ceiling: FloatArray

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True, eq=False)
class EmvaReport:
    """EMVA 1288 figures of one phase, and the curves behind them.

    Parameters
    ----------
    phase : str
    convention : {"default", "emva1288"}
    figures : dict of name to Figure
    levels, darks : Levels
    signal : (n,) [DN]
        Mean of each level, dark removed.
    in_gain_fit, in_linearity_fit : (n,) bool
    linearity_error : (n,) [%]
        Deviation of every level from the line.
    saturation_index : int
        Of ``levels``.
    spectrograms : dict
        ``dark`` and ``flat``, each ``horizontal`` and ``vertical``; power in DN^2.
    histograms : dict
        ``dsnu`` and ``prnu``.
    dsnu, prnu : Nonuniformity or None
        In DN, and as a fraction.
    remarks : tuple of str
    """

    phase: str
    convention: Convention
    figures: Mapping[str, Figure]
    levels: Levels
    darks: Levels
    signal: FloatArray
    in_gain_fit: NDArray[np.bool_]
    in_linearity_fit: NDArray[np.bool_]
    linearity_error: FloatArray
    saturation_index: int
    spectrograms: Mapping[tuple[str, str], Spectrogram] = field(default_factory=dict)
    histograms: Mapping[str, DefectHistogram] = field(default_factory=dict)
    dsnu: Nonuniformity | None = None
    prnu: Nonuniformity | None = None
    remarks: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        """Value of a figure by name."""
        return self.figures[name].value

    def rows(self) -> list[tuple[str, str, float, float, str, str]]:
        """(name, symbol, value, standard error, unit, note) of every figure."""
        return [(f.name, f.symbol, f.value, f.se, f.unit, f.note) for f in self.figures.values()]

    def to_dict(self) -> dict[str, Any]:
        """Plain document; numbers that are not finite become None."""

        def plain(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        return {
            "standard": "EMVA 1288 Release 4.0 Linear",
            "convention": self.convention,
            "phase": self.phase,
            "figures": {
                f.name: {"symbol": f.symbol, "value": plain(f.value), "se": plain(f.se), "unit": f.unit, "note": f.note}
                for f in self.figures.values()
            },
            "remarks": list(self.remarks),
        }


# --------------------------------------------------------------------------------------------- gathering


def emva_report(
    frames: FrameSet,
    *,
    convention: Convention = "default",
    iso: float | None = None,
    phase: str | None = None,
    progress: Progress | None = None,
) -> EmvaReport:
    """EMVA 1288 report of one phase (see ``emva_reports``).

    Parameters
    ----------
    phase : str, optional
        Needed for a color sensor.
    """
    reports = emva_reports(frames, convention=convention, iso=iso, progress=progress)
    if phase is None and len(reports) == 1:
        return next(iter(reports.values()))
    if phase not in reports:
        raise CalibrationError(
            f"the sensor has the phases {', '.join(reports)}; name one with phase=, found {phase!r}."
        )
    return reports[phase]


def emva_reports(
    frames: FrameSet,
    *,
    convention: Convention = "default",
    iso: float | None = None,
    progress: Progress | None = None,
) -> dict[str, EmvaReport]:
    """EMVA 1288 reports of all phases; two frames and one stack's moments are in memory at most.

    Frames of one kind, exposure time and photon count are a group.  A group of two is a level of the photon transfer;
    a larger one is a stack for the spatial figures, the one nearest to half saturation being used.  Without three
    groups of two, stacks serve as levels as well; in the default convention they always do.  Without a stack, the
    largest group nearest to half saturation replaces it.

    Parameters
    ----------
    frames : FrameSet
    convention : {"default", "emva1288"}
    iso : float, optional
        Needed when the set has several.
    progress : callable (done, total), optional

    Raises
    ------
    CalibrationError
        Fewer than three levels below saturation, no darks, or several ISOs and none named.
    """
    if iso is None:
        if len(frames.isos) != 1:
            raise CalibrationError(
                f"the frames have the ISOs {', '.join(f'{i:g}' for i in frames.isos)}; EMVA figures hold for one, so "
                "name it with iso=."
            )
        iso = frames.isos[0]
    flat_groups, dark_groups = _groups(frames.flats(iso)), _groups(frames.darks(iso))
    total = sum(map(len, flat_groups + dark_groups))
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(min(done, total), total)

    dark_pairs: list[PairStatistics] = []
    flats = _levels(flat_groups, convention, tick)
    darks = _levels(dark_groups, convention, tick, dark_pairs)
    if not flats or not darks:
        raise CalibrationError(
            f"ISO {iso:g}: {len(flat_groups)} groups of equal flats and {len(dark_groups)} of equal darks; the report "
            "needs pairs of both."
        )
    first = dark_groups[0][0].read()
    noise = fit_darks(dark_pairs) if dark_pairs else None
    saturation = _abscissa(flats[0])[0][_saturation_index(flats[0])]
    flat_stack = _stack(flat_groups, saturation, tick)
    dark_stack = _stack(dark_groups, None, tick, near=flat_stack[1])
    reports = {}
    for p, name in enumerate(first.phases):
        reports[name] = emva_figures(
            flats[p],
            darks[p],
            flat_stack[0].phases(first.cfa)[p],
            dark_stack[0].phases(first.cfa)[p],
            dark_noise=None if noise is None else (float(noise.read_var[p]), float(noise.read_var_se[p])),
            convention=convention,
            phase=name,
        )
    return reports


def _groups(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames of equal exposure time and photon count, at least two, rising."""
    groups: dict[tuple[float, float], list[Frame]] = {}
    for frame in frames:
        exposure = float("nan") if frame.exposure_time is None else frame.exposure_time
        groups.setdefault((frame.photons or 0.0, exposure), []).append(frame)
    return [groups[key] for key in sorted(groups) if len(groups[key]) > 1]


def _levels(
    groups: list[list[Frame]],
    convention: Convention,
    tick: Callable[[int], None],
    dark_pairs: list[PairStatistics] | None = None,
) -> list[Levels]:
    """Levels of each phase; in the default convention the statistics of dark pairs are put into ``dark_pairs``."""
    twos = [group for group in groups if len(group) == 2]
    chosen = groups if convention == "default" or len(twos) < MIN_LEVELS else twos
    rows: list[list[FloatArray]] = []
    for group in chosen:
        if convention == "emva1288":
            rows.append(_group_statistics([_plain_pair(group[0].read(), group[1].read())]))
        else:
            images: Iterator[RawImage] = (frame.read() for frame in group)
            found = []
            for a, b in zip(images, images, strict=False):  # (1st, 2nd), (3rd, 4th) ...
                pair = pair_statistics(a, b, dark=dark_pairs is not None)
                found.append(_numbers(pair, np.array(a.black_level)))
                if dark_pairs is not None:
                    dark_pairs.append(replace(pair, exposure_time=group[0].exposure_time))
            rows.append(_group_statistics(found))
        tick(len(group))
    if not rows:
        return []
    times = np.array([np.nan if g[0].exposure_time is None else g[0].exposure_time for g in chosen])
    photons = np.array([np.nan if g[0].photons is None else g[0].photons for g in chosen])
    mean, variance, dof, ceiling = (np.array(column) for column in zip(*rows, strict=True))
    if np.all(np.isnan(photons)) and np.all(np.isnan(times)):
        order = np.argsort(mean.mean(axis=1))
    else:
        order = np.lexsort((times, photons))
    return [
        Levels(times[order], photons[order], mean[order, p], variance[order, p], dof[order, p], ceiling[order, p])
        for p in range(mean.shape[1])
    ]


def _group_statistics(pairs: Sequence[PairNumbers]) -> list[FloatArray]:
    """Mean, variance, dof and ceiling (P,) over the pairs of a group."""
    mean, variance, dof, ceiling = (np.array(column) for column in zip(*pairs, strict=True))
    total = dof.sum(axis=0)
    top = np.where(np.isnan(ceiling).all(axis=0), np.nan, np.fmin.reduce(ceiling, axis=0))
    return [(dof * mean).sum(axis=0) / total, (dof * variance).sum(axis=0) / total, total, top]


def _numbers(pair: PairStatistics, black: FloatArray) -> PairNumbers:
    top = np.nan if pair.ceiling is None else pair.ceiling + float(black.mean())
    return pair.mean + black, pair.variance, pair.dof, np.full(len(black), top)


def _plain_pair(a: RawImage, b: RawImage) -> PairNumbers:
    """mean = (mean A + mean B) / 2, variance = mean((A - B)^2) / 2 - (mean A - mean B)^2 / 2: nothing left out."""
    from rawkit.sensor.pair_kernel import Limits, flat_sums, is_exact

    count = len(a.phases)
    first, second = (np.ascontiguousarray(image.mosaic) for image in (a, b))
    widest = np.full(count, float(np.iinfo(first.dtype).max) if is_exact(first) else np.inf)
    everything = Limits(np.zeros(count), widest, np.zeros(count), widest)
    number, sum_a, sum_b, _, squares, _ = flat_sums(first, second, a.cfa.phase_map, everything).moments.T
    mean_a, mean_b = sum_a / number, sum_b / number
    variance = squares / number / 2.0 - (mean_a - mean_b) ** 2 / 2.0
    return (mean_a + mean_b) / 2.0, variance, number - 1.0, np.full(count, np.nan)


def _stack(
    groups: list[list[Frame]], saturation: float | None, tick: Callable[[int], None], *, near: float | None = None
) -> tuple[PixelMoments, float | None]:
    """Moments and exposure time of the stack for the spatial figures."""
    largest = max(len(group) for group in groups)
    candidates = [g for g in groups if len(g) > 2] or [g for g in groups if len(g) == largest]

    def distance(group: list[Frame]) -> float:
        if saturation is not None:
            light = group[0].photons if group[0].photons is not None else group[0].exposure_time
            return abs((light or 0.0) - saturation / 2.0)
        return abs((group[0].exposure_time or 0.0) - (near or 0.0))

    chosen = min(candidates, key=distance)
    accumulator = None
    for frame in chosen:
        image = frame.read()
        accumulator = accumulator or PixelAccumulator(period=image.cfa.shape)
        accumulator.add(image.mosaic)
        tick(1)
    assert accumulator is not None
    return accumulator.finish(), chosen[0].exposure_time


# ----------------------------------------------------------------------------------------------- figures


def emva_figures(
    flats: Levels,
    darks: Levels,
    flat_stack: Sequence[PixelMoments] = (),
    dark_stack: Sequence[PixelMoments] = (),
    *,
    dark_noise: Estimate | None = None,
    convention: Convention = "default",
    phase: str = "Y",
) -> EmvaReport:
    """All figures of one phase from its statistics (formulas: module docstring).

    Parameters
    ----------
    flats, darks : Levels
    flat_stack, dark_stack : sequence of PixelMoments
        One per CFA site of the phase (``PixelMoments.phases``); empty leaves the spatial figures out.
    dark_noise : (float, float), optional [DN^2]
        Temporal dark variance and its standard error for the default convention (``dark.fit_darks``); without it,
        ``darks`` are pooled.  An infinite error says that the read noise is not identifiable.
    convention : {"default", "emva1288"}

    Raises
    ------
    CalibrationError
        Fewer than three levels below 70 % of saturation.
    """
    remarks: list[str] = []
    light, unit = _abscissa(flats)
    dark_mean, dark_var = _dark_at(flats, darks, remarks)
    signal = flats.mean - dark_mean
    top = _saturation_index(flats)
    if top == len(flats) - 1:
        remarks.append("no level beyond the maximum of the variance: the saturation capacity is a lower bound.")
    in_gain = (light <= SENSITIVITY_RANGE * light[top]) & (np.arange(len(flats)) < max(top, 1))
    in_line = (light >= LINEARITY_RANGE[0] * light[top]) & (light <= LINEARITY_RANGE[1] * light[top])
    if in_gain.sum() < MIN_LEVELS:
        raise CalibrationError(
            f"{int(in_gain.sum())} levels up to {SENSITIVITY_RANGE:.0%} of saturation; the report needs {MIN_LEVELS}. "
            "Add pairs of flats at lower exposures."
        )
    if convention == "emva1288":
        gain, response, noise = _standard_fit(flats, darks, light, signal, dark_var, in_gain)
    else:
        noise = dark_noise or _pooled_dark(darks)
        gain, response = _default_fit(flats, light, signal, dark_var, in_gain, in_line, noise, remarks)
    saturation = _saturation(flats, darks, light, signal, top, convention)
    line, line_cov = _line(light[in_line], signal[in_line], 1.0 / signal[in_line] ** 2, None)
    fitted = line[0] + line[1] * light
    deviation = 100.0 * (signal - fitted) / fitted
    figures = _temporal_figures(gain, response, noise, saturation, unit, convention)
    figures += _linearity_figures(line, line_cov, deviation, in_line, flats, unit)
    figures += _dark_current(darks, gain, remarks)
    uneven = _spatial(flat_stack, dark_stack, convention) if flat_stack and dark_stack else (None, None)
    figures += _spatial_figures(*uneven, gain, flat_stack, dark_stack, convention)
    curves, histograms = _curves(flat_stack, dark_stack, remarks) if flat_stack and dark_stack else ({}, {})
    notes = DIFFERENCES if convention == "default" else {}
    return EmvaReport(
        phase=phase,
        convention=convention,
        figures={f.name: _noted(f, notes) for f in figures},
        levels=flats,
        darks=darks,
        signal=signal,
        in_gain_fit=in_gain,
        in_linearity_fit=in_line,
        linearity_error=deviation,
        saturation_index=top,
        spectrograms=curves,
        histograms=histograms,
        dsnu=uneven[0],
        prnu=uneven[1],
        remarks=tuple(remarks),
    )


def _noted(figure: Figure, notes: Mapping[str, str]) -> Figure:
    note = figure.note or notes.get(figure.name, "")
    return Figure(figure.name, figure.symbol, figure.value, figure.se, figure.unit, note)


def _abscissa(levels: Levels) -> tuple[FloatArray, str]:
    """What drives the signal: photons where given, else exposure time, else the mean itself."""
    if np.all(np.isfinite(levels.photons)):
        return levels.photons, "photon"
    if np.all(np.isfinite(levels.exposure_time)) and len(np.unique(levels.exposure_time)) == len(levels):
        return levels.exposure_time, "s"
    raise CalibrationError(
        "the levels have neither photon counts nor exposure times of their own; EMVA figures need one of them. "
        "Give an EMVA descriptor, or exposure_time in the manifest."
    )


def _saturation_index(levels: Levels) -> int:
    """Level of the largest temporal variance."""
    return int(np.argmax(levels.variance))


def _dark_at(flats: Levels, darks: Levels, remarks: list[str]) -> tuple[FloatArray, FloatArray]:
    """Dark mean and variance at the exposure time of each flat: its own dark, else interpolated, else the only one."""
    times = np.unique(darks.exposure_time)
    if len(times) == 1 or not np.all(np.isfinite(darks.exposure_time)):
        weight = darks.dof / darks.dof.sum()
        return np.full(len(flats), float(weight @ darks.mean)), np.full(len(flats), float(weight @ darks.variance))
    if not np.all(np.isin(flats.exposure_time, times)):
        remarks.append("some flats have no dark of their exposure time; theirs is interpolated over time.")
    mean = np.array([_pooled(darks, darks.mean, t) for t in times])
    variance = np.array([_pooled(darks, darks.variance, t) for t in times])
    return np.interp(flats.exposure_time, times, mean), np.interp(flats.exposure_time, times, variance)


def _pooled(darks: Levels, values: FloatArray, time: float) -> float:
    at = darks.exposure_time == time
    return float((darks.dof[at] * values[at]).sum() / darks.dof[at].sum())


def _line(
    x: FloatArray, y: FloatArray, weights: FloatArray, variance: FloatArray | None, *, origin: bool = False
) -> tuple[FloatArray, FloatArray]:
    """(intercept, slope) and covariance of a weighted line, intercept 0 when it goes through the origin.

    The covariance is the larger, by the slope, of the given variances' propagated and of the residuals' (HC1).
    """
    design = np.stack([np.zeros_like(x) if origin else np.ones_like(x), x], axis=1)
    solve = np.linalg.pinv(design.T @ (weights[:, None] * design)) @ (design.T * weights)
    found = solve @ y
    parameters = 1 if origin else 2
    correction = len(x) / max(len(x) - parameters, 1)
    scatter = (solve * (y - design @ found) ** 2) @ solve.T * correction
    if variance is None:
        return found, scatter
    sampled = (solve * variance) @ solve.T
    return found, sampled if sampled[1, 1] > scatter[1, 1] else scatter


def _variance_of_variance(levels: Levels) -> FloatArray:
    return 2.0 * levels.variance**2 / levels.dof


def _standard_fit(
    flats: Levels,
    darks: Levels,
    light: FloatArray,
    signal: FloatArray,
    dark_var: FloatArray,
    in_gain: NDArray[np.bool_],
) -> tuple[Estimate, Estimate, Estimate]:
    """K, R and s2_y.dark as the standard estimates them."""
    error = (_variance_of_variance(flats) + 2.0 * dark_var**2 / float(np.median(darks.dof)))[in_gain]
    ones = np.ones(int(in_gain.sum()))
    gain, gain_cov = _line(signal[in_gain], (flats.variance - dark_var)[in_gain], ones, error, origin=True)
    sampled = (flats.variance / flats.dof)[in_gain]
    response, response_cov = _line(light[in_gain], signal[in_gain], ones, sampled, origin=True)
    times = darks.exposure_time
    if len(np.unique(times[np.isfinite(times)])) > 2:
        dark, dark_cov = _line(times, darks.variance, np.ones(len(darks)), _variance_of_variance(darks))
        noise = float(dark[0]), float(np.sqrt(dark_cov[0, 0]))
    else:
        noise = float(darks.variance[0]), float(np.sqrt(_variance_of_variance(darks)[0]))
    return (
        (float(gain[1]), float(np.sqrt(gain_cov[1, 1]))),
        (float(response[1]), float(np.sqrt(response_cov[1, 1]))),
        (max(noise[0], DARK_VAR_FLOOR), noise[1]),
    )


def _default_fit(
    flats: Levels,
    light: FloatArray,
    signal: FloatArray,
    dark_var: FloatArray,
    in_gain: NDArray[np.bool_],
    in_line: NDArray[np.bool_],
    noise: Estimate,
    remarks: list[str],
) -> tuple[Estimate, Estimate]:
    """K and R by the better estimates (``DIFFERENCES``)."""
    bright = in_gain & (signal > 0)
    linear, slope, response = _linearized(light, signal, (in_gain | in_line) & (signal > 0), bright)
    excess, dof = (flats.variance - dark_var)[bright], flats.dof[bright]
    gain, gain_se, _ = fit_slope(linear, excess / slope**2 + noise[0], dof, *noise)
    straight, straight_se, _ = fit_slope(signal[bright], excess + noise[0], dof, *noise)
    if abs(gain - straight) > _SIGNIFICANT * max(gain_se, straight_se):
        remarks.append(
            f"the response bends: its slope changes by {100.0 * (slope[-1] / slope[0] - 1.0):+.1f} % up to "
            f"{SENSITIVITY_RANGE:.0%} of saturation. K is the one of small signals; a straight line through all levels "
            f"gives {straight:.4g} +- {straight_se:.2g} DN/e-."
        )
    return (gain, float(np.hypot(gain_se, gain * response[1] / response[0]))), response


def _linearized(
    light: FloatArray, signal: FloatArray, known: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, Estimate]:
    """Signal a straight response would have given, the slope of the real one relative to it, the slope at zero light.

    A polynomial y(p) is fitted with weights 1 / y^2, its order from 1 to 4 being that of least BIC.  With c = y'(0)
    and q the light for which y(q) is the measured signal: linear signal y(0) + c q, relative slope y'(q) / c.
    y(0) stands for an offset of the exposure, which is light like any other.
    """
    scale = float(light[known].max())
    x, y = light[known] / scale, signal[known]
    count = len(y)
    fits = []
    for order in range(1, min(_RESPONSE_ORDER, max(1, count // _LEVELS_PER_TERM)) + 1):
        design = np.vander(x, order + 1, increasing=True) / y[:, None]
        solve = np.linalg.pinv(design)
        coefficients = solve.sum(axis=1)
        rest = 1.0 - design @ coefficients
        bic = count * np.log((rest**2).sum()) + (order + 1) * np.log(count)
        error = np.sqrt(((solve[1] * rest) ** 2).sum() * count / max(count - order - 1, 1))
        fits.append((float(bic), coefficients, float(error)))
    _, coefficients, error = min(fits, key=lambda fit: fit[0])
    curve = np.polynomial.Polynomial(coefficients)
    tangent = curve.deriv()
    at = light[wanted] / scale
    q = at + (signal[wanted] - curve(at)) / tangent(at)
    c = float(coefficients[1])
    return curve(0.0) + c * q, tangent(q) / c, (c / scale, error / scale)


def _pooled_dark(darks: Levels) -> Estimate:
    """Temporal dark variance: pooled; the intercept where it grows significantly over three times or more."""
    weights = darks.dof / (2.0 * float(np.average(darks.variance, weights=darks.dof)) ** 2)
    pooled = float(np.average(darks.variance, weights=darks.dof))
    error = pooled * float(np.sqrt(2.0 / darks.dof.sum()))
    if len(np.unique(darks.exposure_time[np.isfinite(darks.exposure_time)])) > 2:
        found, cov = _line(darks.exposure_time, darks.variance, weights, 1.0 / weights)
        if found[1] > _SIGNIFICANT * np.sqrt(cov[1, 1]) and found[0] > 0:
            return float(found[0]), float(np.sqrt(cov[0, 0]))
    return pooled, error


def _saturation(
    flats: Levels,
    darks: Levels,
    light: FloatArray,
    signal: FloatArray,
    top: int,
    convention: Convention,
) -> Estimate:
    """Saturation as light (photons, or seconds): the level of largest variance, or where pixels pile up.

    The light that reaches the code of the pile-up is extrapolated along the line through the levels from half of it
    on.  The first has the error of a value uniform between the neighboring levels, the second that of the line.
    """
    step = float(light[min(top + 1, len(light) - 1)] - light[max(top - 1, 0)]) / 2.0
    ceiling = np.fmin.reduce(flats.ceiling)
    if convention == "emva1288" or not np.isfinite(ceiling):
        return float(light[top]), step / np.sqrt(12.0)
    capacity = float(ceiling) - float(np.average(darks.mean, weights=darks.dof))
    below = (np.arange(len(light)) <= top) & (signal > capacity / 2.0)
    if below.sum() < MIN_LEVELS:
        return float(light[top]), step / np.sqrt(12.0)
    found, cov = _line(light[below] - light[top], signal[below], np.ones(int(below.sum())), None)
    reach = (capacity - found[0]) / found[1]
    error = float(np.sqrt(cov[0, 0] + 2.0 * reach * cov[0, 1] + reach**2 * cov[1, 1])) / found[1]
    return float(light[top] + reach), float(error)


def _propagate(function: Callable[..., float], *estimates: Estimate) -> Estimate:
    """Value and standard error of a function of independent estimates, by central differences over one error."""
    values = [value for value, _ in estimates]
    square = 0.0
    for i, (value, error) in enumerate(estimates):
        up, down = list(values), list(values)
        up[i], down[i] = value + error, value - error
        square += ((function(*up) - function(*down)) / 2.0) ** 2
    return float(function(*values)), float(np.sqrt(square))


def _temporal_figures(
    gain: Estimate, response: Estimate, noise: Estimate, saturation: Estimate, unit: str, convention: Convention
) -> list[Figure]:
    exact = convention == "default"

    def threshold(k: float, v: float) -> float:
        return 0.5 + float(np.sqrt(0.25 + v / k**2)) if exact else float(np.sqrt(v)) / k + 0.5

    def capacity(k: float, r: float, s: float) -> float:
        return r * s / k

    def snr(k: float, r: float, s: float) -> float:
        return float(np.sqrt(capacity(k, r, s)))

    def span(k: float, r: float, s: float, v: float) -> float:
        return capacity(k, r, s) / threshold(k, v)

    def sigma_d(k: float, v: float) -> float:
        return float(np.sqrt(max(v - QUANTIZATION_VAR, 0.0))) / k

    def decibel(f: Callable[..., float]) -> Callable[..., float]:
        return lambda *arguments: 20.0 * float(np.log10(f(*arguments)))

    light = (gain, response, saturation)
    photons = unit == "photon"
    missing = "" if photons else "needs photon counts (EMVA descriptor)"
    none = (float("nan"), float("nan"))

    def if_photons(function: Callable[..., float], *estimates: Estimate) -> Estimate:
        return _propagate(function, *estimates) if photons else none

    return [
        Figure("system_gain", "K", *gain, "DN/e-"),
        Figure("inverse_gain", "1/K", *_propagate(lambda k: 1.0 / k, gain), "e-/DN"),
        Figure("responsivity", "R", *response, "DN/" + unit),
        Figure("quantum_efficiency", "eta", *if_photons(lambda k, r: 100.0 * r / k, gain, response), "%", missing),
        Figure("temporal_dark_noise_dn", "sigma_y.dark", *_propagate(lambda v: float(np.sqrt(v)), noise), "DN"),
        Figure("temporal_dark_noise", "sigma_d", *_propagate(sigma_d, gain, noise), "e-"),
        Figure("sensitivity_threshold", "mu_e.min", *_propagate(threshold, gain, noise), "e-"),
        Figure(
            "sensitivity_threshold_photons",
            "mu_p.min",
            *if_photons(lambda k, v, r: threshold(k, v) * k / r, gain, noise, response),
            "photon",
            missing,
        ),
        Figure("saturation_capacity", "mu_e.sat", *_propagate(capacity, *light), "e-"),
        Figure("saturation_photons", "mu_p.sat", *(saturation if photons else none), "photon", missing),
        Figure("snr_max", "SNR_max", *_propagate(snr, *light), "1"),
        Figure("snr_max_db", "SNR_max", *_propagate(decibel(snr), *light), "dB"),
        Figure("snr_max_bit", "SNR_max", *_propagate(lambda *a: float(np.log2(snr(*a))), *light), "bit"),
        Figure("inverse_snr_max", "1/SNR_max", *_propagate(lambda *a: 100.0 / snr(*a), *light), "%"),
        Figure("dynamic_range", "DR", *_propagate(span, *light, noise), "1"),
        Figure("dynamic_range_db", "DR", *_propagate(decibel(span), *light, noise), "dB"),
        Figure("dynamic_range_bit", "DR", *_propagate(lambda *a: float(np.log2(span(*a))), *light, noise), "bit"),
    ]


def _linearity_figures(
    line: FloatArray,
    cov: FloatArray,
    deviation: FloatArray,
    in_line: NDArray[np.bool_],
    flats: Levels,
    unit: str,
) -> list[Figure]:
    """Extremes of the deviation with their sampling error, and the line."""
    places = np.flatnonzero(in_line)
    low, high = places[deviation[places].argmin()], places[deviation[places].argmax()]
    sampling = 100.0 * np.sqrt(flats.variance / (2.0 * flats.dof)) / np.maximum(flats.mean, 1.0)
    return [
        Figure("linearity_error_min", "LE_min", float(deviation[low]), float(sampling[low]), "%"),
        Figure("linearity_error_max", "LE_max", float(deviation[high]), float(sampling[high]), "%"),
        Figure("linear_slope", "a1", float(line[1]), float(np.sqrt(cov[1, 1])), "DN/" + unit),
        Figure("linear_offset", "a0", float(line[0]), float(np.sqrt(cov[0, 0])), "DN"),
    ]


def _dark_current(darks: Levels, gain: Estimate, remarks: list[str]) -> list[Figure]:
    """Dark current from the growth of the dark's mean and of its variance."""
    times = darks.exposure_time
    nan = float("nan")
    mean, variance, note, note_var = (nan, nan), (nan, nan), "", ""
    if len(np.unique(times[np.isfinite(times)])) < 3 or not np.all(np.isfinite(times)):
        note = note_var = "needs darks of at least three exposure times"
    else:
        ones = np.ones(len(darks))
        found, cov = _line(times, darks.mean, ones, darks.variance / darks.dof)
        mean = float(found[1]), float(np.sqrt(cov[1, 1]))
        found, cov = _line(times, darks.variance, ones, _variance_of_variance(darks))
        variance = float(found[1]), float(np.sqrt(cov[1, 1]))
        if variance[0] < 0:
            note_var = f"the variance falls with time ({variance[0]:.3g} +- {variance[1]:.2g} DN^2/s)"
            variance = nan, nan
        if mean[0] < 0:
            note = "negative: the dark's mean falls with time, so this is black-level drift, not dark current"
    in_e = _propagate(lambda k, s: s / k, gain, mean)
    in_e_var = _propagate(lambda k, s: s / k**2, gain, variance)
    if abs(in_e[0] - in_e_var[0]) > _SIGNIFICANT * np.hypot(in_e[1], in_e_var[1]):
        remarks.append("dark current from the mean and from the variance disagree by more than three standard errors.")
    return [
        Figure("dark_current_mean", "mu_I.mean", *in_e, "e-/s", note),
        Figure("dark_current_mean_dn", "K mu_I.mean", *mean, "DN/s", note),
        Figure("dark_current_var", "mu_I.var", *in_e_var, "e-/s", note_var),
        Figure("dark_current_var_dn", "K mu_I.var", *_propagate(lambda k, s: s / k, gain, variance), "DN/s", note_var),
    ]


def _spatial(
    flat_stack: Sequence[PixelMoments], dark_stack: Sequence[PixelMoments], convention: Convention
) -> tuple[Nonuniformity, Nonuniformity]:
    """DSNU [DN] and PRNU (fraction)."""
    return (
        combine([dsnu(dark, convention=convention) for dark in dark_stack]),
        combine([prnu(f, d, convention=convention) for f, d in zip(flat_stack, dark_stack, strict=True)]),
    )


def _spatial_figures(
    dark: Nonuniformity | None,
    light: Nonuniformity | None,
    gain: Estimate,
    flat_stack: Sequence[PixelMoments],
    dark_stack: Sequence[PixelMoments],
    convention: Convention,
) -> list[Figure]:
    if dark is None or light is None:
        return []
    negative = "not seen: the variance came out negative or zero"
    figures = [Figure("dsnu_dn", "DSNU", dark.total, dark.total_se, "DN", "" if dark.total > 0 else negative)]
    for part in ("total", "row", "column", "pixel"):
        value, error = getattr(dark, part), getattr(dark, part + "_se")
        name, symbol = ("dsnu", "DSNU") if part == "total" else ("dsnu_" + part, "DSNU." + part)
        note = "" if value > 0 else negative
        figures.append(Figure(name, symbol, *_propagate(lambda k, s: s / k, gain, (value, error)), "e-", note))
    for part in ("total", "row", "column", "pixel"):
        value, error = getattr(light, part), getattr(light, part + "_se")
        name, symbol = ("prnu", "PRNU") if part == "total" else ("prnu_" + part, "PRNU." + part)
        figures.append(Figure(name, symbol, 100.0 * value, 100.0 * error, "%", "" if value > 0 else negative))
    if convention == "emva1288":
        flat_parts = [dsnu(f, convention="emva1288") for f in flat_stack]
        for name, result in (("dark", dark.variance), ("flat", combine(flat_parts).variance)):
            for part in ("total", "row", "column", "pixel"):
                value, error = getattr(result, part), getattr(result, part + "_se")
                figures.append(Figure(f"spatial_var_{part}_{name}", "s2_y." + part, value, error, "DN^2"))
            for part, symbol in (
                ("row_average", "s2_y.rav"),
                ("column_average", "s2_y.cav"),
                ("measured", "s2_y.measured"),
                ("stack", "sigma2_y.stack"),
            ):
                value = getattr(result, part)
                figures.append(Figure(f"spatial_var_{part}_{name}", symbol, value, float("nan"), "DN^2"))
    return figures


def _curves(
    flat_stack: Sequence[PixelMoments], dark_stack: Sequence[PixelMoments], remarks: list[str]
) -> tuple[dict[tuple[str, str], Spectrogram], dict[str, DefectHistogram]]:
    """Spectrograms and defect histograms of the first site of the phase."""
    dark, light = dark_stack[0].mean, flat_stack[0].mean - dark_stack[0].mean
    curves = {
        (name, direction): spectrogram(image, direction=direction)
        for name, image in (("dark", dark), ("flat", light))
        for direction in ("horizontal", "vertical")
    }
    histograms = {}
    for name, image, high_pass in (("dsnu", dark, False), ("prnu", light, True)):
        try:
            histograms[name] = defect_histogram(image, high_pass=high_pass)
        except CalibrationError as error:
            remarks.append(f"{name}: {error}")
    return curves, histograms
