"""Frames in, camera profile out: the only file that knows the order of the steps.

Per ISO: darks -> read variance and dark mean; flats -> photon-transfer curve -> system gain.  Every number enters
the profile with its standard error, every file with its hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.raw.image import RawImage
from rawkit.resources import sha256
from rawkit.sensor.code_widths import CodeWidths
from rawkit.sensor.dark import QUANTIZATION_LIMIT, DarkNoise, fit_darks
from rawkit.sensor.dark_fit import RegionSampler
from rawkit.sensor.dark_shading import DarkShading
from rawkit.sensor.frames import Frame, FrameSet, PairStatistics, mean_level, pairs, stream
from rawkit.sensor.gain import DEFAULT_BASE_ISO
from rawkit.sensor.iso_details import IsoDetails
from rawkit.sensor.misfits import light_leaks, mislabelled_darks, mislabelled_flats
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.photon_transfer import FIT_UP_TO, PhotonTransfer, fit_photon_transfer
from rawkit.sensor.pixel_moments import PixelAccumulator, PixelMoments
from rawkit.sensor.profile import CameraProfile, NoiseModel
from rawkit.sensor.spatial import SpatialFindings, converter, measure_spatial, shading_over_iso
from rawkit.sensor.temperature import mean_temperature, of_one_temperature, temperature_remarks
from rawkit.sensor.uniformity import Nonuniformity

_POOR_FIT = 3.0  # chi2 per degree of freedom
_WIDE_GAIN, _WIDE_READ = 0.02, 0.1  # relative standard errors of K and read variance that deserve more frames
_LINEARITY_RANGE = (0.05, 0.95)  # of saturation
_LINEARITY_EXPOSURES = 5
_BLACK_SHIFT = 2.0  # DN between the darks' mean and the file's black level
_GROWS = "dark noise grows with exposure time; read variance is the value at time zero"
_LEAK = "its level and noise, or its partner's, lie far above the other darks': light leaked in"
_OTHER_TEMPERATURE = "a dark at {:.1f} C, which the other frames are not; it only served its own dark current"
_SATURATED = "saturated: its pixels pile up {:.0f} DN above black; it only showed where the sensor saturates"
_NOT_IDENTIFIABLE = "the read noise, far below 1 DN, cannot be identified from these frames"

Progress = Callable[[int, int], None]
Device = Literal["cpu", "auto", "cuda", "mps"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A profile and what it was made from.

    Parameters
    ----------
    profile : CameraProfile
    curves : dict of ISO to PhotonTransfer
    darks : dict of ISO to DarkNoise
    left_out : list of (Path, str)
        Files that were not used, and why.
    remarks : list of str
        What deserves a second look, in words.
    verdicts : dict of ISO to str
        ``good``, ``doubtful: because ...`` or ``retake: because ...``, for every ISO that there were frames of.
    linearity : dict of ISO to Linearity
        Where there were five exposures.
    spatial : dict of ISO to SpatialFindings
        Unless switched off.
    shading : DarkShading or None
        Of block means, over all native ISOs.
    code_widths : CodeWidths or None
        Of the converter, from all ISOs.
    """

    profile: CameraProfile
    curves: dict[float, PhotonTransfer]
    darks: dict[float, DarkNoise]
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    verdicts: dict[float, str] = field(default_factory=dict)
    linearity: dict[float, Linearity] = field(default_factory=dict)
    spatial: dict[float, SpatialFindings] = field(default_factory=dict)
    shading: DarkShading | None = None
    code_widths: CodeWidths | None = None


@dataclass(frozen=True, eq=False)
class Linearity:
    """Mean signal over light, and the straight line through it (EMVA 1288 R4.0 Linear, section 6.7).

    Parameters
    ----------
    light : (L,) photons per pixel where the frames state them, else [s]
    mean : (L,) [DN above dark]
    slope, offset : float
        Line fitted with weights 1 / mean over 5 to 95 % of saturation.
    fitted : (L,) bool
    error : float
        Largest relative departure from the line.
    photons : bool
        ``light`` counts photons.
    """

    light: np.ndarray
    mean: np.ndarray
    slope: float
    offset: float
    fitted: np.ndarray
    error: float
    photons: bool


def calibrate(
    frames: FrameSet,
    *,
    make: str | None = None,
    model: str | None = None,
    base_iso: float = DEFAULT_BASE_ISO,
    spatial: bool = True,
    workers: int | None = None,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> Calibration:
    """Fit the noise of every ISO and phase of a set of frames, reading each file once.

    Parameters
    ----------
    frames : FrameSet
    make, model : str, optional
        Name of the camera when the files do not tell.
    base_iso : float
        Recorded in the profile.
    spatial : bool
        Also measure what belongs to places on the sensor (``spatial``), and model the darks.
    workers : int, optional
        Decoding threads; default one per core.
    device : {"cpu", "auto", "cuda", "mps"}
        Where the sums over pairs and stacks of integer frames are taken, through torch unless it is the CPU; ``auto``
        takes a GPU where there is one.  The sums are of integers, so every result is the same.
    progress : callable (done, total), optional
        Called after every file.

    Returns
    -------
    Calibration

    Raises
    ------
    CalibrationError
        No ISO could be calibrated; the message names the reason of the first.
    """
    place = "cpu"
    if device != "cpu":
        from rawkit.devices import pick_device

        place = pick_device(device)
    results: dict[float, _OneIso] = {}
    left_out, hashes, failures = list(frames.left_out), {}, {}
    counter = _Counter(len(frames.frames), progress)
    for iso in frames.isos:
        try:
            results[iso] = _calibrate_iso(
                frames, iso, left_out, hashes, counter, spatial=spatial, workers=workers, device=place
            )
        except CalibrationError as error:
            failures[iso] = str(error)
            named = {path for path, _ in left_out}
            unused = [f.path for f in frames.frames if f.iso == iso and f.path not in named]
            left_out += [(path, f"ISO {iso:g} could not be calibrated: {error}") for path in unused]
    first = frames.first
    table = [
        (iso, NoiseParams(r.curve.system_gain, r.dark.read_var, r.curve.system_gain_se, r.dark.read_var_se))
        for iso, r in results.items()
        if np.all(np.isfinite(r.dark.read_var_se))
    ]
    failures |= {iso: _NOT_IDENTIFIABLE for iso, r in results.items() if not np.all(np.isfinite(r.dark.read_var_se))}
    if not table:
        raise CalibrationError(
            "; ".join(f"ISO {iso:g}: {why}" for iso, why in list(failures.items())[:2]) or "no ISO has flats and darks."
        )
    mean_dark = np.mean([r.dark.mean for r in results.values()], axis=0)
    noise = NoiseModel.from_table(table)
    found = {iso: results[iso].spatial for iso, _ in table}
    places = {iso: one for iso, one in found.items() if one is not None}
    shading = shading_over_iso(places, noise)
    profile = CameraProfile(
        make=make if make is not None else frames.make,
        model=model or frames.model or "unknown",
        noise=noise,
        phases=first.phases,
        cfa=str(first.cfa),
        bit_depth=int(np.ceil(np.log2(first.white_level + 1))),
        black_level=tuple(float(b) for b in np.array(first.black_level) + mean_dark),
        white_level=first.white_level,
        base_iso=base_iso,
        serial=first.metadata.serial,
        provenance=_provenance(frames, left_out, hashes),
        details={iso: _details(results[iso], first) for iso, _ in table},
        maps={name: array for iso, one in places.items() for name, array in one.maps(iso).items()}
        | _shading_maps(shading),
    )
    concerns = {
        iso: _remarks(r.dark, r.curve, min(first.black_level)) for iso, r in results.items() if iso not in failures
    }
    verdicts = {iso: f"retake: {why}" for iso, why in failures.items()}
    verdicts |= {iso: f"doubtful: {'; '.join(found)}" if found else "good" for iso, found in concerns.items()}
    return Calibration(
        profile,
        {iso: r.curve for iso, r in results.items()},
        {iso: r.dark for iso, r in results.items()},
        left_out,
        [f"ISO {iso:g}: {text}" for iso, text in sorted(verdicts.items()) if text != "good"],
        dict(sorted(verdicts.items())),
        {iso: r.linearity for iso, r in results.items() if r.linearity is not None},
        places,
        shading,
        converter(list(places.values())),
    )


def _shading_maps(shading: DarkShading | None) -> dict[str, np.ndarray]:
    """Slope [DN per ISO] and offset [DN] of every gain segment, as block means, and the segment's ISOs."""
    maps = {}
    for number, segment in enumerate(() if shading is None else shading.segments):
        maps[f"shading_slope_segment{number}"] = segment.slope.astype(np.float32)
        maps[f"shading_offset_segment{number}"] = segment.offset.astype(np.float32)
        maps[f"shading_isos_segment{number}"] = np.array(segment.isos)
    return maps


class _Counter:
    """Counts files for the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total)


class _Group:
    """Frames of one setting: the first two as they are, for most groups of flats have no more; sums from there on."""

    def __init__(self, period: tuple[int, int], *, rows: bool, device: str) -> None:
        self.period, self.device = period, device
        self.count = 0
        self.first: list[np.ndarray] = []
        self.sums: PixelAccumulator | None = None
        self.sample = RegionSampler(period=period, rows=rows)

    def add(self, *images: RawImage) -> None:
        for image in images:
            self.sample.add(image.mosaic)
        self.count += len(images)
        self.first += [image.mosaic for image in images]
        if self.count > 2:
            self.sums = self.sums or PixelAccumulator(period=self.period, device=self.device)
            self.sums.add(*self.first)
            self.first = []

    def moments(self) -> PixelMoments:
        sums = self.sums or PixelAccumulator(period=self.period, device=self.device)
        if self.first:
            sums.add(*self.first)
        return sums.finish(release=True)


_Setting = tuple[float | None, float | None]


def _setting(frame: Frame) -> _Setting:
    return frame.exposure_time, frame.photons


class _Stacks:
    """Groups of equal frames that pass by: sums of the largest, then of the one nearest to a level.

    Which one that is shows at the end; until then the number of files stands for the size of a group.  So one group
    is in memory, whatever their number, and frames are read a second time only where files turned out wrong.

    Parameters
    ----------
    frames : sequence of Frame
        All that may pass by.
    level : float [DN, black included]
    """

    def __init__(
        self, frames: Sequence[Frame], period: tuple[int, int], level: float, *, rows: bool, device: str
    ) -> None:
        self.sizes, self.level = Counter(map(_setting, frames)), level
        self.empty = partial(_Group, period, rows=rows, device=device)
        self.levels: dict[_Setting, float] = {}
        self.setting: _Setting | None = None
        self.group = self.empty()

    def visit(self, frame: Frame, *images: RawImage) -> None:
        """Take in frames of the setting of ``frame``."""
        setting = _setting(frame)
        if setting not in self.levels:
            self.levels[setting] = float(np.mean([mean_level(image) for image in images]))
            if setting == max(self.levels, key=lambda one: self._rank(one, self.sizes)):
                used, self.setting, self.group = self.group.sums, setting, self.empty()
                if used is not None:
                    used.clear()
                    self.group.sums = used
        if setting == self.setting:
            self.group.add(*images)

    def finish(self, frames: Sequence[Frame], *, workers: int | None) -> _Stacked:
        """Moments and sample of the best group of these ``frames``, all of which passed by; the sums are let go."""
        sizes = Counter(map(_setting, frames))
        best = max(sizes, key=lambda one: self._rank(one, sizes), default=None)
        group, self.group = self.group, self.empty()
        if best is None or sizes[best] < 2:
            return None, None
        if best != self.setting or group.count != sizes[best]:
            group = self.empty()
            for _, image in stream([frame for frame in frames if _setting(frame) == best], workers=workers):
                if not isinstance(image, str):
                    group.add(image)
        return group.moments(), group.sample

    def _rank(self, setting: _Setting, sizes: Counter[_Setting]) -> tuple[int, float]:
        return sizes[setting], -abs(self.levels[setting] - self.level)


@dataclass(frozen=True, eq=False)
class _OneIso:
    """Everything measured at one ISO."""

    dark: DarkNoise
    curve: PhotonTransfer
    dark_frames: int
    flat_frames: int
    linearity: Linearity | None
    spatial: SpatialFindings | None = None
    dark_temperature: float | None = None
    remarks: tuple[str, ...] = ()


def _calibrate_iso(
    frames: FrameSet,
    iso: float,
    left_out: list[tuple[Path, str]],
    hashes: dict[Path, str],
    counter: _Counter,
    *,
    spatial: bool,
    workers: int | None,
    device: str,
) -> _OneIso:
    first = frames.first
    black = float(np.mean(first.black_level))
    white = first.white_level - black
    own, elsewhere = of_one_temperature(frames.darks(iso), frames.flats(iso))
    dark_stack = flat_stack = None
    if spatial:
        dark_stack = _Stacks(own, first.cfa.shape, black, rows=True, device=device)
        flat_stack = _Stacks(frames.flats(iso), first.cfa.shape, black + white / 2.0, rows=False, device=device)

    def statistics(of: Iterable[Frame], stack: _Stacks | None, exclude: np.ndarray | None = None) -> list[_Named]:
        found, seen = [], []

        def visit(frame: Frame, image: RawImage, other: Frame, another: RawImage) -> None:
            seen.append((frame, other))
            hashes.update({one.path: one.sha256 for one in (frame, other) if one.sha256 is not None})
            if stack is not None:
                stack.visit(frame, image, another)

        for frame, result in pairs(of, exclude=exclude, workers=workers, visit=visit, device=device):
            counter.add(1 if isinstance(result, str) else 2)
            if isinstance(result, str):
                left_out.append((frame.path, result))
            else:
                found.append(_Named(seen[-1], result))
        return found

    def without(named: list[_Named], reasons: list[str | None]) -> list[_Named]:
        judged = list(zip(named, reasons, strict=True))
        left_out.extend((frame.path, why) for one, why in judged if why is not None for frame in one.frames)
        return [one for one, why in judged if why is None]

    darks = statistics(own, dark_stack)
    kept = without(darks, [_LEAK if leak else None for leak in light_leaks([d.pair for d in darks])])
    kept = without(kept, [_mislabelled(ratio, "noise variance") for ratio in mislabelled_darks([d.pair for d in kept])])
    dark = fit_darks([d.pair for d in kept])
    warmer: dict[float, DarkNoise] = {}
    for temperature, group in elsewhere.items():
        found = statistics(group, None)
        without(found, [_OTHER_TEMPERATURE.format(temperature)] * len(found))
        if found:
            warmer[temperature] = fit_darks([f.pair for f in found])
    hot = np.unique(np.concatenate([d.pair.hot for d in kept]))
    flats = statistics(frames.flats(iso), flat_stack, hot)
    gains = mislabelled_flats([f.pair for f in flats], dark.mean, dark.read_var, highest=FIT_UP_TO * white)
    right = without(flats, [_mislabelled(ratio, "system gain") for ratio in gains])
    curve = fit_photon_transfer([f.pair for f in right], dark.mean, dark.read_var, dark.read_var_se, white=white)
    without(right, [None if f.pair.ceiling is None else _SATURATED.format(f.pair.ceiling) for f in right])
    one = _OneIso(
        dark,
        curve,
        2 * len(kept),
        2 * len(right),
        _linearity(right, dark, curve.saturation),
        dark_temperature=mean_temperature(own),
        remarks=temperature_remarks(own, warmer, curve.system_gain),
    )
    if dark_stack is None or flat_stack is None:
        return one
    dark_moments, dark_sample = dark_stack.finish(_frames(kept), workers=workers)
    flat_moments, flat_sample = flat_stack.finish(_frames(right), workers=workers)
    if dark_moments is None or dark_sample is None:
        return one
    places = measure_spatial(
        first,
        dark_moments,
        flat_moments,
        noise=dark,
        system_gain=curve.system_gain,
        dark_sample=dark_sample,
        flat_sample=flat_sample,
    )
    return replace(one, spatial=places)


_Stacked = tuple[PixelMoments | None, RegionSampler | None]


@dataclass(frozen=True, eq=False)
class _Named:
    """Two frames and their statistics."""

    frames: tuple[Frame, Frame]
    pair: PairStatistics


def _frames(named: Sequence[_Named]) -> list[Frame]:
    return [frame for one in named for frame in one.frames]


def _mislabelled(ratio: float | None, quantity: str) -> str | None:
    if ratio is None:
        return None
    return f"its {quantity} is {ratio:.2f} times that of the other frames of its ISO: mislabelled ISO"


def _linearity(flats: list[_Named], dark: DarkNoise, saturation: float) -> Linearity | None:
    """Line through the means of unclipped flats over their light; None without five exposures inside its range."""
    points, photons = [], True
    for flat in (one for one in flats if one.pair.ceiling is None):
        counted = flat.frames[0].photons
        light = counted if counted is not None else flat.pair.exposure_time
        photons &= counted is not None
        if light:
            points.append((light, float((flat.pair.mean - dark.mean).mean())))
    if not points:
        return None
    light, mean = np.array(sorted(points)).T
    fitted = (mean > _LINEARITY_RANGE[0] * saturation) & (mean < _LINEARITY_RANGE[1] * saturation)
    if len(np.unique(light[fitted])) < _LINEARITY_EXPOSURES:
        return None
    slope, offset = np.polyfit(light[fitted], mean[fitted], 1, w=1.0 / mean[fitted])
    error = float(np.max(np.abs(mean[fitted] / (slope * light[fitted] + offset) - 1.0)))
    return Linearity(light, mean, float(slope), float(offset), fitted, error, photons)


def _deviation(var: float, var_se: float) -> tuple[float, float]:
    """Standard deviation and its error; 0 where the variance came out negative."""
    root = float(np.sqrt(max(var, 0.0)))
    return root, float(var_se / (2.0 * root)) if root > 0 else float(np.sqrt(var_se))


def _uniformity(name: str, phases: Sequence[Nonuniformity]) -> dict[str, tuple[float, ...]]:
    """Fields of ``IsoDetails`` for DSNU or PRNU: the whole, and its row, column and pixel parts."""
    values = {}
    for part, suffix in (("total", ""), ("row", "_row"), ("column", "_column"), ("pixel", "_pixel")):
        found = [_deviation(getattr(p.variance, part), getattr(p.variance, part + "_se")) for p in phases]
        if found:
            values[name + suffix], values[f"{name}{suffix}_se"] = map(tuple, zip(*found, strict=True))
    return values


def _converter(one: _OneIso) -> dict[str, float]:
    """DNL from code to code, from the darks' and flats' tables that are wide enough to show it."""
    shown = [] if one.spatial is None else [table for table in one.spatial.code_tables if table.telling]
    if not shown:
        return {}
    widest = max(shown, key=lambda table: len(table.code))
    dnl, dnl_se = _deviation(*widest.code_to_code)
    return {"dnl": dnl, "dnl_se": dnl_se}


def _details(one: _OneIso, first: RawImage) -> IsoDetails:
    dark, curve = one.dark, one.curve

    def listed(values: Iterable[float] | None) -> tuple[float, ...] | None:
        """As a tuple; None where nothing was measured or a variance came out negative."""
        numbers = () if values is None else tuple(float(v) for v in values)
        return numbers if numbers and np.all(np.isfinite(numbers)) else None

    row, row_se = _deviation(dark.row_var, dark.row_var_se)
    column, column_se = _deviation(dark.column_var, dark.column_var_se)
    full_well = curve.saturation / curve.system_gain
    return IsoDetails(
        row_noise=row,
        row_noise_se=row_se,
        column_noise=column,
        column_noise_se=column_se,
        tukey_lambda=listed(t.tukey_lambda for t in dark.tails),
        tukey_lambda_se=listed(t.tukey_lambda_se for t in dark.tails),
        tukey_scale=listed(t.tukey_scale for t in dark.tails),
        dark_current=None if dark.drift is None else listed(dark.drift / curve.system_gain),
        dark_current_se=None if dark.drift_se is None else listed(dark.drift_se / curve.system_gain),
        black_offset=listed(dark.mean),
        black_offset_se=listed(np.broadcast_to(dark.mean_se, dark.mean.shape)),
        **_uniformity("dsnu", () if one.spatial is None else one.spatial.dsnu),
        **_uniformity("prnu", () if one.spatial is None else one.spatial.prnu),
        **_converter(one),
        full_well=listed(full_well),
        full_well_se=listed(full_well * curve.system_gain_se / curve.system_gain),
        saturation=listed(curve.saturation + float(dark.mean.mean()) + np.array(first.black_level)),
        linearity_error=None if one.linearity is None else one.linearity.error,
        chi2_per_dof=listed(curve.chi2_per_dof),
        flat_frames=one.flat_frames,
        dark_frames=one.dark_frames,
        dark_temperature=one.dark_temperature,
        remarks=one.remarks + ((_GROWS,) if dark.grows else ()),
    )


def _remarks(dark: DarkNoise, curve: PhotonTransfer, stated_black: float) -> list[str]:
    """What makes one ISO's numbers doubtful, in words."""
    remarks = []
    if np.any(dark.read_var < QUANTIZATION_LIMIT):
        remarks.append(f"read noise is below {QUANTIZATION_LIMIT**0.5:g} DN and comes from the codes' likelihood")
    if np.any(curve.chi2_per_dof > _POOR_FIT):
        remarks.append(
            f"the flats scatter {np.max(curve.chi2_per_dof):.1f} times as much as sampling explains (bent response, or "
            "light that changed within a pair); the standard error of K is widened accordingly"
        )
    if np.any(curve.bend != 0):
        bend = 100 * float(np.max(np.abs(curve.bend))) * curve.saturation
        remarks.append(f"the response bends by {bend:.1f} % at saturation; K holds at small signals")
    if np.any(np.abs(dark.mean) > _BLACK_SHIFT) and stated_black > 0:
        remarks.append(f"the darks lie {dark.mean[np.argmax(np.abs(dark.mean))]:+.1f} DN from the file's black level")
    if np.any(curve.system_gain_se > _WIDE_GAIN * curve.system_gain):
        remarks.append(f"K is known to {100 * np.max(curve.system_gain_se / curve.system_gain):.1f} % only; add flats")
    if np.any(dark.read_var_se > _WIDE_READ * dark.read_var):
        remarks.append(
            f"read variance is known to {100 * np.max(dark.read_var_se / dark.read_var):.0f} % only; add darks"
        )
    return remarks


def _provenance(frames: FrameSet, left_out: list[tuple[Path, str]], hashes: dict[Path, str]) -> dict:
    try:
        ours = version("rawkit-camera")
    except PackageNotFoundError:
        ours = "not installed"
    unused = {path for path, _ in left_out}
    return {
        "method": "pair differences; read variance from darks; weighted slope through it up to 70 % of saturation",
        "rawkit_version": ours,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "files": [
            {
                "name": f.path.name,
                "sha256": hashes.get(f.path) or sha256(f.path),
                "kind": f.kind,
                "iso": f.iso,
                "exposure_time": f.exposure_time,
            }
            for f in frames.frames
            if f.path not in unused
        ],
    }
