"""Denoising of raw images.

Camera and ISO are divided out first (``rawkit.sensor.transforms``), so one filter serves all.  A mosaic is brought
to RGGB before it is split into planes (``rawkit.restore.phases``): the four Bayer arrangements of one scene are the
same problem and get the same answer.

Two kinds of filter: the *classical* one (``rawkit.restore.classical``), and trained networks
(``rawkit.restore.network``).  Networks know Bayer arrays; X-Trans, monochrome and linear images go through the
classical filter whatever the network's name.

The classical filter sees D = anscombe(x).  Strength s multiplies the noise standard deviation it assumes.  What
remains of the noise variance in flat areas, f(s), is measured once on a field of pure unit noise.  The unbiased
inverse belongs to a noise-free estimate and the algebraic inverse to an unfiltered value, so

    x = (1 - f) inverse_anscombe(D) + f inverse_anscombe_algebraic(D)

keeps the mean level at every strength, and s -> 0 is the input.

Luma and chroma strength apart: r_s is what a filter of strength s changes, in electrons, and its mean over the
planes of a Bayer cell (or the colors of a pixel) is its luma.  The luma of one strength is put together with the rest
of another.

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
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rawkit.devices import pick_device
from rawkit.errors import ProfileError, UnsupportedRawError, WeightsError
from rawkit.raw.image import LinearImage, RawImage
from rawkit.resources import bundled_weights, find_weights
from rawkit.restore.noise_check import UNCHECKED, NoiseCheck, noise_check
from rawkit.restore.phases import TURNS, canonical, canonical_planes, from_canonical_planes, turn, turn_back
from rawkit.restore.repair import repair
from rawkit.restore.tiling import Progress
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import anscombe, inverse_anscombe, inverse_anscombe_algebraic

Image = TypeVar("Image", bound=RawImage | LinearImage)

#: A pixel this close to the white level, as a part of the range, counts as clipped.
CLIP_MARGIN = 1e-3
# How far the mean of a value that is white falls below white, and how far noise can lift a pixel, in sigmas.
_CLIPPED_MEAN = 1 / math.sqrt(2 * math.pi)
_NOISE_REACH = 3.0

#: Below this strength the filter's input would exceed what float32 resolves; the result equals the input to 1e-3 sigma.
_LEAST_STRENGTH = 1e-3

_TURNS_BAYER = "self_ensemble turns Bayer mosaics; this image is another kind."
CLASSICAL, AUTO = "classical", "auto"
_PREFERRED = ("base", "fast")  # bundled networks, the best first
_BAYER_PLANES = 4
_MOST_ELECTRONS = 1e10  # of a pixel: a sum of thousands of frames holds less

# Field on which the remaining variance is measured: f is known to about sqrt(2 / (independent cells left)) of itself.
_FIELD_EDGE = 256
_FIELD_SEED = 20130101
_FIELD_LEVEL = 1000.0  # e-


def _check_signal(planes: NDArray[np.float32], params: NoiseParams) -> None:
    """Refuse values that are not numbers, and noise parameters that no sensor can have: float32 does not hold what they
    make of the signal."""
    if not np.isfinite(planes).all():
        raise UnsupportedRawError("the signal contains values that are not numbers; repair the image first.")
    gain = np.asarray(params.system_gain, np.float64)
    with np.errstate(over="ignore"):  # infinite is too much as well
        signal = float(np.max(np.abs(planes), initial=0.0) / gain.min())
        read_noise = float(np.max(np.sqrt(np.asarray(params.read_var, np.float64)) / gain))
    if max(signal, read_noise) > _MOST_ELECTRONS:
        raise ProfileError(
            f"noise parameters that no sensor has: {signal:.3g} e- of signal, {read_noise:.3g} e- of read noise; "
            "use --profile or --camera to name better ones."
        )


class PlaneFilter(Protocol):
    """(P, h, w) float32 planes [DN] to the same, without noise."""

    def __call__(
        self,
        planes: NDArray[np.float32],
        params: NoiseParams,
        *,
        strength: float,
        workers: int,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]: ...


def default_denoiser() -> str:
    """Name of the denoiser for those who name none: the best bundled network where PyTorch is installed, else the
    classical one."""
    known = bundled_weights() if networks_run() else {}
    return next((name for name in _PREFERRED if name in known), CLASSICAL)


def networks_run() -> bool:
    """Whether what networks need is installed; told without loading it."""
    return all(find_spec(package) for package in ("torch", "safetensors"))


def classical_filter(
    planes: NDArray[np.float32],
    params: NoiseParams,
    *,
    strength: float,
    workers: int,
    progress: Progress | None = None,
    correlated: bool = False,
) -> NDArray[np.float32]:
    """Patch principal components over scales, on stabilized planes of any number (see module).

    Parameters
    ----------
    correlated : bool
        The planes are demosaiced colors.
    """
    from rawkit.restore.classical import denoise_unit

    sigma = max(strength, _LEAST_STRENGTH)
    d = denoise_unit(
        np.asarray(anscombe(planes, params)), sigma=sigma, correlated=correlated, workers=workers, progress=progress
    )
    left = np.float32(_classical_remainder(round(sigma, 4), planes.shape[0]))
    return np.asarray(
        (1 - left) * inverse_anscombe(d, params) + left * inverse_anscombe_algebraic(d, params), np.float32
    )


@dataclass(frozen=True)
class Denoiser:
    """A filter for raw images of any camera and ISO.

    Parameters
    ----------
    name : str
    bayer_filter : PlaneFilter
        Of RGGB planes.
    device : str

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> noisy = rng.normal(100.0, 5.0, (4, 64, 64)).astype(np.float32)
    >>> clean = Denoiser.load("classical").denoise_planes(noisy, NoiseParams(0.2, 5.0))
    >>> bool(clean.std() < 1.0), bool(abs(clean.mean() - 100) < 0.2)
    (True, True)
    """

    name: str
    bayer_filter: PlaneFilter
    device: str = "cpu"

    @classmethod
    def load(cls, name: str = AUTO, device: str = "auto") -> Denoiser:
        """The denoiser of that name.

        Parameters
        ----------
        name : str
            "classical": no training data, no weights; the name of bundled weights (``rawkit.resources.find_weights``);
            the path of a .safetensors file; or "auto", see ``default_denoiser``.
        device : "auto", "cpu", "cuda" or "mps"

        Raises
        ------
        WeightsError
            No such denoiser, or its weights are damaged.
        ValueError
            The denoiser does not run on that device.
        """
        if name == AUTO:
            name = default_denoiser()
            device = "auto" if name == CLASSICAL else device
        if name == CLASSICAL:
            if device not in ("auto", "cpu"):
                raise ValueError(
                    f"the {name} denoiser runs on the CPU only, not on {device!r}; use device='auto' or 'cpu'."
                )
            return cls(name, classical_filter)
        file = find_weights(name, also=(CLASSICAL,))
        try:
            import torch

            from rawkit.nn.weights import load_network
            from rawkit.restore.network import NetworkFilter
        except ImportError as error:
            raise WeightsError(
                f"the denoiser {name} needs {error.name}; run: pip install 'rawkit-camera[torch]', or use the "
                f"{CLASSICAL} one."
            ) from None
        where = pick_device(device)
        return cls(name, NetworkFilter(load_network(file)[0], torch.device(where)), where)

    def __call__(
        self,
        image: Image,
        params: NoiseParams,
        *,
        strength: float = 1.0,
        chroma_strength: float | None = None,
        self_ensemble: bool = False,
        defects: NDArray | None = None,
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
        chroma_strength : float, optional
            Strength for color differences; default ``strength``.
        self_ensemble : bool
            Mean of the results for the eight turns of a Bayer mosaic: a little better, eight times the work.
        defects : (N, 2) int, optional
            Rows and columns of defective pixels of the active area, repaired first (``CameraProfile`` has a map).
        workers : int or None
            Threads; None: one per available core.  The result does not depend on it.
        progress : callable(done, total) or None

        Returns
        -------
        The same type, pixels float32; at strength 0 the image itself.  Clipped highlights are unchanged (see module).
        """
        return self.with_check(
            image,
            params,
            strength=strength,
            chroma_strength=chroma_strength,
            self_ensemble=self_ensemble,
            defects=defects,
            workers=workers,
            progress=progress,
        )[0]

    def with_check(
        self,
        image: Image,
        params: NoiseParams,
        *,
        strength: float = 1.0,
        chroma_strength: float | None = None,
        self_ensemble: bool = False,
        defects: NDArray | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Image, NoiseCheck]:
        """As calling it, and how well the picture's noise fits ``params`` (``rawkit.restore.noise_check``).

        At strength 0 nothing is looked at, and the check says so.
        """
        if _checked(strength) == 0 and not chroma_strength:
            return image, UNCHECKED
        return self._denoised(image, params, strength, chroma_strength, self_ensemble, defects, workers, progress)

    def denoise_planes(
        self,
        planes: NDArray,
        params: NoiseParams,
        *,
        strength: float = 1.0,
        self_ensemble: bool = False,
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
        self_ensemble : bool
            As of ``__call__``; of four Bayer planes.
        correlated : bool
            The planes are demosaiced colors.

        Returns
        -------
        (P, h, w) float32 [DN, black removed]
        """
        if planes.ndim != 3:
            raise ValueError(f"planes are {planes.shape}; (P, h, w) is needed.")
        planes = np.asarray(planes, np.float32)
        if _checked(strength) == 0:
            return planes.copy()
        per_plane = params.for_planes(range(planes.shape[0]))
        bayer = planes.shape[0] == _BAYER_PLANES and not correlated
        one = self._filter(bayer, correlated)
        if self_ensemble:
            if not bayer:
                raise ValueError(_TURNS_BAYER)
            one = _over_turns(one)
        return one(planes, per_plane, strength, workers, progress)

    def deviation_planes(
        self, planes: NDArray, params: NoiseParams, *, workers: int | None = 1, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Standard deviation [DN] of the error of ``denoise_planes`` at strength 1, pixel by pixel.

        Parameters
        ----------
        planes : (4, h, w) float [DN, black removed], R, Gr, Gb, B of an RGGB array

        Raises
        ------
        ValueError
            The denoiser does not predict it: only networks trained with ``uncertainty`` do; or other planes.
        """
        if planes.ndim != 3 or planes.shape[0] != _BAYER_PLANES:
            raise ValueError(f"planes are {planes.shape}; ({_BAYER_PLANES}, h, w) is needed.")
        predict = getattr(self.bayer_filter, "deviation", None)
        if predict is None:
            raise ValueError(f"the {self.name} denoiser does not predict its error; networks with uncertainty do.")
        planes, per_plane = np.asarray(planes, np.float32), params.for_planes(range(_BAYER_PLANES))
        _check_signal(planes, per_plane)
        threads = available_cores() if workers is None else workers
        return predict(planes, per_plane, workers=threads, progress=progress)

    def remaining_variance(self, strength: float = 1.0, *, planes: int = _BAYER_PLANES) -> float:
        """Part of the noise variance that is left in flat areas, 0 to 1.

        With it the caller can state the noise of the result: system gain K f and read variance v f.  What is left
        is coarser than white noise, and image detail keeps more.

        Parameters
        ----------
        planes : int
            4 Bayer, 36 X-Trans, 3 linear, 1 mono.
        """
        if _checked(strength) == 0:
            return 1.0
        if planes == _BAYER_PLANES and self.bayer_filter is not classical_filter:
            return _network_remainder(self, round(float(strength), 4))
        return _classical_remainder(round(max(float(strength), _LEAST_STRENGTH), 4), planes)

    def _filter(self, bayer: bool, correlated: bool) -> Callable[..., NDArray[np.float32]]:
        """The filter of one kind of planes, as a function of (planes, params, strength, workers, progress)."""

        def run(
            planes: NDArray[np.float32],
            params: NoiseParams,
            strength: float,
            workers: int | None,
            progress: Progress | None,
        ) -> NDArray[np.float32]:
            _check_signal(planes, params)
            if strength == 0:
                return planes
            threads = available_cores() if workers is None else workers
            if bayer and self.bayer_filter is not classical_filter:
                return self.bayer_filter(planes, params, strength=strength, workers=threads, progress=progress)
            return classical_filter(
                planes, params, strength=strength, workers=threads, progress=progress, correlated=correlated
            )

        return run

    def _denoised(
        self,
        image: RawImage | LinearImage,
        params: NoiseParams,
        strength: float,
        chroma_strength: float | None,
        self_ensemble: bool,
        defects: NDArray | None,
        workers: int | None,
        progress: Progress | None,
    ) -> tuple[Any, NoiseCheck]:
        linear = isinstance(image, LinearImage)
        bayer = isinstance(image, RawImage) and image.cfa.is_bayer
        if self_ensemble and not bayer:
            raise ValueError(_TURNS_BAYER)
        if chroma_strength is not None and not (bayer or linear):
            raise ValueError(
                "chroma_strength needs a Bayer mosaic or a linear color image; this image is another kind."
            )
        signal = image.signal()
        if isinstance(image, LinearImage):
            per_plane, noisy = params.for_planes(image.plane_phases), image.planes()
        else:
            if defects is not None:
                signal = repair(signal, defects, image.cfa.shape)
            per_plane = params.for_planes(canonical(image.cfa).plane_phases)
            noisy = canonical_planes(signal, image.cfa)
        one = self._filter(bayer, linear)
        one = _over_turns(one) if self_ensemble else one
        clean = one(noisy, per_plane, strength, workers, progress)
        if chroma_strength is not None and chroma_strength != strength:
            for_chroma = one(noisy, per_plane, _checked(chroma_strength), workers, progress)
            clean = _recombined(noisy, clean, for_chroma, per_plane)
        white = float(np.min(image.white_level - np.asarray(image.black_level)))
        check = noise_check(noisy, clean, per_plane, white=white)
        if isinstance(image, LinearImage):
            pixels = image.from_planes(clean)
        else:
            pixels = from_canonical_planes(clean, image.cfa, signal.shape)
        _put_highlights_back(pixels, signal, image, params)
        return image.with_signal(pixels), check


def _over_turns(one: Callable[..., NDArray[np.float32]]) -> Callable[..., NDArray[np.float32]]:
    """A filter of RGGB planes as the mean of its results for the eight turns of a picture."""

    def run(planes: NDArray[np.float32], params: NoiseParams, *others: Any) -> NDArray[np.float32]:
        total = np.zeros_like(planes)
        for transpose, rows, columns in TURNS:
            turned = {"transpose": transpose, "rows": rows, "columns": columns}
            own = _greens_swapped(params) if transpose else params
            total += turn_back(one(turn(planes, **turned), own, *others), **turned)
        return total / np.float32(len(TURNS))

    return run


def _greens_swapped(params: NoiseParams) -> NoiseParams:
    """Parameters of planes R, Gr, Gb, B for the transposed mosaic."""

    def swap(value: Any) -> Any:
        return value[[0, 2, 1, 3]] if np.ndim(value) else value

    return NoiseParams(swap(params.system_gain), swap(params.read_var))


def _recombined(
    noisy: NDArray[np.float32], for_luma: NDArray[np.float32], for_chroma: NDArray[np.float32], params: NoiseParams
) -> NDArray[np.float32]:
    """Luma of what one result changes with the chroma of what another changes (see module)."""
    gain = np.asarray(np.broadcast_to(np.asarray(params.system_gain, np.float32), (len(noisy), 1, 1)))
    luma = ((for_luma - for_chroma) / gain).mean(axis=0, keepdims=True)
    return np.asarray(for_chroma + gain * luma, np.float32)


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
def _classical_remainder(sigma: float, planes: int) -> float:
    from rawkit.restore.classical import denoise_unit

    edge = int(_FIELD_EDGE * (_BAYER_PLANES / planes) ** 0.5)
    field = np.random.default_rng(_FIELD_SEED).standard_normal((planes, edge, edge)).astype(np.float32)
    left = denoise_unit(field, sigma=sigma, correlated=False, workers=1, progress=None)
    return float(min(1.0, np.var(left, dtype=np.float64) / np.var(field, dtype=np.float64)))


@lru_cache(maxsize=64)
def _network_remainder(denoiser: Denoiser, strength: float) -> float:
    """As for the classical filter, on a field of 1,000 electrons."""
    shape = (_BAYER_PLANES, _FIELD_EDGE, _FIELD_EDGE)
    field = np.random.default_rng(_FIELD_SEED).normal(_FIELD_LEVEL, _FIELD_LEVEL**0.5, shape).astype(np.float32)
    left = denoiser.bayer_filter(field, NoiseParams(1.0, 0.0), strength=strength, workers=1)
    return float(min(1.0, np.var(left, dtype=np.float64) / np.var(field, dtype=np.float64)))


def _put_highlights_back(
    clean: NDArray[np.float32], signal: NDArray[np.float32], image: RawImage | LinearImage, params: NoiseParams
) -> None:
    """Give the clipped pixels of ``image``, whose signal is ``signal``, their values back (see module), in place."""
    per_phase = params.for_planes(range(len(image.phases)))
    span = (image.white_level - np.asarray(image.black_level, np.float64)).ravel()
    sigma = np.sqrt(np.asarray(per_phase.variance(span.reshape(-1, 1, 1)), np.float64)).ravel()
    least, white, bright = (
        v.astype(np.float32)
        for v in ((1 - CLIP_MARGIN) * span, span - sigma * _CLIPPED_MEAN, span - sigma * _NOISE_REACH)
    )
    where = np.nonzero(signal >= least.min())
    if isinstance(image, LinearImage):
        period, phase = (1, 1), where[2]
    else:
        period = image.cfa.shape
        phase = image.cfa.phase_map[where[0] % period[0], where[1] % period[1]]
    clipped = signal[where] >= least[phase]
    where, phase = tuple(index[clipped] for index in where), phase[clipped]
    estimate = clean[where]
    lifted = (estimate < white[phase]) & (estimate > bright[phase])
    candidates = tuple(index[lifted] for index in where)
    lifted[lifted] = _surrounded(clean, candidates, bright[phase[lifted]], period)
    kept = tuple(index[~lifted] for index in where)
    clean[kept] = signal[kept]


def _surrounded(
    clean: NDArray[np.float32], where: tuple[NDArray, ...], least: NDArray[np.float32], period: tuple[int, int]
) -> NDArray[np.bool_]:
    """Whether all eight neighbors of the same phase of the pixels ``where`` are above ``least``; outside they are."""
    rows, cols, *channel = where
    result = np.ones(rows.size, bool)
    for dy in (-period[0], 0, period[0]):
        for dx in (-period[1], 0, period[1]):
            y, x = rows + dy, cols + dx
            inside = (y >= 0) & (y < clean.shape[0]) & (x >= 0) & (x < clean.shape[1])
            at = tuple(index[inside] for index in (y, x, *channel))
            result[inside] &= clean[at] > least[inside]
    return result
