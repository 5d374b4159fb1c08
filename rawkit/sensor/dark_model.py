"""What the dark frames of one ISO look like: enough to synthesize more of them.

A dark frame y_t of H rows and W columns, black level removed, is

    y_t(i, j) = round_c( F(i, j) + r_t(i) + c_t(j) + n_t(i, j) )                                             [DN]

with F the fixed pattern, r_t and c_t the frame's own row and column offsets, n_t the temporal noise of the pixels and
round_c the converter, whose code edges need not be evenly spaced.  Known of n_t are its distribution per phase, as a
table of quantiles that a fitted Tukey-lambda law continues, and its two-dimensional spectrum.

The arrays live in ``CameraProfile.maps``, one set per ISO, each under ``<field>_iso<iso>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rawkit.sensor.quantized import tukey_quantile

if TYPE_CHECKING:
    from rawkit.sensor.profile import CameraProfile

FloatArray = NDArray[np.floating]

QUANTILES = 1025  # probabilities (k + 0.5) / 1025
_TAIL_QUANTILES = 20  # at either end, whose slope goes on beyond
_SAME_ISO = 1e-3  # relative; cameras round ISO to a few digits
_HALF_PRECISION_LOSS = 0.02  # of the pixel noise: what storing the pattern in 16 bits may cost


@dataclass(frozen=True, eq=False)
class DarkModel:
    """Dark frames of one ISO (equation above), in DN.

    Parameters
    ----------
    fixed_pattern : (H, W) float32 [DN]
        Mean dark minus the file's black level, its leftover temporal noise shrunk away: dark shading, offsets and hot
        pixels' means included.
    fixed_residue : float [DN]
        Standard deviation of the pattern that shrinking took away; a frozen random field tops it up.
    row_series : (n, H) float32 [DN]
        Row offsets r_t of n real frames; the pixels' noise that averages into row means is taken out.
    column_noise : float [DN]
        Standard deviation of the column offsets c_t; 0 where none was found.
    pixel_quantiles : (phases, 1025) float32 [DN]
        Quantiles of n_t at p = (k + 0.5) / 1025, before the converter rounds (1/12 DN^2 removed).
    log_spectrum : (h, w) float32
        Natural logarithm of the mean 2-D periodogram of n_t over that of white noise (mean power 1), on tiles of the
        whole mosaic; in the order of ``numpy.fft.fft2``.
    code_edges : (int, (m,) float64 [DN]) or None
        First code, and edges: ``edges[i]`` is the analog level between the codes ``first + i - 1`` and ``first + i``.
        Codes and edges are as stored, black level included.  Beyond them the converter is ideal; None: everywhere.
    defects : structured array
        As ``find_defects`` gives it.
    frames : int
        Frames behind the model.
    iso : float or None
        Where it was measured.
    tail_shape : float or None
        lambda of the Tukey-lambda law by which n_t runs on beyond its outermost quantiles; None: as a Gaussian.
    """

    fixed_pattern: NDArray[np.float32]
    fixed_residue: float
    row_series: NDArray[np.float32]
    column_noise: float
    pixel_quantiles: NDArray[np.float32]
    log_spectrum: NDArray[np.float32]
    code_edges: tuple[int, NDArray[np.float64]] | None
    defects: NDArray
    frames: int
    iso: float | None = None
    tail_shape: float | None = None

    def __post_init__(self) -> None:
        if self.row_series.ndim != 2 or self.row_series.shape[1] != self.fixed_pattern.shape[0]:
            raise ValueError(
                f"row series {self.row_series.shape} must hold one value per row of the pattern "
                f"{self.fixed_pattern.shape}."
            )
        if self.pixel_quantiles.ndim != 2 or self.pixel_quantiles.shape[1] != QUANTILES:
            raise ValueError(f"pixel quantiles must be (phases, {QUANTILES}), found {self.pixel_quantiles.shape}.")

    def to_maps(self, iso: float) -> dict[str, NDArray]:
        """Arrays for ``CameraProfile.maps``; the pattern in 16 bits where that costs less than 2 % of the noise."""
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is seen below
            half = self.fixed_pattern.astype(np.float16)
        lost = float(np.sqrt(np.mean((half.astype(np.float32) - self.fixed_pattern) ** 2, dtype=np.float64)))
        noise = float(np.sqrt(np.mean(self.pixel_quantiles.astype(np.float64) ** 2)))
        fits = bool(np.all(np.isfinite(half))) and lost <= _HALF_PRECISION_LOSS * noise
        arrays: dict[str, Any] = {
            "fixed_pattern": half if fits else self.fixed_pattern,
            "fixed_residue": self.fixed_residue,
            "row_series": self.row_series,
            "column_noise": self.column_noise,
            "pixel_quantiles": self.pixel_quantiles,
            "log_spectrum": self.log_spectrum,
            "defects": self.defects,
            "dark_model_frames": self.frames,
        }
        if self.code_edges is not None:
            arrays["first_code"], arrays["code_edges"] = self.code_edges[0], self.code_edges[1]
        if self.tail_shape is not None:
            arrays["tail_shape"] = self.tail_shape
        return {f"{name}_iso{iso:g}": np.asarray(array) for name, array in arrays.items()}

    @classmethod
    def from_maps(cls, maps: Mapping[str, NDArray], iso: float) -> DarkModel | None:
        """Inverse of ``to_maps``; None where the maps hold no model of this ISO."""
        if f"dark_model_frames_iso{iso:g}" not in maps:
            return None

        def of(name: str) -> NDArray:
            return maps[f"{name}_iso{iso:g}"]

        edges = None
        if f"code_edges_iso{iso:g}" in maps:
            edges = int(of("first_code")), np.asarray(of("code_edges"), np.float64)
        return cls(
            fixed_pattern=np.asarray(of("fixed_pattern"), np.float32),
            fixed_residue=float(of("fixed_residue")),
            row_series=np.asarray(of("row_series"), np.float32),
            column_noise=float(of("column_noise")),
            pixel_quantiles=np.asarray(of("pixel_quantiles"), np.float32),
            log_spectrum=np.asarray(of("log_spectrum"), np.float32),
            code_edges=edges,
            defects=of("defects"),
            frames=int(of("dark_model_frames")),
            iso=float(iso),
            tail_shape=float(of("tail_shape")) if f"tail_shape_iso{iso:g}" in maps else None,
        )

    @classmethod
    def from_profile(cls, profile: CameraProfile, iso: float) -> DarkModel | None:
        """Model of an ISO of the profile, or of the nearest calibrated ISO in its gain segment; None without any.

        The model is as measured at ``model.iso``; scaling it to another ISO is the caller's business.
        """
        segment = profile.noise.segment_number(iso)
        known = [
            i
            for i in profile.noise.isos
            if f"dark_model_frames_iso{i:g}" in profile.maps
            and (profile.noise.segment_number(i) == segment or abs(i / iso - 1) < _SAME_ISO)
        ]
        if not known:
            return None
        return cls.from_maps(profile.maps, min(known, key=lambda i: abs(np.log(i / iso))))


def law_values(quantiles: NDArray[np.floating], z: FloatArray, *, tail_shape: float | None = None) -> FloatArray:
    """A law given by its quantiles, Q(Phi(z)), as a function of the standard normal z.

    Parameters
    ----------
    quantiles : (n,) [DN]
        At p = (k + 1/2) / n.
    z : (m,) float
    tail_shape : float or None
        Beyond the outermost quantiles the law runs on from their value and slope, straight over the Tukey-lambda
        quantile of this lambda; None: straight over z, as a Gaussian.

    Returns
    -------
    (m,) float64 [DN]

    Examples
    --------
    >>> from scipy.special import ndtri
    >>> quantiles = 2.0 * ndtri((np.arange(1025) + 0.5) / 1025)
    >>> law_values(quantiles, np.array([-5.0, 0.0, 4.0])).round(4).tolist()
    [-10.0, 0.0, 8.0]
    >>> law_values(quantiles, np.array([4.0]), tail_shape=-0.1) > 8.5       # heavier than the Gaussian inside
    array([ True])
    """
    from scipy.special import ndtr, ndtri

    def tail(z: FloatArray) -> FloatArray:
        return z if tail_shape is None else tukey_quantile(ndtr(z), ndtr(-z), tail_shape)

    values = np.asarray(quantiles, np.float64)
    knots = ndtri((np.arange(len(values)) + 0.5) / len(values))
    law = np.interp(z, knots, values)
    for end, edge, beyond in (
        (slice(0, _TAIL_QUANTILES), 0, z < knots[0]),
        (slice(-_TAIL_QUANTILES, None), -1, z > knots[-1]),
    ):
        slope = np.polyfit(tail(knots[end]), values[end], 1)[0]
        law[beyond] = values[edge] + slope * (tail(z[beyond]) - tail(knots[edge]))
    return law
