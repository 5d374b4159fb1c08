"""Poisson-Gaussian noise parameters at one ISO.

    var[x] = K * E[x] + v            (EMVA 1288 R4.0 Linear; K [DN/e-], v [DN^2], x [DN, black removed])

v, ``read_var``, is the whole temporal variance of a dark pixel *as stored*: read noise, and the 1/12 DN^2
of quantization.  It is a variance; its root is the read noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rawkit.errors import ProfileError

Origin = Literal["measured", "interpolated", "extrapolated", "file tag", "estimated"]


@dataclass(frozen=True, eq=False)
class NoiseParams:
    """System gain and read variance, one number or one per phase.

    Parameters
    ----------
    system_gain : float or (P,) float64, K [DN/e-], > 0
    read_var : float or (P,) float64 [DN^2], >= 0
        Quantization included.
    system_gain_se, read_var_se : like the above, or None
        Standard errors; None where nobody stated any.
    origin : str
        How the numbers at this ISO came about: measured, interpolated, extrapolated, or a file's own tag.

    Examples
    --------
    >>> p = NoiseParams(2.0, 9.0)
    >>> float(p.variance(100.0))
    209.0
    """

    system_gain: Any
    read_var: Any
    system_gain_se: Any = None
    read_var_se: Any = None
    origin: Origin = "measured"

    def __post_init__(self) -> None:
        gain, var = np.asarray(self.system_gain, np.float64), np.asarray(self.read_var, np.float64)
        if not (np.all(np.isfinite(gain)) and np.all(gain > 0)):
            raise ProfileError(f"system gain must be a positive number of DN/e-, found {self.system_gain}.")
        if not (np.all(np.isfinite(var)) and np.all(var >= 0)):
            raise ProfileError(f"read variance must be a number of DN^2 that is not negative, found {self.read_var}.")

    def variance(self, signal: Any) -> Any:
        """Variance [DN^2] of a pixel whose expected signal is ``signal`` [DN, black removed]; never below v."""
        return self.system_gain * (signal * (signal > 0)) + self.read_var

    def for_planes(self, plane_phases: Sequence[int]) -> NoiseParams:
        """Parameters shaped (P, 1, 1), to broadcast against (P, h, w) planes whose phases are ``plane_phases``."""
        index = list(plane_phases)

        def spread(value: Any) -> Any:
            if value is None:
                return None
            flat = np.asarray(value, np.float64).reshape(-1)
            if flat.size == 1:
                flat = np.repeat(flat, max(index) + 1)
            if flat.size <= max(index):
                raise ProfileError(f"noise parameters for {flat.size} phases, the image has {max(index) + 1}.")
            return flat[index].reshape(-1, 1, 1)

        return replace(
            self,
            system_gain=spread(self.system_gain),
            read_var=spread(self.read_var),
            system_gain_se=spread(self.system_gain_se),
            read_var_se=spread(self.read_var_se),
        )

    def scaled(self, factor: float) -> NoiseParams:
        """The same noise when stored values are multiplied by ``factor``: K' = K f, v' = v f^2."""

        def times(value: Any, by: float) -> Any:
            return None if value is None else np.asarray(value, np.float64) * by

        return replace(
            self,
            system_gain=times(self.system_gain, factor),
            read_var=times(self.read_var, factor**2),
            system_gain_se=times(self.system_gain_se, factor),
            read_var_se=times(self.read_var_se, factor**2),
        )

    def attenuated(self, share: float) -> NoiseParams:
        """What remains when denoising leaves ``share`` of the variance at every level: K' = K f, v' = v f."""
        return replace(
            self,
            system_gain=np.asarray(self.system_gain, np.float64) * share,
            read_var=np.asarray(self.read_var, np.float64) * share,
            system_gain_se=None,
            read_var_se=None,
        )

    @classmethod
    def from_dng(cls, pairs: Sequence[tuple[float, float]], span: float, phases: Sequence[str]) -> NoiseParams:
        """Parameters from a DNG NoiseProfile: sigma(x) = sqrt(S x + O), x in [0, 1].

            K = S * span,  v = O * span^2,  span = white - black [DN]        (DNG 1.7.1, tag 51041)

        Parameters
        ----------
        pairs : one (S, O) for all planes, or one per color plane in order R, G, B
        span : float
            White level minus black level [DN].
        phases : sequence of str
            Phases of the image; every green phase takes the green plane's pair.
        """
        if len(pairs) == 1:
            chosen = [pairs[0]] * len(phases)
        elif len(pairs) == 3 and len(phases) > 1:
            chosen = [pairs["RGB".index(name[0])] for name in phases]
        elif len(pairs) == len(phases):
            chosen = list(pairs)
        else:
            raise ProfileError(
                f"NoiseProfile has {len(pairs)} planes, which does not fit the phases {', '.join(phases)}."
            )
        slope, offset = np.array(chosen, np.float64).T
        with np.errstate(over="ignore"):  # infinite ones are refused
            return cls(slope * span, offset * span**2, origin="file tag")

    def to_dng(self, span: float, phases: Sequence[str]) -> tuple[tuple[float, float], ...]:
        """Inverse of ``from_dng``: (S, O) per color plane (R, G, B, or one for mono); greens are averaged."""
        gain = np.broadcast_to(np.asarray(self.system_gain, np.float64).reshape(-1), (len(phases),))
        var = np.broadcast_to(np.asarray(self.read_var, np.float64).reshape(-1), (len(phases),))
        letters = [name[0] for name in phases]
        pairs = []
        for letter in dict.fromkeys(letters):
            of = [i for i, other in enumerate(letters) if other == letter]
            pairs.append((float(gain[of].mean() / span), float(var[of].mean() / span**2)))
        return tuple(pairs)
