"""Do two processes work twice as fast as one on decoding-bound files, and what memory does each command need?

    python benchmarks/batch_speed.py [--speed-only | --memory-only] [--files 24] [--megapixels 24] [--only COMMAND]

Speed: the work of ``rawkit denoise --dry-run`` on hard links to a 6 MP DNG (lossless JPEG in one strip, which one
thread decodes; tiles are decoded by all cores in one process already), by one and by two processes in turn.  Each
hashes the file, decodes it and looks its noise up in its NoiseProfile.  Counted is the time from the first result to
the last one, without the programs' start: files per second, and the ratio.  On a busy machine the ratio of the clock
falls, so the CPU time of a file is given as well: with equal CPU time per file in one and in two workers, and little of
it in the parent, the work itself scales.

Memory: the largest resident size of any process of each command on a picture of --megapixels, for most of them the
worker's.  The network is of the size ``fast`` with random weights.  The limit is 2 GB per process.
"""

# ruff: noqa: E402 - the number of threads is set before numba and BLAS are imported
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from ljpeg_speed import commit, device

import rawkit
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.sensor.params import NoiseParams

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from batch_run import noise_tags
from make_dng import build

REQUIRED, LIMIT = 1.8, 2e9  # times one process; bytes
RUNS = 2
SPEED_MEGAPIXELS = 6.0
GAIN, READ_NOISE, BLACK, WHITE = 0.765, 3.6, 512.0, 16383.0  # DN/e-, DN, DN, DN
CHECKED = """
import json, statistics, sys, time
from functools import partial
from pathlib import Path
from rawkit.batch import Job, run_jobs
from rawkit.parallel import last, map_files
from rawkit.restore.files import DenoiseSettings, denoise_file

def work(source, target, *, write):
    start = time.process_time()
    facts = last(denoise_file(source, target, DenoiseSettings(threads=1), write=write))
    return {**facts, "cpu": time.process_time() - start}

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    jobs = [Job(p, folder / "out" / p.name) for p in sorted(folder.glob("*.dng"))]
    times, cpu = [], []
    for result in run_jobs(jobs, work, parameters={}, mapper=partial(map_files, workers=workers), dry_run=True):
        assert result["status"] == "would be done", result
        times.append(time.monotonic())
        cpu.append(result["cpu"])
        if len(times) == workers:
            own = time.process_time()
    own = time.process_time() - own
    rate = (len(times) - workers) / (times[-1] - times[workers - 1])
    print(json.dumps({"rate": rate, "parent": own / (len(times) - workers),
                      "workers": statistics.median(cpu[workers:])}))
"""


def picture(megapixels, *, electrons=2000.0, seed=0, noisy=True):
    """A gradient with fine texture, in float32 to keep this script small."""
    rng = np.random.default_rng(seed)
    height = round(np.sqrt(megapixels * 1e6 / 1.5) / 2) * 2
    shape = (height, round(1.5 * height / 2) * 2)
    expected = np.linspace(0.0, electrons, shape[1], dtype=np.float32) * GAIN + np.zeros((height, 1), np.float32)
    if noisy:
        expected += rng.standard_normal(shape, dtype=np.float32) * np.sqrt(GAIN * expected + READ_NOISE**2)
    mosaic = np.clip(np.rint(expected + BLACK), 0, WHITE).astype(np.uint16)
    metadata = Metadata(make="SONY", model="ILCE-7SM2", iso=800.0, exposure_time=0.01, as_shot_neutral=(0.5, 1.0, 0.6))
    return RawImage(
        raster=mosaic, cfa=CFA.parse("RGGB"), black=BlackLevel.constant(BLACK), white_level=WHITE, metadata=metadata
    )


def speed(folder, files):
    """Print files per second by one and two processes."""
    first, raw = noise_tags()
    mosaic = picture(SPEED_MEGAPIXELS).raster
    (folder / "000.dng").write_bytes(build(mosaic, compression=7, bits=14, first_tags=first, raw_tags=raw))
    for number in range(1, files):
        os.link(folder / "000.dng", folder / f"{number:03d}.dng")
    best = {}
    for _ in range(RUNS):
        for workers in (1, 2):
            script = folder / "check.py"
            script.write_text(CHECKED)
            run = subprocess.run(
                [sys.executable, script, folder, str(workers)], capture_output=True, text=True, check=True
            )
            found = json.loads(run.stdout)
            best.setdefault(workers, []).append(found)
    print(f"{'processes':>9} {'files/s':>8} {'CPU s/file in workers':>22} {'CPU s/file in the parent':>25}")
    rows = {}
    for workers, found in best.items():
        rows[workers] = {
            "rate": max(f["rate"] for f in found),
            "workers": min(f["workers"] for f in found),
            "parent": min(f["parent"] for f in found),
        }
        row = rows[workers]
        print(f"{workers:>9} {row['rate']:8.2f} {row['workers']:22.3f} {row['parent']:25.4f}")
    ratio = rows[2]["rate"] / rows[1]["rate"]
    cost = rows[1]["workers"] / rows[2]["workers"]
    print(f"two over one: {ratio:.2f} by the clock (needed {REQUIRED}), {2 * cost:.2f} by CPU time per file")
    return ratio >= REQUIRED


def commands(folder, megapixels):
    """Name -> arguments; made as they are wanted."""
    noise = NoiseParams(GAIN, READ_NOISE**2)
    raw, clean, weights, frames = (folder / n for n in ("raw.dng", "clean.dng", "fast.safetensors", "frames"))
    write_dng(picture(megapixels), raw, noise=noise)
    write_dng(picture(megapixels, noisy=False), clean)
    frames.mkdir()
    rows = ["file,kind,iso,exposure_time"]
    for number in range(12):
        kind = "flat" if number < 8 else "dark"
        electrons = 3000.0 * (1 + number // 2) if kind == "flat" else 0.0
        image = picture(megapixels, electrons=electrons, seed=number)
        write_dng(image, frames / f"{kind}{number}.dng")
        rows.append(f"{kind}{number}.dng,{kind},800,0.01")
    (frames / "manifest.csv").write_text("\n".join(rows) + "\n")
    try:
        import torch

        from rawkit.nn.restormer import SIZES, RawRestormer
        from rawkit.nn.weights import save_network

        torch.manual_seed(0)
        save_network(weights, RawRestormer(SIZES["fast"]), about={"name": "untrained"})
        network = {"denoise, network fast": ("denoise", raw, "-o", folder / "d4", "--model", weights)}
    except ImportError:
        network = {}
    return {
        "inspect": ("inspect", raw),
        "estimate": ("estimate", raw),
        "synthesize": ("synthesize", clean, "-o", folder / "d1", "--iso", 3200, "--camera", "Sony ILCE-7SM2"),
        "compare": ("compare", raw, clean, "-o", folder / "page.html"),
        "calibrate": ("calibrate", frames, "-o", folder / "profile.json"),
        "denoise, strength 0": ("denoise", raw, "-o", folder / "d0", "--strength", 0),
        "denoise, classical": ("denoise", raw, "-o", folder / "d2", "--model", "classical"),
        "denoise, linear-dng": ("denoise", raw, "-o", folder / "d3", "--format", "linear-dng", "--strength", 0),
        "denoise, tiff": ("denoise", raw, "-o", folder / "d5", "--format", "tiff", "--strength", 0),
        **network,
    }


def memory(folder, megapixels, only):
    """Print the largest process of each command."""
    fits = True
    print(f"{'command, ' + format(megapixels, 'g') + ' MP':<24} {'GB':>6} {'CPU s':>7} exit")
    for name, words in commands(folder, megapixels).items():
        if only and only not in name:
            continue
        code = (
            "import resource, subprocess, sys, json\n"
            "r = subprocess.run([sys.executable, '-m', 'rawkit.cli', *sys.argv[1:]], stdout=subprocess.DEVNULL)\n"
            "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(json.dumps([u.ru_maxrss, u.ru_utime + u.ru_stime, r.returncode]))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
        )
        kilobytes, seconds, exit_code = json.loads(run.stdout)
        size = kilobytes * (1 if sys.platform == "darwin" else 1024)
        fits &= size <= LIMIT and exit_code == 0
        print(f"{name:<24} {size / 1e9:6.2f} {seconds:7.1f} {exit_code:>4}", flush=True)
    return fits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--files", type=int, default=24, help="of the measurement of speed")
    parser.add_argument("--megapixels", type=float, default=24.0, help="of the measurement of memory")
    parser.add_argument("--only", help="memory of commands with this in their name")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        for name, wanted, measure in (
            ("speed", not options.memory_only, lambda folder: speed(folder, options.files)),
            ("memory", not options.speed_only, lambda folder: memory(folder, options.megapixels, options.only)),
        ):
            if wanted:
                (Path(scratch) / name).mkdir()
                good &= measure(Path(scratch) / name)
    print(
        f"rawkit {rawkit.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}, {device()}, {commit()}"
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
