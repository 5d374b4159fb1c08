"""Everything at one ISO that belongs to places on the sensor: the order of the spatial estimates.

From the moments of a stack of darks, of a stack of flats where there is one, and bounded samples of both:

    DSNU, PRNU per phase (``uniformity``); defects (``defects``); a model of the darks (``dark_fit``);
    spectra and sinusoidal patterns of the mean dark (``spectra``); code widths (``code_widths``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA, RawImage
from rawkit.sensor.code_widths import CodeWidths, code_widths, combine_code_widths
from rawkit.sensor.dark import DarkNoise
from rawkit.sensor.dark_fit import RegionSampler, central_region, code_histogram, fit_dark_model
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.dark_shading import DarkShading, fit_dark_shading
from rawkit.sensor.defects import find_defects
from rawkit.sensor.pixel_moments import PixelMoments
from rawkit.sensor.profile import NoiseModel
from rawkit.sensor.spectra import PatternLine, Spectrogram, SpectrumPeak, pattern_lines, spectrogram
from rawkit.sensor.uniformity import Nonuniformity, combine, dsnu, prnu

FloatArray = NDArray[np.floating]

PICTURE = 240  # blocks on the long side of a reduced mean frame
SPECTRUM_REGION = 1024  # pixels a side behind the spectra of the mean dark: patterns of 1 % of a pixel's noise show
_CROP = 128  # pixels a side of what is shown pixel by pixel

LINE_DTYPE = np.dtype([(name, np.float64) for name in ("fx", "fy", "amplitude", "amplitude_se", "significance")])


@dataclass(frozen=True, eq=False)
class SpatialFindings:
    """What one ISO's frames tell of the places on the sensor.

    Parameters
    ----------
    dsnu, prnu : tuple of Nonuniformity, one per phase
        ``prnu`` is empty without flats.
    defects : structured array
        As ``find_defects`` gives it.
    dark_model : DarkModel
    lines : tuple of PatternLine
        Sinusoids in the mean dark.
    temporal_lines : tuple of SpectrumPeak
        Lines in the spectrum of the pixels' temporal noise.
    spectra : dict of "horizontal", "vertical" to Spectrogram [DN^2]
        Of the mean dark, the mean of each CFA site removed.
    noise_floor : float [DN^2]
        Power that temporal noise leaves in these spectra.
    code_tables : tuple of CodeWidths
        From darks and flats.
    mean_dark, mean_flat : (h, w) float [DN] or None
        Block means, the file's black removed; at most 240 blocks a side.
    mean_dark_var : float [DN^2]
        Temporal variance of a block of ``mean_dark``.
    offsets, responses : (h, w) float [DN], [1] or None
        Central crop of the mean dark and of flat over dark, pixel by pixel, each phase relative to its mean.
    """

    dsnu: tuple[Nonuniformity, ...]
    prnu: tuple[Nonuniformity, ...]
    defects: NDArray
    dark_model: DarkModel
    lines: tuple[PatternLine, ...]
    temporal_lines: tuple[SpectrumPeak, ...]
    spectra: dict[str, Spectrogram]
    noise_floor: float
    code_tables: tuple[CodeWidths, ...]
    mean_dark: FloatArray
    mean_dark_var: float
    mean_flat: FloatArray | None
    offsets: FloatArray
    responses: FloatArray | None

    def maps(self, iso: float) -> dict[str, NDArray]:
        """Arrays for ``CameraProfile.maps``."""
        lines = [tuple(getattr(line, name) for name in LINE_DTYPE.names or ()) for line in self.lines]
        return self.dark_model.to_maps(iso) | {f"pattern_lines_iso{iso:g}": np.array(lines, LINE_DTYPE)}


def measure_spatial(
    first: RawImage,
    dark: PixelMoments,
    flat: PixelMoments | None,
    *,
    noise: DarkNoise,
    system_gain: FloatArray,
    dark_sample: RegionSampler,
    flat_sample: RegionSampler | None,
) -> SpatialFindings:
    """All spatial estimates of one ISO.

    Parameters
    ----------
    first : RawImage
        A frame of the set, for its CFA and black level.
    dark, flat : PixelMoments
    noise : DarkNoise
        Of this ISO.
    system_gain : (P,) [DN/e-]
    dark_sample, flat_sample : RegionSampler
        Of the frames behind ``dark`` and ``flat``.
    """
    cfa = first.cfa
    if flat is not None and float(flat.mean.mean()) <= float(dark.mean.mean()):
        flat = None
    groups = dark.phases(cfa)
    uniform = tuple(combine([dsnu(site) for site in sites]) for sites in groups)
    response: tuple[Nonuniformity, ...] = ()
    if flat is not None:
        sites = zip(flat.phases(cfa), groups, strict=True)
        response = tuple(combine([prnu(f, d) for f, d in zip(fs, ds, strict=True)]) for fs, ds in sites)
    shapes = [tails.tukey_lambda for tails in noise.tails] or None
    defects = find_defects(dark, cfa=cfa, flat=flat, system_gain=tuple(system_gain), tukey_lambda=shapes)
    black = np.array(first.black_level, np.float64)
    samples = [dark_sample] + ([] if flat is None or flat_sample is None else [flat_sample])
    window = _without_site_means(dark.mean[central_region(dark.mean.shape, cfa.shape, SPECTRUM_REGION)[0]], cfa)
    reduced, pixels = reduced_mean(dark.mean, cfa)
    crop = central_region(dark.mean.shape, cfa.shape, _CROP)[0]
    temporal = float(dark.variance[crop].mean(dtype=np.float64)) / dark.count
    model, temporal_lines = fit_dark_model(dark_sample, dark, noise, cfa=cfa, black_level=black, defects=defects)
    return SpatialFindings(
        dsnu=uniform,
        prnu=response,
        defects=defects,
        dark_model=model,
        lines=tuple(pattern_lines(window)),
        temporal_lines=tuple(temporal_lines),
        spectra={
            "horizontal": spectrogram(window, direction="horizontal"),
            "vertical": spectrogram(window, direction="vertical"),
        },
        noise_floor=temporal,
        code_tables=tuple(table for sample in samples for table in _code_table(sample)),
        mean_dark=reduced - float(black.mean()),
        mean_dark_var=(temporal + max(noise.row_var, 0.0) / dark.count * np.sqrt(pixels)) / pixels,
        mean_flat=None if flat is None else reduced_mean(flat.mean, cfa)[0] - float(black.mean()),
        offsets=_without_site_means(dark.mean[crop], cfa),
        responses=None if flat is None else _relative(flat.mean[crop] - dark.mean[crop], cfa),
    )


def reduced_mean(mean: FloatArray, cfa: CFA) -> tuple[FloatArray, int]:
    """Block means of a mean frame, whole CFA periods a block, at most 240 blocks a side; pixels of a block."""
    rows, cols = cfa.shape
    step = max(1, -(-max(mean.shape) // (PICTURE * max(rows, cols))))
    tall, wide = rows * step, cols * step
    height, width = mean.shape[0] // tall * tall, mean.shape[1] // wide * wide
    blocks = mean[:height, :width].reshape(height // tall, tall, width // wide, wide).mean(axis=(1, 3))
    return blocks, tall * wide


def shading_over_iso(findings: dict[float, SpatialFindings], noise: NoiseModel) -> DarkShading | None:
    """Dark shading (block means) over the native ISOs, one law per gain segment; None without findings."""
    native = {iso: found for iso, found in findings.items() if not noise.is_pushed(iso)}
    if not native:
        return None
    return fit_dark_shading(
        {iso: found.mean_dark for iso, found in native.items()},
        gain_switches=noise.gain_switches,
        mean_var={iso: found.mean_dark_var for iso, found in native.items()},
    )


def converter(findings: Sequence[SpatialFindings]) -> CodeWidths | None:
    """Widths of all codes that any ISO's darks or flats reach; None where no table could be made."""
    tables = [table for found in findings for table in found.code_tables]
    return combine_code_widths(tables) if tables else None


def _code_table(sample: RegionSampler) -> list[CodeWidths]:
    if sample.regions[0].dtype.kind not in "ui":
        return []
    first, counts = code_histogram(sample.regions)
    try:
        return [code_widths(counts, first_code=first)]
    except CalibrationError:
        return []  # too few codes with enough counts show no widths


def _without_site_means(image: FloatArray, cfa: CFA) -> FloatArray:
    result = np.array(image, np.float64)
    rows, cols = cfa.shape
    for r, c in cfa.sites:
        result[r::rows, c::cols] -= np.median(result[r::rows, c::cols])
    return result


def _relative(image: FloatArray, cfa: CFA) -> FloatArray:
    result = np.array(image, np.float64)
    rows, cols = cfa.shape
    for r, c in cfa.sites:
        result[r::rows, c::cols] /= np.median(result[r::rows, c::cols])
    return result - 1.0
