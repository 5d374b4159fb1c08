"""Noisy raw signals from clean ones.

Poisson-Gaussian sensor, the model of ``NoiseParams`` (EMVA 1288 R4.0 Linear):

    e = Poisson(max(x, 0) / K)                     photo-electrons
    y = K e + N(0, s^2) + min(x, 0)                analog value, x and y [DN, black removed]
    stored = round(y + black), clipped to [0, white]

``read_var`` is the whole temporal variance of a dark pixel as stored, rounding included, so s^2 is what makes

    Var[round(N(0, s^2))] = read_var               s^2 = read_var - 1/12 as soon as s is above about half a DN

The exact equation is solved at every read variance, also below 1/12 DN^2, where a dark pixel hardly ever leaves
its code.  (As on a real converter, the variance of a value whose read noise is below half a DN then depends on
where between two codes its mean lies; over many levels rounding adds 1/12 DN^2.)

Randomness comes from ``rawkit.noise.rng``: a draw depends on seed, frame and sensor coordinates only, so a crop
with its origin gets the noise of the whole picture's crop, whatever the number of workers.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rawkit.errors import MetadataError
from rawkit.noise.rng import MAX_MEAN, check_key, normal_quantile, poisson, row_words, uniform53
from rawkit.raw.image import CFA, RawImage, pack, unpack
from rawkit.sensor.params import NoiseParams

Mode = Literal["pg"]

#: Random streams of one pixel; other noise sources get numbers of their own.
SHOT_AND_READ = 0

#: Above this variance [DN^2] rounding adds 1/12 to better than 1e-7 of itself.
_SHEPPARD_FROM = 1.0
_QUANTIZATION = 1.0 / 12.0

_ROWS_PER_TASK = 64


@runtime_checkable
class HasParams(Protocol):
    """Anything that knows the noise at an ISO: a NoiseModel, a camera profile's ``noise``."""

    def at(self, iso: float) -> NoiseParams: ...


def rounded_variance(analog_var: float) -> float:
    """Variance of round(N(0, analog_var)).

        Var = 2 sum_{k >= 0} (2 k + 1) Q((k + 1/2) / s),    Q the upper tail of N(0, 1)

    Parameters
    ----------
    analog_var : float [DN^2], >= 0

    Examples
    --------
    >>> round(rounded_variance(4.0) - 4.0, 6)
    0.083333
    """
    if analog_var <= 0:
        return 0.0
    s = math.sqrt(analog_var)
    terms = range(int(10 * s) + 2)
    return sum((2 * k + 1) * math.erfc((k + 0.5) / (s * math.sqrt(2.0))) for k in terms)


@lru_cache(maxsize=256)
def analog_variance(read_var: float) -> float:
    """Inverse of ``rounded_variance``: the Gaussian variance [DN^2] that rounding turns into ``read_var``."""
    if read_var >= _SHEPPARD_FROM:
        return read_var - _QUANTIZATION
    low, high = 0.0, _SHEPPARD_FROM
    for _ in range(60):  # bisection to the last bits of a float64
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rounded_variance(middle) < read_var else (low, middle)
    return high if read_var > 0 else 0.0


@njit(cache=True, nogil=True)
def _expose_rows(
    clean: Any, out: Any, gain: Any, sigma: Any, first: Any, last: Any, top: Any, left: Any,
    seed: Any, frame: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    rows, cols = gain.shape
    words = np.empty((4, clean.shape[1]), np.uint32)
    for i in range(first, last):
        row_words(words, top + i, left, SHOT_AND_READ, seed, frame)
        for j in range(clean.shape[1]):
            k, s, x = gain[i % rows, j % cols], sigma[i % rows, j % cols], float(clean[i, j])
            y = min(x, 0.0) + s * normal_quantile(uniform53(words[2, j], words[3, j]))
            if x > 0.0:
                y += k * poisson(x / k, words[0, j], words[1, j], left + j, top + i, SHOT_AND_READ, seed, frame)
            out[i, j] = y


@dataclass(frozen=True)
class NoiseSynthesizer:
    """Adds a camera's noise to clean signals.

    Parameters
    ----------
    noise : NoiseParams, or an object with ``at(iso) -> NoiseParams``
        A camera profile's ``noise``, a ``NoiseModel``, or fixed parameters (then ``iso`` only labels the result).
    mode : "pg"
        Poisson shot noise plus Gaussian read noise, independent per pixel.

    Examples
    --------
    >>> noisy = NoiseSynthesizer(NoiseParams(2.0, 9.0)).mosaic(np.full((64, 64), 100.0), 100, cfa=CFA.mono(), seed=1)
    >>> bool(abs(noisy.mean() - 100) < 1)
    True
    """

    noise: NoiseParams | HasParams
    mode: Mode = "pg"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode {self.mode!r}: this version knows {', '.join(get_args(Mode))}.")
        if not isinstance(self.noise, (NoiseParams, HasParams)):
            raise TypeError(f"noise is a {type(self.noise).__name__}; give NoiseParams or an object with at(iso).")

    def params(self, iso: float | None) -> NoiseParams:
        """Noise parameters at ``iso``."""
        if isinstance(self.noise, NoiseParams):
            return self.noise
        if iso is None:
            raise MetadataError("no ISO was given and the clean image records none; pass iso=N.")
        return self.noise.at(iso)

    def mosaic(
        self,
        clean: NDArray,
        iso: float | None,
        *,
        cfa: CFA,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        quantize: bool = True,
        workers: int = 1,
    ) -> NDArray[np.float32]:
        """Noisy signal of a clean mosaic, not clipped.

        Parameters
        ----------
        clean : (H, W) float [DN, black removed]
            Expected signal.  Negative values are a black-level offset: they pass through and get read noise only.
        iso : float or None
        cfa : CFA
            Relative to ``clean[0, 0]``; says which phase's parameters a pixel has.
        seed, frame : int
            0 to 2**32 - 1.  Frames of one seed are independent exposures of the same scene.
        origin : (row, column)
            Sensor coordinates of ``clean[0, 0]``.
        quantize : bool
            Round to whole DN as the converter does (black taken as a whole number).  When False the analog value
            is returned, with a Gaussian of the full ``read_var``: the same two moments, no steps.
        workers : int
            Threads; the result does not depend on it.

        Returns
        -------
        (H, W) float32 [DN, black removed]
        """
        noisy = self._analog(clean, self.params(iso), cfa, quantize, seed, frame, origin, workers)
        return np.rint(noisy, out=noisy) if quantize else noisy

    def planes(
        self,
        clean: NDArray,
        iso: float | None,
        *,
        cfa: CFA,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        quantize: bool = True,
        clip: tuple[float, float] | None = None,
        workers: int = 1,
    ) -> NDArray[np.float32]:
        """Noisy signal of clean packed planes: ``mosaic`` on the planes' mosaic.

        Parameters
        ----------
        clean : (P, h, w) float [DN, black removed]
            Planes as ``rawkit.raw.image.pack`` orders them.
        origin : (row, column)
            Sensor coordinates, in mosaic pixels, of the planes' first CFA period.
        clip : (low, high) [DN, black removed] or None
            Range of the converter, usually (-black, white - black); None for training data that must keep its tails.

        Returns
        -------
        (P, h, w) float32 [DN, black removed]
        """
        noisy = self.mosaic(
            unpack(clean, cfa), iso, cfa=cfa, seed=seed, frame=frame, origin=origin, quantize=quantize, workers=workers
        )
        return pack(noisy if clip is None else np.clip(noisy, *clip), cfa)

    def image(
        self,
        clean: RawImage,
        *,
        iso: float | None = None,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        workers: int = 1,
    ) -> RawImage:
        """The raw file the camera would have stored: black added, rounded, clipped at 0 and at the white level.

        Parameters
        ----------
        clean : RawImage
            Its active area is the expected value; pixels around it are kept as they are.
        iso : float or None
            None: the clean image's own.
        origin : (row, column)
            Sensor coordinates of ``clean.raster[0, 0]``, for a crop.

        Returns
        -------
        RawImage with a uint16 raster, the ISO, and the NoiseProfile of the noise it carries.

        Raises
        ------
        MetadataError
            When no ISO is known and the parameters depend on it, or the white level does not fit 16 bits.
        """
        speed = clean.metadata.iso if iso is None else iso
        highest = np.iinfo(np.uint16).max
        if not 0 < clean.white_level <= highest:
            raise MetadataError(
                f"white level {clean.white_level:g} DN does not fit a 16-bit mosaic; rescale the image."
            )
        params = self.params(speed)
        top, left = (0, 0) if clean.active_area is None else clean.active_area[:2]
        where = (origin[0] + top, origin[1] + left)
        analog = self._analog(clean.signal(), params, clean.cfa, True, seed, frame, where, workers)
        stored = clean.with_signal(analog).raster
        span = clean.white_level - float(np.mean(clean.black_level))
        metadata = replace(clean.metadata, iso=speed, noise_profile=params.to_dng(span, clean.phases))
        raster = np.clip(np.rint(stored), 0, np.floor(clean.white_level)).astype(np.uint16)
        return replace(clean, raster=raster, metadata=metadata)

    def _analog(
        self,
        clean: NDArray,
        params: NoiseParams,
        cfa: CFA,
        to_be_rounded: bool,
        seed: int,
        frame: int,
        origin: tuple[int, int],
        workers: int,
    ) -> NDArray[np.float32]:
        """Analog values before the converter (H, W) [DN, black removed]."""
        seed, frame = check_key(seed, frame)
        if clean.ndim != 2:
            raise ValueError(f"clean is {clean.shape}; a mosaic is (H, W), planes go to planes().")
        gain, sigma = _per_site(params, cfa, to_be_rounded)
        signal = np.ascontiguousarray(clean, np.float32)
        ceiling = MAX_MEAN * float(gain.min())
        if signal.size and not (np.isfinite(signal).all() and float(signal.max()) <= ceiling):
            raise ValueError(f"the clean signal must be finite and at most {ceiling:g} DN, found {signal.max()}.")
        out = np.empty_like(signal)
        top, left = int(origin[0]), int(origin[1])

        def expose(first: int) -> None:
            last = min(first + _ROWS_PER_TASK, signal.shape[0])
            _expose_rows(signal, out, gain, sigma, first, last, top, left, seed, frame)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            list(pool.map(expose, range(0, signal.shape[0], _ROWS_PER_TASK)))
        return out


def _per_site(params: NoiseParams, cfa: CFA, to_be_rounded: bool) -> tuple[NDArray, NDArray]:
    """System gain and read-noise standard deviation for each site of one CFA period."""
    per_phase = params.for_planes(range(len(cfa.phases)))
    gain = np.asarray(per_phase.system_gain, np.float64).reshape(-1)
    read_var = np.asarray(per_phase.read_var, np.float64).reshape(-1)
    analog = [analog_variance(float(v)) for v in read_var] if to_be_rounded else read_var
    sigma = np.sqrt(np.asarray(analog, np.float64))
    return np.ascontiguousarray(gain[cfa.phase_map]), np.ascontiguousarray(sigma[cfa.phase_map])
