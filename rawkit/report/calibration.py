"""The calibration report: what was measured, how well, and what to do about it, on one self-contained page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rawkit.report import figures, html
from rawkit.resources import replacing
from rawkit.sensor.calibrate import Calibration
from rawkit.sensor.emva import EmvaReport
from rawkit.sensor.iso_details import UNITS

_OPENED = 2  # sections of ISOs that are unfolded when the page opens
_PATTERNS = 12  # listed at most
_HASH = 16  # digits shown


def calibration_page(result: Calibration, *, emva: dict[str, EmvaReport] | None = None) -> str:
    """HTML document of a calibration.

    Parameters
    ----------
    result : Calibration
    emva : dict of phase to EmvaReport, optional
        Adds the EMVA 1288 figures.
    """
    profile = result.profile
    blocks = [
        html.paragraph(_summary(result)),
        html.heading("Verdict"),
        html.table(("ISO", "verdict"), [(f"{iso:g}", text) for iso, text in result.verdicts.items()], wrap=True),
        html.heading("Noise over ISO"),
        html.table(
            ("ISO, phase", "K [DN/e-]", "read noise [DN]", "[e-]", "full well [e-]", "DSNU [DN]", "PRNU [%]",
             "black [DN]"),
            _noise_rows(result),
        ),
        html.paragraph("± is one standard error. Read noise includes quantization.", note=True),
        html.grid(_camera_figures(result)),
    ]  # fmt: skip
    for number, iso in enumerate(profile.noise.isos):
        blocks.append(
            html.section(f"ISO {iso:g}", _iso_note(result, iso), _iso_blocks(result, iso), opened=number < _OPENED)
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
    files = profile.provenance.get("files", [])
    rows = [
        (file["name"], file["kind"], f"{file['iso']:g}", _number(file["exposure_time"]), str(file["sha256"])[:_HASH])
        for file in files
    ]
    listing = html.table(("file", "kind", "ISO", "exposure [s]", "SHA-256"), rows)
    blocks.append(html.section("Files used", f"{len(files)}", [listing], opened=False))
    name = profile.name if profile.name not in ("", "unknown") else "a camera without a name"
    return html.page(f"Calibration of {name}", blocks)


def _summary(result: Calibration) -> str:
    """What was calibrated and how it went, in a sentence or two."""
    verdicts = list(result.verdicts.values())
    good = sum(text == "good" for text in verdicts)
    retake = sum(text.startswith("retake") for text in verdicts)
    noise = result.profile.noise
    said = f"{len(verdicts)} ISO{'' if len(verdicts) == 1 else 's'}: {good} good, {len(verdicts) - good - retake} "
    said += f"doubtful, {retake} to retake."
    if noise.gain_switches:
        said += f" The sensor switches its gain at ISO {_list(noise.gain_switches)}."
    if noise.pushed:
        said += f" Made digitally from lower ISOs: {_list(noise.pushed)}."
    return said


def _camera_figures(result: Calibration) -> list[str]:
    """Figures that hold for the camera, not for one ISO."""
    found = []
    if len(result.profile.noise.isos) > 1:
        found.append(
            html.figure_block(
                figures.noise_over_iso(result),
                "System gain and read noise over ISO, with two standard errors. Nothing is interpolated across a gain "
                "switch (dotted); hollow points are pushed ISOs. Lines: what the profile answers between points.",
            )
        )
    if result.shading is not None and any(len(segment.isos) > 1 for segment in result.shading.segments):
        found.append(
            html.figure_block(
                figures.shading_over_iso(result),
                "Dark shading: slope x ISO + offset, one law per gain segment (block means), and the mean dark level "
                "that remains over the file's black level.",
            )
        )
    if result.spatial:
        found.append(
            html.figure_block(
                figures.converter_figure(result),
                "Differential nonlinearity of the converter: width of each code minus 1. Points outside the gray band "
                "deviate by more than two standard errors of counting.",
            )
        )
    return found


def _iso_note(result: Calibration, iso: float) -> str:
    noise = result.profile.noise
    verdict = result.verdicts[iso]
    origin = "pushed" if noise.is_pushed(iso) else f"gain segment {noise.segment_number(iso) + 1}"
    return f"{origin if noise.gain_switches or noise.pushed else ''} {verdict.split(':')[0]}".strip()


def _iso_blocks(result: Calibration, iso: float) -> list[str]:
    """Everything about one ISO."""
    shown = [
        (
            figures.photon_transfer(result, iso),
            "Photon transfer: temporal variance of every pair of flats (cross: not in the fit) over its mean, and its "
            "distance from the fit. Bands and bars: two standard errors. Dotted: saturation.",
        ),
        (
            figures.linearity(result, iso),
            "Linearity: mean signal over light, and its distance from the straight line fitted to 5 to 95 % of "
            "saturation.",
        ),
        (
            figures.signal_to_noise(result, iso),
            "Signal-to-noise ratio of one pixel over the light on it; gray: the limit that photons set.",
        ),
        (
            figures.dark_histogram(result, iso),
            "Differences of two darks: counts, and the Gaussian and Tukey-lambda laws fitted to them.",
        ),
        (
            figures.dark_quantiles(result, iso),
            "The same as quantiles: on the dashed line the noise is Gaussian; ends that bend away are heavy tails.",
        ),
    ]
    blocks = [html.paragraph(f"Verdict: {result.verdicts[iso]}.")]
    if iso in result.spatial:
        shown += [
            (
                figures.row_noise(result, iso),
                "Row noise: offsets of whole rows in single darks, and their spectrum. A flat spectrum is white row "
                "noise, a rise to the left drift, a peak banding.",
            ),
            (
                figures.temporal_spectrum(result, iso),
                "Spectrum of the pixels' temporal noise in two dimensions; even color is white noise. Marks: lines "
                "found in it, and in the mean dark.",
            ),
            (
                figures.fixed_spectra(result, iso),
                "Spectra of the mean dark: fixed patterns stand above the temporal noise that the mean still holds.",
            ),
            (
                figures.shading_maps(result, iso),
                "The whole field in block means: dark shading, and the flat, which shows lamp and lens too.",
            ),
            (
                figures.pixel_maps(result, iso),
                "Pixel by pixel at the center: fixed offsets (DSNU, with the temporal noise left in the mean), and "
                "responses (PRNU).",
            ),
            (figures.defect_map(result, iso), "Defective pixels by kind."),
        ]
    blocks.append(html.grid([html.figure_block(figure, caption) for figure, caption in shown]))
    blocks.append(html.table(("at this ISO", "value"), _detail_rows(result, iso), wrap=True))
    patterns = _pattern_rows(result, iso)
    if patterns:
        blocks += [
            html.subheading("Patterns"),
            html.table(("seen in", "cycles per column", "per row", "strength"), patterns),
        ]
    return blocks


def _pattern_rows(result: Calibration, iso: float) -> list[tuple[str, ...]]:
    """Sinusoids of the mean dark, and lines of the temporal noise."""
    places = result.spatial.get(iso)
    if places is None:
        return []
    fixed = [
        ("mean dark", f"{line.fx:.4f}", f"{line.fy:.4f}", f"{_with_error(line.amplitude, line.amplitude_se)} DN")
        for line in places.lines[:_PATTERNS]
    ]
    moving = [
        ("temporal noise", f"{line.fx:.4f}", f"{line.fy:.4f}", f"{line.ratio:.2g} times the power around")
        for line in places.temporal_lines[:_PATTERNS]
    ]
    return fixed + moving


def save_calibration_page(
    result: Calibration, path: Path | str, *, emva: dict[str, EmvaReport] | None = None, overwrite: bool = False
) -> None:
    """Write ``calibration_page``, whole or not at all."""
    text = calibration_page(result, emva=emva)
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _list(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{n:g}" for n in numbers)


def _number(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"


def _with_error(value: float, error: float) -> str:
    """Value and standard error, both to the error's second digit."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.5g}"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 9))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


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
    return [*rows, ("frames used", str(len(files)))]
