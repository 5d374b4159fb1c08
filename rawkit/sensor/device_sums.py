"""The sums of ``pair_kernel`` and ``stack_kernel`` on a GPU, through torch.

All sums are of integers, so they equal those of the compiled kernels bit for bit; the tests compare the two on
torch's CPU device.  A frame is sent to the device once per pair and once per stack, two bytes a pixel as int16; what
comes back are sums of lines and histograms.  The CPU needs a tenth of the decoding time for the same, so a GPU pays
only where frames come faster than they can be decoded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rawkit.sensor.pair_kernel import REACH, Limits, PairSums, code_histogram, no_lines

if TYPE_CHECKING:
    import torch


def _sent(frame: NDArray, device: str) -> torch.Tensor:
    """(H, W) int32 on the device."""
    import torch

    if frame.dtype == np.uint16:  # torch computes with int16: the bits travel, the sign is undone there
        return torch.from_numpy(np.ascontiguousarray(frame).view(np.int16)).to(device).int() & 0xFFFF
    return torch.from_numpy(np.ascontiguousarray(frame)).to(device).int()


def _spread(values: NDArray[np.int64], phase_map: NDArray, like: torch.Tensor) -> torch.Tensor:
    """A value per phase as (H, W) int32."""
    import torch

    height, width = like.shape
    rows, cols = phase_map.shape
    tile = torch.from_numpy(values[phase_map].astype(np.int32)).to(like.device)
    return tile.repeat(-(-height // rows), -(-width // cols))[:height, :width]


def _moments(x: torch.Tensor, y: torch.Tensor, keep: torch.Tensor, phase_map: NDArray) -> NDArray[np.float64]:
    """``PairSums.moments`` of the pixels to keep."""
    import torch

    moments = np.zeros((int(phase_map.max()) + 1, 6), np.int64)
    rows, cols = phase_map.shape
    for r in range(rows):
        for c in range(cols):
            inside = keep[r::rows, c::cols].long()
            a, b = x[r::rows, c::cols].long() * inside, y[r::rows, c::cols].long() * inside
            d = a - b
            sums = torch.stack([inside.sum(), a.sum(), b.sum(), d.sum(), (d * d).sum(), (a * a).sum()])
            moments[phase_map[r, c]] += sums.cpu().numpy()
    return moments.astype(np.float64)


def flat_sums(
    a: NDArray, b: NDArray, phase_map: NDArray, limits: Limits, exclude: NDArray | None = None, *, device: str
) -> PairSums:
    """``pair_kernel.flat_sums`` of uint8 or uint16 frames on a torch device."""
    import torch

    x, y = _sent(a, device), _sent(b, device)
    low, high = (_spread(limit, phase_map, x) for limit in limits.differences())
    keep = (x - y >= low) & (x - y <= high)
    if exclude is not None and exclude.size:
        keep.view(-1)[torch.from_numpy(np.asarray(exclude, np.int64)).to(device)] = False
    moments = _moments(x, y, keep, phase_map)
    return no_lines(len(moments), moments, code_histogram(a, len(phase_map)))


def dark_sums(a: NDArray, b: NDArray, phase_map: NDArray, limits: Limits, *, device: str) -> PairSums:
    """``pair_kernel.dark_sums`` of uint8 or uint16 frames on a torch device."""
    import torch

    x, y = _sent(a, device), _sent(b, device)
    d, total = x - y, x + y
    low, high = (_spread(limit, phase_map, x) for limit in limits.differences())
    lowest, highest = (_spread(limit, phase_map, x) for limit in limits.totals())
    near = (total + d.abs() >= lowest) & (total - d.abs() <= highest)  # twice the larger, twice the smaller of x and y
    keep = near & (d >= low) & (d <= high)
    moments = _moments(x, y, keep, phase_map)
    phases, bins = len(moments), 2 * REACH + 1
    place = d.clamp(-REACH, REACH) + REACH + bins * _spread(np.arange(phases), phase_map, x)
    differences = torch.bincount(place[near], minlength=phases * bins).reshape(phases, bins)

    def lines(values: torch.Tensor) -> list[NDArray[np.float64]]:
        """(H, 2) sums of rows by parity of the column and (W, 2) of columns by parity of the row."""
        rows = torch.stack([values[:, k::2].sum(dim=1) for k in (0, 1)], dim=1)
        columns = torch.stack([values[k::2].sum(dim=0) for k in (0, 1)], dim=1)
        return [part.cpu().numpy().astype(np.float64) for part in (rows, columns)]

    (rows, columns), (row_counts, column_counts) = lines(d.long() * keep), lines(keep.long())
    hot = torch.nonzero(~near.reshape(-1)).reshape(-1).cpu().numpy()
    codes = code_histogram(a, len(phase_map))
    return PairSums(moments, codes, rows, row_counts, columns, column_counts, differences.cpu().numpy(), hot)


class DeviceStack:
    """Sums of y and y^2 of every pixel of integer frames, kept on a torch device: 16 bytes a pixel."""

    def __init__(self, shape: tuple[int, int], device: str) -> None:
        import torch

        self.device = device
        self.total = torch.zeros(shape, dtype=torch.int64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, frames: tuple[NDArray, ...], period: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """``stack_kernel.add_frames``: sums of the rows (L, H, cols) and columns (L, rows, W) of each frame."""
        import torch

        rows, cols = period
        row_sums, columns = [], []
        for frame in frames:
            values = _sent(frame, self.device).long()
            self.total += values
            self.squares += values * values
            row_sums.append(torch.stack([values[:, c::cols].sum(dim=1) for c in range(cols)], dim=1).cpu().numpy())
            columns.append(torch.stack([values[r::rows].sum(dim=0) for r in range(rows)]).cpu().numpy())
        return np.stack(row_sums), np.stack(columns).astype(np.uint32)

    def sums(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Both sums of every pixel, as ``stack_kernel`` keeps them."""
        return self.total.cpu().numpy().astype(np.uint32), self.squares.cpu().numpy().astype(np.uint64)
