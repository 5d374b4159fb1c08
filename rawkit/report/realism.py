"""The realism report: synthetic frames beside real ones, every measure beside the real-against-real floor, one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rawkit.noise.frame_statistics import (
    LAGS,
    StackStatistics,
    axis_edges,
    bin_centers,
    joined_codes,
    radial_edges,
    series_autocorrelation,
)
from rawkit.noise.realism import Finding, Realism
from rawkit.report import html
from rawkit.resources import replacing

_REAL, _SYNTHETIC = "#222222", "#c0392b"
_SIZE = (7.2, 3.2)  # inches
_SERIES_POINTS = 199


def realism_page(result: Realism, *, real: str, synthetic: str, notes: tuple[str, ...] = ()) -> str:
    """HTML document of a comparison.

    Parameters
    ----------
    result : Realism
    real, synthetic : str
        Names of the two sets of frames.
    notes : tuple of str
        Anything about the frames that a reader must know: files left out, crops.
    """
    height, width = result.real.shape
    blocks = [
        html.heading("Verdict"),
        html.paragraph(result.verdict),
        html.paragraph(
            f"{result.frames[0]} real frames ({real}) and {result.frames[1]} synthetic ones ({synthetic}), "
            f"{width} x {height} pixels; {result.half} against {result.half} frames, {result.splits} "
            f"{'split' if result.splits == 1 else 'splits'}.",
            note=True,
        ),
        *(html.paragraph(note, note=True) for note in notes),
        html.heading("Measures"),
        html.table(("measure", "verdict", "real", "synthetic", "difference", "real-real", "limit"), _rows(result)),
        html.paragraph(
            "Variances: the difference is synthetic over real where the real one stands out of its error. Distances "
            "are medians over the splits; real-real is the same distance between two halves of the real frames. Up to "
            "the limit a measure is like real; beyond it close, or off where it matters in practice.",
            note=True,
        ),
        html.figure_block(
            histogram_figure(result.real, result.synthetic),
            "Share of every stored code, logarithmic so that tails show, and the ratio of the two.",
        ),
        html.figure_block(
            series_figure(result.real, result.synthetic),
            "Rows: quantiles of their temporal offsets, and the correlation of rows in one frame.",
        ),
        html.figure_block(
            spectrum_figure(result.real, result.synthetic),
            "Power of the temporal pixel noise relative to white, over the distance from zero frequency and along the "
            "two axes. Row and column noise are left out: they have their own measures.",
        ),
    ]
    if result.lines:
        lines = [(f"{x.fx:.4f}, {x.fy:+.4f}", f"{x.real:.1f}", f"{x.synthetic:.1f}") for x in result.lines]
        blocks += [
            html.heading("Spectral lines of the real frames"),
            html.table(("fx, fy [cycles per pixel]", "real, over background", "synthetic"), lines),
        ]
    if result.not_measured:
        blocks += [
            html.heading("Not measured"),
            html.table(
                ("measure", "why"), [(k.replace("_", " "), w) for k, w in result.not_measured.items()], wrap=True
            ),
        ]
    return html.page("Realism of synthetic noise", blocks)


def save_realism_page(
    result: Realism,
    path: Path | str,
    *,
    real: str,
    synthetic: str,
    notes: tuple[str, ...] = (),
    overwrite: bool = False,
) -> None:
    """Write ``realism_page``, whole or not at all."""
    text = realism_page(result, real=real, synthetic=synthetic, notes=notes)
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def histogram_figure(real: StackStatistics, synthetic: StackStatistics) -> Figure:
    """Shares of the codes, all phases together, and synthetic over real."""
    counts = [c.sum(axis=0) for c in joined_codes(real, synthetic)]
    first = min(real.first_code, synthetic.first_code)
    codes = first + np.arange(len(counts[0]))
    shares = [np.where(c > 0, c / c.sum(), np.nan) for c in counts]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.step(codes, shares[0], where="mid", color=_REAL, lw=1.4, label="real")
    top.step(codes, shares[1], where="mid", color=_SYNTHETIC, lw=1.0, label="synthetic")
    enough = np.minimum(*counts) >= 100  # counts below have more than 10 % error
    bottom.plot(codes[enough], (shares[1] / shares[0])[enough], ".", ms=4, color=_SYNTHETIC)
    bottom.axhline(1.0, color=_REAL, lw=0.8)
    top.set(yscale="log", ylabel="share of pixels")
    bottom.set(xlabel="stored code [DN]", ylabel="ratio")
    _finish(top, bottom)
    return figure


def series_figure(real: StackStatistics, synthetic: StackStatistics) -> Figure:
    """Quantiles of the rows' offsets against each other, and their autocorrelation."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.linspace(0.0, 1.0, _SERIES_POINTS + 2)[1:-1]
    for stack, color, label in ((real, _REAL, "real"), (synthetic, _SYNTHETIC, "synthetic")):
        left.plot(np.quantile(stack.rows, p), p, color=color, lw=1.2, label=label)
        if stack.rows.std() > 0:
            right.plot(
                range(1, LAGS + 1), series_autocorrelation(stack.rows), "o-", ms=4, lw=0.8, color=color, label=label
            )
    left.set(xlabel="offset of a row [DN]", ylabel="share of rows below")
    right.set(xlabel="rows apart", ylabel="correlation")
    _finish(left, right)
    return figure


def spectrum_figure(real: StackStatistics, synthetic: StackStatistics) -> Figure:
    """Radial and per-axis power in dB relative to the real pixel variance."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    white = real.temporal.pixel
    for axis, name, edges, label in zip(
        axes, ("radial", "along_x", "along_y"), (radial_edges(), axis_edges(), axis_edges()), ("|f|", "|fx|", "|fy|"),
        strict=True,
    ):  # fmt: skip
        for stack, color, who in ((real, _REAL, "real"), (synthetic, _SYNTHETIC, "synthetic")):
            power = getattr(stack, name) / white
            shown = power > 0
            axis.plot(bin_centers(edges)[shown], 10 * np.log10(power[shown]), color=color, lw=1.2, label=who)
        axis.set(xlabel=f"{label} [cycles per pixel]")
    axes[0].set(ylabel="power [dB]")
    _finish(*axes)
    return figure


def _finish(*axes: Axes) -> None:
    for axis in axes:
        axis.grid(alpha=0.2)
    axes[0].legend(frameon=False, fontsize=8)


def _rows(result: Realism) -> list[tuple[str, ...]]:
    return [
        (
            f.measure.title + (f" [{f.measure.unit}]" if f.measure.unit else ""),
            f.verdict,
            "" if f.real is None else f"{f.real:.4g}",
            "" if f.synthetic is None else f"{f.synthetic:.4g}",
            _difference(f),
            f"{f.floor:.2g}" if f.measure.kind != "accuracy" else f"{f.floor:.3f}",
            f"{f.limit:.2g}" if f.measure.kind != "accuracy" else f"{f.limit:.3f}",
        )
        for f in result.findings
    ]


def _difference(f: Finding) -> str:
    if f.ratio is not None:
        return f"x {f.ratio:.3f}"
    if f.measure.kind == "difference":
        return f"{f.value:+.2g}"
    return f"{f.value:.3f}" if f.measure.kind == "accuracy" else f"{f.value:.3g}"
