"""Noise parameters from one photograph.

    var[x] = K E[x] + v + c E[x]^2,       c >= 0           (Foi et al. 2008 without the last term)

with x the signal [DN, black removed, negatives kept], K the system gain [DN/e-] and v the read variance [DN^2],
quantization included.  The last term takes what grows with the square of the light: pixel response
non-uniformity, and texture of constant contrast that escaped the mask.  Its prior is half-normal, of the scale
of a common sensor's non-uniformity, 0.4 %.

What is measured: the power of small tiles at high frequencies, ``image_tiles``.  How it is fitted, and with what
errors: ``image_fit``.  Where the file cannot hold the negative half of the noise, x = max(y, floor), the moments of
the clipped law replace the straight line, ``clipped_noise``, and tile means are averaged over 3 x 3 tiles, because
the bend is sharp.  This module chooses the tiles, and alternates between choosing and fitting.

Which tiles count.  A tile is judged by numbers that are independent of the one it is used for, otherwise picking
quiet tiles would pick those whose noise happens to be low: the lower frequencies of the same tile, all
frequencies of the same place in the other planes, and of the eight tiles around it.  Tiles near white are left out.

What cannot be seen.  Row noise and banding vanish in the transform, so v is the noise of single pixels.  Noise that
the picture itself holds (film grain, an earlier quantization) is noise to this module.

References
----------
A. Foi, M. Trimeche, V. Katkovnik, K. Egiazarian, "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", IEEE TIP 17(10), 2008.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import cpu_count

import numpy as np

from rawkit.errors import CalibrationError
from rawkit.raw.image import LinearImage, RawImage
from rawkit.sensor.clipped_noise import QUANTIZATION, expect
from rawkit.sensor.image_fit import ROUNDS, clip_consistency, fit, posterior, robust_fit, sample_of
from rawkit.sensor.image_tiles import MIN_TILES, N_HIGH, N_LOW, TILE, Tiles, measure_tiles, neighbor_sum
from rawkit.sensor.params import NoiseParams

IDENTIFIABLE = 0.25  # relative half-width of the interval of the read noise up to which it counts as measured

_TILE_SIGMAS = 2.0  # a tile may exceed the model by so many standard errors of its own score
_AROUND = 0.10  # and its surroundings by this share of the variance,
_WIDER, _WIDEST = 1.5, 4.0  # which gives way by this factor up to this share where too few are left
_TEXTURED = 5.0  # share of the variance that a tile's surroundings count at most
_NEAR = 4.0  # standard deviations of read noise above the floor within which clipping bends the curve
_HEADROOM = 6.0  # standard deviations to white
_DECILE = 1.6  # a chi-squared variable of 19 degrees of freedom has its low decile at mean / 1.6
_PARTS = 30  # of the tiles by signal, whose low deciles give the starting point
_STARTS = 5
_SETTLED = 0.05  # standard errors
_RIVAL = 20.0  # log-likelihood within which two optima count as equal, given that tiles are not quite independent
_ENOUGH, _BAND = 40_000, 8  # tiles for telling optima apart; rows of tiles in one band
_LIGHT = 0.1  # relative standard error of the gain from tiles that do not clip
_CLIPPED_ERROR = 0.1  # of v: measured bias where v comes from clipped tiles (benchmarks/single_image.py)
_SPEAKS = 0.05  # a phase whose system gain is less certain than this takes the common one
_DISAGREE = 1e-6  # probability under one common amplifier below which phases are reported apart
_DISAGREE_BY = 0.1  # ... if system gains also differ by this share


@dataclass(frozen=True, eq=False)
class ImageNoise:
    """What one photograph says about its noise; P phases.

    Parameters
    ----------
    phases : tuple of str
    system_gain, read_var : (P,) K [DN/e-] and v [DN^2]
    system_gain_interval, read_var_interval : (P, 2)
        95 % intervals.
    covariance : (P, 2, 2)
        Of (K, v).
    identifiable : (P,) bool
        Whether the picture is dark enough somewhere to show the read noise (interval within +-25 %).
    samples : (P,) int
        Independent squared deviations behind the estimate.
    mean_range : (P, 2) [DN, black removed]
        Signal of the tiles used, 1st to 99th percentile.
    tile_share : float
        Share of all tiles that were smooth and unclipped.
    nonuniformity : float
        sqrt(c): response non-uniformity and left-over texture, relative to the signal.
    pooled : bool
        One K and v for all phases.  One amplifier serves them in almost every camera; they are reported
        apart when they contradict each other.

    Examples
    --------
    >>> from rawkit.raw.image import CFA, BlackLevel, RawImage
    >>> rng = np.random.default_rng(1)
    >>> light = np.repeat(np.linspace(0.0, 4000.0, 512)[None], 512, axis=0)
    >>> stored = np.rint(500 + 2.0 * rng.poisson(light / 2.0) + rng.normal(0, 5.0, light.shape))
    >>> picture = RawImage(raster=stored.astype(np.uint16), cfa=CFA.bayer("RGGB"),
    ...                    black=BlackLevel.constant(500), white_level=16383)
    >>> found = estimate(picture)
    >>> bool(abs(found.system_gain[0] / 2.0 - 1) < 0.05), bool(found.identifiable.all())
    (True, True)
    """

    phases: tuple[str, ...]
    system_gain: np.ndarray
    read_var: np.ndarray
    system_gain_interval: np.ndarray
    read_var_interval: np.ndarray
    covariance: np.ndarray
    identifiable: np.ndarray
    samples: np.ndarray
    mean_range: np.ndarray
    tile_share: float
    nonuniformity: float
    pooled: bool

    @property
    def read_noise(self) -> np.ndarray:
        """(P,) sqrt(v) [DN]."""
        return np.sqrt(self.read_var)

    @property
    def read_noise_interval(self) -> np.ndarray:
        """(P, 2) 95 % interval of sqrt(v) [DN]."""
        return np.sqrt(self.read_var_interval)

    def to_params(self) -> NoiseParams:
        """Noise parameters per phase, with standard errors."""
        return NoiseParams(
            self.system_gain,
            self.read_var,
            np.sqrt(self.covariance[:, 0, 0]),
            np.sqrt(self.covariance[:, 1, 1]),
            origin="estimated",
        )


def starting_points(tiles: Tiles) -> list[np.ndarray]:
    """Rough (K, v, c), one or several: a line under the low decile of the tile variances over signal.

    Raises
    ------
    CalibrationError
        No signal anywhere.
    """
    order = np.argsort(tiles.mean, axis=None)
    parts = [part for part in np.array_split(order, _PARTS) if part.size]
    mean = np.array([tiles.mean.ravel()[part].mean() for part in parts])
    low = np.array([np.quantile(tiles.high.ravel()[part], 0.1) for part in parts])
    mean, low = np.maximum(mean, 0.0), np.maximum(low, 0.25 * QUANTIZATION)
    if not mean.any():
        raise CalibrationError("the picture is nowhere above its black level; use a picture with light in it.")
    system_gain, read_var = max(float(np.median(low / np.maximum(mean, 1.0))), 1e-3), float(low.min())
    for _ in range(20):
        predicted = system_gain * mean + read_var
        weights = 1.0 / (predicted**2 * (1.0 + ((low - predicted) / (0.3 * predicted)) ** 2))
        a, b, d = (weights * mean**2).sum(), (weights * mean).sum(), weights.sum()
        x, y = (weights * mean * low).sum(), (weights * low).sum()
        slope = (x * d - y * b) / max(a * d - b * b, 1e-12 * a * d)
        system_gain = max(slope, 1e-3) if slope > 0 else max(x / a, 1e-3)
        read_var = max((y - system_gain * b) / d, QUANTIZATION)
    rough = np.array([system_gain, read_var, 0.0]) * _DECILE
    lowest = float(tiles.floor.max())
    return [rough] if np.isneginf(lowest) else _clipped_starts(rough, mean, low * _DECILE, lowest)


def _clipped_starts(rough: np.ndarray, mean: np.ndarray, variance: np.ndarray, floor: float) -> list[np.ndarray]:
    """Starting points (K, v) where clipping bends the curve.

    Dark pixels without a negative half look much like shot noise without read noise, so the fit has more than one
    optimum: the best system gain of a coarse grid is returned for several read variances.

    Parameters
    ----------
    mean, variance : (L,) levels of signal and the variance of their quietest tiles
    """
    floors = np.full(mean.shape, floor)
    found = []
    for read_var in np.geomspace(1.0, max(4.0 * float(np.median(variance)), 100.0), 12):
        trials = [np.array([gain, read_var, 0.0]) for gain in rough[0] * np.geomspace(0.4, 1.6, 9)]
        losses = [
            float(np.minimum(np.abs(np.log(variance / expect(mean, floors, trial).variance)), 1.0).sum())
            for trial in trials
        ]
        found.append((min(losses), trials[int(np.argmin(losses))]))
    return [trial for _, trial in sorted(found, key=lambda pair: pair[0])[:_STARTS]]


def _near_floor(tiles: Tiles, theta: np.ndarray) -> Tiles:
    """Tiles whose means, where clipping bends mean and variance, are averaged with those of their eight neighbors.

    There the noise of a mean is no small part of its distance to the floor, and the bend would turn it into bias.
    """
    reach = tiles.floor + _NEAR * np.sqrt(max(theta[1], QUANTIZATION))
    dark = tiles.mean < reach[:, None, None]
    if not dark.any():
        return tiles
    settled = dark & (neighbor_sum(dark.astype(np.int8)) == 9)
    mean = np.where(settled, neighbor_sum(tiles.mean) / 9.0, tiles.mean)
    return replace(tiles, mean=mean, pixels=np.where(settled, 9 * TILE**2, TILE**2))


def _scores(tiles: Tiles, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Excess of each tile's independent power over the model, that of its surroundings, and usable tiles.

    Returns
    -------
    own : (Q, R, C)
        In standard errors.
    around : (R, C)
        Relative to the model.
    usable : (Q, R, C) bool
        Unclipped at the bright end.
    """
    count = tiles.mean.shape[0]
    floor = np.broadcast_to(tiles.floor[:, None, None], tiles.mean.shape)
    predicted = expect(tiles.mean.ravel(), floor.ravel(), theta).variance.reshape(tiles.mean.shape)
    white = tiles.white[:, None, None]
    usable = (tiles.mean + _HEADROOM * np.sqrt(predicted) < white) & (tiles.peak < white)
    low = tiles.low / predicted
    power = low + N_HIGH * tiles.high / predicted
    total = power.sum(axis=0)
    dof = (count - 1) * (N_HIGH + N_LOW) + N_LOW
    own = ((total - power + low) / dof - 1.0) / np.sqrt(2.0 / dof)
    if tiles.mixed:
        own = (low / N_LOW - 1.0) / np.sqrt(2.0 / N_LOW)
    full = np.where(usable.all(axis=0), total / (count * (N_HIGH + N_LOW)) - 1.0, _TEXTURED)
    full = np.minimum(full, _TEXTURED)
    return own, (neighbor_sum(full) - full) / 8.0, usable


def _select(tiles: Tiles, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth, unclipped tiles (Q, R, C) bool, and the score they were ranked by; the limit gives way in rich scenes."""
    own, around, usable = _scores(tiles, theta)
    if usable.sum() < MIN_TILES:
        raise CalibrationError(
            f"only {int(usable.sum())} of {usable.size} tiles are below white "
            f"({tiles.white.max():.0f} DN above black), {MIN_TILES} are needed. Use a picture that is not overexposed."
        )
    quiet = usable & (own < _TILE_SIGMAS)
    limit = _AROUND
    while (quiet & (around < limit)).sum() < 4 * MIN_TILES and limit < _WIDEST:
        limit *= _WIDER
    chosen = quiet & (around < limit)
    if chosen.sum() < 2 * MIN_TILES:
        ranked = np.where(usable, own, np.inf)
        last = min(2 * MIN_TILES, ranked.size - 1)
        chosen = usable & (ranked <= np.partition(ranked, last, axis=None)[last])
    return chosen, around


def _settle(measured: Tiles) -> tuple[Tiles, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Alternate between choosing tiles and fitting them, from every starting point, and keep the likeliest end.

    Returns
    -------
    tiles with their final means, chosen (Q, R, C) bool, surroundings (R, C), theta (3,), and the covariance (2, 2)
    of (K, v) between ends that the picture cannot tell apart
    """
    starts = starting_points(measured)
    if len(starts) == 1:
        return *_settle_from(measured, starts[0]), np.zeros((2, 2))
    ends, failure = [], None
    for start in starts:
        try:
            ends.append(_settle_from(_thinned(measured), start))
        except CalibrationError as error:
            failure = error
    if not ends:
        raise failure or CalibrationError("the fit did not settle from any starting point.")
    union = np.any([end[1] for end in ends], axis=0)
    losses = []
    for tiles, _, _, theta in ends:
        sample = sample_of(tiles, union)
        predicted = expect(sample.mean, sample.floor, theta).variance
        ratio = np.minimum(sample.power / predicted, clip_consistency(sample.dof)[0])
        losses.append(0.5 * sample.dof * float((ratio + np.log(predicted)).sum()))
    best = ends[int(np.argmin(losses))][3]
    rivals = [end[3] - best for end, loss in zip(ends, losses, strict=True) if loss < min(losses) + _RIVAL]
    widest = max(rivals, key=lambda d: abs(d[0]))[:2]
    between = np.outer(widest, widest)
    return *_settle_from(measured, best), between


def _settle_from(measured: Tiles, theta: np.ndarray) -> tuple[Tiles, np.ndarray, np.ndarray, np.ndarray]:
    """One chain of ``_settle``."""
    tiles = measured
    chosen, around = np.empty(0), np.empty(0)
    for _ in range(ROUNDS):
        tiles = _near_floor(measured, theta)
        chosen, around = _select(tiles, theta)
        updated, sampling, _ = fit(sample_of(tiles, chosen), theta)
        updated[1] = max(updated[1], QUANTIZATION)
        done = np.all(np.abs(updated - theta) < _SETTLED * np.sqrt(np.diag(sampling)))
        theta = updated
        if done:
            break
    return tiles, chosen, around, theta


def _thinned(tiles: Tiles) -> Tiles:
    """Bands of tile rows spread over the picture: enough to tell one optimum from another."""
    rows, cols = tiles.mean.shape[1:]
    keep = int(np.ceil(rows * cols * len(tiles.mean) / _ENOUGH))
    if keep <= 1:
        return tiles
    part = (np.arange(rows) // _BAND) % keep == 0
    names = ("mean", "high", "top", "low", "peak")
    return replace(tiles, **{name: getattr(tiles, name)[:, part] for name in names})


def _require_light(tiles: Tiles, chosen: np.ndarray, theta: np.ndarray) -> bool:
    """Whether some chosen tiles clip at the floor.

    Raises unless the others show the gain: clipped ones do not tell shot noise from read noise.
    """
    sample = sample_of(tiles, chosen)
    predicted = expect(sample.mean, sample.floor, theta).variance
    light = np.zeros(chosen.shape, bool)
    light[chosen] = sample.mean - sample.floor > _NEAR * np.sqrt(predicted)
    if light.sum() == chosen.sum():
        return False
    if light.sum() >= MIN_TILES:
        sampling = fit(sample_of(tiles, light), theta, rounds=1)[1]
        if np.sqrt(sampling[0, 0]) < _LIGHT * theta[0]:
            return True
    raise CalibrationError(
        "the file stores no values below black and nearly all smooth areas of the picture are dark, so its gain and "
        "read noise cannot be told apart; use a picture with lighter areas."
    )


def _by_phase(
    tiles: Tiles, chosen: np.ndarray, around: np.ndarray, theta: np.ndarray, covariance: np.ndarray, count: int
) -> tuple[list[np.ndarray], list[np.ndarray], bool]:
    """Parameters (K, v) and covariance of every phase, and whether they are common."""
    from scipy.stats import chi2

    together = [theta[:2]] * count
    if count == 1:
        return together, [covariance[:2, :2]], True
    masks = [chosen & (tiles.plane_phases == p)[:, None, None] for p in range(count)]
    apart: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for phase, mask in enumerate(masks):
        if mask.sum() < MIN_TILES:
            continue
        try:
            own, cov = robust_fit(tiles, mask, around, theta)
        except CalibrationError:  # a phase that this light hardly reaches; the others speak for it
            continue
        if np.sqrt(cov[0, 0]) < _SPEAKS * own[0]:
            apart[phase] = (own[:2], cov[:2, :2])
    statistic, dof = 0.0, max(2 * (len(apart) - 1), 1)
    for own, cov in apart.values():
        statistic += float((own - theta[:2]) @ np.linalg.solve(cov, own - theta[:2]))
    gains = [own[0] for own, _ in apart.values()]
    if len(apart) > 1 and chi2.sf(statistic, dof) < _DISAGREE and np.ptp(gains) > _DISAGREE_BY * theta[0]:
        unknown = (theta[:2], covariance[:2, :2] + np.diag([np.var(gains), 0.0]))
        chosen_fits = [apart.get(phase, unknown) for phase in range(count)]
        return [own for own, _ in chosen_fits], [cov for _, cov in chosen_fits], False
    return together, [covariance[:2, :2] * max(1.0, statistic / dof)] * count, True


def estimate(image: RawImage | LinearImage, *, workers: int | None = None) -> ImageNoise:
    """System gain and read variance of each phase from one photograph.

        var[x] = K E[x] + v

    Parameters
    ----------
    image : RawImage or LinearImage
        Linear, not denoised.  Of a ``LinearImage``, whose noise is mixed between neighbors, the variance per
        pixel is measured over distances of four pixels.
    workers : int or None
        Threads; None takes one per core.

    Returns
    -------
    ImageNoise
        One K and v for all phases unless the phases contradict each other.  ``identifiable`` is False where the
        picture has no area dark enough to show the read noise; its interval is wide then.

    Raises
    ------
    CalibrationError
        The picture is too small, overexposed, or its variance does not rise with its signal.

    Notes
    -----
    Row noise and banding are not part of v.  In a file that stores no negative noise (black level 0) the moments
    of the clipped law are used.  Film grain and the quantization of an earlier 8-bit stage count as noise.

    References
    ----------
    A. Foi et al., IEEE TIP 17(10), 2008.
    """
    stored = image.pixels if isinstance(image, LinearImage) else image.mosaic
    if not np.isfinite(stored).all():
        raise CalibrationError("the picture holds values that are not numbers; repair it, or give a profile.")
    tiles = measure_tiles(image, workers or cpu_count() or 1)
    tiles, chosen, around, theta, between = _settle(tiles)
    theta, covariance = robust_fit(tiles, chosen, around, theta)
    covariance[:2, :2] += between
    if np.isfinite(tiles.floor).any() and _require_light(tiles, chosen, theta):
        covariance[1, 1] += (_CLIPPED_ERROR * theta[1]) ** 2
    count = len(image.phases)
    centers, covariances, pooled = _by_phase(tiles, chosen, around, theta, covariance, count)
    found = [posterior(c, cov, _least(image)) for c, cov in zip(centers, covariances, strict=True)]
    points = np.array([point for point, _ in found])
    intervals = np.array([interval for _, interval in found])
    noise = np.sqrt(intervals[:, 1])
    identifiable = (noise[:, 1] - noise[:, 0]) / 2.0 < IDENTIFIABLE * np.sqrt(points[:, 1])
    masks = [chosen & (tiles.plane_phases == p)[:, None, None] for p in range(count)]
    ranges = [np.percentile(tiles.mean[mask], [1, 99]) if mask.any() else np.full(2, np.nan) for mask in masks]
    samples = np.array([int(mask.sum()) * N_HIGH for mask in masks])
    return ImageNoise(
        tuple(image.phases),
        points[:, 0],
        points[:, 1],
        intervals[:, 0],
        intervals[:, 1],
        np.array(covariances),
        identifiable,
        np.full(count, samples.sum()) if pooled else samples,
        np.array(ranges),
        float(chosen.mean()),
        float(np.sqrt(max(theta[2], 0.0))),
        pooled,
    )


def _least(image: RawImage | LinearImage) -> float:
    """Smallest possible read variance [DN^2]: quantization, where stored values are whole numbers."""
    stored = image.pixels if isinstance(image, LinearImage) else image.mosaic
    return QUANTIZATION if np.issubdtype(stored.dtype, np.integer) else 0.0
