"""Are synthetic frames like real ones?  Every measure beside what real frames give against each other.

The real frames are split in two halves A and B, several times over; of the synthetic ones as many are taken, S.  Each
measure d is then known twice from equal numbers of frames:

    floor d(A, B)   real against real       value d(A, S)   real against synthetic

Three kinds of measures, three rules (``Finding.limit``):

    distance     >= 0, of estimates never 0:   like real up to 1.5 times the median floor or 1.25 times the largest
    difference   S minus A of one number:      like real up to 3.5 standard deviations of the floor's differences
    accuracy     of a classifier, 0.5 chance:  like real up to the largest floor plus 0.02

and never less than what white noise of so many frames scatters by, where that is known.  By these limits a set of
frames with exactly the real noise is called off in one of the 26 measures about once in twenty.  Beyond the limit a
measure is *close* up to a tolerance that matters in practice (named with the measure), and *off* beyond it.  Where the
limit is wider than ten tolerances, the frames are too few to tell, and the finding says so.

The Kullback-Leibler divergence of the codes cannot see banding: destroying all rows hardly moves it.  Hence rows,
columns, spectra and a classifier stand beside it.

References
----------
Wei et al., "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020 (KL divergence as a
measure of noise models).
Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
EMVA Standard 1288, Release 4.0 Linear (temporal, row, column and pixel parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import comb
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rawkit.errors import CalibrationError, MetadataError, RawkitError
from rawkit.noise.frame_statistics import (
    SERIES_QUANTILES,
    FloatArray,
    Split,
    StackStatistics,
    joined_codes,
    series_autocorrelation,
    strongest_lines,
)
from rawkit.noise.two_sample import SIDE, accuracy, patch_features
from rawkit.raw.image import CFA, RawImage
from rawkit.raw.mosaic import MosaicSpec
from rawkit.raw.read import read_raw
from rawkit.sensor.frames import MANIFEST, FrameSet, is_emva_descriptor

Kind = Literal["distance", "difference", "accuracy"]
Verdict = Literal["like real", "close", "off", "too few frames"]

#: Frames and pixels beyond which nothing is gained; more are thinned out evenly, cropped around the center.
MOST_FRAMES = 64
MOST_PIXELS = 2**21

_FLOOR_FACTOR = 1.5
_FLOOR_MARGIN = 1.25  # over the largest of the floors
_SIGMAS = 3.5
_SIGMAS_OF_LARGEST = 4.0  # for the largest of several deviations
_ACCURACY_MARGIN = 0.02
_SIGNIFICANT = 3.0  # standard errors from which a ratio to a real variance is stated
_MISSING = 0.1  # of the real variance: what is called missing
_LINES_LISTED = 20


@dataclass(frozen=True)
class Measure:
    """One row of the report: what is measured, in what unit, and what deviation matters in practice."""

    key: str
    part: str
    title: str
    unit: str
    kind: Kind
    tolerance: float


#: Tolerances of variances are relative to the real one (or 4e-4 of the pixel variance, where that is more: a row
#: noise of 2 % of the pixel noise is invisible); all others are in the measure's own unit.
MEASURES = (
    Measure("kl", "histogram", "KL divergence of the stored codes", "nat", "distance", 1e-3),
    Measure("wasserstein", "histogram", "Wasserstein-1 distance of the codes", "sigma", "distance", 0.02),
    Measure("ks", "histogram", "Kolmogorov-Smirnov distance of the codes", "", "distance", 0.01),
    Measure("level", "histogram", "mean level", "sigma", "difference", 0.02),
    Measure("lower_tail", "tails", "lower 1e-4 quantile, relative to Gaussian", "", "difference", 0.05),
    Measure("upper_tail", "tails", "upper 1e-4 quantile, relative to Gaussian", "", "difference", 0.05),
    Measure("kurtosis", "tails", "excess kurtosis of the pixel noise", "", "difference", 0.1),
    Measure("pixel_variance", "pixels", "temporal pixel noise", "DN²", "difference", 0.03),
    Measure("restless", "pixels", "share of restless pixels (telegraph noise)", "", "difference", 1e-4),
    Measure("autocorrelation", "pixels", "autocorrelation of the pixels, lags 1 to 4", "", "distance", 0.01),
    Measure("row_variance", "rows", "row noise", "DN²", "difference", 0.03),
    Measure("row_quantiles", "rows", "distribution of the rows' offsets", "sigma", "distance", 0.05),
    Measure("row_kurtosis", "rows", "excess kurtosis of the rows' offsets", "", "difference", 0.3),
    Measure("row_autocorrelation", "rows", "autocorrelation of the rows, lags 1 to 8", "", "distance", 0.05),
    Measure("column_variance", "columns", "column noise", "DN²", "difference", 0.03),
    Measure("column_autocorrelation", "columns", "autocorrelation of the columns, lags 1 to 8", "", "distance", 0.05),
    Measure("frame_variance", "frames", "common offset of frames", "DN²", "difference", 0.5),
    Measure("radial", "spectrum", "radial power spectrum", "dB", "distance", 0.08),
    Measure("along_x", "spectrum", "power along x", "dB", "distance", 0.08),
    Measure("along_y", "spectrum", "power along y", "dB", "distance", 0.08),
    Measure("lines", "spectrum", "share of the power in spectral lines", "", "difference", 1e-3),
    Measure("fixed_pixel", "fixed pattern", "fixed pixel pattern", "DN²", "difference", 0.05),
    Measure("fixed_row", "fixed pattern", "fixed row pattern", "DN²", "difference", 0.05),
    Measure("fixed_column", "fixed pattern", "fixed column pattern", "DN²", "difference", 0.05),
    Measure("hot", "fixed pattern", "share of hot and dead pixels", "", "difference", 1e-4),
    Measure("classifier", "classifier", "accuracy of a classifier on 32 x 32 patches", "", "accuracy", 0.08),
)
_VARIANCES = {
    "pixel_variance": ("temporal", "pixel"), "row_variance": ("temporal", "row"),
    "column_variance": ("temporal", "column"), "fixed_pixel": ("fixed", "pixel"),
    "fixed_row": ("fixed", "row"), "fixed_column": ("fixed", "column"),
}  # fmt: skip
_NEGLIGIBLE = 4e-4  # of the pixel variance: what a row, column or fixed variance may always be off by


@dataclass(frozen=True)
class Finding:
    """One measure with its floor and verdict.

    Parameters
    ----------
    measure : Measure
    real, synthetic : float or None
        The quantity itself on all frames, where there is one (distances have none).
    value : float
        Median over the splits of d(A, S); for differences the mean of S minus A.
    floor : float
        Median over the splits of |d(A, B)|.
    limit, tolerance : float
        In the unit of ``value``; differences are compared by their size.
    ratio : float or None
        Synthetic over real variance, mean over the splits, where the real one is above three standard errors.
    ratio_floor : float or None
        Largest deviation from 1 of the ratio of two real halves.
    verdict : str
    words : str
        One sentence.
    """

    measure: Measure
    real: float | None
    synthetic: float | None
    value: float
    floor: float
    limit: float
    tolerance: float
    ratio: float | None
    ratio_floor: float | None
    verdict: Verdict
    words: str


@dataclass(frozen=True)
class SpectralLine:
    """A line of the real frames: frequency [cycles per pixel], power over its background there, real and synthetic."""

    fy: float
    fx: float
    real: float
    synthetic: float


@dataclass(frozen=True, eq=False)
class Realism:
    """What ``realism`` found.

    Parameters
    ----------
    findings : tuple of Finding
    lines : tuple of SpectralLine
        The strongest lines of the real frames.
    real, synthetic : StackStatistics
        Of all frames, for figures.
    frames : (int, int)
        Numbers of real and synthetic frames.
    half : int
        Frames on each side of a comparison.
    splits : int
    not_measured : dict of str to str
        Measures left out, and why.
    """

    findings: tuple[Finding, ...]
    lines: tuple[SpectralLine, ...]
    real: StackStatistics
    synthetic: StackStatistics
    frames: tuple[int, int]
    half: int
    splits: int
    not_measured: dict[str, str]

    @property
    def verdict(self) -> str:
        """The whole in one or two sentences: what is off, what is close, what is like real."""
        off, close = ([f for f in self.findings if f.verdict == grade] for grade in ("off", "close"))
        if not off and not close:
            text = "Not to be told from the real frames by any of these measures."
        elif not off:
            text = f"Close to the real frames; measurably different in {_parts(close)}."
        else:
            text = f"Not like the real frames in {_parts(off)}: " + "; ".join(f.words for f in _worst(off)) + "."
        told = {f.measure.part for f in off}
        few = [f for f in self.findings if f.verdict == "too few frames" and f.measure.part not in told]
        return text + (f" These frames are too few to judge {_parts(few)}." if few else "")

    def __getitem__(self, key: str) -> Finding:
        for finding in self.findings:
            if finding.measure.key == key:
                return finding
        raise KeyError(f"{key}: {self.not_measured.get(key, 'no such measure')}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON."""
        findings = [
            {**asdict(f.measure), **{k: v for k, v in asdict(f).items() if k not in ("measure", "tolerance")},
             "tolerance": f.tolerance}
            for f in self.findings
        ]  # fmt: skip
        return {
            "verdict": self.verdict,
            "real_frames": self.frames[0],
            "synthetic_frames": self.frames[1],
            "frames_per_side": self.half,
            "splits": self.splits,
            "shape": list(self.real.shape),
            "findings": findings,
            "lines": [asdict(line) for line in self.lines],
            "not_measured": self.not_measured,
        }


def realism(
    real: NDArray,
    synthetic: NDArray,
    *,
    cfa: CFA | None = None,
    splits: int = 6,
    seed: int = 0,
    classifier: bool = True,
) -> Realism:
    """Compare synthetic frames with real ones, beside real against real.

    Parameters
    ----------
    real : (n, H, W) stored values [DN], n >= 2
        Frames of one setting: darks, or flats of one light.
    synthetic : (m, H, W)
        Frames that imitate them, on the same codes.
    cfa : CFA or None
        None: monochrome.  Histograms are per phase.
    splits : int, >= 1
        Different halvings of the real frames.
    seed : int
        Of the halvings and of the classifier.
    classifier : bool
        False leaves out the two-sample test, which takes most of the time.

    Returns
    -------
    Realism

    Raises
    ------
    CalibrationError
        Fewer than two real frames or no synthetic one.
    ValueError
        The sizes differ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> real = np.rint(64 + rng.normal(0, 3, (8, 64, 64)) + rng.normal(0, 1, (8, 64, 1)))
    >>> without_rows = np.rint(64 + rng.normal(0, 3, (8, 64, 64)))
    >>> realism(real, without_rows, classifier=False)["row_variance"].verdict
    'off'
    """
    if len(real) < 2 or len(synthetic) < 1:
        raise CalibrationError(
            f"{len(real)} real and {len(synthetic)} synthetic frames; two real ones at least, for the floor, and one "
            "synthetic one are needed."
        )
    if real.shape[1:] != synthetic.shape[1:]:
        raise ValueError(f"real frames are {real.shape[1:]}, synthetic ones {synthetic.shape[1:]}; one size is needed.")
    if splits < 1:
        raise ValueError(f"splits is {splits}; at least 1 is needed.")
    array = cfa or CFA.mono()
    half = min(len(real) // 2, len(synthetic))
    splits = min(splits, comb(len(real), half))
    whole = StackStatistics.of(real, array), StackStatistics.of(synthetic, array)
    large = min(real.shape[1:]) >= 4 * SIDE
    features = (patch_features(real), patch_features(synthetic)) if classifier and large else None
    rng = np.random.default_rng(seed)
    floors: list[dict[str, float]] = []
    values: list[dict[str, float]] = []
    halves: list[tuple[StackStatistics, StackStatistics, StackStatistics]] = []
    for number in range(splits):
        order, chosen = rng.permutation(len(real)), rng.permutation(len(synthetic))[:half]
        first, second = order[:half], order[half : 2 * half]
        a, b = (StackStatistics.of(real[part], array) for part in (first, second))
        s = StackStatistics.of(synthetic[chosen], array)
        floor, value = distances(a, b), distances(a, s)
        if features is not None:
            floor["classifier"] = accuracy(features[0][first], features[0][second], seed=seed + number)
            value["classifier"] = accuracy(features[0][first], features[1][chosen], seed=seed + number)
        floors.append(floor)
        values.append(value)
        halves.append((a, b, s))
    findings, missing = [], {}
    for measure in MEASURES:
        pairs = [(f.get(measure.key, np.nan), v.get(measure.key, np.nan)) for f, v in zip(floors, values, strict=True)]
        if not np.isfinite(pairs).all():
            missing[measure.key] = _why_missing(measure, half, large)
            continue
        findings.append(_finding(measure, np.array(pairs), whole, halves))
    return Realism(
        findings=tuple(findings),
        lines=_lines(*whole),
        real=whole[0],
        synthetic=whole[1],
        frames=(len(real), len(synthetic)),
        half=half,
        splits=splits,
        not_measured=missing,
    )


def distances(a: StackStatistics, x: StackStatistics) -> dict[str, float]:
    """Every measure of x against a, as named in ``MEASURES``; NaN (or absent) where it cannot be had.

    ``kl`` is sum_c p log(p / q) over phases and codes, p of a, q of x, both with half a count added to every code from
    the lowest to the highest of either (Laplace smoothing): bins of 1 DN.
    """
    sigma = float(np.sqrt(a.temporal.pixel)) if a.temporal.pixel > 0 else np.nan
    counts = joined_codes(a, x)
    found = {
        "kl": kl_divergence(*counts),
        "wasserstein": _cumulative_distance(*counts)[0] / sigma,
        "ks": _cumulative_distance(*counts)[1],
        "level": (x.level - a.level) / sigma,
        "lower_tail": x.tails[0] - a.tails[0],
        "upper_tail": x.tails[1] - a.tails[1],
        "kurtosis": x.kurtosis - a.kurtosis,
        "restless": x.restless - a.restless,
        "autocorrelation": float(np.abs(x.autocorrelation - a.autocorrelation).max()),
        "row_quantiles": _series_distance(a.rows, x.rows),
        "row_kurtosis": float(stats.kurtosis(x.rows.ravel()) - stats.kurtosis(a.rows.ravel())),
        "row_autocorrelation": _correlation_distance(a.rows, x.rows),
        "column_autocorrelation": _correlation_distance(a.columns, x.columns),
        "frame_variance": x.frame_var - a.frame_var,
        "radial": _decibels(a.radial, x.radial),
        "along_x": _decibels(a.along_x, x.along_x),
        "along_y": _decibels(a.along_y, x.along_y),
        "lines": x.line_share(a.lines) - a.line_share(a.lines),
        "hot": x.hot - a.hot,
    }
    for key, (kind, part) in _VARIANCES.items():
        ours, theirs = getattr(a, kind), getattr(x, kind)
        if ours is not None and theirs is not None:
            found[key] = getattr(theirs, part) - getattr(ours, part)
    return found


def kl_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """sum p log(p / q) [nat] of two histograms of counts, half a count added to every bin (Laplace smoothing).

    Examples
    --------
    >>> kl_divergence([10, 20], [10, 20])
    0.0
    """
    ours, theirs = (np.asarray(counts, np.float64) + 0.5 for counts in (p, q))
    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
    return float((ours * np.log(ours / theirs)).sum())


def _cumulative_distance(p: FloatArray, q: FloatArray) -> tuple[float, float]:
    """Wasserstein-1 [DN] and Kolmogorov-Smirnov distance of two (P, m) counts, means over the phases by their share."""
    share = p.sum(axis=1) / p.sum()
    gap = np.abs(
        np.cumsum(p, axis=1) / p.sum(axis=1, keepdims=True) - np.cumsum(q, axis=1) / q.sum(axis=1, keepdims=True)
    )
    return float(share @ gap.sum(axis=1)), float(share @ gap.max(axis=1))


def _series_distance(a: FloatArray, x: FloatArray) -> float:
    """Largest difference of quantiles over the standard deviation of a."""
    gap = np.quantile(x, SERIES_QUANTILES) - np.quantile(a, SERIES_QUANTILES)
    return float(np.abs(gap).max() / a.std()) if a.std() > 0 else np.nan


def _correlation_distance(a: FloatArray, x: FloatArray) -> float:
    if not (a.std() > 0 and x.std() > 0):
        return np.nan
    return float(np.abs(series_autocorrelation(x) - series_autocorrelation(a)).max())


def _decibels(a: FloatArray, x: FloatArray) -> float:
    """Root mean square of 10 log10(x / a) over the bins."""
    filled = np.isfinite(a) & np.isfinite(x)
    if not (a[filled] > 0).all() or not (x[filled] > 0).all():
        return np.nan
    return float(np.sqrt(np.mean((10.0 * np.log10(x[filled] / a[filled])) ** 2)))


def _why_missing(measure: Measure, half: int, large: bool) -> str:
    if measure.key == "classifier":
        return f"the frames are smaller than {4 * SIDE} pixels" if not large else "it was not asked for"
    if measure.part in ("fixed pattern", "frames") and half < 2:
        return "one frame a side does not tell fixed from temporal; give four real and two synthetic frames"
    if measure.key == "restless" and half < 3:
        return "fewer than three frames a side"
    return "the frames hold no such noise"


def _finding(
    measure: Measure,
    pairs: FloatArray,
    whole: tuple[StackStatistics, StackStatistics],
    halves: Sequence[tuple[StackStatistics, StackStatistics, StackStatistics]],
) -> Finding:
    """Limit, tolerance, verdict and words of one measure from its (floor, value) pairs over the splits."""
    floors, values = pairs.T
    real, synthetic = (_quantity(s, measure.key) for s in whole)
    tolerance, ratio, ratio_floor = measure.tolerance, None, None
    typical = float(np.median(np.abs(floors)))
    if measure.kind == "distance":
        value = float(np.median(values))
        chance = float(np.median([_standard_error(a, measure.key) for a, _, _ in halves]))
        limit = max(
            _FLOOR_FACTOR * typical, _FLOOR_MARGIN * float(floors.max()), _SIGMAS_OF_LARGEST * np.sqrt(2.0) * chance
        )
        size = value
    elif measure.kind == "accuracy":
        value, typical = float(np.median(values)), float(np.median(floors))
        limit = float(max(floors.max(), 0.5)) + _ACCURACY_MARGIN
        tolerance = max(typical, 0.5) + measure.tolerance
        size = value
    else:
        value = float(values.mean())
        error = float(np.median([_standard_error(a, measure.key) for a, _, _ in halves]))
        limit = _SIGMAS * max(float(np.sqrt(np.mean(floors**2))), np.sqrt(2.0) * error)
        size = abs(value)
        if measure.key in _VARIANCES or measure.key == "frame_variance":
            pixel = whole[0].temporal.pixel
            tolerance = max(measure.tolerance * abs(real or 0.0), _NEGLIGIBLE * pixel)
            ratio, ratio_floor = _ratios(measure.key, halves)
    verdict: Verdict
    if size <= limit:
        verdict = "too few frames" if measure.kind == "difference" and limit > 10 * tolerance else "like real"
    else:
        verdict = "close" if size <= tolerance else "off"
    finding = Finding(measure, real, synthetic, value, typical, limit, tolerance, ratio, ratio_floor, verdict, "")
    return replace(finding, words=_words(finding))


def _quantity(s: StackStatistics, key: str) -> float | None:
    """The number behind a difference, for all frames of a side."""
    if key in _VARIANCES:
        kind, part = _VARIANCES[key]
        split: Split | None = getattr(s, kind)
        return None if split is None else float(getattr(split, part))
    direct = {
        "level": s.level,
        "lower_tail": s.tails[0],
        "upper_tail": s.tails[1],
        "kurtosis": s.kurtosis,
        "restless": s.restless,
        "row_kurtosis": float(stats.kurtosis(s.rows.ravel())),
        "frame_variance": s.frame_var,
        "lines": s.line_share(s.lines),
        "hot": s.hot,
    }
    return direct.get(key)


def _standard_error(s: StackStatistics, key: str) -> float:
    """Of one side's quantity when the noise is white and Gaussian: the least that its scatter can be; 0 if not known.

    Of autocorrelations, the error of one lag.
    """
    if key in _VARIANCES:
        kind, part = _VARIANCES[key]
        split = getattr(s, kind)
        return 0.0 if split is None else float(getattr(split, part + "_se"))
    free = max(s.frames - 1, 1)
    pixels = free * s.shape[0] * s.shape[1]
    if key == "frame_variance":
        scatter = s.frame_var + s.temporal.row / s.shape[0] + s.temporal.pixel / (s.shape[0] * s.shape[1])
        return float(np.sqrt(2.0 / free) * max(scatter, 0.0))
    if key == "level":  # in units of sigma; frames wander together
        return float(np.sqrt(max(s.frame_var, 0.0) / s.frames / s.temporal.pixel)) if s.frames > 1 else 0.0
    return {
        "kurtosis": float(np.sqrt(24.0 / pixels)),
        "row_kurtosis": float(np.sqrt(24.0 / (free * s.shape[0]))),
        "autocorrelation": pixels**-0.5,
        "row_autocorrelation": (free * s.shape[0]) ** -0.5,
        "column_autocorrelation": (free * s.shape[1]) ** -0.5,
        "restless": float(np.sqrt(1e-4 / (s.shape[0] * s.shape[1]))),
        "hot": float(np.sqrt(max(s.hot, 1.0 / (s.shape[0] * s.shape[1])) / (s.shape[0] * s.shape[1]))),
    }.get(key, 0.0)


def _ratios(
    key: str, halves: Sequence[tuple[StackStatistics, StackStatistics, StackStatistics]]
) -> tuple[float | None, float | None]:
    """Mean of S over A, and largest deviation of B over A from 1; None where A is not above its error."""
    numbers = [[_quantity(s, key) for s in side] for side in halves]
    errors = [_standard_error(side[0], key) for side in halves]
    if any(a is None or a <= _SIGNIFICANT * e for (a, _, _), e in zip(numbers, errors, strict=True)):
        return None, None
    over = np.array(numbers, np.float64)
    over = over[:, 1:] / over[:, :1]
    return float(over[:, 1].mean()), float(np.abs(over[:, 0] - 1.0).max())


def _words(f: Finding) -> str:
    """One sentence on a finding."""
    name = f.measure.title
    if f.ratio is not None and f.ratio < _MISSING and f.verdict == "off":
        return f"{name} is all but missing ({_signed(f.synthetic)} {f.measure.unit}, real {_signed(f.real)})"
    if f.ratio is not None and f.ratio_floor is not None:
        return f"{name} has {f.ratio:.3g} times the real variance (real frames repeat within {f.ratio_floor:.2g})"
    if f.measure.kind == "difference":
        return f"{name} is {_signed(f.synthetic)}, real {_signed(f.real)} (real frames repeat within {f.limit:.2g})"
    if f.measure.kind == "accuracy":
        return f"a classifier is right in {f.value:.1%} (real against real {f.floor:.1%}; 50 % is chance)"
    unit = f" {f.measure.unit}" if f.measure.unit else ""
    return f"{name} is {f.value:.3g}{unit} (real against real {f.floor:.2g})"


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _parts(findings: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(f.measure.part for f in findings))
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _worst(findings: Sequence[Finding]) -> list[Finding]:
    """The worst finding of each part, by how often it exceeds its limit."""
    worst: dict[str, Finding] = {}
    for f in findings:
        kept = worst.get(f.measure.part)
        if kept is None or _excess(f) > _excess(kept):
            worst[f.measure.part] = f
    return list(worst.values())


def _excess(f: Finding) -> tuple[bool, float]:
    """How many times the limit; variances before shapes, so that 'no rows at all' is said as such."""
    return f.ratio is not None, abs(f.value) / f.limit if f.limit > 0 else np.inf


def _lines(real: StackStatistics, synthetic: StackStatistics) -> tuple[SpectralLine, ...]:
    found = []
    for fy, fx in strongest_lines(real, _LINES_LISTED):
        at = round(fy * real.shape[0]) % real.shape[0], round(fx * real.shape[1])
        over = [float(s.power[at] / s.background[at]) for s in (real, synthetic)]
        found.append(SpectralLine(fy, fx, *over))
    return tuple(found)


# ------------------------------------------------------------------------------------------------ frames from files


@dataclass(frozen=True, eq=False)
class FrameStack:
    """Equal frames read from files.

    Parameters
    ----------
    stack : (n, H, W) stored values [DN]
        Cropped around the center to at most ``MOST_PIXELS``, whole CFA periods from the top left corner kept.
    cfa : CFA
    full_shape : (int, int)
    files : tuple of Path
    left_out : tuple of (Path, str)
    """

    stack: NDArray
    cfa: CFA
    full_shape: tuple[int, int]
    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def read_stack(
    paths: Sequence[Path] | Path,
    *,
    kind: Literal["dark", "flat"] = "dark",
    iso: float | None = None,
    cfa: str | None = None,
    mosaic: MosaicSpec | None = None,
) -> FrameStack:
    """Frames of a folder, of files, of a manifest or of an EMVA 1288 descriptor.

    Parameters
    ----------
    paths : Path or sequence of Path
    kind : "dark" or "flat"
        Which frames of a manifest or descriptor; plain files are all taken.
    iso : float or None
        Only frames of this ISO of a manifest or descriptor.
    cfa : str or None
        Of files that do not say it; plain PNG, TIFF and NPY frames are monochrome otherwise.
    mosaic : MosaicSpec or None
        Of headless frames.

    Raises
    ------
    CalibrationError
        No readable frame, or frames of different size or CFA.
    """
    readers: list[tuple[Path, Any]] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        listed = _listed(path)
        if listed is not None:
            chosen = [f for f in listed.frames if (f.kind != "flat") == (kind == "dark") and iso in (None, f.iso)]
            readers += [(f.path, f.read) for f in chosen]
            continue
        files = (
            sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")) if path.is_dir() else [path]
        )
        readers += [(p, _reader(p, cfa, mosaic)) for p in files if p.suffix.lower() not in (".json", ".txt", ".csv")]
    if len(readers) > MOST_FRAMES:
        readers = [readers[i] for i in np.linspace(0, len(readers) - 1, MOST_FRAMES).round().astype(int)]
    frames: list[NDArray] = []
    files, left_out = [], []
    first: RawImage | None = None
    for path, read in readers:
        try:
            image = read()
        except RawkitError as error:
            left_out.append((path, str(error)))
            continue
        if not isinstance(image, RawImage):
            left_out.append((path, f"{path} is demosaiced; the sensor's own mosaic is needed"))
            continue
        first = first or image
        if image.mosaic.shape != first.mosaic.shape or image.cfa != first.cfa:
            raise CalibrationError(
                f"{path} is {image.mosaic.shape} {image.cfa}, the first frame {first.mosaic.shape} {first.cfa}; "
                "compare frames of one camera and setting."
            )
        frames.append(np.array(_center(image.mosaic, first.cfa)))
        files.append(path)
    if first is None:
        reason = f" ({left_out[0][1]})" if left_out else ""
        raise CalibrationError(
            f"no readable {kind} frames in {paths if isinstance(paths, Path) else paths[0]}{reason}."
        )
    return FrameStack(np.stack(frames), first.cfa, first.mosaic.shape, tuple(files), tuple(left_out))


def compare_frames(real: FrameStack, synthetic: FrameStack, **options: Any) -> Realism:
    """``realism`` of two stacks of files; the larger frames are cropped to the smaller ones' size.

    Raises
    ------
    MetadataError
        The CFAs differ.
    """
    if real.cfa != synthetic.cfa:
        raise MetadataError(
            f"real frames are {real.cfa}, synthetic ones {synthetic.cfa}; say --cfa, or compare others."
        )
    height, width = (min(sizes) for sizes in zip(real.stack.shape[1:], synthetic.stack.shape[1:], strict=True))
    stacks = (s.stack[:, :height, :width] for s in (real, synthetic))
    return realism(*stacks, cfa=real.cfa, **options)


def _listed(path: Path) -> FrameSet | None:
    """The frame set of a manifest or descriptor, or of a folder that holds one."""
    if path.is_dir():
        if (path / MANIFEST).is_file() or any(is_emva_descriptor(p) for p in path.glob("*.txt")):
            return FrameSet.from_folder(path)
        return None
    if path.suffix.lower() == ".csv" or is_emva_descriptor(path):
        return FrameSet.open(path)
    return None


def _reader(path: Path, cfa: str | None, mosaic: MosaicSpec | None) -> Any:
    def read() -> Any:
        headless = mosaic is not None or path.suffix.lower() in (".png", ".tif", ".tiff", ".npy")
        if headless:  # levels play no part here, only codes do
            return read_raw(path, black_level=0.0, white_level=65535.0, cfa=cfa or "MONO", mosaic=mosaic)
        return read_raw(path, cfa=cfa)

    return read


def _center(mosaic: NDArray, cfa: CFA) -> NDArray:
    """A window of at most ``MOST_PIXELS`` around the center, of whole periods."""
    height, width = mosaic.shape
    side = int(np.sqrt(MOST_PIXELS))
    rows, cols = cfa.shape
    window = []
    for size, other, period in ((height, width, rows), (width, height, cols)):
        length = size if size * other <= MOST_PIXELS else min(size, max(side, MOST_PIXELS // other))
        length -= length % period
        start = (size - length) // 2
        window.append(slice(start - start % period, start - start % period + length))
    return mosaic[window[0], window[1]]
