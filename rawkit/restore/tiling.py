"""Overlapping tiles with blended seams.

Along each axis n samples are covered by m tiles of equal length (n + (m - 1) o) / m, rounded; neighbors share o
samples.  There the weight of the right tile rises linearly,

    r_k = (k + 1/2) / o,    k = 0 .. o - 1,        left tile: 1 - r_k

and everywhere else one tile has weight 1.  In two dimensions the weights multiply.  o is a power of two, so
the weights and their sums are exact in float32: they add up to 1 at every pixel, bit for bit.

Tiles are added in a fixed order whatever the number of workers; the result does not depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Span:
    """One tile along one axis: samples ``start`` to ``stop``, ``rise`` and ``fall`` of them blended at its ends."""

    start: int
    stop: int
    rise: int
    fall: int

    def weights(self) -> NDArray[np.float32]:
        """(stop - start,) float32 blending weights."""
        weight = np.ones(self.stop - self.start, np.float32)
        if self.rise:
            weight[: self.rise] = ramp(self.rise)
        if self.fall:
            weight[-self.fall :] = 1 - ramp(self.fall)
        return weight


def ramp(overlap: int) -> NDArray[np.float32]:
    """Rising weights r_k = (k + 1/2) / overlap."""
    return ((np.arange(overlap) + 0.5) / overlap).astype(np.float32)


def spans(length: int, tile: int, overlap: int, *, grid: int = 1) -> list[Span]:
    """Cut one axis into the fewest equal tiles of at most ``tile`` samples.

    Parameters
    ----------
    length, tile : int
        Samples of the axis and of a tile, its overlaps included.
    overlap : int
        Samples shared by neighbors: 0 or a power of two, at most a third of a tile: then no more than two tiles
        meet anywhere along the axis.
    grid : int
        Tiles start at multiples of it, as a filter that works on cells of so many samples needs.

    Examples
    --------
    >>> [(s.start, s.stop) for s in spans(100, 64, 16)]
    [(0, 58), (42, 100)]
    """
    if overlap & (overlap - 1) or not 0 <= 3 * overlap <= tile:
        raise ValueError(f"overlap {overlap} must be 0 or a power of two, at most a third of the tile of {tile}.")
    if length <= tile:
        return [Span(0, length, 0, 0)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = [grid * round(i * (length - overlap) / count / grid) for i in range(count)] + [length - overlap]
    return [
        Span(starts[i], starts[i + 1] + overlap, overlap if i > 0 else 0, overlap if i < count - 1 else 0)
        for i in range(count)
    ]


def tile_for_memory(planes: int, *, bytes_per_sample: float, budget: float, smallest: int, largest: int) -> int:
    """Largest tile edge, a multiple of 16, whose work fits ``budget`` bytes.

    Parameters
    ----------
    planes : int
        Planes of a tile.
    bytes_per_sample : float
        Peak memory of the method for each sample of each plane.
    budget : float
        Bytes one worker may use.
    smallest, largest : int
        Never go beyond these: below, overlaps dominate; above, nothing is gained.

    Examples
    --------
    >>> tile_for_memory(4, bytes_per_sample=100, budget=64e6, smallest=128, largest=512)
    400
    """
    edge = int((budget / (planes * bytes_per_sample)) ** 0.5) // 16 * 16
    return int(np.clip(edge, smallest, largest))


def map_tiles(
    fn: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    planes: NDArray[np.float32],
    *,
    tile: int,
    overlap: int,
    grid: int = 1,
    workers: int = 1,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Apply ``fn`` to overlapping tiles of ``planes`` and blend the results.

    Parameters
    ----------
    fn : (P, th, tw) float32 -> (P, th, tw) float32
        Called from several threads when ``workers`` > 1; must not depend on anything but its argument.
    planes : (P, h, w) float32
    tile, overlap, grid : int
        See ``spans``.
    workers : int
        Threads.
    progress : callable(done, total) or None
        Called in the calling thread after each tile.

    Returns
    -------
    (P, h, w) float32
    """
    along_rows, along_columns = (spans(n, tile, overlap, grid=grid) for n in planes.shape[1:])
    boxes = [(rows, cols) for rows in along_rows for cols in along_columns]
    out = np.zeros_like(planes, dtype=np.float32)

    def work(box: tuple[Span, Span]) -> NDArray[np.float32]:
        rows, cols = box
        piece = fn(np.ascontiguousarray(planes[:, rows.start : rows.stop, cols.start : cols.stop], np.float32))
        return np.multiply(piece, rows.weights()[:, None] * cols.weights(), dtype=np.float32)

    for done, ((rows, cols), piece) in enumerate(_in_order(work, boxes, workers), start=1):
        out[:, rows.start : rows.stop, cols.start : cols.stop] += piece
        if progress is not None:
            progress(done, len(boxes))
    return out


def _in_order(work: Callable, boxes: list, workers: int) -> Iterator[tuple]:
    """Yield (box, work(box)) in the order of ``boxes`` with a bounded number of results waiting."""
    if workers <= 1:
        for box in boxes:
            yield box, work(box)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[tuple, Future]] = deque()
        try:
            for box in boxes:
                waiting.append((box, pool.submit(work, box)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
