"""Figures of a calibration, as matplotlib objects: call them with a ``Calibration`` in a notebook, or see the report.

Colors of the phases follow their filters; points are measurements, lines the fit through them, bands two standard
errors.  All figures are as wide as a column of the report, so that their letters are readable on a telephone too.

Examples
--------
In a notebook::

    result = rawkit.calibrate(FrameSet.open("frames/"))
    photon_transfer(result, 100)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.photon_transfer import PhotonTransfer
from rawkit.sensor.profile import NoiseModel
from rawkit.sensor.quantized import difference_mass

if TYPE_CHECKING:
    from rawkit.sensor.calibrate import Calibration
    from rawkit.sensor.spatial import SpatialFindings

PHASE_COLORS = {"R": "#c0392b", "Gr": "#1e8449", "Gb": "#58a65c", "G": "#1e8449", "B": "#2471a3", "Y": "#444444"}
DEFECT_STYLES = {
    "hot": ("o", "#c0392b"),
    "growing": ("^", "#e67e22"),
    "dead": ("x", "#222222"),
    "telegraph": ("+", "#2471a3"),
}

_WIDTH = 4.8  # inches: one column of the report
_BAND = 2.0  # standard errors
_GRAY, _LIGHT = "#888888", "#bbbbbb"
_SHOWN_FRAMES = 3  # whose row offsets are drawn
_MOST_MARKS = 4000  # defects drawn


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _color(phase: str) -> str:
    return PHASE_COLORS.get(phase, _GRAY)


def _log(*axes: Axis, between: bool = False) -> None:
    """Logarithmic axes with plain numbers, which also draw in half the time of powers of ten in mathematical type.

    ``between`` labels 2 and 5 in each decade too.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if between else (1.0,)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, *, title: str | None = None, ncols: int = 1) -> None:
    axes.legend(frameon=False, fontsize=9, title=title, title_fontsize=9, ncols=ncols)


def _empty(axes: Axes, text: str) -> None:
    """Say in words why there is nothing to draw."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_GRAY, wrap=True)
    axes.set(xticks=[], yticks=[])


def _places(result: Calibration, iso: float) -> SpatialFindings:
    if iso not in result.spatial:
        known = ", ".join(f"{i:g}" for i in result.spatial) or "none"
        raise KeyError(f"no spatial findings at ISO {iso:g} (there are: {known}); calibrate with spatial=True.")
    return result.spatial[iso]


# ------------------------------------------------------------------------------------ temporal noise, one ISO


def photon_transfer(result: Calibration, iso: float) -> Figure:
    """Photon-transfer curve of one ISO; see ``photon_transfer_figure``."""
    return photon_transfer_figure(result.curves[iso], result.darks[iso], result.profile.phases)


def photon_transfer_figure(
    curve: PhotonTransfer, dark: DarkNoise, phases: tuple[str, ...], *, title: str = ""
) -> Figure:
    """Variance against mean of every flat pair, the fitted law, and the residuals in percent of it.

    The bands are two standard errors of the law, from those of K and of the read variance; the bars two of a point.
    """
    figure = _figure(4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    positive = curve.mean[curve.mean > 0]
    x = np.geomspace(max(positive.min(), 1e-3) * 0.7, positive.max() * 1.1, 200)
    residuals, lowest, highest = [], np.inf, 0.0
    for p, phase in enumerate(phases):
        color = _color(phase)
        mean, variance, used = curve.mean[:, p], curve.variance[:, p], curve.used
        read_var, read_var_se = float(dark.read_var[p]), float(dark.read_var_se[p])
        model = curve.model_variance(x, p, read_var)
        spread = _BAND * np.hypot((model - read_var) * curve.system_gain_se[p] / curve.system_gain[p], read_var_se)
        top.plot(mean[used], variance[used], "o", ms=4, color=color, label=f"{phase}: {curve.system_gain[p]:.4g} DN/e⁻")
        top.plot(mean[~used], variance[~used], "x", ms=4, color=color, alpha=0.5)
        top.plot(x, model, "-", lw=0.8, color=color)
        top.fill_between(x, np.maximum(model - spread, model / 10), model + spread, color=color, alpha=0.2, lw=0)
        lowest, highest = min(lowest, float(model.min())), max(highest, float(model.max()))
        expected = curve.model_variance(mean, p, read_var)
        bars = 100 * _BAND * np.sqrt(2.0 / curve.dof[:, p])
        percent = 100 * (variance / expected - 1)
        bottom.errorbar(mean[used], percent[used], bars[used], fmt="o", ms=3, lw=0.8, color=color)
        bottom.fill_between(x, -100 * spread / model, 100 * spread / model, color=color, alpha=0.15, lw=0)
        residuals.append(np.abs(percent[used]) + bars[used])
    top.set(xscale="log", yscale="log", ylabel="variance [DN²]", title=title)
    _log(top.xaxis, top.yaxis)
    top.set(ylim=(lowest / 2, highest * 2))  # clipped flats, whose variance vanishes, would squeeze all others
    reach = 1.1 * float(np.max(np.concatenate(residuals)))
    bottom.set(xlabel="mean above dark [DN]", ylabel="residual [%]", ylim=(-reach, reach))
    bottom.axhline(0, color=_GRAY, lw=0.8)
    for axes in (top, bottom):
        axes.axvline(curve.saturation, color=_GRAY, lw=0.8, ls=":")
        axes.grid(alpha=0.2)
    _legend(top, title="system gain")
    return figure


def linearity(result: Calibration, iso: float) -> Figure:
    """Mean signal over light with the straight line, and the distance from it in percent."""
    figure = _figure(4.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    found = result.linearity.get(iso)
    if found is None:
        _empty(top, "Fewer than five exposures with a stated\nexposure time: linearity not measured.")
        bottom.set_axis_off()
        return figure
    x = np.linspace(0, found.light.max(), 100)
    top.plot(x, found.slope * x + found.offset, "-", lw=0.8, color=_GRAY)
    percent = 100 * (found.mean / np.maximum(found.slope * found.light + found.offset, 1e-12) - 1)
    for inside, style in ((found.fitted, {"marker": "o", "ms": 4}), (~found.fitted, {"marker": "x", "ms": 4})):
        top.plot(found.light[inside], found.mean[inside], ls="", color="#222222", **style)
    bottom.plot(found.light[found.fitted], percent[found.fitted], "o", ms=4, color="#222222")
    bottom.axhline(0, color=_GRAY, lw=0.8)
    highest = max(1.2 * float(np.abs(percent[found.fitted]).max()), 0.05)
    bottom.set(
        xlabel="light [photons per pixel]" if found.photons else "exposure time [s]",
        ylabel="deviation [%]",
        ylim=(-highest, highest),
    )
    top.set(ylabel="mean above dark [DN]")
    for axes in (top, bottom):
        axes.grid(alpha=0.2)
    return figure


def signal_to_noise(result: Calibration, iso: float) -> Figure:
    """SNR = mu / sqrt(var) over mu / K [e-]: measured points, model, and the limit that photons set (gray)."""
    curve, dark = result.curves[iso], result.darks[iso]
    figure = _figure(3.4)
    axes = figure.subplots()
    top = curve.saturation
    signal = np.geomspace(max(top * 1e-4, 1e-3), top, 200)
    for p, phase in enumerate(result.profile.phases):
        color, gain = _color(phase), curve.system_gain[p]
        model = curve.model_variance(signal, p, float(dark.read_var[p]))
        axes.plot(signal / gain, signal / np.sqrt(model), "-", lw=0.8, color=color)
        mean, variance = curve.mean[:, p], curve.variance[:, p]
        shown = curve.used & (variance > 0) & (mean > 0)
        axes.plot(mean[shown] / gain, mean[shown] / np.sqrt(variance[shown]), "o", ms=3, color=color, label=phase)
    electrons = signal / float(np.mean(curve.system_gain))
    axes.plot(electrons, np.sqrt(electrons), color=_LIGHT, lw=2, zorder=0, label="photons alone")
    axes.axhline(1.0, color=_GRAY, lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="signal [e⁻]", ylabel="signal-to-noise ratio")
    _log(axes.xaxis, axes.yaxis)
    axes.grid(alpha=0.2)
    _legend(axes)
    return figure


def dark_histogram(result: Calibration, iso: float) -> Figure:
    """Histogram of the differences of darks with the fitted laws, logarithmic so that tails show."""
    dark = result.darks[iso]
    figure = _figure(3.4)
    axes = figure.subplots()
    axis, counts = _differences(dark)
    for p, phase in enumerate(result.profile.phases):
        color, shown = _color(phase), counts[p] > 0
        axes.plot(axis[shown], counts[p][shown], ".", ms=4, color=color, label=phase)
        for law, style in _difference_laws(dark, p, axis):
            axes.plot(axis, np.maximum(counts[p].sum() * law, 1e-1), style, lw=0.8, color=color)
    axes.set(yscale="log", xlabel="difference of two darks [DN]", ylabel="pixels", ylim=(0.5, None))
    _log(axes.yaxis)
    axes.grid(alpha=0.2)
    _legend(axes, title="- - Gaussian, — Tukey-lambda" if dark.tails else None)
    return figure


def dark_quantiles(result: Calibration, iso: float) -> Figure:
    """QQ plot: quantiles of the difference of two darks over those of a normal law; a straight line is Gaussian."""
    from scipy.special import ndtri

    dark = result.darks[iso]
    figure = _figure(3.4)
    axes = figure.subplots()
    axis, counts = _differences(dark)
    edges = axis + 0.5
    for p, phase in enumerate(result.profile.phases):
        color = _color(phase)
        total = counts[p].sum()
        share = np.cumsum(counts[p]) / total
        shown = (share > 2.0 / total) & (share < 1.0 - 2.0 / total)
        axes.plot(ndtri(share[shown]), edges[shown], "o", ms=3, color=color, label=phase)
        for law, style in _difference_laws(dark, p, axis):
            below = np.cumsum(law)
            inside = (below > 0.5 / total) & (below < 1.0 - 0.5 / total)
            axes.plot(ndtri(below[inside]), edges[inside], style, lw=0.8, color=color)
    axes.set(xlabel="normal quantile", ylabel="difference of two darks [DN]")
    axes.grid(alpha=0.2)
    _legend(axes)
    return figure


def _differences(dark: DarkNoise) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Differences [DN] that occur within 9 standard deviations, and the (P, n) pixels of each."""
    reach = dark.differences.shape[1] // 2
    span = int(min(reach - 1, max(4, np.ceil(9.0 * np.sqrt(float(dark.read_var.max()))))))
    return np.arange(-span, span + 1), dark.differences[:, reach - span : reach + span + 1]


def _difference_laws(dark: DarkNoise, phase: int, axis: NDArray[np.int64]) -> list[tuple[NDArray[np.floating], str]]:
    """Gaussian and Tukey-lambda law of the differences with their line styles; empty where none was fitted."""
    if not dark.tails:
        return []
    tails = dark.tails[phase]
    return [
        (difference_mass(None, tails.gaussian_sigma, axis, lines_var=tails.lines_var), "--"),
        (difference_mass(tails.tukey_lambda, tails.tukey_deviation, axis, lines_var=tails.lines_var), "-"),
    ]


# ------------------------------------------------------------------------------------------- over the ISOs


def noise_over_iso(result: Calibration) -> Figure:
    """System gain and read noise over ISO; see ``noise_over_iso_figure``."""
    return noise_over_iso_figure(result.profile.noise, result.profile.phases)


def noise_over_iso_figure(noise: NoiseModel, phases: tuple[str, ...], *, truth: NoiseModel | None = None) -> Figure:
    """System gain and read noise over ISO with two standard errors.

    Filled points are native ISOs, hollow ones pushed; lines are what the profile answers between them; dotted
    verticals gain switches; gray a known truth.
    """
    figure = _figure(5.4)
    gains, reads = figure.subplots(2, 1, sharex=True)
    if truth is not None:
        known = [(iso, params) for iso, params in truth.table if noise.isos[0] * 0.4 <= iso <= noise.isos[-1] * 2.5]
        for axes, name, power in ((gains, "system_gain", 1.0), (reads, "read_var", 0.5)):
            # A gain switch breaks the line: nothing is drawn across it.
            for lower, upper in zip((0.0, *truth.gain_switches), (*truth.gain_switches, np.inf), strict=True):
                part = [(iso, float(np.mean(getattr(p, name))) ** power) for iso, p in known if lower <= iso < upper]
                if part:
                    axes.plot(*zip(*part, strict=True), "-", color=_LIGHT, lw=2, zorder=0)
    for p, phase in enumerate(phases):
        color = _color(phase)
        for pushed in (False, True):
            entries = [(iso, params) for iso, params in noise.table if noise.is_pushed(iso) == pushed]
            if not entries:
                continue
            style = {"fmt": "o", "ms": 6.0 - 0.8 * p, "capsize": 2, "color": color, "lw": 0.8}
            style |= {"mfc": "white"} if pushed else {"label": phase}
            isos = [iso for iso, _ in entries]
            gain, gain_se, var, var_se = (
                np.array([_of(getattr(params, name), p) for _, params in entries])
                for name in ("system_gain", "system_gain_se", "read_var", "read_var_se")
            )
            gains.errorbar(isos, gain, _BAND * gain_se, **style)
            reads.errorbar(isos, np.sqrt(var), _BAND * var_se / (2 * np.sqrt(np.maximum(var, 1e-300))), **style)
        for segment in range(len(noise.gain_switches) + 1 if truth is None else 0):
            native = noise.native(segment)
            if len(native) > 1:
                isos = np.geomspace(native[0][0], native[-1][0], 40)
                answers = [NoiseModel(native).at(iso) for iso in isos]
                gains.plot(isos, [_of(a.system_gain, p) for a in answers], "-", lw=0.7, color=color, alpha=0.6)
                reads.plot(isos, [_of(a.read_var, p) ** 0.5 for a in answers], "-", lw=0.7, color=color, alpha=0.6)
    for axes in (gains, reads):
        axes.set(xscale="log", yscale="log")
        _log(axes.xaxis, axes.yaxis, between=True)
        axes.grid(alpha=0.2)
        for number, switch in enumerate(noise.gain_switches):
            axes.axvline(switch, color=_GRAY, lw=1.0, ls=":", label=None if number else "gain switch")
        if noise.pushed:
            axes.plot([], [], "o", ms=4.5, mfc="white", color=_GRAY, label="pushed")
    gains.set(ylabel="system gain K [DN/e⁻]")
    reads.set(ylabel="read noise [DN]", xlabel="ISO")
    _legend(gains)
    return figure


def _of(value: object, phase: int) -> float:
    """One phase's number; NaN where unknown."""
    flat = np.asarray(np.nan if value is None else value, np.float64).reshape(-1)
    return float(flat[phase if flat.size > 1 else 0])


def shading_over_iso(result: Calibration) -> Figure:
    """Dark shading: slope and offset of every gain segment, as block means, and the mean dark level over ISO."""
    shading = result.shading
    if shading is None:
        figure = _figure(2.0)
        _empty(figure.subplots(), "no spatial findings")
        return figure
    figure = _figure(2.2 + 1.9 * len(shading.segments))
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.9 * len(shading.segments), 2.2))
    upper, lower = parts
    maps = upper.subplots(len(shading.segments), 2, squeeze=False)
    for (left, right), segment in zip(maps, shading.segments, strict=True):
        lowest, highest = segment.isos[0], segment.isos[-1]
        _picture(right, segment.offset, f"ISO {lowest:g} to {highest:g}:\noffset [DN]", symmetric=True)
        if highest > lowest:
            _picture(
                left,
                segment.slope * highest,
                f"ISO {lowest:g} to {highest:g}:\nslope × {highest:g} [DN]",
                symmetric=True,
            )
        else:
            _empty(left, f"ISO {lowest:g} only:\nno slope")
    below = lower.subplots()
    isos = sorted(shading.black_level_error)
    for p, phase in enumerate(result.profile.phases):
        offsets = [_of(result.profile.details[iso].black_offset, p) for iso in isos]
        errors = [_of(result.profile.details[iso].black_offset_se, p) for iso in isos]
        below.errorbar(
            isos, offsets, _BAND * np.array(errors), fmt="o-", ms=4, lw=0.8, capsize=2, color=_color(phase), label=phase
        )
    below.axhline(0, color=_GRAY, lw=0.8)
    below.set(xscale="log", xlabel="ISO", ylabel="dark − black [DN]")
    _log(below.xaxis, between=True)
    below.grid(alpha=0.2)
    _legend(below, ncols=2)
    return figure


# ----------------------------------------------------------------------------------------- places, one ISO


def row_noise(result: Calibration, iso: float) -> Figure:
    """Row offsets of the first darks, and the mean spectrum of all darks' row offsets."""
    model, dark = _places(result, iso).dark_model, result.darks[iso]
    series = model.row_series
    figure = _figure(4.6)
    top, bottom = figure.subplots(2, 1)
    for frame in series[:_SHOWN_FRAMES]:
        top.plot(frame, lw=0.6)
    top.set(xlabel="row", ylabel="offset [DN]")
    top.set_title(f"first {min(len(series), _SHOWN_FRAMES)} of {len(series)} darks", fontsize=9)
    height = series.shape[1]
    power = (np.abs(np.fft.rfft(series, axis=1)) ** 2).mean(axis=0)[1:] / height
    frequency = np.arange(1, len(power) + 1) / height
    floor = float(np.mean(dark.read_var)) / model.fixed_pattern.shape[1]
    bottom.plot(frequency, np.maximum(power, 1e-3 * floor), lw=0.8, color="#222222", label="row offsets")
    bottom.axhline(floor, color=_GRAY, lw=0.8, ls="--", label="what pixels average to")
    bottom.set(xscale="log", yscale="log", xlabel="frequency [cycles per row]", ylabel="power [DN²]")
    _log(bottom.xaxis, bottom.yaxis)
    for axes in (top, bottom):
        axes.grid(alpha=0.2)
    _legend(bottom)
    return figure


def fixed_spectra(result: Calibration, iso: float) -> Figure:
    """Spectra of the mean dark along rows and along columns, with the frequencies of the sinusoids found in it."""
    places = _places(result, iso)
    figure = _figure(4.4)
    axes = figure.subplots(2, 1, sharex=True)
    for place, (direction, spectrum) in zip(axes, places.spectra.items(), strict=True):
        place.plot(spectrum.frequency[1:], spectrum.power[1:], lw=0.7, color="#222222")
        place.axhline(places.noise_floor, color=_GRAY, lw=0.8, ls="--", label="temporal noise left in the mean")
        found = [line.fx if direction == "horizontal" else abs(line.fy) for line in places.lines]
        for number, at in enumerate(sorted({round(f, 4) for f in found if f > 0})):
            place.axvline(at, color="#c0392b", lw=0.8, alpha=0.5, label=None if number else "patterns found")
        place.set(yscale="log", ylabel="power [DN²]")
        _log(place.yaxis, between=True)
        place.set_title(f"along {'rows' if direction == 'horizontal' else 'columns'}", fontsize=9)
        place.grid(alpha=0.2)
    axes[1].set(xlabel="frequency [cycles per pixel]")
    _legend(axes[0])
    return figure


def temporal_spectrum(result: Calibration, iso: float) -> Figure:
    """Two-dimensional spectrum of the pixels' temporal noise over white noise, and every line found, fixed or not."""
    places = _places(result, iso)
    spectrum = places.dark_model.log_spectrum
    height, width = spectrum.shape
    half = np.fft.fftshift(spectrum, axes=0)[:, : width // 2 + 1] * 10 / np.log(10)
    figure = _figure(4.6)
    axes = figure.subplots()
    reach = max(float(np.abs(np.percentile(half, (0.5, 99.5))).max()), 0.5)
    low = -(height // 2) / height
    shown = axes.imshow(
        half, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", origin="lower", interpolation="nearest",
        extent=(0.0, 0.5, low, low + 1.0),
    )  # fmt: skip
    figure.colorbar(shown, ax=axes, label="power over white noise [dB]", shrink=0.8)
    temporal = [(line.fx, line.fy) for line in places.temporal_lines]
    for points, marker, color, label in (
        (temporal, "s", "#222222", "lines of the temporal noise"),
        ([(line.fx, line.fy) for line in places.lines], "o", "#1e8449", "lines of the mean dark"),
    ):
        if points:
            axes.plot(*np.array(points).T, marker, ms=8, mfc="none", color=color, label=label)
    axes.set(xlabel="horizontal [cycles per pixel]", ylabel="vertical [cycles per pixel]", xlim=(-0.015, 0.515))
    axes.set(ylim=(-0.515, 0.515))
    if temporal or places.lines:
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    return figure


def shading_maps(result: Calibration, iso: float) -> Figure:
    """Mean dark minus black, and mean flat relative to its mean: block means over the whole field."""
    places = _places(result, iso)
    parts = [("mean dark − black [DN]", places.mean_dark)]
    if places.mean_flat is not None:
        parts.append(("flat over its mean", places.mean_flat / places.mean_flat.mean()))
    figure = _figure(2.6 * len(parts))
    for axes, (title, picture) in zip(np.atleast_1d(figure.subplots(len(parts), 1)), parts, strict=True):
        _picture(axes, picture, title)
    return figure


def pixel_maps(result: Calibration, iso: float) -> Figure:
    """The central pixels: fixed offset in the mean dark, and relative response (PRNU)."""
    places = _places(result, iso)
    parts = [("offset in the dark [DN]", places.offsets)]
    if places.responses is not None:
        parts.append(("response − 1 [%]", 100 * places.responses))
    figure = _figure(2.6 * len(parts))
    for axes, (title, picture) in zip(np.atleast_1d(figure.subplots(len(parts), 1)), parts, strict=True):
        _picture(axes, picture, f"{title}, central {picture.shape[1]} × {picture.shape[0]} pixels", symmetric=True)
    return figure


def _picture(axes: Axes, picture: NDArray[np.floating], title: str, *, symmetric: bool = False) -> None:
    low, high = np.percentile(picture, (1, 99))
    if symmetric:
        high = max(abs(low), abs(high))
        low = -high
    if not high > low:
        low, high = low - 0.5, high + 0.5
    shown = axes.imshow(
        picture, cmap="RdBu_r" if symmetric else "viridis", vmin=low, vmax=high, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(shown, ax=axes, shrink=0.9)  # pyright: ignore[reportAttributeAccessIssue]


def defect_map(result: Calibration, iso: float) -> Figure:
    """Where the defective pixels are, by kind."""
    places = _places(result, iso)
    height, width = places.dark_model.fixed_pattern.shape
    figure = _figure(1.0 + min(3.6 * height / width, 4.4))
    axes = figure.subplots()
    kinds, counts = np.unique(places.defects["kind"], return_counts=True)
    for kind, count in zip(kinds, counts, strict=True):
        marker, color = DEFECT_STYLES.get(str(kind), (".", _GRAY))
        which = places.defects[places.defects["kind"] == kind][:: -(-int(count) // _MOST_MARKS)]
        axes.plot(
            which["column"], which["row"], marker, ms=4, mew=0.8, color=color, label=f"{kind}: {count}", alpha=0.8
        )
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="column", ylabel="row")
    if len(kinds):
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=3)
    else:
        axes.set_title("no defective pixel found", fontsize=9)
    return figure


def converter_figure(result: Calibration) -> Figure:
    """DNL: width of every code that enough pixels reached, minus 1; gray: what counting explains (two errors)."""
    table = result.code_widths
    figure = _figure(3.2)
    if table is None:
        _empty(figure.subplots(), "Too few codes with enough pixels:\ncode widths not measured.")
        return figure
    runs = _runs(table.code)
    all_axes = np.atleast_1d(figure.subplots(1, len(runs), sharey=True))
    for axes, run in zip(all_axes, runs, strict=True):
        band = _BAND * table.width_se[run]
        axes.fill_between(table.code[run], -band, band, color=_LIGHT, alpha=0.5, lw=0, step="mid")
        axes.plot(table.code[run], table.width[run] - 1, ".", ms=3, color="#222222")
        axes.axhline(0, color=_GRAY, lw=0.8)
        axes.grid(alpha=0.2)
        axes.locator_params(axis="x", nbins=4, integer=True)
    all_axes[0].set(ylabel="DNL [LSB]")
    figure.supxlabel("code [DN]", fontsize=10)
    return figure


def _runs(codes: NDArray[np.integer], most: int = 3) -> Sequence[slice]:
    """Stretches of neighboring codes; the longest few, in order."""
    gap = max(32, (int(codes[-1]) - int(codes[0])) // 20)
    ends = [0, *(np.flatnonzero(np.diff(codes) > gap) + 1), len(codes)]
    slices = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    kept = sorted(slices, key=lambda s: s.start - s.stop)[:most]
    return sorted(kept, key=lambda s: s.start)
