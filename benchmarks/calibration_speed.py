"""What does calibrating cost beside decoding the frames, in time and in memory, and beside the package emva1288?

    python benchmarks/calibration_speed.py [--frames 100] [--megapixels 24] [--peer-python PATH] [--emva FOLDER]

DNGs (lossless JPEG, 14 bits, Bayer; K = 1 DN/e-, read noise 3 DN, PRNU 0.5 %): 40 % of the frames are darks of one
exposure, each with noise of its own, for repeated ones would look like a sensor full of telegraph pixels; the flats,
of ten exposures, are hard links to a pair at either of two levels, which changes neither the reading nor the
arithmetic.  One ISO, because that is the costliest case per stack.  All times are CPU seconds (user and system) of
one process, decoding with one thread a core; numba and BLAS get one thread.  Decoding is ``Frame.read`` of every frame
in the same threads, best of three with calibration in between.  Memory is the largest resident size of a process that
does nothing but calibrate.

The package emva1288 (PyPI, in an environment of its own: it needs numpy < 2) reads the same frames and computes
every scalar of ``Results1288.results`` (K, quantum efficiency, dark noise, saturation, linearity, DSNU and PRNU with
their rows and columns, 61 in all); ``emva_report(convention="emva1288")`` computes the same, and spectrograms and
defect histograms besides.  Importing counts for neither.
"""

# ruff: noqa: E402 - the number of threads is set before numba and BLAS are imported
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.resources import sha256
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.emva import emva_report
from rawkit.sensor.frames import Frame, FrameSet, pair_statistics
from rawkit.sensor.pixel_moments import PixelAccumulator

ALLOWED_COST, ALLOWED_MEMORY, ALLOWED_PEER = 1.25, 1.5e9, 20.0  # times decoding, bytes, times faster
DARK_SHARE, EXPOSURES, RUNS = 0.4, 10, 3
GAIN, READ_NOISE, BLACK, WHITE = 1.0, 3.0, 512.0, 16383.0  # DN/e-, DN, DN, DN
LEVELS = {"dark": 0.0, "low": 1000.0, "high": 7000.0}  # electrons
SET = Path("flatdark") / "EMVA1288_ReferenceSet_001_CCD_12Bit"
DATA = Path(os.environ.get("RAWKIT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

PEER = """
import json, sys, time, resource
from emva1288.process import ParseEmvaDescriptorFile, LoadImageData, Data1288, Results1288
cpu = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
best = 1e9
for _ in range(int(sys.argv[2])):
    start = cpu()
    images = LoadImageData(ParseEmvaDescriptorFile(sys.argv[1]).images)
    results = Results1288(Data1288(images.data).data)
    figures = results.results
    best = min(best, cpu() - start)
print(json.dumps({"seconds": best, "figures": len(figures)}))
"""


def write_frames(folder: Path, *, frames: int, megapixels: float) -> None:
    """Distinct darks, four distinct flats, and hard links to these."""
    rng = np.random.default_rng(1)
    height = round(np.sqrt(megapixels * 1e6 / 1.5) / 2) * 2
    shape = (height, round(1.5 * height / 2) * 2)
    response = 1.0 + 0.005 * rng.standard_normal(shape, dtype=np.float32)
    offset = 0.5 * rng.standard_normal(shape, dtype=np.float32)

    def save(name: str, electrons: float, exposure: float) -> Path:
        expected = GAIN * electrons * response
        noise = rng.standard_normal(shape, dtype=np.float32) * np.sqrt(GAIN * expected + READ_NOISE**2)
        mosaic = np.clip(np.rint(expected + noise + offset + BLACK), 0, WHITE).astype(np.uint16)
        metadata = Metadata(iso=100.0, exposure_time=exposure, make="rawkit", model="benchmark")
        black = BlackLevel(np.full((1, 1), BLACK))
        image = RawImage(raster=mosaic, cfa=CFA.parse("RGGB"), black=black, white_level=WHITE, metadata=metadata)
        write_dng(image, folder / name)
        return folder / name

    darks = max(2, int(DARK_SHARE * frames))
    rows = ["file,kind,iso,exposure_time"]
    for n in range(darks):
        rows.append(f"{save(f'dark_{n}.dng', LEVELS['dark'], 0.01).name},dark,100,0.01")
    flats = {level: [save(f"{level}_{i}.dng", LEVELS[level], 0.01) for i in (0, 1)] for level in ("low", "high")}
    for n in range((frames - darks) // 2):
        for original in flats[("low", "high")[n % 2]]:
            link = folder / f"{n:03d}_{original.name}"
            os.link(original, link)
            rows.append(f"{link.name},flat,100,{0.01 * (1 + n % EXPOSURES):.2f}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def parts(folder: Path) -> list[tuple[str, float]]:
    """(step, MP/s of one core) of every step of a calibration; a pair counts the pixels of both frames."""
    images = {level: [Frame(folder / f"{level}_{i}.dng", "flat").read() for i in (0, 1)] for level in LEVELS}
    pixels = images["dark"][0].mosaic.size / 1e6
    stack = PixelAccumulator(period=(2, 2))

    def rate(work: Callable[[], object], frames: int) -> float:
        work()
        return frames * pixels / min(cpu_seconds(work) for _ in range(RUNS))

    rows = []
    for level, pair in images.items():
        path = folder / f"{level}_0.dng"
        rows += [
            (f"decoding, {level}", rate(Frame(path, "flat").read, 1)),
            (f"SHA-256, {level}", rate(lambda path=path: sha256(path), 1)),
            (
                f"statistics of a pair, {level}",
                rate(lambda pair=pair, level=level: pair_statistics(*pair, dark=level == "dark"), 2),
            ),
        ]
    two = [image.mosaic for image in images["high"]]
    rows += [
        ("moments of pixels, two frames at a time", rate(lambda: stack.add(*two), 2)),
        ("moments of pixels, finish", rate(stack.finish, 1)),
    ]
    return rows


def costs(folder: Path) -> dict[str, float]:
    """CPU seconds of decoding and calibrating, best of three in turn."""
    frames = FrameSet.from_folder(folder)
    best: dict[str, float] = {}
    steps: dict[str, Callable[[], object]] = {
        "decoding": lambda: [None for _ in _decoded(frames)],
        "calibrating, temporal": lambda: calibrate(FrameSet.from_folder(folder), spatial=False),
        "calibrating, spatial too": lambda: calibrate(FrameSet.from_folder(folder)),
    }
    for _ in range(RUNS):
        for name, step in steps.items():
            best[name] = min(best.get(name, np.inf), cpu_seconds(step))
    return best


def _decoded(frames: FrameSet):
    """Every frame decoded in the threads of ``stream``, without the hash that it takes."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(frames.frames), os.cpu_count() or 1):
            yield from pool.map(Frame.read, frames.frames[start : start + (os.cpu_count() or 1)])


def peak_memory(folder: Path) -> int:
    """Bytes; calibration in a process of its own."""
    script = (
        "import resource, sys; from rawkit.sensor.calibrate import calibrate;"
        "from rawkit.sensor.frames import FrameSet;"
        "calibrate(FrameSet.from_folder(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def peer(python: str, folder: Path) -> tuple[float, float]:
    """CPU seconds of emva1288 and of rawkit for all figures of one set, reading included."""
    descriptor = next(folder.glob("*.txt"))
    done = subprocess.run(
        [python, "-c", PEER, str(descriptor), str(RUNS)], capture_output=True, text=True, check=True, cwd=folder
    )
    theirs = json.loads(done.stdout.splitlines()[-1])["seconds"]
    report = lambda: emva_report(FrameSet.open(descriptor), convention="emva1288")  # noqa: E731
    report()
    return theirs, min(cpu_seconds(report) for _ in range(RUNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--peer-python", help="interpreter of an environment with emva1288")
    parser.add_argument("--emva", type=Path, default=DATA / SET, help="frames of the comparison with emva1288")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, commit {commit.stdout.strip()}")
    if arguments.peer_python:
        theirs, ours = peer(arguments.peer_python, arguments.emva)
        print(f"EMVA 1288 figures of {arguments.emva.name}: emva1288 {theirs:.2f} s, rawkit {ours:.3f} s, "
              f"{theirs / ours:.1f} times faster (at least {ALLOWED_PEER:g} wanted)")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder, frames=arguments.frames, megapixels=arguments.megapixels)
        for step, rate in parts(folder):
            print(f"{step:45s} {rate:8.0f} MP/s per core")
        peak = peak_memory(folder)
        print(f"peak memory {peak / 1e9:.2f} GB (at most {ALLOWED_MEMORY / 1e9:g})", flush=True)
        found = costs(folder)
        for step, seconds in found.items():
            cost = f"{seconds / found['decoding']:.2f} x decoding (at most {ALLOWED_COST:g})"
            print(f"{arguments.frames} frames, {step:30s} {seconds:7.1f} s CPU   {cost}")


if __name__ == "__main__":
    main()
