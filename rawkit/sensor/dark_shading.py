"""Fixed pattern of darks at one ISO, shrunk; dark shading over ISO.

    pattern = surface + sum over rows, columns, pixels of g d,    g = V / (V + noise / L)                       [DN]
    dark(ISO) = slope x ISO + offset + black-level error(ISO)                                                   [DN]

References
----------
H. Feng et al., "Learnability enhancement for low-light raw denoising", IEEE TPAMI 2024 (dark shading: slope x ISO +
offset + black-level error).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.surface import REJECT_SIGMAS, SHADING_ORDER, robust_surface
from rawkit.sensor.uniformity import dark_split

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class FixedPattern:
    """Best estimate of the fixed pattern behind a noisy mean image.

    Parameters
    ----------
    pattern : (H, W) float32 [DN]
        Level, surface and shrunk deviations.
    row_factor, column_factor, pixel_factor : float
        Shrinkage var / (var + noise) of each part, 0 to 1.
    lost_var : float [DN^2]
        Pattern variance that shrinkage removed; a synthesizer tops it up with a frozen random field.
    """

    pattern: FloatArray
    row_factor: float
    column_factor: float
    pixel_factor: float
    lost_var: float


def shrink_fixed_pattern(dark: PixelMoments, *, order: int = SHADING_ORDER) -> FixedPattern:
    """Mean of a stack with its leftover temporal noise shrunk away, part by part.

        pattern = surface + sum over rows, columns, pixels of g d,    g = V / (V + noise / L)

    with V the fixed variance of the part (``dsnu``) and noise its temporal variance.  The plain mean of L frames
    carries 1/L of the temporal variance as if it were pattern.  Single defects (beyond 5 robust sigma) are no members
    of the Gaussian population: each is shrunk by its own 1 - noise / (L d^2), that is hardly at all.

    Parameters
    ----------
    dark : PixelMoments
        One phase.
    """
    from rawkit.sensor import surface_kernel

    down, across, bad = dark.surface(order)
    found, lines = dark_split(dark, order)
    variance = found.variance
    seen_pixel = lines.squares / dark.mean.size
    seen_row, seen_column = float((lines.rows**2).mean()), float((lines.columns**2).mean())
    white = max(seen_pixel - variance.pixel, 0.0)
    factors = [
        float(np.clip(part / seen, 0.0, 1.0)) if seen > 0 else 0.0
        for part, seen in (
            (variance.row, seen_row),
            (variance.column, seen_column),
            (variance.pixel, seen_pixel),
        )
    ]
    pattern = surface_kernel.shrunk(dark.mean, down, across, lines.mean, lines.rows, lines.columns, tuple(factors))
    i, j = np.divmod(bad, dark.mean.shape[1])
    around = (down[i] * across[j]).sum(axis=1) + lines.mean + lines.rows[i] + lines.columns[j]
    deviation = dark.mean[i, j] - around
    own = np.maximum(factors[2], 1.0 - white / deviation**2)
    pattern[i, j] = around + own * deviation
    lost = sum(
        max(part, 0.0) * (1.0 - factor)
        for part, factor in zip((variance.row, variance.column, variance.pixel), factors, strict=True)
    )
    return FixedPattern(pattern, *factors, lost_var=float(lost))


@dataclass(frozen=True, eq=False)
class ShadingSegment:
    """Dark shading within one analog gain segment: slope x ISO + offset, both of zero mean per CFA site.

    Parameters
    ----------
    isos : tuple of float
    slope : (H, W) [DN per ISO]; zero when the segment has one ISO only
    offset : (H, W) [DN]
    slope_se, offset_se : float
        Standard error of one pixel of the unsmoothed maps; NaN where the temporal noise was not given.
    residual : float [DN]
        Standard deviation over pixels and ISOs of what the law leaves, temporal noise subtracted; 0 below 3 ISOs.
    """

    isos: tuple[float, ...]
    slope: FloatArray
    offset: FloatArray
    slope_se: float
    offset_se: float
    residual: float


@dataclass(frozen=True, eq=False)
class DarkShading:
    """Mean dark at every ISO: slope x ISO + offset + black-level error.

    Parameters
    ----------
    segments : tuple of ShadingSegment
    black_level_error : dict of ISO to (rows, cols) [DN]
        Mean dark minus the file's black level, per site of the CFA period.
    black_level_error_se : dict of ISO to float [DN]
        From the drift of whole frames where given, else NaN.
    """

    segments: tuple[ShadingSegment, ...]
    black_level_error: dict[float, FloatArray]
    black_level_error_se: dict[float, float]

    def at(self, iso: float) -> FloatArray:
        """(H, W) expected dark [DN, the file's black removed] at ``iso``, within a measured segment.

        The black-level error jumps from ISO to ISO, so between measured ISOs it is interpolated, and that is a guess
        as good as their scatter.

        Raises
        ------
        CalibrationError
            ``iso`` lies outside every segment.
        """
        for segment in self.segments:
            if segment.isos[0] <= iso <= segment.isos[-1]:
                isos = np.array(segment.isos)
                errors = np.array([self.black_level_error[i] for i in segment.isos])
                upper = int(np.clip(np.searchsorted(isos, iso), 1, max(len(isos) - 1, 1)))
                if len(isos) == 1:
                    level = errors[0]
                else:
                    part = (iso - isos[upper - 1]) / (isos[upper] - isos[upper - 1])
                    level = (1.0 - part) * errors[upper - 1] + part * errors[upper]
                height, width = segment.slope.shape
                return segment.slope * iso + segment.offset + tile_sites(level, height, width)
        spans = ", ".join(f"{s.isos[0]:g} to {s.isos[-1]:g}" for s in self.segments)
        raise CalibrationError(f"ISO {iso:g} lies outside the measured dark shading (ISO {spans}); add darks there.")


def fit_dark_shading(
    mean_darks: Mapping[float, FloatArray],
    *,
    cfa: CFA | None = None,
    gain_switches: Sequence[float] = (),
    mean_var: Mapping[float, float] | None = None,
    level_se: Mapping[float, float] | None = None,
    smooth: int | None = None,
) -> DarkShading:
    """Dark shading over ISO, one law per analog gain segment.

        dark(ISO) = slope x ISO + offset + black-level error(ISO),      spatial mean of slope and offset = 0

    The black-level error holds the whole mean, measured at every ISO, since it follows no law.

    Parameters
    ----------
    mean_darks : mapping of ISO to (H, W) [DN, the file's black removed]
        Mean of many darks at each ISO.
    cfa : CFA, optional
        The black-level error is kept per site of its period.
    gain_switches : sequence of float
        A segment ends below each of these ISOs.
    mean_var : mapping of ISO to float [DN^2], optional
        Temporal variance of one pixel of the mean dark (read variance / frames): weights and errors.
    level_se : mapping of ISO to float [DN], optional
        Standard error of the mean level (standard deviation of the frame means / sqrt frames).
    smooth : int, optional
        Order of a polynomial surface that replaces each map; None keeps every pixel.

    References
    ----------
    Feng et al. 2024 (module docstring); there the maps hold the linear part of the mean level.
    """
    if not mean_darks:
        raise CalibrationError("no mean darks; dark shading needs darks at one ISO at least.")
    shapes = {image.shape for image in mean_darks.values()}
    if len(shapes) > 1:
        raise CalibrationError(f"the mean darks differ in size ({', '.join(map(str, shapes))}); use one frame size.")
    period = (1, 1) if cfa is None else cfa.shape
    isos = sorted(mean_darks)
    height, width = shapes.pop()
    levels = {iso: _site_means(mean_darks[iso], period) for iso in isos}
    segments = []
    for members in _segments(isos, gain_switches):
        noise = [1.0 if mean_var is None else mean_var[iso] for iso in members]
        weights, x = 1.0 / np.array(noise), np.array(members)
        center = float((weights * x).sum() / weights.sum())
        lever = float((weights * (x - center) ** 2).sum())
        slope, average = np.zeros((height, width)), np.zeros((height, width))
        for iso, weight in zip(members, weights, strict=True):
            shape = mean_darks[iso] - tile_sites(levels[iso], height, width)
            average += weight / weights.sum() * shape
            if lever > 0:
                slope += weight * (iso - center) / lever * shape
        offset = average - center * slope
        residual = 0.0
        if len(members) > 2:
            rests = [mean_darks[iso] - tile_sites(levels[iso], height, width) - slope * iso - offset for iso in members]
            scatter = sum(float(np.mean(rest**2)) for rest in rests)
            explained = 0.0 if mean_var is None else float(np.mean(noise)) * (len(members) - 2)
            residual = float(np.sqrt(max(scatter - explained, 0.0) / (len(members) - 2)))
        known = mean_var is not None
        slope_se = float(np.sqrt(1.0 / lever)) if known and lever > 0 else float("nan")
        offset_se = float(np.sqrt(1.0 / weights.sum() + (center**2 / lever if lever > 0 else 0.0)))
        if smooth is not None:
            slope, offset = (robust_surface(m, smooth, REJECT_SIGMAS)[0] for m in (slope, offset))
        segments.append(
            ShadingSegment(tuple(members), slope, offset, slope_se, offset_se if known else float("nan"), residual)
        )
    errors = {iso: float("nan") if level_se is None else float(level_se[iso]) for iso in isos}
    return DarkShading(tuple(segments), levels, errors)


def _segments(isos: Sequence[float], switches: Sequence[float]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for iso in isos:
        groups.setdefault(int(np.searchsorted(sorted(switches), iso, side="right")), []).append(iso)
    return [groups[key] for key in sorted(groups)]


def _site_means(image: FloatArray, period: tuple[int, int]) -> FloatArray:
    rows, cols = period
    return np.array([[float(image[r::rows, c::cols].mean()) for c in range(cols)] for r in range(rows)])


def tile_sites(values: FloatArray, height: int, width: int) -> FloatArray:
    rows, cols = values.shape
    return np.tile(values, (-(-height // rows), -(-width // cols)))[:height, :width]
