"""Denoising of raw images.

    x [DN] -> D = anscombe(x) -> filter, unit noise -> exact unbiased inverse -> x [DN]

Camera and ISO are divided out first (``rawkit.sensor.transforms``), so one filter serves all.  A mosaic is brought
to RGGB before it is split into planes, by mirroring one row or column: the four Bayer arrangements of one scene
are the same problem and get the same answer.

Strength s multiplies the noise standard deviation the filter assumes.  What remains of the noise variance in flat
areas, f(s), is measured once on a field of pure unit noise.  The unbiased inverse belongs to a noise-free estimate
and the algebraic inverse to an unfiltered value, so

    x = (1 - f) inverse_anscombe(D) + f inverse_anscombe_algebraic(D)

keeps the mean level at every strength, and s -> 0 is the input.

Clipped highlights carry no signal to estimate and stay as they are, except where noise alone lifted a darker
pixel to white.  A pixel of expected value white and noise sigma reads white - sigma / sqrt(2 pi) in the mean,
because the converter cuts the upper half; so a clipped pixel whose denoised value lies between that and
white - 3 sigma, amid pixels of its color that are as bright, takes the denoised value (else bright areas keep
salt).  Every other clipped pixel is kept: saturated areas, their edges, lone highlights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import WeightsError
from rawkit.raw.image import CFA, LinearImage, RawImage, pack, unpack
from rawkit.restore.tiling import Progress
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import anscombe, inverse_anscombe, inverse_anscombe_algebraic

Image = TypeVar("Image", bound=RawImage | LinearImage)

#: planes of unit noise, strength, correlated, workers, progress -> planes
UnitFilter = Callable[..., NDArray[np.float32]]

#: A pixel this close to the white level, as a part of the range, counts as clipped.
CLIP_MARGIN = 1e-3
# How far the mean of a value that is white falls below white, and how far noise can lift a pixel, in sigmas.
_CLIPPED_MEAN = 1 / math.sqrt(2 * math.pi)
_NOISE_REACH = 3.0

#: Below this strength the filter's input would exceed what float32 resolves; the result equals the input to 1e-3 sigma.
_LEAST_STRENGTH = 1e-3

_NAMES = ("classical",)
_CANONICAL = "RGGB"

# Field on which the remaining variance is measured: f is known to about sqrt(2 / (independent cells left)) of itself.
_FIELD_EDGE = 256
_FIELD_SEED = 20130101


def _classical(planes: NDArray[np.float32], **options: object) -> NDArray[np.float32]:
    from rawkit.restore.classical import denoise_unit

    return denoise_unit(planes, **options)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Denoiser:
    """A filter for unit noise, applied to raw images of any camera and ISO.

    Parameters
    ----------
    name : str
    unit_filter : callable
        ``(planes, *, sigma, correlated, workers, progress) -> planes`` on (P, h, w) float32 of unit noise.
    device : str

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> noisy = rng.normal(100.0, 5.0, (4, 64, 64)).astype(np.float32)
    >>> clean = Denoiser.load().denoise_planes(noisy, NoiseParams(0.2, 5.0))
    >>> bool(clean.std() < 1.0), bool(abs(clean.mean() - 100) < 0.2)
    (True, True)
    """

    name: str
    unit_filter: UnitFilter
    device: str = "cpu"

    @classmethod
    def load(cls, name: str = "classical", device: str = "auto") -> Denoiser:
        """The denoiser of that name.

        Parameters
        ----------
        name : "classical"
            Patch principal components over scales: no training data, no weights.
        device : "auto" or "cpu"

        Raises
        ------
        WeightsError
            No such denoiser.
        ValueError
            The denoiser does not run on that device.
        """
        if name not in _NAMES:
            raise WeightsError(f"no denoiser named {name!r}; there are: {', '.join(_NAMES)}.")
        if device not in ("auto", "cpu"):
            raise ValueError(
                f"the {name} denoiser runs on the CPU only, not on {device!r}; use device='auto' or 'cpu'."
            )
        return cls(name, _classical)

    def __call__(
        self,
        image: Image,
        params: NoiseParams,
        *,
        strength: float = 1.0,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Denoise an image.

        Parameters
        ----------
        image : RawImage or LinearImage
        params : NoiseParams
            At the image's ISO; one value, or one per phase of the image.
        strength : float, >= 0
            1 removes the noise that ``params`` states; 0 returns the image as it is.
        workers : int or None
            Threads; None: one per available core.  The result does not depend on it.
        progress : callable(done, total) or None

        Returns
        -------
        The same type, pixels float32; at strength 0 the image itself.  Clipped highlights are unchanged (see module).
        """
        if _checked(strength) == 0:
            return image
        if isinstance(image, LinearImage):
            noisy = image.planes()
            per_plane = params.for_planes(image.plane_phases)
            clean = image.from_planes(self._run(noisy, per_plane, strength, workers, progress, correlated=True))
        else:
            per_plane = params.for_planes(canonical(image.cfa).plane_phases)
            noisy = canonical_planes(image.signal(), image.cfa)
            clean = self._run(noisy, per_plane, strength, workers, progress)
            clean = from_canonical_planes(clean, image.cfa, image.mosaic.shape)
        return image.with_signal(_with_highlights(image, params, clean))

    def denoise_planes(
        self,
        planes: NDArray,
        params: NoiseParams,
        *,
        strength: float = 1.0,
        workers: int | None = 1,
        progress: Progress | None = None,
        correlated: bool = False,
    ) -> NDArray[np.float32]:
        """Denoise signal planes.

        Parameters
        ----------
        planes : (P, h, w) float [DN, black removed, negatives kept]
            Bayer: R, Gr, Gb, B of an RGGB array (``canonical_planes``); X-Trans: 36 in row-major order.
        params : NoiseParams
            Scalars, (P,) or (P, 1, 1).
        correlated : bool
            The planes are demosaiced colors.

        Returns
        -------
        (P, h, w) float32 [DN, black removed]
        """
        if planes.ndim != 3:
            raise ValueError(f"planes are {planes.shape}; (P, h, w) is needed.")
        if _checked(strength) == 0:
            return np.asarray(planes, np.float32).copy()
        per_plane = params.for_planes(range(planes.shape[0]))
        return self._run(np.asarray(planes, np.float32), per_plane, strength, workers, progress, correlated=correlated)

    def remaining_variance(self, strength: float = 1.0, *, planes: int = 4) -> float:
        """Part of the noise variance that is left in flat areas, 0 to 1.

        With it the caller can state the noise of the result: system gain K f and read variance v f.  What is left
        is coarser than white noise, and image detail keeps more.

        Parameters
        ----------
        planes : int
            4 Bayer, 36 X-Trans, 3 linear, 1 mono.
        """
        return 1.0 if _checked(strength) == 0 else _measured_remainder(self, round(float(strength), 4), planes)

    def _run(
        self,
        planes: NDArray[np.float32],
        params: NoiseParams,
        strength: float,
        workers: int | None,
        progress: Progress | None,
        *,
        correlated: bool = False,
    ) -> NDArray[np.float32]:
        if not np.isfinite(planes).all():
            raise ValueError("the signal contains values that are not numbers; repair the image first.")
        sigma = max(strength, _LEAST_STRENGTH)
        threads = available_cores() if workers is None else workers
        stabilized = anscombe(planes, params)
        d = self.unit_filter(stabilized, sigma=sigma, correlated=correlated, workers=threads, progress=progress)
        left = np.float32(self.remaining_variance(strength, planes=planes.shape[0]))
        clean = (1 - left) * inverse_anscombe(d, params) + left * inverse_anscombe_algebraic(d, params)
        return np.asarray(clean, np.float32)


def _checked(strength: float) -> float:
    if not (np.isfinite(strength) and strength >= 0):
        raise ValueError(
            f"strength is {strength}; a number from 0 (nothing) over 1 (the stated noise) upwards is needed."
        )
    return strength


def available_cores() -> int:
    """Processors this process may use."""
    import os

    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@lru_cache(maxsize=64)
def _measured_remainder(denoiser: Denoiser, strength: float, planes: int) -> float:
    edge = int(_FIELD_EDGE * (4 / planes) ** 0.5)
    field = np.random.default_rng(_FIELD_SEED).standard_normal((planes, edge, edge)).astype(np.float32)
    left = denoiser.unit_filter(field, sigma=max(strength, _LEAST_STRENGTH), correlated=False, workers=1, progress=None)
    return float(min(1.0, np.var(left, dtype=np.float64) / np.var(field, dtype=np.float64)))


def _with_highlights(image: RawImage | LinearImage, params: NoiseParams, clean: NDArray) -> NDArray[np.float32]:
    """``clean`` with the clipped pixels of ``image`` put back (see module)."""
    signal = image.signal()
    per_phase = params.for_planes(range(len(image.phases)))
    span = image.white_level - np.asarray(image.black_level, np.float64)
    sigma = np.sqrt(np.asarray(per_phase.variance(span.reshape(-1, 1, 1)), np.float64)).reshape(-1)
    clipped = signal >= _per_pixel(image, (1 - CLIP_MARGIN) * span)
    below_white = clean < _per_pixel(image, span - sigma * _CLIPPED_MEAN)
    bright = clean > _per_pixel(image, span - sigma * _NOISE_REACH)
    period = (1, 1) if isinstance(image, LinearImage) else image.cfa.shape
    lifted = clipped & below_white & bright
    lifted[lifted] = _surrounded(bright, np.nonzero(lifted), period)
    return np.where(clipped & ~lifted, signal, clean)


def _surrounded(mask: NDArray[np.bool_], where: tuple[NDArray, ...], period: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether ``mask`` holds at all eight neighbors of the same phase, for the pixels ``where``; outside it does."""
    rows, cols, *channel = where
    result = np.ones(rows.size, bool)
    for dy in (-period[0], 0, period[0]):
        for dx in (-period[1], 0, period[1]):
            y, x = rows + dy, cols + dx
            inside = (y >= 0) & (y < mask.shape[0]) & (x >= 0) & (x < mask.shape[1])
            at = tuple(index[inside] for index in (y, x, *channel))
            result[inside] &= mask[at]
    return result


def _per_pixel(image: RawImage | LinearImage, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """One value per phase, spread to broadcast against the image's signal."""
    if isinstance(image, LinearImage):
        return values.astype(np.float32)
    rows, cols = image.cfa.shape
    height, width = image.mosaic.shape
    period = values.astype(np.float32)[image.cfa.phase_map]
    return np.tile(period, (-(-height // rows), -(-width // cols)))[:height, :width]


def canonical(cfa: CFA) -> CFA:
    """RGGB for any Bayer array, others unchanged."""
    return CFA.bayer(_CANONICAL) if cfa.is_bayer else cfa


def _lead(cfa: CFA) -> tuple[int, int]:
    """Rows and columns to put before a mosaic so that it starts at the red pixel of a Bayer array."""
    if not cfa.is_bayer:
        return 0, 0
    row, col = divmod(cfa.pattern.index("R"), 2)
    return row, col


def canonical_planes(signal: NDArray[np.float32], cfa: CFA) -> NDArray[np.float32]:
    """Planes of a mosaic, Bayer brought to RGGB, continued by mirroring to whole periods.

    A mirror about a border pixel keeps the color phase of a Bayer array.  Other arrays are only continued at
    the bottom and right, by repeating the last period's pixels of the same phase.

    Examples
    --------
    >>> canonical_planes(np.arange(12, dtype=np.float32).reshape(3, 4), CFA.bayer("GBRG"))[0].tolist()
    [[4.0, 6.0], [4.0, 6.0]]
    """
    if not cfa.is_bayer:
        from rawkit.raw.image import pad_to_period

        return pack(pad_to_period(signal, cfa), cfa)
    if min(signal.shape) < 2:
        raise ValueError(f"mosaic {signal.shape} is smaller than one Bayer period.")
    before = _lead(cfa)
    pads = [(first, (first + size) % 2) for first, size in zip(before, signal.shape, strict=True)]
    return pack(np.asarray(np.pad(signal, pads, mode="reflect"), np.float32), canonical(cfa))


def from_canonical_planes(planes: NDArray, cfa: CFA, shape: tuple[int, ...]) -> NDArray:
    """Inverse of ``canonical_planes`` for a mosaic of ``shape``."""
    top, left = _lead(cfa)
    return unpack(planes, canonical(cfa))[top : top + shape[0], left : left + shape[1]]
