"""Temporal mean and variance of every pixel of a stack of frames, in one streaming pass.

For L equal frames y_t of one sensor, per pixel,

    mean Y = sum y_t / L [DN]        variance = sum (y_t - Y)^2 / (L - 1) [DN^2]

and the same of the means of whole rows, columns and frames, per site of the CFA period, which show temporal row and
column noise, drift and flicker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA
from rawkit.sensor.surface import REJECT_SIGMAS, SHADING_ORDER, robust_factors

if TYPE_CHECKING:
    from rawkit.sensor.device_sums import DeviceStack

FloatArray = NDArray[np.floating]

_BAND = 256  # rows handled at once, so that temporaries stay in cache


@dataclass(frozen=True, eq=False)
class PixelMoments:
    """Temporal moments of every pixel of a stack of equal frames.

    Parameters
    ----------
    count : int
        Frames L, at least 2.
    mean : (H, W) float64 [DN]
    variance : (H, W) float [DN^2]
        Temporal, ddof 1.
    frame_means : (L, rows, cols) float64 [DN] or None
        Mean of each frame per site of the CFA period (rows, cols): shows drift and flicker.
    row_var : (H, cols) float64 [DN^2] or None
        Temporal variance (ddof 1) of the mean of each sensor row, per column of the period.
    column_var : (rows, W) float64 [DN^2] or None
        The same of each sensor column.
    """

    count: int
    mean: FloatArray
    variance: FloatArray
    frame_means: FloatArray | None = None
    row_var: FloatArray | None = None
    column_var: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise CalibrationError(f"a stack of {self.count} frame has no temporal variance; it needs at least 2.")
        if self.mean.ndim != 2 or self.mean.shape != self.variance.shape:
            raise ValueError(f"mean {self.mean.shape} and variance {self.variance.shape} must be one (H, W) shape.")

    @classmethod
    def of(cls, frames: Iterable[NDArray], *, period: tuple[int, int] = (1, 1)) -> PixelMoments:
        """Moments of frames taken one at a time (see ``PixelAccumulator``)."""
        accumulator = PixelAccumulator(period=period)
        for frame in frames:
            accumulator.add(frame)
        return accumulator.finish()

    @cached_property
    def _planes(self) -> dict[tuple[int, int, tuple[int, int]], PixelMoments]:
        return {}

    @cached_property
    def _surfaces(self) -> dict[tuple[int, float], tuple[FloatArray, FloatArray, NDArray[np.intp]]]:
        return {}

    def surface(
        self, order: int = SHADING_ORDER, reject: float = REJECT_SIGMAS
    ) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
        """Robust surface under the mean, as factors, and the pixels far from it (``surface.robust_factors``); fitted
        once."""
        if (order, reject) not in self._surfaces:
            self._surfaces[order, reject] = robust_factors(self.mean, order, reject)
        return self._surfaces[order, reject]

    def plane(self, row: int, column: int, period: tuple[int, int]) -> PixelMoments:
        """Moments of one site of a CFA period, as a sensor of its own; views, the same object every time."""
        key = (row, column, period)
        if key not in self._planes:
            self._planes[key] = self._cut(row, column, period)
        return self._planes[key]

    def _cut(self, row: int, column: int, period: tuple[int, int]) -> PixelMoments:
        rows, cols = period
        pick = (slice(row, None, rows), slice(column, None, cols))
        return PixelMoments(
            self.count,
            self.mean[pick],
            self.variance[pick],
            None if self.frame_means is None else self.frame_means[:, row : row + 1, column : column + 1],
            None if self.row_var is None else self.row_var[row::rows, column : column + 1],
            None if self.column_var is None else self.column_var[row : row + 1, column::cols],
        )

    def phases(self, cfa: CFA) -> list[list[PixelMoments]]:
        """Moments of every site of ``cfa``, grouped by phase in canonical order (Bayer and mono: one site each)."""
        groups: list[list[PixelMoments]] = [[] for _ in cfa.phases]
        for site, phase in zip(cfa.sites, cfa.plane_phases, strict=True):
            groups[phase].append(self.plane(*site, cfa.shape))
        return groups


class PixelAccumulator:
    """Streaming moments of a stack: ``add`` every frame, then ``finish``.

    Integer frames (up to 16 bits) are accumulated as integer sums of y and y^2, so mean and variance are exact up to
    the final division, as EMVA 1288 keeps them; frames of floats by Welford's recursion in float64.  Memory: 12 bytes
    a pixel (integers) or 16, whatever the number of frames.

    Parameters
    ----------
    period : (int, int)
        Rows and columns of the CFA period, for the statistics of rows, columns and whole frames.
    device : str
        ``cpu``, or a device of torch that keeps the sums of integer frames.

    Examples
    --------
    >>> stack = PixelAccumulator()
    >>> for level in (10, 12, 14):
    ...     stack.add(np.full((2, 3), level, np.uint16))
    >>> moments = stack.finish()
    >>> float(moments.mean[0, 0]), float(moments.variance[0, 0]), moments.count
    (12.0, 4.0, 3)
    """

    def __init__(self, *, period: tuple[int, int] = (1, 1), device: str = "cpu") -> None:
        self.period, self.device = period, device
        self._on_device: DeviceStack | None = None
        self.count = 0
        self._integer = False
        self._first: NDArray = np.empty((0, 0))  # sum of y, or running mean
        self._second: NDArray = np.empty((0, 0))  # sum of y^2, or running sum of squared deviations
        self._frame_means: list[FloatArray] = []
        self._rows: list[FloatArray] = []  # running mean and squared deviations of the row means
        self._columns: list[FloatArray] = []

    def add(self, *frames: NDArray) -> None:
        """Take in (H, W) frames [DN], unsigned integers or floats; several at once cost less than one by one."""
        for frame in frames:
            if self.count == 0 and frame is frames[0]:
                self._start(frame)
            if frame.shape != self._first.shape or (frame.dtype.kind == "u") != self._integer:
                raise ValueError(
                    f"frame {frame.shape} {frame.dtype} does not fit the stack's {self._first.shape} "
                    f"{'unsigned integers' if self._integer else 'floats'}."
                )
        if self._integer:
            from rawkit.sensor.stack_kernel import add_frames

            if self._on_device is not None:
                lines = self._on_device.add(frames, self.period)
            else:
                lines = add_frames(frames, self._first, self._second, self.period)
            for row_sums, column_sums in zip(*lines, strict=True):
                self._add_lines(row_sums, column_sums)
        else:
            for frame in frames:
                self._add_lines(*self._add_floats(frame))

    def _add_lines(self, row_sums: NDArray, column_sums: NDArray) -> None:
        """Take in the sums of one frame's rows (H, cols) and columns (rows, W)."""
        self.count += 1
        rows, cols = self.period
        height, width = self._first.shape
        per_row = np.array([len(range(c, width, cols)) for c in range(cols)])
        per_column = np.array([len(range(r, height, rows)) for r in range(rows)])
        self._frame_means.append(
            np.array([[row_sums[r::rows, c].sum() for c in range(cols)] for r in range(rows)])
            / (per_column[:, None] * per_row)
        )
        _welford(self._rows, row_sums / per_row, self.count)
        _welford(self._columns, column_sums / per_column[:, None], self.count)

    def _start(self, frame: NDArray) -> None:
        if frame.ndim != 2:
            raise ValueError(f"a frame must be (H, W), found {frame.shape}.")
        self._integer = frame.dtype.kind == "u"
        if frame.dtype.kind not in "uf" or (self._integer and frame.dtype.itemsize > 2):
            raise ValueError(f"frames must be uint8, uint16 or float, found {frame.dtype}.")
        if self._integer and self.device != "cpu":
            from rawkit.sensor.device_sums import DeviceStack

            self._on_device = DeviceStack(frame.shape, self.device)
        # Pages of zeros that nobody writes take no memory; pages that were written once cost less than new ones.
        self._first = _zeros(self._first, frame.shape, np.uint32 if self._integer else np.float64)
        self._second = _zeros(self._second, frame.shape, np.uint64 if self._integer else np.float64)

    def _add_floats(self, frame: NDArray) -> tuple[FloatArray, FloatArray]:
        """One step of Welford's recursion; the frame's sums of rows and columns."""
        rows, cols = self.period
        height, width = frame.shape
        row_sums, column_sums = np.empty((height, cols)), np.zeros((rows, width))
        band = max(rows, _BAND // rows * rows)
        for top in range(0, height, band):
            part = slice(top, min(top + band, height))
            work = frame[part].astype(np.float64)
            for c in range(cols):
                row_sums[part, c] = work[:, c::cols].sum(axis=1)
            for r in range(rows):
                column_sums[r] += work[r::rows].sum(axis=0)
            step = work - self._first[part]
            self._first[part] += step / (self.count + 1)
            self._second[part] += step * (work - self._first[part])
        return row_sums, column_sums

    def clear(self) -> None:
        """Forget all frames; the memory serves the next stack."""
        self.count = 0
        self._on_device = None
        self._frame_means, self._rows, self._columns = [], [], []

    def finish(self, *, release: bool = False) -> PixelMoments:
        """The stack's moments; more frames may be added afterwards.

        Parameters
        ----------
        release : bool
            Let the moments take the memory of the sums, which are lost: no frame may be added afterwards.
        """
        if self.count < 2:
            raise CalibrationError(f"a stack of {self.count} frames has no temporal variance; it needs at least 2.")
        if self._integer:
            from rawkit.sensor.stack_kernel import mean_and_variance

            sums = (self._first, self._second) if self._on_device is None else self._on_device.sums()
            if release:
                self._first = self._second = np.empty((0, 0))
                mean, variance = sums[1].view(np.float64), sums[0].view(np.float32)
            else:
                mean, variance = np.empty(sums[0].shape), np.empty(sums[0].shape, np.float32)
            mean_and_variance(*sums, self.count, mean, variance)
        else:
            mean, variance = self._first.copy(), (self._second / (self.count - 1)).astype(np.float32)
        return PixelMoments(
            self.count,
            mean,
            variance,
            np.array(self._frame_means),
            self._rows[1] / (self.count - 1),
            self._columns[1] / (self.count - 1),
        )


def _zeros(used: NDArray, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray:
    """Zeros in the memory of ``used`` where it fits."""
    if used.shape != shape or used.dtype != dtype:
        return np.zeros(shape, dtype)
    used.fill(0)
    return used


def _welford(state: list[FloatArray], value: FloatArray, count: int) -> None:
    """Update [mean, sum of squared deviations] in place with the ``count``-th value."""
    if not state:
        state += [np.zeros_like(value), np.zeros_like(value)]
    step = value - state[0]
    state[0] = state[0] + step / count
    state[1] = state[1] + step * (value - state[0])
