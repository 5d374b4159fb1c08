"""A trained network as a filter of raw planes.

    x [DN] -> y = x / K + v / K^2 -> D, its local mean, the noise level -> network -> algebraic inverse -> x [DN]

The network was trained towards the stabilized clean signal, so the inverse is the algebraic one.  Strength s is the
noise level that the network is told; below the least level it was trained for, the result is blended with the input,
which it reaches at 0.

Attention is a sum over a picture, so tiles of a large one would each have their own.  Frames beyond 512 packed pixels
take the attention of 36 patches at fixed places, all their pixels in one sum; then tiles differ from the whole frame by
what lies beyond their overlap only.  On three photographs of 2 MP that was within 0.03 dB of attention of the whole
frame (the mean of the patches' own matrices lost up to 0.23 dB).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rawkit.devices import keep_freed_memory
from rawkit.nn.raw_planes import LEVELS, electrons, electrons_deviation, network_input
from rawkit.nn.restormer import RawRestormer, fixed_attention
from rawkit.restore.tiling import Progress, map_tiles, tile_for_memory
from rawkit.sensor.params import NoiseParams

_OVERLAP = 32  # packed pixels
_PATCH, _PATCHES = 64, 6  # edge [packed pixels] and number each way of the patches that attention is taken from
_SMALLEST, _LARGEST = 384, 512  # tile edges, packed pixels; 768 costs a third more: its buffers miss every cache
_BYTES_PER_SAMPLE = 300.0  # of a sample of a plane while a network runs; ``best`` takes 245, ``fast`` 137
_MOST_MEMORY = 1.2e9  # bytes for all tiles in flight


class NetworkFilter:
    """Denoise RGGB planes with a network; pickles nothing, keeps no state between calls.

    Parameters
    ----------
    network : RawRestormer
    device : torch.device
        Half precision is used on CUDA only.
    """

    def __init__(self, network: RawRestormer, device: torch.device) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.half = device.type == "cuda"
        self.network = network.to(device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        self.device = device
        self._one_frame = threading.Lock()  # the network holds the attention of one frame at a time

    def __call__(
        self,
        planes: NDArray[np.float32],
        params: NoiseParams,
        *,
        strength: float,
        workers: int,
        progress: Progress | None = None,
        tile: int | None = None,
    ) -> NDArray[np.float32]:
        """(4, h, w) float32 [DN] to the same.

        Parameters
        ----------
        tile : int, optional
            Largest tile edge [packed pixels] of a large frame; by default from the memory that is free.
        """
        clean = self._by_tiles(_signal, planes, params, strength, workers, progress, tile)
        part = min(1.0, strength / LEVELS[0])
        return clean if part == 1 else np.asarray(planes + part * (clean - planes), np.float32)

    def deviation(
        self,
        planes: NDArray[np.float32],
        params: NoiseParams,
        *,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Standard deviation [DN] of the error that is left at strength 1, (4, h, w), as the network expects it.

        K sqrt( (d / 2)^2 s^2 + s^4 / 8 ),  d the clean stabilized signal, s the deviation predicted for it

        Raises
        ------
        ValueError
            The network was trained without ``uncertainty``.
        """
        if not self.network.config.uncertainty:
            raise ValueError("this network does not predict its error; train one with uncertainty = true.")
        return self._by_tiles(_signal_deviation, planes, params, 1.0, workers, progress, None)

    def _by_tiles(
        self,
        wanted: Callable[..., torch.Tensor],
        planes: NDArray[np.float32],
        params: NoiseParams,
        strength: float,
        workers: int,
        progress: Progress | None,
        tile: int | None,
    ) -> NDArray[np.float32]:
        """``wanted(d, log_sd, gain, read_var)`` of what the network predicts for a frame."""
        gain, read_var = (self._per_plane(v) for v in (params.system_gain, params.read_var))
        level = min(max(strength, LEVELS[0]), LEVELS[1])

        def one(piece: NDArray[np.float32]) -> NDArray[np.float32]:
            d, log_sd = self._predicted(self._y(piece[None], gain, read_var), level)
            return wanted(d, log_sd, gain, read_var)[0].cpu().numpy()

        threads = workers if self.device.type == "cpu" else 1
        large, grid = max(planes.shape[1:]) > _LARGEST, self.network.config.multiple
        edge = tile or tile_for_memory(
            planes.shape[0],
            bytes_per_sample=_BYTES_PER_SAMPLE,
            budget=min(_free_memory() / 2, _MOST_MEMORY) / threads,
            smallest=_SMALLEST,
            largest=_LARGEST,
        )
        with self._one_frame, torch.inference_mode(), _one_thread_each(self.device.type == "cpu"), ExitStack() as stack:
            if large:
                given, _ = self._given(self._y(_patches(planes, grid), gain, read_var), level)
                with self._autocast():
                    attention = self.network.attention(given)
                stack.enter_context(fixed_attention(self.network, attention))
            return map_tiles(
                _inferring(one),
                planes,
                tile=edge if large else _LARGEST,
                overlap=_OVERLAP,
                grid=grid,
                workers=threads,
                progress=progress,
            )

    def _per_plane(self, value: Any) -> torch.Tensor:
        numbers = torch.as_tensor(np.asarray(value, np.float32).reshape(-1, 1, 1), device=self.device)
        return numbers[None]

    def _y(self, planes: NDArray[np.float32], gain: torch.Tensor, read_var: torch.Tensor) -> torch.Tensor:
        """k-sigma planes (B, 4, h, w) [e-] on the device."""
        return torch.from_numpy(planes).to(self.device) / gain + read_var / gain**2

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def _given(self, y: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """``network_input`` of planes (B, 4, h, w) that are filled up to whole tokens."""
        height, width = y.shape[-2:]
        multiple = self.network.config.multiple
        below, right = -height % multiple, -width % multiple
        if below or right:
            mode = "reflect" if below < height and right < width else "replicate"
            y = F.pad(y, (0, right, 0, below), mode=mode)
        return network_input(y, torch.full((1, 1, 1, 1), level, device=self.device))

    def _predicted(self, y: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Clean stabilized planes (1, 4, h, w), and the logarithm of their deviation where the network predicts it."""
        height, width = y.shape[-2:]
        given, mean = self._given(y, level)
        with self._autocast():
            rest, log_sd = self.network.split(self.network(given))
        d = mean + rest.float()
        return d[..., :height, :width], None if log_sd is None else log_sd.float()[..., :height, :width]


def _signal(d: torch.Tensor, _: object, gain: torch.Tensor, read_var: torch.Tensor) -> torch.Tensor:
    return gain * (electrons(d) - read_var / gain**2)


def _signal_deviation(d: torch.Tensor, log_sd: torch.Tensor, gain: torch.Tensor, _: object) -> torch.Tensor:
    return gain * electrons_deviation(d, log_sd.exp())


def _patches(planes: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """(36, 4, 64, 64): patches of a frame, evenly spread on the grid of tokens; where depends on its size alone."""
    tops, lefts = (np.linspace(0, max(n - _PATCH, 0), _PATCHES).astype(int) // grid * grid for n in planes.shape[1:])
    return np.stack([planes[:, top : top + _PATCH, left : left + _PATCH] for top in tops for left in lefts])


def _inferring(fn: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Callable:
    """``inference_mode`` is a property of a thread: switch it on in the tiles' threads too."""

    def inside(piece: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return fn(piece)

    return inside


@contextmanager
def _one_thread_each(wanted: bool):
    """Tiles run side by side, each on one thread: several threads on one tile wait for each other."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _free_memory() -> float:
    """Bytes; the default budget where the system does not tell."""
    import os

    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 2 * _MOST_MEMORY
