"""The calibration report: what was measured, how well, and what to do about it, on one self-contained page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rawkit.report import html
from rawkit.report.figures import PHASE_COLORS, noise_over_iso_figure, photon_transfer_figure
from rawkit.resources import replacing
from rawkit.sensor.calibrate import Calibration
from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.emva import EmvaReport
from rawkit.sensor.photon_transfer import PhotonTransfer
from rawkit.sensor.quantized import difference_mass


def calibration_page(result: Calibration, *, emva: dict[str, EmvaReport] | None = None) -> str:
    """HTML document of a calibration.

    Parameters
    ----------
    result : Calibration
    emva : dict of phase to EmvaReport, optional
        Adds the EMVA 1288 figures.
    """
    profile = result.profile
    phases = profile.phases
    blocks = [
        html.heading("Verdict"),
        html.table(("ISO", "verdict"), [(f"{iso:g}", text) for iso, text in result.verdicts.items()], wrap=True),
        html.heading("Noise over ISO"),
        *([_over_iso(result)] if len(profile.noise.isos) > 1 else []),
        html.table(
            (
                "ISO, phase",
                "K [DN/e-]",
                "read noise [DN]",
                "[e-]",
                "full well [e-]",
                "DSNU [DN]",
                "PRNU [%]",
                "black [DN]",
            ),
            _noise_rows(result),
        ),
        html.paragraph("± is one standard error. Read noise includes quantization.", note=True),
    ]
    for iso in profile.noise.isos:
        curve, dark = result.curves[iso], result.darks[iso]
        blocks += [
            html.heading(f"ISO {iso:g}"),
            html.figure_block(
                photon_transfer_figure(curve, dark, phases, title="photon transfer"),
                "Temporal variance of every pair of flats over its mean, and its distance from the fit.",
            ),
            html.figure_block(
                signal_to_noise_figure(curve, dark, phases),
                "Signal-to-noise ratio of one pixel over the light on it; gray: the limit that photons set.",
            ),
            html.figure_block(
                dark_figure(dark, phases),
                "Differences of two darks: counts, and the Gaussian and Tukey-lambda laws fitted to them.",
            ),
            html.table(("at this ISO", "value"), _detail_rows(result, iso)),
        ]
        pictures = {kind: result.pictures[iso, kind] for kind in ("dark", "flat") if (iso, kind) in result.pictures}
        if pictures:
            blocks.append(
                html.figure_block(
                    shading_figure(pictures),
                    "Mean frames, reduced; gray scale over the middle 98 %. A flat shows lamp and lens too.",
                )
            )
    if emva:
        blocks += [html.heading("EMVA 1288")]
        for phase, report in emva.items():
            rows = [(f.name, _number(f.value), _number(f.se), f.unit, f.note) for f in report.figures.values()]
            blocks += [
                html.paragraph(" ".join((f"Phase {phase}, convention {report.convention}.", *report.remarks))),
                html.table(("figure", "value", "s.e.", "unit", "note"), rows, wrap=True),
            ]
    blocks += [html.heading("Where it comes from"), html.table(("", ""), _provenance_rows(result), wrap=True)]
    if result.left_out:
        blocks += [
            html.heading("Files left out"),
            html.table(("file", "why"), [(path.name, why) for path, why in result.left_out], wrap=True),
        ]
    return html.page(f"Calibration of {profile.name or 'a camera'}", blocks)


def save_calibration_page(
    result: Calibration, path: Path | str, *, emva: dict[str, EmvaReport] | None = None, overwrite: bool = False
) -> None:
    """Write ``calibration_page``, whole or not at all."""
    text = calibration_page(result, emva=emva)
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def signal_to_noise_figure(curve: PhotonTransfer, dark: DarkNoise, phases: tuple[str, ...]) -> Figure:
    """SNR = mu / sqrt(var) over mu / K [e-], measured points and model."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    top = curve.saturation
    signal = np.geomspace(max(top * 1e-4, 1e-3), top, 200)
    for p, phase in enumerate(phases):
        color, gain = PHASE_COLORS.get(phase, "#888888"), curve.system_gain[p]
        model = curve.model_variance(signal, p, float(dark.read_var[p]))
        axes.plot(signal / gain, signal / np.sqrt(model), "-", lw=0.8, color=color)
        mean, variance = curve.mean[:, p], curve.variance[:, p]
        shown = (variance > 0) & (mean > 0)
        axes.plot(mean[shown] / gain, mean[shown] / np.sqrt(variance[shown]), "o", ms=3, color=color, label=phase)
    electrons = signal / float(np.mean(curve.system_gain))
    axes.plot(electrons, np.sqrt(electrons), color="#bbbbbb", lw=2, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="signal [e⁻]", ylabel="signal-to-noise ratio")
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    return figure


def dark_figure(dark: DarkNoise, phases: tuple[str, ...]) -> Figure:
    """Histogram of the differences of darks with the fitted laws, logarithmic so that tails show."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    reach = dark.differences.shape[1] // 2
    span = int(min(reach - 1, max(4, np.ceil(9.0 * np.sqrt(float(dark.read_var.max()))))))
    axis = np.arange(-span, span + 1)
    for p, phase in enumerate(phases):
        counts = dark.differences[p, reach - span : reach + span + 1]
        color = PHASE_COLORS.get(phase, "#888888")
        axes.plot(axis[counts > 0], counts[counts > 0], ".", ms=3, color=color, label=phase)
        if dark.tails:
            tails, total = dark.tails[p], counts.sum()
            gauss = total * difference_mass(None, tails.gaussian_sigma, axis)
            tukey = total * difference_mass(tails.tukey_lambda, tails.tukey_deviation, axis)
            axes.plot(axis, np.maximum(gauss, 1e-1), "--", lw=0.8, color=color)
            axes.plot(axis, np.maximum(tukey, 1e-1), "-", lw=0.8, color=color)
    axes.set(yscale="log", xlabel="difference of two darks [DN]", ylabel="pixels", ylim=(0.5, None))
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, title="dashed: Gaussian, solid: Tukey-lambda", title_fontsize=8)
    return figure


def shading_figure(pictures: dict[str, np.ndarray]) -> Figure:
    """Mean frames side by side, each in its own gray scale."""
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, (kind, picture) in zip(np.atleast_1d(figure.subplots(1, len(pictures))), pictures.items(), strict=True):
        low, high = np.percentile(picture, (1, 99))
        shown = axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        axes.set(title=f"mean {kind} [DN]", xticks=[], yticks=[])
        figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def _over_iso(result: Calibration) -> str:
    noise = result.profile.noise
    switches = f" Gain switches at ISO {_list(noise.gain_switches)}." if noise.gain_switches else ""
    figure = noise_over_iso_figure(noise, result.profile.phases)
    return html.figure_block(figure, "Points with two standard errors." + switches)


def _list(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{n:g}" for n in numbers)


def _number(value: float) -> str:
    return "" if not np.isfinite(value) else f"{value:.6g}"


def _with_error(value: float, error: float) -> str:
    return f"{value:.5g} ± {error:.1g}" if np.isfinite(error) and error > 0 else f"{value:.5g}"


def _noise_rows(result: Calibration) -> list[tuple[str, ...]]:
    rows = []
    for iso, params in result.profile.noise.table:
        details = result.profile.details[iso]
        for p, phase in enumerate(result.profile.phases):
            gain, gain_se = float(params.system_gain[p]), float(params.system_gain_se[p])
            read = float(params.read_var[p]) ** 0.5
            read_se = float(params.read_var_se[p]) / (2 * read)

            def of(name: str, scale: float = 1.0, p: int = p, details=details) -> str:
                value, error = getattr(details, name), getattr(details, name + "_se")
                if value is None:
                    return ""
                spread = error[p] if isinstance(error, tuple) else float("nan")
                return _with_error(scale * (value[p] if isinstance(value, tuple) else value), scale * spread)

            rows.append(
                (
                    f"{iso:g} {phase}",
                    _with_error(gain, gain_se),
                    _with_error(read, read_se),
                    f"{read / gain:.3g}",
                    of("full_well"),
                    of("dsnu"),
                    of("prnu", 100.0),
                    of("black_offset"),
                )
            )
    return rows


def _detail_rows(result: Calibration, iso: float) -> list[tuple[str, str]]:
    from rawkit.sensor.iso_details import UNITS

    details = result.profile.details[iso]
    rows = []
    for name, unit in UNITS.items():
        value, error = getattr(details, name), getattr(details, name + "_se", None)
        if value is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        errors = error if isinstance(error, tuple) else (error,) * len(values)
        text = ", ".join(_with_error(v, float("nan") if e is None else e) for v, e in zip(values, errors, strict=True))
        rows.append((f"{name.replace('_', ' ')} [{unit}]", text))
    defects = result.profile.maps.get(f"defects_iso{iso:g}")
    if defects is not None:
        kinds, counts = np.unique(defects["kind"], return_counts=True)
        found = ", ".join(f"{n} {k}" for k, n in zip(kinds, counts, strict=True)) or "none"
        rows.append(("defective pixels", found))
    return rows


def _provenance_rows(result: Calibration) -> list[tuple[str, str]]:
    provenance = result.profile.provenance
    files = provenance.get("files", [])
    rows = [(key.replace("_", " "), str(value)) for key, value in provenance.items() if key != "files"]
    return [*rows, ("frames used", str(len(files))), ("SHA-256 of the first", files[0]["sha256"] if files else "")]
