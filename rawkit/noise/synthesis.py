"""Noisy raw signals from clean ones.

    n = Poisson(max(x, 0) / K * response)              photo-electrons; x the expected signal [DN, black removed]
    y = K n + min(x, 0) + dark                         analog value [DN]
    stored = the converter's code of y + black, clipped to [0, white]

Modes differ in ``dark`` alone:

========== ================================================================================================= =======
mode       dark                                                                                              needs
========== ================================================================================================= =======
pg         N(0, s^2) per pixel                                                                               K, v
eld        Tukey-lambda per pixel, one Gaussian offset per sensor row, color bias (``noise.eld``)            profile
measured   row series, pixel quantiles, 2-D spectrum, fixed pattern, defects, code edges (``noise.measured``) profile
resample   a dark source of your own: real darks (``noise.real_darks``), a generator, any callable           source
========== ================================================================================================= =======

In ``pg``, ``read_var`` is the whole temporal variance of a dark pixel as stored, rounding included, so s^2 is what
makes

    Var[round(N(0, s^2))] = read_var               s^2 = read_var - 1/12 as soon as s is above about half a DN

The exact equation is solved at every read variance, also below 1/12 DN^2, where a dark pixel hardly ever leaves
its code.  (As on a real converter, the variance of a value whose read noise is below half a DN then depends on
where between two codes its mean lies; over many levels rounding adds 1/12 DN^2.)

Randomness comes from ``rawkit.noise.rng``: a draw depends on seed, frame and sensor coordinates only, so a crop
with its origin gets the noise of the whole picture's crop, whatever the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import MetadataError, ProfileError
from rawkit.noise.eld import EldParams
from rawkit.noise.kernels import Converter, expose, ideal_converter, measured_converter
from rawkit.noise.measured import has_dark_model, measured_noise
from rawkit.noise.read_noise import SHOT_AND_READ_STREAM, DarkSource, ReadNoise
from rawkit.noise.render import NONE, Band, Tile, check_signal, make_bands, make_sites, per_phase
from rawkit.noise.rng import alias_table, check_key
from rawkit.raw.image import CFA, BlackLevel, RawImage, pack, unpack
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile

Mode = Literal["pg", "eld", "measured", "resample"]

#: Above this variance [DN^2] rounding adds 1/12 to better than 1e-7 of itself.
_SHEPPARD_FROM = 1.0
_QUANTIZATION = 1.0 / 12.0

_NO_CODES = np.empty((0, 0), np.uint16)


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


@dataclass(frozen=True)
class NoiseSynthesizer:
    """Adds a camera's noise to clean signals.

    Parameters
    ----------
    noise : CameraProfile, NoiseParams, EldParams, or an object with ``at(iso) -> NoiseParams``
        With fixed parameters ``iso`` only labels the result.
    mode : "pg", "eld", "measured", "resample" or None
        None: ``resample`` when a dark source is given, ``eld`` for ``EldParams``, ``measured`` for a profile with a
        dark model at the ISO, else ``pg``.
    dark : callable (iso, shape, seed, frame, top, left) -> (H, W) float [DN, black removed], or None
        Analog dark frames, before the converter; for independence of tiles they must not depend on shape.
    unit : int
        Specimen of the camera, for the fixed pattern that a profile knows by its size only.
    prnu : bool
        In ``measured``, give pixels the profile's photo-response nonuniformity.

    Examples
    --------
    >>> noisy = NoiseSynthesizer(NoiseParams(2.0, 9.0)).mosaic(np.full((64, 64), 100.0), 100, cfa=CFA.mono(), seed=1)
    >>> bool(abs(noisy.mean() - 100) < 1)
    True
    """

    noise: NoiseParams | EldParams | HasParams | CameraProfile
    mode: Mode | None = None
    dark: DarkSource | None = None
    unit: int = 0
    prnu: bool = True

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in get_args(Mode):
            raise ValueError(f"mode {self.mode!r}: this version knows {', '.join(get_args(Mode))}.")
        if not isinstance(self.noise, (NoiseParams, EldParams, HasParams, CameraProfile)):
            raise TypeError(
                f"noise is a {type(self.noise).__name__}; give a CameraProfile, NoiseParams, EldParams or an object "
                "with at(iso)."
            )
        if (self.mode == "resample") != (self.dark is not None) and (self.mode is not None):
            raise ValueError("mode resample goes with a dark source, and a dark source with mode resample or None.")
        if self.mode == "measured" and not isinstance(self.noise, CameraProfile):
            raise TypeError("mode measured needs a CameraProfile with a dark model.")
        if self.mode == "eld" and not isinstance(self.noise, (CameraProfile, EldParams)):
            raise TypeError("mode eld needs EldParams, or a CameraProfile with a Tukey-lambda law.")

    def mode_at(self, iso: float | None) -> Mode:
        """The mode that is used at an ISO."""
        if self.mode is not None:
            return self.mode
        if self.dark is not None:
            return "resample"
        if isinstance(self.noise, EldParams):
            return "eld"
        return "measured" if isinstance(self.noise, CameraProfile) and has_dark_model(self.noise, iso) else "pg"

    def params(self, iso: float | None) -> NoiseParams:
        """Noise parameters at ``iso``."""
        if isinstance(self.noise, NoiseParams):
            return self.noise
        if isinstance(self.noise, EldParams):
            return self.noise.params
        return (self.noise.noise if isinstance(self.noise, CameraProfile) else self.noise).at(_needed(iso))

    def read_noise(self, iso: float | None, cfa: CFA, *, quantize: bool = True) -> ReadNoise:
        """The dark part of the noise at ``iso``.

        Parameters
        ----------
        iso : float or None
        cfa : CFA
        quantize : bool
            The converter's rounding follows and adds its variance.
        """
        mode = self.mode_at(iso)
        if mode == "resample":
            return ReadNoise(source=self.dark)
        if mode == "measured" and isinstance(self.noise, CameraProfile):
            return measured_noise(self.noise, _needed(iso), unit=self.unit, prnu=self.prnu)
        if mode == "eld" and isinstance(self.noise, EldParams):
            return _eld_noise(self.noise, len(cfa.phases))
        if mode == "eld" and isinstance(self.noise, CameraProfile):
            return _eld_noise(_eld_params(self.noise, _needed(iso)), len(cfa.phases))
        read_var = per_phase(self.params(iso).read_var, cfa)
        return ReadNoise(sigma=np.sqrt([analog_variance(float(v)) for v in read_var] if quantize else read_var))

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
            Round to whole DN as the converter does (black taken as a whole number, the profile's where the converter's
            code edges are known).  When False the analog value is returned; in ``pg`` with a Gaussian of the full
            ``read_var``: the same two moments, no steps.
        workers : int
            Threads; the result does not depend on it.

        Returns
        -------
        (H, W) float32 [DN, black removed]

        Raises
        ------
        ValueError
            The clean signal is not a mosaic, not finite, or too bright.
        MetadataError, ProfileError, CalibrationError
            No ISO, no such noise in the profile, or no map for these pixels.
        """
        read = self.read_noise(iso, cfa, quantize=quantize)
        black = 0.0
        if quantize and read.code_edges is not None and isinstance(self.noise, CameraProfile):
            black = float(round(stated_black(self.noise)))
        out = np.empty(clean.shape, np.float32)
        converter = _converter(read, 0.0) if quantize else None
        self._render(
            clean,
            iso,
            read,
            Tile(cfa, seed, frame, origin, origin),
            BlackLevel.constant(black),
            converter,
            out,
            workers,
        )
        return out if black == 0 else np.subtract(out, np.float32(black), out=out)

    def stored(
        self,
        clean: NDArray,
        iso: float | None,
        *,
        cfa: CFA,
        black: BlackLevel | float,
        white_level: float,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        place: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> NDArray[np.uint16]:
        """What the converter stores: black added, rounded, clipped at 0 and at the white level.  The fastest way.

        Parameters
        ----------
        black : BlackLevel or float [DN]
            Of the file: a profile's fixed pattern comes on top.
        white_level : float [DN], at most 65535
        place : (row, column) or None
            Coordinates of ``clean[0, 0]`` in the active area, where they differ from ``origin``.
        others
            As for ``mosaic``, which see.

        Returns
        -------
        (H, W) uint16 [DN, black included]
        """
        highest = np.iinfo(np.uint16).max
        if not 0 < white_level <= highest:
            raise MetadataError(f"white level {white_level:g} DN does not fit a 16-bit mosaic; rescale the image.")
        read = self.read_noise(iso, cfa)
        level = black if isinstance(black, BlackLevel) else BlackLevel.constant(black)
        tile = Tile(cfa, seed, frame, origin, origin if place is None else place)
        out = np.empty(clean.shape, np.uint16)
        self._render(clean, iso, read, tile, level, _converter(read, white_level), out, workers)
        return out

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
        top, left = (0, 0) if clean.active_area is None else clean.active_area[:2]
        stored = self.stored(
            clean.signal(),
            speed,
            cfa=clean.cfa,
            black=clean.black,
            white_level=clean.white_level,
            seed=seed,
            frame=frame,
            origin=(origin[0] + top, origin[1] + left),
            place=origin,
            workers=workers,
        )
        if clean.active_area is None:
            raster = stored
        else:
            raster = np.clip(np.rint(clean.raster), 0, np.floor(clean.white_level)).astype(np.uint16)
            raster[top : top + stored.shape[0], left : left + stored.shape[1]] = stored
        span = clean.white_level - float(np.mean(clean.black_level))
        profile = self.params(speed).to_dng(span, clean.phases)
        return replace(clean, raster=raster, metadata=replace(clean.metadata, iso=speed, noise_profile=profile))

    def burst(
        self,
        clean: RawImage,
        frames: int,
        *,
        iso: float | None = None,
        seed: int,
        first_frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        workers: int = 1,
    ) -> Iterator[RawImage]:
        """``frames`` exposures of one scene: common fixed pattern, independent temporal noise; see ``image``."""
        for frame in range(first_frame, first_frame + frames):
            yield self.image(clean, iso=iso, seed=seed, frame=frame, origin=origin, workers=workers)

    def exposures(
        self,
        clean: RawImage,
        ratios: Sequence[float],
        *,
        iso: float | None = None,
        brighten: bool = False,
        seed: int,
        first_frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        workers: int = 1,
    ) -> Iterator[RawImage]:
        """The scene with 1/ratio of its light each, as short exposures of low-light data sets are (x100, x250 ...).

            x' = x / ratio * K(iso) / K(clean's ISO)

        Parameters
        ----------
        clean : RawImage
        ratios : sequence of float, > 0
        iso : float or None
            Of the short exposures; where it differs from the clean image's the signal follows K, as the same light
            would.
        brighten : bool
            Multiply the stored signal by the ratio again: float32 raster, same brightness as the clean image.
        seed, first_frame, origin, workers
            The n-th ratio gets frame ``first_frame + n``; others as for ``image``.

        Yields
        ------
        RawImage
            One per ratio; exposure time and NoiseProfile belong to it.
        """
        speed = clean.metadata.iso if iso is None else iso
        lift = 1.0
        if speed is not None and clean.metadata.iso is not None and speed != clean.metadata.iso:
            gains = [np.mean(self.params(i).system_gain) for i in (speed, clean.metadata.iso)]
            lift = float(gains[0] / gains[1])
        for number, ratio in enumerate(ratios):
            if not ratio > 0:
                raise ValueError(f"an exposure ratio is positive, found {ratio}.")
            scene = clean.with_signal(clean.signal() * np.float32(lift / ratio))
            time = clean.metadata.exposure_time
            scene = replace(
                scene, metadata=replace(clean.metadata, exposure_time=None if time is None else time / ratio)
            )
            short = self.image(scene, iso=speed, seed=seed, frame=first_frame + number, origin=origin, workers=workers)
            yield self._brightened(short, ratio) if brighten else short

    def _brightened(self, short: RawImage, ratio: float) -> RawImage:
        span = short.white_level - float(np.mean(short.black_level))
        profile = self.params(short.metadata.iso).scaled(ratio).to_dng(span, short.phases)
        bright = short.with_signal(short.signal() * np.float32(ratio))
        return replace(bright, metadata=replace(short.metadata, noise_profile=profile))

    def _render(
        self,
        clean: NDArray,
        iso: float | None,
        read: ReadNoise,
        tile: Tile,
        black: BlackLevel,
        converter: Converter | None,
        out: NDArray,
        workers: int,
    ) -> None:
        """Fill ``out``: uint16 codes, or float32 values that ``converter`` has rounded when there is one."""
        seed, frame = check_key(tile.seed, tile.frame)
        params = self.params(iso)
        signal = check_signal(clean, float(np.min(params.system_gain)))
        sites = make_sites(params, read, tile, black, signal.shape[1])
        alias = alias_table()
        codes = out.dtype == np.uint16
        rounds = converter is not None
        conversion = converter or ideal_converter(0.0)
        top, left = tile.origin

        def work(band: Band) -> None:
            rows = slice(band.first, band.first + len(band.clean))
            expose(
                band.clean,
                out[rows] if codes else _NO_CODES,
                NONE if codes else out[rows],
                rounds,
                sites,
                band.noise,
                conversion,
                alias,
                band.first,
                top + band.first,
                left,
                SHOT_AND_READ_STREAM,
                seed,
                frame,
            )

        def run(bands: Callable[[], Iterator[Band]]) -> None:
            for band in bands():
                work(band)

        jobs = make_bands(signal, iso, read, tile, black, params, max(1, workers))
        if workers <= 1:
            for job in jobs:
                run(job)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, jobs))


# A patch of 64 x 64 pixels takes less time than its tables.
_eld_params = lru_cache(maxsize=64)(EldParams.from_profile)
_eld_noise = lru_cache(maxsize=64)(EldParams.read_noise)


def stated_black(profile: CameraProfile) -> float:
    """Black level [DN] that the calibrated camera's files state: the profile's, less what darks have above it.

    Raises
    ------
    ProfileError
        The profile does not know.
    """
    if profile.black_level is None:
        raise ProfileError(f"{profile.name} knows code edges but no black level to count them from; use stored().")
    above = [np.mean(d.black_offset) for d in profile.details.values() if d.black_offset is not None]
    return float(np.mean(profile.black_level)) - (float(np.mean(above)) if above else 0.0)


def _converter(read: ReadNoise, white: float) -> Converter:
    return ideal_converter(white) if read.code_edges is None else measured_converter(white, *read.code_edges)


def _needed(iso: float | None) -> float:
    if iso is None:
        raise MetadataError("no ISO was given and the clean image records none; pass iso=N.")
    return iso
