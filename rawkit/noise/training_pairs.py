"""Endless training pairs from clean pictures: crops are cut by worker processes, noise is drawn on the training device.

Batch n of a run is a function of (seed, n) alone:

    pictures, places, ISOs and exposure ratios   Generator(Philox(key = seed, counter = n))
    noise of sample b                            ``NoiseSynthesizer`` keyed by (seed, n * batch + b)

so neither the number of workers nor a restart at batch n changes it, and ranks of a distributed run (rank r of R takes
the batches r, r + R, ...) share none.  Workers only decode and cut; what they send over is the clean signal.

Examples
--------
::

    files, camera = folder.glob("*.dng"), SimulatedCamera()
    pairs = NoisyCrops(files, NoiseSynthesizer(profile), camera, isos=(800, 3200), device="cuda")
    for batch in pairs:
        loss = criterion(network(batch.noisy), batch.clean)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rawkit.errors import MetadataError
from rawkit.noise.device import DeviceSynthesizer
from rawkit.noise.export import SimulatedCamera
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, RawImage

_FRAMES = 2**32


@dataclass(frozen=True, eq=False)
class CropJob:
    """What a worker sends: clean crops, and how their noise is to be drawn.

    Parameters
    ----------
    number : int
        Of the batch.
    clean : (B, size, size) float32 [DN, black removed]
        Expected values of the exposures, dimmed by ``ratio`` already.
    iso, ratio : (B,) float64
    frame : (B,) int64
    origin : (B, 2) int64
        Row and column of the crop in its picture; whole CFA periods.
    """

    number: int
    clean: torch.Tensor
    iso: np.ndarray
    ratio: np.ndarray
    frame: np.ndarray
    origin: np.ndarray


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Training pairs on the device.

    Parameters
    ----------
    number : int
        Of the batch; a run restarted with ``start=number + 1`` goes on behind it.
    noisy, clean : (B, size, size) float32 [DN, black removed]
        Mosaics of one exposure; ``noisy`` as stored by the converter, less the black level.
    iso, ratio : (B,) float64
        ``clean`` is the picture's light over ``ratio``.
    """

    number: int
    noisy: torch.Tensor
    clean: torch.Tensor
    iso: np.ndarray
    ratio: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """What decides about the crops."""

    sources: tuple[Path, ...]
    camera: SimulatedCamera
    isos: tuple[float, ...]
    ratios: tuple[float, ...]
    size: int
    batch: int
    pictures: int
    seed: int

    def job(self, number: int) -> CropJob:
        """Batch ``number``: its samples come from a few pictures, so that each is decoded for several crops."""
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=number))
        chosen = rng.integers(len(self.sources), size=min(self.pictures, self.batch))
        iso, ratio = (np.array(rng.choice(v, self.batch), np.float64) for v in (self.isos, self.ratios))
        clean = np.empty((self.batch, self.size, self.size), np.float32)
        origin = np.empty((self.batch, 2), np.int64)
        for b in range(self.batch):
            picture = _picture(self.camera, self.sources[chosen[b % len(chosen)]])
            rows, cols = picture.cfa.shape
            spare = [total - self.size for total in picture.mosaic.shape]
            if min(spare) < 0:
                raise ValueError(
                    f"a picture of {picture.mosaic.shape} pixels holds no crop of {self.size}; take smaller ones."
                )
            top, left = (
                int(rng.integers(room // period + 1)) * period for room, period in zip(spare, (rows, cols), strict=True)
            )
            origin[b] = top, left
            clean[b] = _signal(picture)[top : top + self.size, left : left + self.size] / np.float32(ratio[b])
        frame = (np.int64(number) * self.batch + np.arange(self.batch)) % _FRAMES
        return CropJob(number, torch.from_numpy(clean), iso, ratio, frame, origin)


@lru_cache(maxsize=32)
def _picture(camera: SimulatedCamera, source: Path) -> RawImage:
    return camera.clean(source)


@lru_cache(maxsize=32)
def _signal(picture: RawImage) -> np.ndarray:
    return picture.signal()


class _Jobs(IterableDataset):
    """Whole batches, dealt to the workers in turn: a loader collects them in the same order whatever their number."""

    def __init__(self, plan: _Plan, first: int, step: int) -> None:
        self.plan, self.first, self.step = plan, first, step

    def __iter__(self) -> Iterator[CropJob]:
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.first + index * self.step
        while True:
            yield self.plan.job(number)
            number += workers * self.step


class NoisyCrops(IterableDataset):
    """Endless batches of noisy and clean crops (see module); iterate over it directly, it has its own workers.

    Parameters
    ----------
    sources : iterable of Path
        Clean raw files or photographs, of one CFA and one pair of levels as ``camera`` delivers them.
    synthesizer : NoiseSynthesizer
    camera : SimulatedCamera
        Turns a source into a clean raw; its noise options are not used.
    isos : sequence of float
        Drawn with equal weights.
    ratios : sequence of float
        Exposure ratios, drawn with equal weights: 100 gives 1/100 of the picture's light.
    size : int
        Pixels a side; whole CFA periods.
    batch : int
    pictures : int
        Pictures that a batch is cut from.
    seed : int
    start : int
        First batch: where an interrupted run goes on.
    rank, ranks : int
        Of a distributed run.
    workers : int
        Processes that decode and cut.
    device : torch.device or str
    """

    def __init__(
        self,
        sources: Iterable[Path],
        synthesizer: NoiseSynthesizer,
        camera: SimulatedCamera,
        *,
        isos: Sequence[float],
        ratios: Sequence[float] = (1.0,),
        size: int = 128,
        batch: int = 16,
        pictures: int = 4,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        paths = tuple(sorted(Path(source) for source in sources))
        if not paths or not isos or min(isos) <= 0 or not ratios or min(ratios) <= 0:
            raise ValueError(f"{len(paths)} pictures, ISOs {isos}, ratios {ratios}: at least one each, all positive.")
        if not 0 <= rank < ranks or start < 0 or batch < 1 or pictures < 1:
            raise ValueError(
                f"rank {rank} of {ranks}, start {start}, batch {batch}, pictures {pictures} do not make sense."
            )
        self.plan = _Plan(paths, camera, tuple(isos), tuple(ratios), size, batch, pictures, seed)
        self.synthesizer = DeviceSynthesizer(synthesizer, device)
        self.start, self.rank, self.ranks, self.workers = start, rank, ranks, workers
        self.example = camera.clean(paths[0])
        if any(size % period for period in self.example.cfa.shape):
            raise ValueError(f"size is {size}; whole periods of the CFA {self.example.cfa} are needed.")

    def __iter__(self) -> Iterator[PairBatch]:
        jobs = _Jobs(self.plan, self.start * self.ranks + self.rank, self.ranks)
        # Spawned: a fork would copy the threads' locks of the numeric libraries in whatever state they are.
        context: dict[str, Any] = {"multiprocessing_context": "spawn"} if self.workers else {}
        for job in DataLoader(jobs, batch_size=None, num_workers=self.workers, **context):
            yield self.expose(job)

    def expose(self, job: CropJob) -> PairBatch:
        """Draw the noise of a batch on the device."""
        clean = job.clean.to(self.synthesizer.device, non_blocking=True)
        noisy = torch.stack([self._one(clean[b], job, b) for b in range(len(clean))])
        return PairBatch(job.number // self.ranks, noisy, clean, job.iso, job.ratio)

    def _one(self, clean: torch.Tensor, job: CropJob, b: int) -> torch.Tensor:
        image, iso = self.example, float(job.iso[b])
        origin = (int(job.origin[b, 0]), int(job.origin[b, 1]))
        stored = self.synthesizer.stored(
            clean,
            iso,
            cfa=image.cfa,
            black=_flat_black(image),
            white_level=image.white_level,
            seed=self.plan.seed,
            frame=int(job.frame[b]),
            origin=origin,
            place=self._place(iso, image.cfa, origin),
        )
        return stored.to(torch.int32).to(torch.float32) - _flat_black(image)

    def _place(self, iso: float, cfa: CFA, origin: tuple[int, int]) -> tuple[int, int]:
        """Where on the sensor's own maps the crop lies: a picture larger than the sensor is folded back into it."""
        read = self.synthesizer.synthesizer.read_noise(iso, cfa)
        shape = next((m.shape for m in (read.fixed, read.response) if m is not None), None)
        if shape is None:
            return origin
        room = [total - self.plan.size for total in shape]
        if min(room) < 0:
            raise ValueError(
                f"crops of {self.plan.size} pixels do not fit the profile's sensor of {shape}; take smaller ones."
            )
        folds = ((r - r % period) + period for r, period in zip(room, cfa.shape, strict=True))
        row, column = (start % fold for start, fold in zip(origin, folds, strict=True))
        return row, column


def _flat_black(image: RawImage) -> float:
    """The one black level [DN] of a simulated camera."""
    levels = np.unique(image.black.pattern)
    if len(levels) != 1 or image.black.delta_h is not None or image.black.delta_v is not None:
        raise MetadataError("crops need one black level for all pixels; give SimulatedCamera(black_level=...).")
    return float(levels[0])
