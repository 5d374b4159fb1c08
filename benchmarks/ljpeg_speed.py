"""How fast, and how small, is rawkit's lossless JPEG encoder beside imagecodecs on one core?

    python benchmarks/ljpeg_speed.py [file.dng]

One thread, tiles of 512 x 512 pixels in memory, median of 15 runs each, the two encoders in turn.  Without a file
only the synthetic tile is timed: Poisson noise of 2000 e- at 2 DN/e- over a black level of 512 DN, 14 bits.
The commit is that of the checkout; a plus marks uncommitted changes.
"""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np

from rawkit.raw.ljpeg import encode
from rawkit.raw.read import read_raw

SIDE = 512  # pixels
RUNS = 15


def synthetic_tile():
    rng = np.random.default_rng(0)
    tile = 512 + 2 * rng.poisson(2000, (SIDE, SIDE)) + rng.normal(0, 10, (SIDE, SIDE))
    return np.clip(np.round(tile), 0, 16383).astype(np.uint16)


def central_tile(path):
    mosaic = read_raw(path).mosaic.astype(np.uint16)
    top, left = ((n - SIDE) // 4 * 2 for n in mosaic.shape)
    return np.ascontiguousarray(mosaic[top : top + SIDE, left : left + SIDE])


def measure(encoders, tile):
    """Median seconds and stream size of each encoder; they take turns, so that a busy moment hits both."""
    seconds = {name: [] for name in encoders}
    sizes = {name: len(run(tile)) for name, run in encoders.items()}  # also compiles
    for _ in range(RUNS):
        for name, run in encoders.items():
            start = time.perf_counter()
            run(tile)
            seconds[name].append(time.perf_counter() - start)
    return {name: (float(np.median(seconds[name])), sizes[name]) for name in encoders}


def device():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, 1 of {os.cpu_count()} cores"


def commit():
    def git(*words):
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "..") else "")


def main():
    tiles = {"synthetic noise, 14 bits": synthetic_tile()}
    if len(sys.argv) > 1:
        tiles[f"{Path(sys.argv[1]).name}, center"] = central_tile(sys.argv[1])
    print(f"{device()}; commit {commit()}; imagecodecs {imagecodecs.__version__}; {SIDE} x {SIDE} tiles")
    print(f"{'tile':42} {'encoder':24} {'MP/s':>7} {'bits/px':>8}")
    for title, tile in tiles.items():
        bits = max(2, int(tile.max()).bit_length())
        encoders = {
            "rawkit": lambda t, p=bits: encode(t, p),
            "imagecodecs, h x w": lambda t, p=bits: imagecodecs.ljpeg_encode(t, bitspersample=p),
            "imagecodecs, h/2 x 2w": lambda t, p=bits: imagecodecs.ljpeg_encode(
                t.reshape(SIDE // 2, 2 * SIDE), bitspersample=p
            ),
        }
        for name, (seconds, size) in measure(encoders, tile).items():
            print(f"{title:42} {name:24} {tile.size / seconds / 1e6:7.1f} {8 * size / tile.size:8.2f}")


if __name__ == "__main__":
    main()
