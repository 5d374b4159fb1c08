"""What a sensor adds in the dark, in a form that every engine renders: the numba kernel here, torch in ``device``.

    noise(i, j) = shape_phase(z) + offset_phase + row(i) + column(j) + fixed(i, j)              [DN, black removed]

z is a standard normal, white or with a measured spectrum; ``shape`` scales it, or maps it to another law.  Rows and
columns are temporal: one number per sensor row (column) and frame, shared by all colors in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import CalibrationError
from rawkit.noise.rng import normal_field
from rawkit.noise.spectral_field import SpectralField

FloatImage = NDArray[np.float32]

#: Random streams; a source of noise has one of its own.
SHOT_AND_READ_STREAM, ROW_STREAM, COLUMN_STREAM, FIXED_STREAM = 0, 1, 2, 3
RESPONSE_STREAM, ROW_BLOCK_STREAM, TELEGRAPH_STREAM, PARAMETER_STREAM, DARK_FRAME_STREAM = 5, 6, 7, 8, 9

#: (seed, frame, first line, number of lines) -> (lines,) float32 [DN]
LineNoise = Callable[[int, int, int, int], FloatImage]
#: (iso, shape, seed, frame, top, left) -> (H, W) analog dark [DN, black removed], before the converter
DarkSource = Callable[[float | None, tuple[int, int], int, int, int, int], NDArray]


@dataclass(frozen=True, eq=False)
class ReadNoise:
    """The dark part of the noise at one ISO.

    Parameters
    ----------
    sigma : (P,) float [DN] or None
        Standard deviation per phase of Gaussian pixel noise.
    tables : (P, TABLE_SIZE) float32 [DN] or None
        Pixel noise as a function of z (``kernels.noise_tables``), in place of ``sigma``.
    offset : (P,) float [DN]
        Color bias.
    rows, columns : LineNoise or None
    field : SpectralField or None
        Spectrum of z; None: white.
    fixed : (H, W) float32 [DN] or None
        The whole sensor's fixed pattern.
    response : (H, W) float32 or None
        The whole sensor's relative response to light (PRNU, dead pixels).
    hot : (n, 2) int and (n,) float32 [DN]
        Places and dark signal of pixels whose dark current has shot noise of its own; the signal is part of ``fixed``.
    telegraph : (n, 2) int and (n,) float32 [DN]
        Places and half distance of the two levels of random-telegraph pixels.
    code_edges : (int, (m,) float64 [DN]) or None
        As in ``DarkModel``: levels of the converter, black level included.
    source : DarkSource or None
        Gives everything but the response, in place of all the above.
    """

    sigma: NDArray[np.float64] | None = None
    tables: FloatImage | None = None
    offset: NDArray[np.float64] | None = None
    rows: LineNoise | None = None
    columns: LineNoise | None = None
    field: SpectralField | None = None
    fixed: FloatImage | None = None
    response: FloatImage | None = None
    hot: tuple[NDArray[np.intp], FloatImage] | None = None
    telegraph: tuple[NDArray[np.intp], FloatImage] | None = None
    code_edges: tuple[int, NDArray[np.float64]] | None = None
    source: DarkSource | None = None

    def part(
        self, whole: FloatImage | None, shape: tuple[int, int], place: tuple[int, int], what: str
    ) -> FloatImage | None:
        """A tile of one of the sensor's maps.

        Raises
        ------
        CalibrationError
            The tile reaches beyond the map.
        """
        if whole is None:
            return None
        top, left = place
        if top < 0 or left < 0 or top + shape[0] > whole.shape[0] or left + shape[1] > whole.shape[1]:
            raise CalibrationError(
                f"the {what} was measured on {whole.shape[0]} x {whole.shape[1]} pixels, the image covers rows {top} "
                f"to {top + shape[0]} and columns {left} to {left + shape[1]}; give the origin of a crop inside."
            )
        return np.ascontiguousarray(whole[top : top + shape[0], left : left + shape[1]])


def gaussian_lines(sigma: float, stream: int) -> LineNoise | None:
    """One N(0, sigma^2) draw per line and frame [DN]; None for sigma = 0."""
    if sigma == 0:
        return None

    def draw(seed: int, frame: int, first: int, count: int) -> FloatImage:
        return np.float32(sigma) * normal_field((1, count), seed=seed, frame=frame, stream=stream, origin=(0, first))[0]

    return draw


def inside(
    places: NDArray[np.intp], shape: tuple[int, int], place: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which sensor pixels lie in a tile, and where there."""
    local = places - np.asarray(place)
    within = np.all((local >= 0) & (local < np.asarray(shape)), axis=1)
    return within, local[within]
