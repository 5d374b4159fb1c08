"""Calibration frames: which files there are, what each one is, and what their statistics say.

A frame is a *flat* (even light), a *dark* (no light, any exposure) or a *bias* (no light, shortest exposure; used
as a dark).  A ``FrameSet`` comes from

* a manifest, ``manifest.csv`` with the columns ``file, kind`` and, where the file itself does not tell,
  ``iso, exposure_time`` [s], ``temperature`` [C], ``black_level, white_level, cfa``;
* an EMVA 1288 descriptor (release 3 text format): ``n bits width height``; ``b exposure_ns photons`` opens a group
  of bright images, ``d exposure_ns`` of dark ones; ``i path`` is an image;
* a plain folder of raw files, sorted by their folder or file names (dark, bias, flat) and else by their level.

Files of another size or camera than most are left out when the set is opened, by their headers alone.

Statistics of a pair (A, B) of equal frames, per phase, over n pixels (EMVA 1288 R4.0 Linear, section 6):

    mean      mu = (mean A + mean B) / 2
    variance  s2 = var(A - B) / 2       with the mean difference removed, so flicker of the light cancels

Fixed pattern (PRNU, DSNU, vignetting, hot pixels' mean) cancels in A - B.  Frames are decoded ahead in threads; memory
does not grow with their number.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rawkit.errors import CalibrationError, RawkitError, UnsupportedRawError
from rawkit.raw.dng_pixels import MAX_PIXELS, jpeg_frame
from rawkit.raw.image import LinearImage, Metadata, RawImage
from rawkit.raw.metadata import exif_metadata
from rawkit.raw.mosaic import NPY_MAGIC, PNG_MAGIC, map_npy, sidecar_path
from rawkit.raw.read import read_raw
from rawkit.resources import sha256
from rawkit.sensor.gain import DEFAULT_BASE_ISO

if TYPE_CHECKING:
    from rawkit.sensor.pair_kernel import Limits

Kind = Literal["flat", "dark", "bias"]

MANIFEST = "manifest.csv"
_HEADLESS = (".png", ".tif", ".tiff", ".npy")
_DARK_BELOW = 0.002  # of white - black: a frame this dark is taken for a dark,
_FLAT_ABOVE = 0.01  # one this bright for a flat; between them its name must tell
_LIT_PREVIEW = 64  # of 255: a preview this bright is no dark's; 4.5 % of white without any tone curve
_SAME_LEVEL = 0.05  # relative difference of means up to which two frames make a pair
_SAME_DARK = 0.001  # of white - black: the same for darks, whose means drift with the black level
SAME_TEMPERATURE = 2.0  # C: dark current doubles in some 6 C, so it changes by a quarter
_MOST_WAITING = 3  # frames kept in memory for a partner: levels that alternate at one exposure
_OUTLIER_SIGMAS = 6.0  # Gaussian noise loses 2e-9 of its variance; telegraph pixels and cosmic rays lose all
_SUBSAMPLE = 200_000  # pixels that set the outlier limit, and a frame's level
_JOINT_BELOW = 1.0  # DN^2: a pair of less noise is asked for its joint histogram
_PILE_UP = 1e-3  # share of pixels on one topmost code that only clipping explains


@dataclass(frozen=True)
class Frame:
    """One file and what is known of it; None means the file itself tells."""

    path: Path
    kind: Kind
    iso: float | None = None
    exposure_time: float | None = None
    temperature: float | None = None
    black_level: float | None = None
    white_level: float | None = None
    cfa: str | None = None
    photons: float | None = None
    sha256: str | None = None

    def read(self) -> RawImage:
        """Decode the frame; what the manifest says wins over the file.

        A headless frame without a stated black level is read with black 0: the darks measure it.
        """
        headless = self.path.suffix.lower() in _HEADLESS
        image = read_raw(
            self.path,
            iso=self.iso,
            black_level=0.0 if headless and self.black_level is None else self.black_level,
            white_level=self.white_level,
            cfa=self.cfa,
        )
        if isinstance(image, LinearImage):
            raise CalibrationError(f"{self.path} is demosaiced; calibration needs the sensor's own mosaic.")
        return image


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """Moments of one pair of frames; (P,) arrays are per phase.

    Parameters
    ----------
    mean : (P,) [DN, the file's black removed]
    variance : (P,) [DN^2]
    dof : (P,)
    peak : float [DN, black removed]
        Mean plus four spatial standard deviations of the brightest phase: how far up the pixels reach.
    ceiling : float or None [DN, black removed]
        The code on which pixels pile up, when they do.
    floor : bool
        Pixels pile up on the lowest code.
    row_var, column_var : float [DN^2]
        Variance that whole rows (columns) share in one frame, by analysis of variance; may come out negative.  NaN
        for flats.
    row_var_se, column_var_se : float [DN^2]
    differences : (P, 2 R + 1) int64
        Histogram of A - B from -R to R DN, outliers included in the end bins; empty for flats.
    joint : (P, J, J) int64
        Histogram of the code pairs (A, B) in a window of J codes around the mean, for noise of less than a DN; empty
        for flats.
    joint_start : (P,) int
        First code of that window.
    hot : (N,) int64
        Positions in the raveled mosaic of the pixels of a dark that lie far from the others.
    limit : (P,) [DN]
        Differences beyond it are no part of ``variance``.
    exposure_time : float or None [s]
    """

    mean: np.ndarray
    variance: np.ndarray
    dof: np.ndarray
    peak: float
    ceiling: float | None
    floor: bool
    row_var: float
    row_var_se: float
    column_var: float
    column_var_se: float
    differences: np.ndarray
    joint: np.ndarray
    joint_start: np.ndarray
    hot: np.ndarray
    limit: np.ndarray
    exposure_time: float | None = None


def pair_statistics(
    a: RawImage, b: RawImage, *, dark: bool = False, exclude: np.ndarray | None = None, device: str = "cpu"
) -> PairStatistics:
    """Statistics of two equal frames (formulas above), in one pass over the pixels.

    Pixels whose difference is beyond 6 standard deviations are left out of the moments: Gaussian noise loses 2e-9
    of its variance by that, telegraph pixels and cosmic rays lose their effect.  In darks, pixels are left out as well
    whose both values lie beyond 6 robust standard deviations of the mean of two: the dark current of hot pixels carries
    shot noise of its own.

    Parameters
    ----------
    dark : bool
        The frames are darks.
    exclude : (N,) int, optional
        Positions in the raveled mosaic to leave out: the hot pixels that the darks showed.
    device : str
        ``cpu``, or a device of torch for the sums of integer frames (``device_sums``); the numbers are the same.
    """
    from rawkit.sensor import pair_kernel

    phases, black = len(a.phases), np.array(a.black_level)
    first, second = (np.ascontiguousarray(image.mosaic) for image in (a, b))
    limits = _outlier_limits(first, second, a)
    phase_map = a.cfa.phase_map
    start = np.clip(np.rint(limits.middle / 2.0) - pair_kernel.JOINT // 2, 0, None).astype(np.int64)
    joint = np.zeros((phases, pair_kernel.JOINT, pair_kernel.JOINT), np.int64)
    dark_sums, flat_sums = pair_kernel.dark_sums, pair_kernel.flat_sums
    if device != "cpu" and pair_kernel.is_exact(first):
        from rawkit.sensor import device_sums

        dark_sums, flat_sums = (partial(f, device=device) for f in (device_sums.dark_sums, device_sums.flat_sums))
    if dark:
        sums = dark_sums(first, second, phase_map, limits)
        if limits.limit.min() < _OUTLIER_SIGMAS * np.sqrt(2.0 * _JOINT_BELOW):
            joint = pair_kernel.joint_histogram(first, second, phase_map, limits, start)
    else:
        sums = flat_sums(first, second, phase_map, limits, exclude)
    number, sum_a, sum_b, sum_d, squares_d, squares_a = sums.moments.T
    mean = (sum_a + sum_b) / (2.0 * number)
    spatial = np.sqrt(np.maximum(squares_a / number - (sum_a / number) ** 2, 0.0))
    variance = (squares_d - sum_d**2 / number) / (2.0 * (number - 1.0))
    share = number / number.sum()
    rows = _line_variance(sums.rows, sums.row_counts, variance, share)
    columns = _line_variance(sums.columns, sums.column_counts, variance, share)
    lowest, highest = _pile_ups(sums.codes) if first.dtype.kind in "ui" else (None, None)
    return PairStatistics(
        mean=mean - black,
        variance=variance,
        dof=number - 1.0,
        peak=float(np.max(sum_a / number - black + 4.0 * spatial)),
        ceiling=None if highest is None else highest - float(black.mean()),
        floor=lowest is not None,
        row_var=rows[0],
        row_var_se=rows[1],
        column_var=columns[0],
        column_var_se=columns[1],
        differences=sums.differences,
        joint=joint,
        joint_start=start,
        hot=sums.hot,
        limit=limits.limit,
        exposure_time=a.metadata.exposure_time,
    )


def _outlier_limits(first: np.ndarray, second: np.ndarray, image: RawImage) -> Limits:
    """What is far from the center of A - B and from the middle of A + B, from a subsample."""
    from rawkit.sensor.pair_kernel import Limits

    phases = len(image.phases)
    rows, cols = image.cfa.shape
    center, limit, middle, reach = (np.zeros(phases) for _ in range(4))
    step = max(1, int(np.sqrt(first.size / _SUBSAMPLE)))
    for (r, c), phase in zip(image.cfa.sites, image.plane_phases, strict=True):
        of = (slice(r, None, rows * step), slice(c, None, cols * step))
        values, others = first[of].astype(np.float64), second[of].astype(np.float64)
        difference = (values - others).ravel()
        kept = difference
        for _ in range(6):
            mean, spread = float(kept.mean()), float(kept.std())
            narrower = difference[np.abs(difference - mean) <= max(_OUTLIER_SIGMAS * spread, 1.0)]
            if narrower.size == kept.size or narrower.size < 2:
                break
            kept = narrower
        center[phase] = kept.mean()
        limit[phase] = max(limit[phase], _OUTLIER_SIGMAS * float(kept.std()), 1.0)
        low, median, high = np.percentile(values + others, (15.865, 50.0, 84.135))
        middle[phase] = median
        reach[phase] = max(reach[phase], _OUTLIER_SIGMAS * (high - low) / 2.0, 4.0)
    return Limits(center, limit, middle, reach)


def _line_variance(
    sums: np.ndarray, counts: np.ndarray, variance: np.ndarray, share: np.ndarray
) -> tuple[float, float]:
    """Variance common to whole lines: var(line mean of D) / 2 - s2_pixel / N, and its standard error.

    Parameters
    ----------
    sums, counts : (lines, K)
        Sums of D over the line, split by position in the CFA period.
    variance, share : (P,)
        Pixel variance of each phase and the phase's share of all pixels.
    """
    if not len(sums):
        return float("nan"), float("nan")
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 0.0)
    # Lines of one position in the period share phases: remove the mean of each such class (flicker, phase offsets).
    classes = 2
    centered = means.copy()
    for k in range(classes):
        lines = slice(k, None, classes)
        centered[lines] -= means[lines].mean(axis=0, keepdims=True)
    weight = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    line = (weight * centered).sum(axis=1)
    number = float(counts.sum(axis=1).mean())
    total = float((line**2).sum() / max(len(line) - classes, 1)) / 2.0
    pixel = float((variance * share).sum()) / number
    return total - pixel, float(np.sqrt(2.0 / max(len(line) - classes, 1))) * total


def _pile_ups(counts: np.ndarray) -> tuple[float | None, float | None]:
    """Lowest and highest code if an implausible share of pixels sits on it, else None.

    A smooth tail thins out towards its end.  Clipping shows as an end code that holds over 0.1 % of the pixels
    and more than half of what the eight codes before it hold together.
    """
    filled = np.flatnonzero(counts)
    low, high = int(filled[0]), int(filled[-1])
    enough = max(10.0, _PILE_UP * counts.sum())
    at_low = counts[low] > enough and counts[low] > counts[low + 1 : low + 9].sum() / 2
    at_high = counts[high] > enough and counts[high] > counts[max(high - 8, 0) : high].sum() / 2
    return (float(low) if at_low else None), (float(high) if at_high else None)


@dataclass(frozen=True, eq=False)
class FrameSet:
    """A set of calibration frames of one camera.

    Parameters
    ----------
    frames : tuple of Frame
        Every frame has its ISO.
    left_out : tuple of (Path, str)
        Files that were not taken, and why.
    make, model : str
    """

    frames: tuple[Frame, ...]
    left_out: tuple[tuple[Path, str], ...] = ()
    make: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        if not self.frames:
            reasons = "; ".join(f"{path.name}: {why}" for path, why in self.left_out[:3])
            raise CalibrationError(f"no usable frames ({reasons})." if reasons else "no frames.")

    @classmethod
    def open(cls, path: Path | str, *, base_iso: float = DEFAULT_BASE_ISO) -> FrameSet:
        """Frames from a folder, a ``manifest.csv`` or an EMVA 1288 descriptor file."""
        path = Path(path)
        if path.is_dir():
            return cls.from_folder(path, base_iso=base_iso)
        if not path.is_file():
            raise CalibrationError(f"{path} is neither a folder nor a file; give the folder that holds the frames.")
        if path.suffix.lower() == ".csv":
            return cls.from_manifest(path)
        if is_emva_descriptor(path):
            return cls.from_emva(path, base_iso=base_iso)
        raise CalibrationError(
            f"{path} is neither a manifest (.csv) nor an EMVA 1288 descriptor; give a folder of frames."
        )

    @classmethod
    def from_folder(cls, folder: Path | str, *, base_iso: float = DEFAULT_BASE_ISO) -> FrameSet:
        """Frames of a folder: by its ``manifest.csv``, its EMVA descriptor, or the files themselves."""
        folder = Path(folder)
        if (folder / MANIFEST).is_file():
            return cls.from_manifest(folder / MANIFEST)
        descriptors = [p for p in sorted(folder.glob("*.txt")) if is_emva_descriptor(p)]
        if len(descriptors) > 1:
            raise CalibrationError(f"{folder} holds {len(descriptors)} EMVA descriptors; name the one to use.")
        if descriptors:
            return cls.from_emva(descriptors[0], base_iso=base_iso)
        return cls.from_files(sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")))

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> FrameSet:
        """Raw files that tell their own ISO and levels; sorted into flats and darks by name, else by level.

        Only a file whose name does not tell its kind and whose preview is not clearly bright is decoded for it.
        """
        files = list(paths)
        sidecars = {sidecar_path(path) for path in files}
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            opened = list(pool.map(_opened, (path for path in files if path not in sidecars)))
        found = [each for each in opened if isinstance(each, _Opened)]
        left_out = [each for each in opened if not isinstance(each, _Opened)]
        if not opened:
            raise CalibrationError(
                f"the folder holds no files; it needs flats and darks (raw files, or images with a {MANIFEST})."
            )
        camera = Counter(each.camera for each in found).most_common(1)[0][0] if found else ("", "")
        others = [each for each in found if each.camera != camera]
        left_out += [
            (each.frame.path, f"it is of {_named(each.camera)}, most frames are of {_named(camera)}") for each in others
        ]
        frames = [each.frame for each in found if each.camera == camera]
        return cls(*_of_one_size(frames, left_out), *camera)

    @classmethod
    def from_manifest(cls, path: Path | str) -> FrameSet:
        """Frames listed in a CSV file; paths are relative to it."""
        path = Path(path)
        try:
            with open(path, newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream, skipinitialspace=True)
                missing = {"file", "kind"} - set(reader.fieldnames or ())
                rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise CalibrationError(f"{path} is not a table of text in UTF-8 ({error}).") from None
        if missing:
            raise CalibrationError(f"{path} lacks the column {', '.join(sorted(missing))}; needed are file and kind.")
        frames, left_out = [], []
        for line, row in enumerate(rows, start=2):
            entry = {key: (value or "").strip() for key, value in row.items() if key}
            where = f"{path.name} line {line}"
            kind = entry["kind"].lower()
            if kind not in ("flat", "dark", "bias"):
                raise CalibrationError(f"{where}: kind is {entry['kind']!r}; it must be flat, dark or bias.")
            file = path.parent / entry["file"]
            if not file.is_file():
                left_out.append((file, f"{where}: there is no such file"))
                continue
            numbers = {}
            for key in ("iso", "exposure_time", "temperature", "black_level", "white_level"):
                text = entry.get(key, "")
                try:
                    numbers[key] = float(text) if text else None
                except ValueError:
                    raise CalibrationError(f"{where}: {key} is {text!r}, which is not a number.") from None
            frames.append(Frame(file, kind, cfa=entry.get("cfa") or None, **numbers))
        return cls(*_with_metadata(*_of_one_size(frames, left_out)))

    @classmethod
    def from_emva(cls, path: Path | str, *, base_iso: float = DEFAULT_BASE_ISO) -> FrameSet:
        """Frames of an EMVA 1288 descriptor (release 3 text format), taken as monochrome at the base ISO."""
        path = Path(path)
        frames: list[Frame] = []
        left_out: list[tuple[Path, str]] = []
        white: float | None = None
        group: tuple[Kind, float, float | None] | None = None
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            words = line.split("#", 1)[0].split(maxsplit=1)
            if not words:
                continue
            values = words[1].split() if len(words) > 1 else []
            try:
                if words[0] == "n":
                    white = 2.0 ** int(values[0]) - 1.0
                elif words[0] == "b":
                    group = ("flat", float(values[0]) * 1e-9, float(values[1]))
                elif words[0] == "d":
                    group = ("dark", float(values[0]) * 1e-9, None)
                elif words[0] == "i":
                    if group is None or white is None:
                        raise CalibrationError(
                            f"{path.name} line {number}: an image before its 'n' and its 'b' or 'd' line."
                        )
                    file = path.parent / words[1].strip().replace("\\", "/")
                    if file.is_file():
                        frames.append(
                            Frame(file, group[0], base_iso, group[1], None, 0.0, white, "MONO", photons=group[2])
                        )
                    else:
                        left_out.append((file, "listed in the descriptor, but there is no such file"))
            except (ValueError, IndexError):
                raise CalibrationError(
                    f"{path.name} line {number} is not EMVA 1288 grammar: {line.strip()[:60]!r}."
                ) from None
        return cls(*_of_one_size(frames, left_out), "", path.parent.name)

    @property
    def isos(self) -> tuple[float, ...]:
        return tuple(sorted({frame.iso for frame in self.frames if frame.iso is not None}))

    def select(self, iso: float, *kinds: Kind) -> tuple[Frame, ...]:
        """Frames of one ISO and of the given kinds."""
        return tuple(f for f in self.frames if f.iso == iso and f.kind in kinds)

    def flats(self, iso: float) -> tuple[Frame, ...]:
        return self.select(iso, "flat")

    def darks(self, iso: float) -> tuple[Frame, ...]:
        return self.select(iso, "dark", "bias")

    @cached_property
    def first(self) -> RawImage:
        """The first frame, for what all frames share: CFA, levels, size."""
        return self.frames[0].read()


def stream(frames: Iterable[Frame], *, workers: int | None = None) -> Iterator[tuple[Frame, RawImage | str]]:
    """Decoded frames in order, decoded ahead in threads; a frame that cannot be read yields its reason.

    The frames come back with their ``sha256``, taken while the file's bytes are at hand.  At most ``workers`` + 1
    frames are in memory besides those the caller keeps.
    """
    count = workers if workers is not None else os.cpu_count() or 1

    def read(frame: Frame) -> tuple[Frame, RawImage | str]:
        try:
            return replace(frame, sha256=sha256(frame.path)), frame.read()
        except RawkitError as error:
            return frame, _reason(frame.path, error)
        except OSError as error:
            return frame, f"cannot be opened ({error.strerror})."

    with ThreadPoolExecutor(max(count, 1)) as pool:
        waiting: deque[Future[tuple[Frame, RawImage | str]]] = deque()
        todo = iter(frames)
        for frame in todo:
            waiting.append(pool.submit(read, frame))
            if len(waiting) > count:
                break
        while waiting:
            yield waiting.popleft().result()
            following = next(todo, None)
            if following is not None:
                waiting.append(pool.submit(read, following))


def pairs(
    frames: Iterable[Frame],
    *,
    exclude: np.ndarray | None = None,
    workers: int | None = None,
    visit: Callable[[Frame, RawImage, Frame, RawImage], None] | None = None,
    device: str = "cpu",
) -> Iterator[tuple[Frame, PairStatistics | str]]:
    """Statistics of frames of equal exposure, level and temperature, two by two.

    A frame without a partner yields its reason.
    Frames are taken in the order of exposure time, then of the list.  No frame is used twice; one that does not match
    waits for the next ones of its exposure.

    Parameters
    ----------
    exclude : (N,) int, optional
        Positions in the raveled mosaic that enter no moments.
    visit : callable (frame, image, frame, image), optional
        Called with both frames of every pair, for statistics of stacks.
    device : str
        As ``pair_statistics`` takes it.
    """
    waiting: list[_Waiting] = []
    setting, levels = None, []
    ordered = sorted(frames, key=lambda f: tuple(v or 0.0 for v in (f.exposure_time, f.photons, f.temperature)))
    for frame, image in stream(ordered, workers=workers):
        if isinstance(image, str):
            yield frame, image
            continue
        if (frame.exposure_time, frame.photons) != setting:
            yield from _without_partner(waiting, levels)
            setting, waiting, levels = (frame.exposure_time, frame.photons), [], []
        new = _Waiting(frame, image, mean_level(image))
        levels.append(new.level)
        reasons = [_why_no_pair(old, new) for old in waiting]
        if None not in reasons:
            waiting.append(new)
            yield from _without_partner(waiting[:-_MOST_WAITING], levels)
            waiting = waiting[-_MOST_WAITING:]
            continue
        partner = waiting.pop(reasons.index(None))
        if visit is not None:
            visit(partner.frame, partner.image, frame, image)
        statistics = pair_statistics(partner.image, image, dark=frame.kind != "flat", exclude=exclude, device=device)
        yield partner.frame, replace(statistics, exposure_time=frame.exposure_time or statistics.exposure_time)
    yield from _without_partner(waiting, levels)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded frame that waits for a partner; ``level`` is its mean [DN, black included], from a subsample."""

    frame: Frame
    image: RawImage
    level: float

    @property
    def dark_tolerance(self) -> float:
        """DN by which equal darks may differ."""
        return _SAME_DARK * (self.image.white_level - float(np.mean(self.image.black_level)))


def mean_level(image: RawImage) -> float:
    """Mean of evenly spaced rows [DN, black included]; their distance is odd, so all rows of a CFA period are met."""
    return float(image.mosaic[:: image.mosaic.size // _SUBSAMPLE | 1].mean(dtype=np.float64))


def _why_no_pair(a: _Waiting, b: _Waiting) -> str | None:
    if a.image.mosaic.shape != b.image.mosaic.shape or a.image.cfa != b.image.cfa:
        return f"its size or CFA differs from {b.frame.path.name}"
    if not same_temperature(a.frame.temperature, b.frame.temperature):
        return f"its temperature differs from {b.frame.path.name}"
    signal = max(a.level, b.level) - float(np.mean(a.image.black_level))
    if abs(a.level - b.level) > max(_SAME_LEVEL * signal, a.dark_tolerance):
        return f"its level differs from {b.frame.path.name} by more than {_SAME_LEVEL:.0%}"
    return None


def same_temperature(a: float | None, b: float | None) -> bool:
    """Within 2 C of each other, or not known."""
    return a is None or b is None or abs(a - b) <= SAME_TEMPERATURE


def _without_partner(waiting: Sequence[_Waiting], levels: Sequence[float]) -> Iterator[tuple[Frame, str]]:
    """Why frames have no partner, among frames of one exposure and of these ``levels`` [DN]."""
    for one in waiting:
        above = one.level - float(np.median(levels))
        if len(levels) == 2:  # light only adds
            above = one.level - min(levels)
        if one.frame.kind != "flat" and above > one.dark_tolerance:
            yield one.frame, f"its level lies {above:.0f} DN above the other darks of its exposure: light leaked in"
        else:
            yield one.frame, "no second frame of the same exposure, level and temperature to pair it with"


@dataclass(frozen=True)
class _Opened:
    """A frame and the (make, model) of its camera."""

    frame: Frame
    camera: tuple[str, str]


def _opened(path: Path) -> _Opened | tuple[Path, str]:
    """What one raw file is, or why it is none."""
    try:
        kind, metadata = _kind_by_name(path), exif_metadata(path, serial="not needed")
        if kind is None and metadata.iso is not None and _has_bright_preview(path):
            kind = "flat"
        if kind is None or metadata.iso is None or _stored_size(path) is None:
            image = Frame(path, "flat").read()
            kind, metadata = kind or _kind_by_level(image), replace(image.metadata, iso=image.iso)
        frame = Frame(path, kind, metadata.iso, metadata.exposure_time, metadata.temperature)
        return _Opened(frame, (metadata.make or "", metadata.model or metadata.unique_camera_model or ""))
    except RawkitError as error:
        return path, _reason(path, error)


def _reason(path: Path, error: RawkitError) -> str:
    """The message without the path that stands beside it already."""
    return str(error).removeprefix(f"{path}: ")


def _named(camera: tuple[str, str]) -> str:
    return " ".join(camera).strip() or "an unnamed camera"


def _of_one_size(
    frames: list[Frame], left_out: list[tuple[Path, str]]
) -> tuple[tuple[Frame, ...], tuple[tuple[Path, str], ...]]:
    """Frames of the size that most have; files whose header does not tell stay."""
    sizes = {frame.path: _stored_size(frame.path) for frame in frames}
    known = Counter(size for size in sizes.values() if size is not None)
    if len(known) < 2:
        return tuple(frames), tuple(left_out)
    usual = known.most_common(1)[0][0]
    odd = {path: size for path, size in sizes.items() if size is not None and size != usual}
    reasons = [
        (path, f"its size, {size[1]}x{size[0]}, differs from the others', {usual[1]}x{usual[0]}")
        for path, size in odd.items()
    ]
    return tuple(f for f in frames if f.path not in odd), (*left_out, *reasons)


def _stored_size(path: Path) -> tuple[int, int] | None:
    """(rows, columns) of the stored raster from the header alone; None where only decoding tells."""
    import rawpy

    try:
        with path.open("rb") as file:
            head = file.read(24)
        if head.startswith(PNG_MAGIC):
            return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
        if head.startswith(NPY_MAGIC):
            shape = map_npy(path).shape
            return (shape[0], shape[1]) if len(shape) == 2 else None
        if path.suffix.lower() in _HEADLESS or sidecar_path(path).is_file():
            return None
        with rawpy.imread(str(path)) as raw:  # LibRaw decodes no pixels before it is asked for them
            return raw.sizes.raw_height, raw.sizes.raw_width
    except (OSError, ValueError, UnsupportedRawError, rawpy.LibRawError):
        return None


def _has_bright_preview(path: Path) -> bool:
    """The preview inside a camera raw is far too bright to be of a dark: its file need not be decoded to tell."""
    import imagecodecs
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            preview = raw.extract_thumb()
        is_jpeg = preview.format == rawpy.ThumbFormat.JPEG
        if is_jpeg:
            _, height, width, _ = jpeg_frame(memoryview(bytes(preview.data)))
            if height * width > MAX_PIXELS:
                return False
        pixels = imagecodecs.jpeg8_decode(bytes(preview.data)) if is_jpeg else np.asarray(preview.data)
    except (rawpy.LibRawError, imagecodecs.Jpeg8Error, UnsupportedRawError):
        return False
    return pixels.dtype == np.uint8 and float(pixels.mean()) >= _LIT_PREVIEW


def _with_metadata(
    frames: Iterable[Frame], left_out: Iterable[tuple[Path, str]]
) -> tuple[tuple[Frame, ...], tuple[tuple[Path, str], ...], str, str]:
    """Fill in ISO, exposure and temperature from the files where the manifest is silent; make and model as well."""
    complete, rejected, make, model = [], list(left_out), "", ""
    for frame in frames:
        needs_file = frame.iso is None or (not model and frame.path.suffix.lower() not in _HEADLESS)
        try:
            if needs_file:
                metadata = exif_metadata(frame.path, serial="not needed")
                if frame.iso is None and metadata.iso is None:
                    image = frame.read()
                    metadata = replace(image.metadata, iso=image.iso)
                make, model = metadata.make or make, metadata.model or metadata.unique_camera_model or model
                frame = _completed(frame, metadata)
            complete.append(frame)
        except RawkitError as error:
            rejected.append((frame.path, _reason(frame.path, error)))
    return tuple(complete), tuple(rejected), make, model


def _completed(frame: Frame, metadata: Metadata) -> Frame:
    """The frame with what the file tells where it is silent itself."""
    names = ("iso", "exposure_time", "temperature")
    return replace(frame, **{name: getattr(metadata, name) for name in names if getattr(frame, name) is None})


def _kind_by_name(path: Path) -> Kind | None:
    """dark, bias or flat as a word in the file's name, or else in its folder's."""
    for text in (path.stem, path.parent.name):
        words = re.findall(r"[a-z]+", text.lower())
        for kind in ("bias", "dark", "flat"):
            if kind in words or kind + "s" in words or kind + "es" in words:
                return kind
    return None


def _kind_by_level(image: RawImage) -> Kind:
    black = float(np.mean(image.black_level))
    level = (float(image.mosaic.mean(dtype=np.float64)) - black) / (image.white_level - black)
    if level < _DARK_BELOW:
        return "dark"
    if level > _FLAT_ABOVE:
        return "flat"
    raise CalibrationError(
        f"its level, {level:.2%} of white, is too bright for a dark and too dark to be surely a flat; "
        "say what it is in its name (dark, flat) or in a manifest."
    )


def is_emva_descriptor(path: Path) -> bool:
    """Does the text start, after comments, with EMVA 1288 version and format lines?"""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            words = [line.split() for line in stream.read(65536).splitlines() if line.split("#", 1)[0].strip()]
    except OSError:
        return False
    return len(words) >= 2 and words[0][0] == "v" and any(w[0] == "n" and len(w) >= 4 for w in words[:4])
