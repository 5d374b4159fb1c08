"""The ELD noise model: its parameters at an ISO, and joint draws of them over the system gain.

    y = K Poisson(x / K) + TL(lambda; mu_c, sigma_TL) + N_row + rounding                              [DN]

TL is the Tukey-lambda law with the quantile function Q(p) = mu_c + sigma_TL (p^lambda - (1 - p)^lambda) / lambda
(logistic at lambda = 0; about 0.14 is nearly normal, below it the tails are heavier); sigma_TL is a scale, not a
standard deviation.  N_row is one Gaussian per sensor row, common to the colors in it.  mu_c, the color bias, is what
a dark of color c has above the black level.

Joint draws: ln K uniform between its extremes, then, given K,

    ln sigma = a ln K + b + s N(0, 1)            for sigma_TL and the row noise

with lambda and mu_c from the lists of the calibrated ISOs.  At a gain switch sigma jumps; one line across it would
make the scatter s as large as the jump, so every gain segment has lines of its own.

References
----------
Wei, Fu, Yang, Huang, "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import ProfileError
from rawkit.noise.kernels import noise_tables
from rawkit.noise.read_noise import PARAMETER_STREAM, ROW_STREAM, ReadNoise, gaussian_lines
from rawkit.noise.rng import check_key, normals, philox
from rawkit.sensor.iso_laws import fit_law
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.quantized import tukey_deviation, tukey_quantile

if TYPE_CHECKING:
    from rawkit.sensor.iso_details import IsoDetails
    from rawkit.sensor.profile import CameraProfile

_QUANTIZATION = 1.0 / 12.0
_LEAST_ISOS = 3  # for a line with a scatter


@dataclass(frozen=True, eq=False)
class EldParams:
    """The model at one gain.

    Parameters
    ----------
    system_gain : float or (P,) [DN/e-]
    tukey_lambda : float or (P,)
    tukey_scale : float or (P,) [DN]
    row_noise : float [DN]
    color_bias : float or (P,) [DN]

    Examples
    --------
    >>> float(EldParams(2.0, 0.0, 1.0, 3.0).params.read_var.round(3))       # pi^2/3 + 9 + 1/12
    12.373
    """

    system_gain: Any
    tukey_lambda: Any
    tukey_scale: Any
    row_noise: float = 0.0
    color_bias: Any = 0.0

    def __post_init__(self) -> None:
        if not (np.all(np.asarray(self.tukey_scale) > 0) and self.row_noise >= 0):
            raise ProfileError(
                f"an ELD model needs a Tukey-lambda scale above 0 DN and row noise of at least 0 DN, found "
                f"{self.tukey_scale} and {self.row_noise}."
            )

    @property
    def params(self) -> NoiseParams:
        """K and the variance of a dark pixel as stored; infinite tails (lambda <= -1/2) have none."""
        scale, shape = np.broadcast_arrays(np.asarray(self.tukey_scale, float), np.asarray(self.tukey_lambda, float))
        deviation = scale * np.vectorize(tukey_deviation, otypes=[float])(shape)
        if not np.all(np.isfinite(deviation)):
            raise ProfileError(f"Tukey-lambda {self.tukey_lambda} has no variance; lambda must be above -1/2.")
        return NoiseParams(self.system_gain, deviation**2 + self.row_noise**2 + _QUANTIZATION)

    def read_noise(self, phases: int) -> ReadNoise:
        """The dark part, for a sensor of so many phases."""
        shape, scale, bias = (
            np.broadcast_to(np.asarray(v, np.float64).reshape(-1), (phases,))
            for v in (self.tukey_lambda, self.tukey_scale, self.color_bias)
        )
        tables = noise_tables(lambda p, q: [s * tukey_quantile(p, q, f) for s, f in zip(scale, shape, strict=True)])
        return ReadNoise(tables=tables, offset=bias, rows=gaussian_lines(float(self.row_noise), ROW_STREAM))

    @classmethod
    def from_profile(cls, profile: CameraProfile, iso: float) -> EldParams:
        """The model of a profile at an ISO: as measured there, or after the nearest measured one of the gain segment.

        The read variance holds row noise and rounding too, so the scale is what is left for the pixels,

            sigma_TL^2 var(lambda) = v - sigma_row^2 - 1/12

        with var(lambda) the variance of the law of scale 1.  (A profile's own scale is that of all of a dark pixel's
        noise where it was fitted with the rows in.)  From the nearest ISO lambda and color bias are kept; row noise
        scales with the read noise.

        Raises
        ------
        ProfileError
            No ISO of the gain segment has a measured Tukey-lambda law, or row noise is larger than read noise.
        """
        segment = profile.noise.segment_number(iso)
        known = [i for i in measured_isos(profile) if profile.noise.segment_number(i) == segment]
        if not known:
            raise ProfileError(
                f"{profile.name} has no Tukey-lambda law in the gain segment of ISO {iso:g}; calibrate from dark "
                "frames (read noise above 0.6 DN), or use mode pg."
            )
        nearest = min(known, key=lambda i: abs(math.log(i / iso)))
        params, there = profile.noise.at(iso), profile.noise.at(nearest)
        details = profile.details[nearest]
        factor = math.sqrt(float(np.mean(params.read_var)) / float(np.mean(there.read_var)))
        row_noise = float(np.mean(_values(details.row_noise))) * factor
        return cls(
            params.system_gain,
            _values(details.tukey_lambda),
            _pixel_scale(params.read_var, row_noise, _values(details.tukey_lambda)),
            row_noise,
            _values(details.black_offset),
        )


def _pixel_scale(read_var: Any, row_noise: float, tukey_lambda: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale [DN] that leaves room in the read variance for row noise and rounding; lambda > -1/2."""
    rest = np.asarray(read_var, np.float64) - row_noise**2 - _QUANTIZATION
    deviation = np.vectorize(tukey_deviation, otypes=[float])(tukey_lambda)
    if np.any(rest <= 0) or not np.all(np.isfinite(deviation)):
        raise ProfileError(
            f"read variance {read_var} DN^2, row noise {row_noise:g} DN and Tukey-lambda {tukey_lambda} leave no pixel "
            "noise of finite variance; use mode pg."
        )
    return np.sqrt(rest) / deviation


def measured_isos(profile: CameraProfile) -> list[float]:
    """ISOs of a profile with a Tukey-lambda law."""
    return [i for i, d in profile.details.items() if d.tukey_lambda is not None and d.tukey_scale is not None]


def _values(value: Any) -> NDArray[np.float64]:
    return np.asarray(0.0 if value is None else value, np.float64)


@dataclass(frozen=True)
class LogLine:
    """ln sigma = slope ln K + bias, with a standard deviation of ``scatter`` around it; natural logarithms, DN."""

    slope: float
    bias: float
    scatter: float

    def draw(self, log_gain: float, normal: float) -> float:
        """sigma [DN] at ln K, ``normal`` scatters above the line."""
        return math.exp(self.slope * log_gain + self.bias + self.scatter * normal)


@dataclass(frozen=True)
class EldSegment:
    """One gain segment: its range of K [DN/e-], and its lines."""

    gains: tuple[float, float]
    tukey_scale: LogLine
    row_noise: LogLine | None
    tukey_lambdas: tuple[float, ...]
    color_biases: tuple[tuple[float, ...], ...] = ((0.0,),)


@dataclass(frozen=True)
class EldLaw:
    """Joint law of the ELD parameters over K.

    Examples
    --------
    >>> sony = {"Kmin": 0.0939, "Kmax": 6.011, "G_shape": [-0.143, 0.0, 0.129],
    ...         "Profile-1": {"G_scale": {"slope": 0.462, "bias": 0.566, "sigma": 0.263},
    ...                       "R_scale": {"slope": 0.528, "bias": -0.592, "sigma": 0.294}}}
    >>> draw = EldLaw.from_eld(sony).draw(seed=1)
    >>> 0.0939 <= draw.system_gain <= 6.011
    True
    """

    segments: tuple[EldSegment, ...]

    def draw(self, *, seed: int, frame: int = 0) -> EldParams:
        """One camera setting: K by ln K uniform over the segments' ranges, the rest given K; keyed by (seed, frame)."""
        seed, frame = check_key(seed, frame)
        words = np.array(
            [philox(0, number, PARAMETER_STREAM, 0, seed, frame) for number in range(2)], np.uint32
        ).reshape(-1)
        uniform = (words[:4].astype(np.float64) + 0.5) / 2.0**32
        normal, scratch = np.empty(2, np.float32), np.empty(2, np.float32)
        normals(words[4:6], normal, scratch, scratch.view(np.int32), 2)
        lengths = np.array([math.log(s.gains[1] / s.gains[0]) for s in self.segments])
        share = np.cumsum(lengths) / lengths.sum() if lengths.sum() > 0 else np.ones(len(lengths))
        segment = self.segments[int(np.searchsorted(share, uniform[0]))]
        log_gain = math.log(segment.gains[0]) + uniform[1] * math.log(segment.gains[1] / segment.gains[0])
        row = segment.row_noise
        return EldParams(
            math.exp(log_gain),
            _pick(segment.tukey_lambdas, uniform[2]),
            segment.tukey_scale.draw(log_gain, float(normal[0])),
            0.0 if row is None else row.draw(log_gain, float(normal[1])),
            np.asarray(_pick(segment.color_biases, uniform[3])),
        )

    @classmethod
    def from_eld(cls, parameters: Mapping[str, Any]) -> EldLaw:
        """Law of a camera's published parameters: ``Kmin``, ``Kmax``, ``G_shape`` and ``Profile-n``.

        A ``Profile-n`` may have its own ``Kmin`` and ``Kmax``; else all are alternatives over the whole range.

        Raises
        ------
        ProfileError
            A parameter is missing.
        """
        try:
            lambdas = tuple(float(v) for v in parameters["G_shape"])
            biases = tuple(tuple(float(v) for v in row) for row in parameters.get("color_bias", ((0.0,),)))
            names = sorted(name for name in parameters if name.startswith("Profile-"))
            segments = []
            for name in names:
                laws = parameters[name]
                scale, row = (
                    LogLine(*(float(laws[law][key]) for key in ("slope", "bias", "sigma")))
                    for law in ("G_scale", "R_scale")
                )
                low, high = (float(laws.get(key, parameters[key])) for key in ("Kmin", "Kmax"))
                segments.append(EldSegment((low, high), scale, row, lambdas, biases))
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(
                f"these are not ELD parameters: {error} is missing; needed are Kmin, Kmax, G_shape and Profile-1 with "
                "G_scale and R_scale, each slope, bias and sigma."
            ) from None
        if not segments or not lambdas:
            raise ProfileError("these ELD parameters hold no Profile-1, or an empty G_shape; a law needs both.")
        return cls(tuple(segments))

    @classmethod
    def from_profile(cls, profile: CameraProfile) -> EldLaw:
        """Lines through the measured ISOs of every gain segment that has three of them.

        Raises
        ------
        ProfileError
            No gain segment has three.
        """
        isos = measured_isos(profile)
        segments = []
        for number in range(len(profile.noise.gain_switches) + 1):
            here = [i for i in isos if profile.noise.segment_number(i) == number and not profile.noise.is_pushed(i)]
            if len(here) >= _LEAST_ISOS:
                segments.append(_segment(profile, here))
        if not segments:
            raise ProfileError(
                f"{profile.name}: no gain segment has a Tukey-lambda law at {_LEAST_ISOS} ISOs; calibrate more."
            )
        return cls(tuple(segments))


def _segment(profile: CameraProfile, isos: Sequence[float]) -> EldSegment:
    found: list[IsoDetails] = [profile.details[i] for i in isos]
    gain = np.array([float(np.mean(profile.noise.at(i).system_gain)) for i in isos])
    row = np.array([float(np.mean(_values(d.row_noise))) for d in found])
    return EldSegment(
        (float(gain.min()), float(gain.max())),
        _line(gain, np.array([float(np.mean(_values(d.tukey_scale))) for d in found])),
        _line(gain, row) if np.all(row > 0) else None,
        tuple(float(np.mean(_values(d.tukey_lambda))) for d in found),
        tuple(tuple(float(v) for v in _values(d.black_offset).reshape(-1)) for d in found),
    )


def _line(gain: NDArray[np.float64], sigma: NDArray[np.float64]) -> LogLine:
    law = fit_law(gain, sigma, family="power")
    bias, slope = (float(c) for c in law.coefficients)
    return LogLine(slope, bias, law.residual * math.sqrt(gain.size / (gain.size - 2)))


def _pick(choices: Sequence[Any], uniform: float) -> Any:
    return choices[int(uniform * len(choices))]
