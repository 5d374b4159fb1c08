"""Figures of a calibration, as matplotlib objects.

Colors of the phases follow their filters; points are measurements, lines the fit through them.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.photon_transfer import PhotonTransfer
from rawkit.sensor.profile import NoiseModel

PHASE_COLORS = {"R": "#c0392b", "Gr": "#1e8449", "Gb": "#58a65c", "G": "#1e8449", "B": "#2471a3", "Y": "#444444"}


def photon_transfer_figure(
    curve: PhotonTransfer, dark: DarkNoise, phases: tuple[str, ...], *, title: str = ""
) -> Figure:
    """Variance against mean of every flat pair with the fitted line, and the residuals in standard errors."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = np.geomspace(max(curve.mean[curve.mean > 0].min(), 1e-3) * 0.7, curve.mean.max() * 1.1, 200)
    for p, phase in enumerate(phases):
        color = PHASE_COLORS.get(phase, "#888888")
        mean, variance, used = curve.mean[:, p], curve.variance[:, p], curve.used
        top.plot(
            mean[used], variance[used], "o", ms=4, color=color, label=f"{phase}  K = {curve.system_gain[p]:.4g} DN/e⁻"
        )
        top.plot(mean[~used], variance[~used], "x", ms=4, color=color, alpha=0.5)
        top.plot(x, curve.system_gain[p] * x + dark.read_var[p], "-", lw=0.8, color=color)
        model = curve.system_gain[p] * mean + dark.read_var[p]
        error = model * np.sqrt(2.0 / curve.dof[:, p])
        bottom.plot(mean[used], ((variance - model) / error)[used], "o", ms=3, color=color)
    bottom.axhspan(-2, 2, color="#000000", alpha=0.06, lw=0)
    top.set(xscale="log", yscale="log", ylabel="temporal variance [DN²]", title=title)
    bottom.set(xlabel="mean above dark [DN]", ylabel="residual [s.e.]")
    top.axvline(curve.saturation, color="#888888", lw=0.8, ls=":")
    top.legend(frameon=False, fontsize=8, title="points: flat pairs (x: not in the fit), lines: fit", title_fontsize=8)
    for axes in (top, bottom):
        axes.grid(alpha=0.2)
    return figure


def noise_over_iso_figure(noise: NoiseModel, phases: tuple[str, ...], *, truth: NoiseModel | None = None) -> Figure:
    """System gain and read noise over ISO with two standard errors; a known truth as a gray line."""
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if truth is not None:
        known = [(iso, params) for iso, params in truth.table if noise.isos[0] * 0.4 <= iso <= noise.isos[-1] * 2.5]
        for axes, name, power in ((left, "system_gain", 1.0), (right, "read_var", 0.5)):
            # A gain switch breaks the line: nothing is drawn across it.
            for lower, upper in zip((0.0, *truth.gain_switches), (*truth.gain_switches, np.inf), strict=True):
                part = [(iso, float(np.mean(getattr(p, name))) ** power) for iso, p in known if lower <= iso < upper]
                if part:
                    axes.plot(*zip(*part, strict=True), "-", color="#bbbbbb", lw=2, zorder=0)
    for p, phase in enumerate(phases):
        gain = np.array([np.broadcast_to(params.system_gain, len(phases))[p] for _, params in noise.table])
        read = np.array([np.broadcast_to(params.read_var, len(phases))[p] for _, params in noise.table]) ** 0.5
        gain_se = np.array([np.broadcast_to(params.system_gain_se, len(phases))[p] for _, params in noise.table])
        read_se = np.array([np.broadcast_to(params.read_var_se, len(phases))[p] for _, params in noise.table]) / (
            2 * read
        )
        style = {"fmt": "o", "ms": 4, "capsize": 2, "color": PHASE_COLORS.get(phase, "#888888"), "label": phase}
        left.errorbar(noise.isos, gain, 2 * gain_se, **style)
        right.errorbar(noise.isos, read, 2 * read_se, **style)
    left.set(ylabel="system gain K [DN/e⁻]")
    right.set(ylabel="read noise [DN]")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="ISO")
        axes.grid(alpha=0.2)
    right.legend(frameon=False, fontsize=8)
    return figure
