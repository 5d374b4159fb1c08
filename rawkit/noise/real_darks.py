"""Real dark frames as the source of read noise.

    dark(i, j) = F(i, j) + sqrt(n / (n - 1)) (d_k(i', j') + t - m(i', j')),       i' = i + a mod H,  j' = j + b mod W

d_k is one of n real darks, m their mean, and (a, b) an offset that is a whole number of CFA periods; (k, a, b) are
drawn per (seed, frame) for the whole sensor.  Rows stay rows, so row noise keeps its structure, and colors stay with
their color.  F, the mean with its leftover temporal noise shrunk away, stays in place: it is counted once.

Subtracting the mean of the same n frames costs the residuals (2 n - 1)/n^2 of their excess kurtosis: give many frames,
or use ``measured``, which corrects for it.

t takes back the converter's rounding ("high bits"): within its code a value has the density 1 + s t, |t| <= 1/2, with
s from the counts of the neighboring codes around the pixel's mean, drawn by a uniform keyed by the pixel.

References
----------
Zhang, Qin, Wang, Li, "Rethinking noise synthesis and modeling in raw denoising", ICCV 2021 (sampling real darks, with
high-bit reconstruction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.noise.read_noise import DARK_FRAME_STREAM, FIXED_STREAM
from rawkit.noise.rng import WORD, check_key, normal_field, philox, row_words
from rawkit.raw.image import CFA, RawImage
from rawkit.sensor.dark_shading import shrink_fixed_pattern
from rawkit.sensor.pixel_moments import PixelMoments

_REACH = 64  # codes around a pixel's mean whose density is known; beyond, it is taken as flat
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_STEEPEST = 2.0  # a density that starts at 0


@dataclass(frozen=True, eq=False)
class RealDarks:
    """A dark source (``NoiseSynthesizer(..., dark=RealDarks.from_images(darks))``).

    Parameters
    ----------
    codes : (n, H, W) uint16
        Stored values; H and W whole CFA periods.
    mean : (H, W) float32 [DN, black included]
    fixed : (H, W) float32 [DN, black removed]
    slopes : (2 * 64 + 1,) float32 [1/DN]
        s of the codes from 64 below to 64 above the pixel's mean.
    period : (rows, columns)
        Of the CFA.
    """

    codes: NDArray[np.uint16]
    mean: NDArray[np.float32]
    fixed: NDArray[np.float32]
    slopes: NDArray[np.float32]
    period: tuple[int, int]

    @classmethod
    def from_images(cls, images: Sequence[RawImage], *, unit: int = 0) -> RealDarks:
        """Darks of one setting.

        Parameters
        ----------
        images : at least two RawImage
            Equal in size, CFA and black level.
        unit : int
            Seed of the frozen field that tops up what shrinking takes from the fixed pattern.

        Raises
        ------
        CalibrationError
            Fewer than two frames, or frames that do not belong together.
        """
        if len(images) < 2:
            raise CalibrationError(f"{len(images)} dark frame; at least two tell temporal noise from fixed pattern.")
        first = images[0]
        for image in images[1:]:
            if (image.mosaic.shape, image.cfa, image.black_level) != (first.mosaic.shape, first.cfa, first.black_level):
                raise CalibrationError(
                    "the dark frames differ in size, CFA or black level; give frames of one setting."
                )
        rows, cols = first.cfa.shape
        height, width = (size // step * step for size, step in zip(first.mosaic.shape, (rows, cols), strict=True))
        codes = np.stack([image.mosaic[:height, :width].astype(np.uint16) for image in images])
        moments = PixelMoments.of(list(codes), period=first.cfa.shape)
        mean = moments.mean.astype(np.float32)
        black = (first.mosaic - first.signal())[:height, :width]
        return cls(codes, mean, _shrunk(moments, first.cfa, unit) - black, _code_slopes(codes, mean), (rows, cols))

    def __call__(
        self, iso: float | None, shape: tuple[int, int], seed: int, frame: int, top: int, left: int
    ) -> NDArray[np.float32]:
        """Analog dark of a tile (H, W) float32 [DN, black removed]; ``iso`` is that of the frames whatever it says.

        Raises
        ------
        CalibrationError
            The tile reaches beyond the frames.
        """
        seed, frame = check_key(seed, frame)
        count, height, width = self.codes.shape
        if top < 0 or left < 0 or top + shape[0] > height or left + shape[1] > width:
            raise CalibrationError(
                f"the dark frames have {height} x {width} pixels, the tile covers rows {top} to {top + shape[0]} and "
                f"columns {left} to {left + shape[1]}; crop the picture, or give its origin inside."
            )
        words = [int(w) for w in philox(0, 0, DARK_FRAME_STREAM, 1, seed, frame)]
        rows, cols = self.period
        down, right = rows * (words[1] * (height // rows) >> 32), cols * (words[2] * (width // cols) >> 32)
        out = np.empty(shape, np.float32)
        scale = np.float32(np.sqrt(count / (count - 1)))
        _resample(
            out,
            self.codes[words[0] * count >> 32],
            self.mean,
            self.fixed,
            self.slopes,
            scale,
            down,
            right,
            top,
            left,
            seed,
            frame,
        )
        return out


@njit(cache=True, nogil=True, error_model="numpy")
def _resample(
    out: Any, codes: Any, mean: Any, fixed: Any, slopes: Any, scale: Any, down: Any, right: Any,
    top: Any, left: Any, seed: Any, frame: Any,
) -> None:  # fmt: skip
    height, width = codes.shape
    words = np.empty((4, out.shape[1]), np.uint32)
    for i in range(out.shape[0]):
        row_words(words, out.shape[1], top + i, left, DARK_FRAME_STREAM, seed, frame)
        source = (top + i + down) % height
        for j in range(out.shape[1]):
            column = left + j + right
            column -= width if column >= width else 0
            code, middle = float32(codes[source, column]), mean[source, column]
            at = min(max(int(code - np.rint(middle)) + _REACH, 0), 2 * _REACH)
            t = _within_code((float32(words[0, j]) + _HALF) * WORD, slopes[at])
            out[i, j] = fixed[top + i, left + j] + scale * (code + t - middle)


@njit(inline="always")
def _within_code(u: Any, slope: Any) -> Any:
    """Inverse CDF of the density 1 + s t on [-1/2, 1/2]: t + s t^2/2 = u - 1/2 + s/8, free of cancellation at s = 0."""
    rest = u - _HALF + slope * float32(0.125)
    return _TWO * rest / (_ONE + np.sqrt(max(_ONE + _TWO * slope * rest, _ZERO)))


def _shrunk(moments: PixelMoments, cfa: CFA, unit: int) -> NDArray[np.float32]:
    """Mean dark, each CFA site shrunk and topped up, black level included."""
    stored = np.empty(moments.mean.shape, np.float32)
    rows, cols = cfa.shape
    top_up = normal_field(moments.mean.shape, seed=unit, stream=FIXED_STREAM)
    for row, column in cfa.sites:
        pattern = shrink_fixed_pattern(moments.plane(row, column, cfa.shape))
        here = (slice(row, None, rows), slice(column, None, cols))
        stored[here] = pattern.pattern + np.sqrt(pattern.lost_var) * top_up[here]
    return stored


def _code_slopes(codes: NDArray[np.uint16], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """(log-)density slope within the codes around the mean, from their counts: s = (n[c+1] - n[c-1]) / (2 n[c])."""
    counts = np.zeros(2 * _REACH + 3)
    middle = np.rint(mean).astype(np.int64)
    for frame in codes:
        away = np.clip(frame - middle + _REACH + 1, 0, counts.size - 1)
        counts += np.bincount(away.ravel(), minlength=counts.size)
    slopes = (counts[2:] - counts[:-2]) / np.maximum(2.0 * counts[1:-1], 1.0)
    slopes[[0, -1]] = 0.0  # end bins hold everything beyond
    return np.clip(slopes, -_STEEPEST, _STEEPEST).astype(np.float32)
