"""Does a batch lose, repeat or spoil anything: broken files, kills, a cluster whose scheduler is restarted?

    python benchmarks/batch_run.py [--short] [--keep FOLDER]

A folder of 200 raw files (--short: 40) of which 5 % are broken, each in another way, and a folder called x.dng, which
is none of them.  The good ones are crops of the real DNGs of the test data, where those are there, and synthetic DNGs
in all Bayer phases, some in tiles of lossless JPEG, some in uncompressed strips, 128 x 96 pixels.

    uninterrupted   rawkit denoise FOLDER -o OUT --workers 2
    again           the same command: everything is there
    killed          ten times (--short: 3) SIGKILL at a random moment, to the whole process group or to the parent
                    alone, and resumed; then to the end
    cluster         rawkit denoise --cluster on two workers in processes of their own
    restarted       the same; after a quarter of the files the scheduler and one worker are killed and started again at
                    the same address (Dask's other worker then leaves by itself and is started again too)

Each is compared byte for byte with the uninterrupted run, file by file and for files too many or hidden; every row
that fails ends the script with 1.  Deterministic files; the moments of the kills come from --seed.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np

import rawkit
from rawkit.batch import RECORD_NAME
from rawkit.raw.dng import write_dng
from rawkit.sensor.params import NoiseParams

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ljpeg_speed import commit, device
from make_dng import build
from synthetic import expose

from rawkit.raw.tiff import DOUBLE, LONG, SHORT, Entry

DATA = Path(os.environ.get("RAWKIT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "raw"
REAL = {  # DN; noise by eye of the darkest parts: any will do here
    "nikon_d5000_hdrmerge1_ljpeg.dng": NoiseParams(0.5, 10.0),
    "canon_kissx4_magiclantern_14bit_uncompressed.dng": NoiseParams(2.0, 60.0),
}
PHASES = ("RGGB", "BGGR", "GRBG", "GBRG")
SHAPE = (96, 128)
BLACK, WHITE, GAIN, READ_NOISE = 512, 16383, 0.765, 3.6
EVERY = 20  # one broken file among so many


def noise_tags(order="<"):
    span = WHITE - BLACK
    scale, offset = GAIN / span, (READ_NOISE / span) ** 2
    return [
        Entry.make(34855, SHORT, 800, order),
        Entry.make(51041, DOUBLE, [scale, offset], order),
    ], [
        Entry.make(50714, LONG, BLACK, order),
        Entry.make(50717, LONG, WHITE, order),
    ]  # fmt: skip


def synthetic(number, **options):
    """A DNG in the number's Bayer phase; every other one tiles of lossless JPEG."""
    electrons = np.tile(np.linspace(0, 2000, SHAPE[1]), (SHAPE[0], 1))
    raster = expose(electrons, system_gain=GAIN, read_noise=READ_NOISE, rng=np.random.default_rng(number))
    first, raw = noise_tags()
    form = {"compression": 7, "tile": (64, 64), "fold": "components"} if number % 2 else {}
    raw += options.pop("raw_tags", [])
    return build(
        raster.astype(np.uint16), cfa=PHASES[number // 2 % 4], bits=16, first_tags=first, raw_tags=raw, **form | options
    )


def real(name, number, path):
    """A crop of a real DNG, another one for each number."""
    image = rawkit.read_raw(DATA / name, iso=800)
    height, width = image.mosaic.shape
    top, left = (2 * int(v) for v in np.random.default_rng(number).integers(0, (height // 2 - 48, width // 2 - 64)))
    raster = np.ascontiguousarray(image.mosaic[top : top + SHAPE[0], left : left + SHAPE[1]])
    crop = replace(image, raster=raster, active_area=None, metadata=replace(image.metadata, source=None))
    write_dng(crop, path, noise=REAL[name])


def broken(path, way):
    """A file that is none; returns what must be said of it."""
    good = synthetic(0)
    contents = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"this is a letter, not a picture\n" * 40,
        "jpeg": imagecodecs.jpeg8_encode(np.zeros((96, 128, 3), np.uint8)),
        "offsets": synthetic(0, raw_tags=[Entry.make(273, LONG, 2**31, "<")]),
        "dimensions": synthetic(0, raw_tags=[Entry.make(256, LONG, 10**6, "<"), Entry.make(257, LONG, 10**6, "<")]),
        "random": np.random.default_rng(0).bytes(20_000),
    }
    if way in contents:
        path.write_bytes(contents[way])
    elif way == "loop":
        path.symlink_to(path)
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "permission":
        path.write_bytes(good)
        path.chmod(0)


def make_folder(folder, count):
    """Names of the good and the broken files."""
    ways = ["truncated", "empty", "text", "jpeg", "offsets", "dimensions", "random", "loop", "pipe"]
    ways.append("permission" if os.geteuid() else "zeros")  # root may read everything
    bad = {}
    folder.mkdir()
    (folder / "x.dng").mkdir()
    there = [name for name in REAL if (DATA / name).is_file()]
    for number in range(count):
        path = folder / f"{number:03d}.dng"
        if number % EVERY == EVERY - 1:
            way = ways[number // EVERY % len(ways)]
            bad[path.name] = way
            if way == "zeros":
                path.write_bytes(bytes(20_000))
            else:
                broken(path, way)
        elif there and number % 8 == 0:
            real(there[number // 8 % len(there)], number, path)
        else:
            path.write_bytes(synthetic(number))
    return [p.name for p in sorted(folder.iterdir()) if p.name not in bad and p.name != "x.dng"], bad


def command(folder, out, *options):
    return [
        sys.executable,
        "-m",
        "rawkit.cli",
        "denoise",
        *map(str, (folder, "-o", out, "--model", "classical", *options)),
    ]


def digests(folder):
    """Of everything in a folder but the record."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != RECORD_NAME}


class Table:
    def __init__(self):
        self.failed = False
        print(f"{'run':<14} {'seconds':>8} {'done':>5} {'before':>6} {'failed':>6} {'exit':>4}  verdict", flush=True)

    def row(self, name, seconds, counts, code, faults):
        numbers = (counts.get(key, "-") for key in ("done", "already_done", "failed"))
        cells = " ".join(f"{n:>{w}}" for n, w in zip(numbers, (5, 6, 6), strict=True))
        self.failed |= bool(faults)
        print(f"{name:<14} {seconds:8.1f} {cells} {code:>4}  {'; '.join(faults) or 'right'}", flush=True)


def finished(arguments):
    """Seconds, counts of the summary, results, exit code and stderr of a run to the end."""
    start = time.monotonic()
    run = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    try:
        summary = json.loads(run.stdout)
    except ValueError:
        return seconds, {}, [], run.returncode, run.stderr
    return seconds, summary, summary.pop("files"), run.returncode, run.stderr


def faults_of(good, bad, results, code, stderr, *, told=True):
    """What is wrong with a run's report."""
    found = []
    if code != 1:
        found.append(f"exit code {code}: {stderr[-200:]}")
    if "Traceback" in stderr:
        found.append("a traceback is shown")
    failed = {Path(r["input"]).name: r["reason"] for r in results if r["status"] == "failed"}
    if set(failed) != set(bad):
        found.append(f"failed: {sorted(set(failed) ^ set(bad))} too many or missing")
    found += [f"{name}: the reason does not name it" for name, reason in failed.items() if name not in reason]
    if len({reason.split(": ", 1)[-1] for reason in failed.values()}) < len(failed) * 0.6:
        found.append("reasons are all alike")
    fine = {Path(r["input"]).name for r in results if r["status"] in ("done", "already done")}
    if fine != set(good):
        found.append(f"{len(set(good) - fine)} good files are not done")
    return found


def difference(out, truth):
    made = digests(out)
    return [f"{sorted(set(made) ^ set(truth))} too many or missing"] * (set(made) != set(truth)) + [
        f"{name} differs" for name in set(made) & set(truth) if made[name] != truth[name]
    ]


def wait_for(condition, process):
    """Until it holds, or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.05)


def killed(folder, out, truth, kills, rng, work):
    """Kill and resume, each time a part of ``work`` [s] after the first sign of a file; the faults seen on the way."""
    found, hits = [], 0
    out.mkdir()
    for kill in range(kills):
        process = subprocess.Popen(
            command(folder, out, "--workers", 2, "--json"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        before = set(os.listdir(out))
        wait_for(lambda before=before: not before.issuperset(os.listdir(out)), process)
        time.sleep(rng.uniform(0.0, work / kills))
        if process.poll() is None:
            hits += 1
            (os.killpg if kill % 2 == 0 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        whole = {name: digest for name, digest in digests_seen(out).items() if name[0] != "."}
        found += [f"after kill {kill + 1}, {name} is not whole" for name in whole if whole[name] != truth.get(name)]
        print(f"  kill {kill + 1}: {len(whole)} files, {len(list(out.glob('.*.part*')))} unfinished", flush=True)
    if hits < 0.7 * kills:
        found.append(f"only {hits} of {kills} kills hit a run")
    return found


def digests_seen(out):
    """As ``digests``, while workers of a killed parent may still be ending."""
    try:
        return digests(out)
    except FileNotFoundError:
        return digests_seen(out)


class Cluster:
    """A scheduler at a fixed address and two workers, each in a process of its own."""

    def __init__(self, scratch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.scratch = f"tcp://127.0.0.1:{self.port}", scratch
        self.processes = {}

    def start(self, *names):
        for name in names:
            words = ("scheduler", "--host", "127.0.0.1", "--port", self.port, "--no-dashboard")
            if name != "scheduler":
                words = ("worker", self.address, "--nthreads", 1, "--no-dashboard", "--local-directory", self.scratch)
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def kill(self, *names):
        for name in names:
            process = self.processes[name]
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self):
        self.start("scheduler", "one", "two")
        return self

    def __exit__(self, *_):
        self.kill(*self.processes)


def restarted(folder, out, cluster, count):
    """A run during which the scheduler and one worker go and come back."""
    start = time.monotonic()
    out.mkdir()
    arguments = command(folder, out, "--cluster", cluster.address, "--json")
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(arguments, stdout=stdout, stderr=stderr)
        wait_for(lambda: len(list(out.glob("[!.]*"))) >= count // 4, process)
        running = process.poll() is None
        cluster.kill("scheduler", "one")
        cluster.start("scheduler", "one")
        cluster.processes["two"].wait()  # Dask's workers leave when they lose their scheduler; a supervisor starts anew
        cluster.start("two")
        process.wait()
        stdout.seek(0), stderr.seek(0)
        text, errors = stdout.read(), stderr.read()
    seconds = time.monotonic() - start
    faults = [] if running else ["the run was over before the restart"]
    try:
        summary = json.loads(text)
    except ValueError:
        return seconds, {}, [], process.returncode, errors, faults
    return seconds, summary, summary.pop("files"), process.returncode, errors, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="40 files, 3 kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", type=Path, help="work in this new folder and keep it")
    options = parser.parse_args()
    count, kills = (40, 3) if options.short else (200, 10)
    rng = random.Random(options.seed)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch) / "batch"
        root.mkdir(parents=True)
        folder = root / "in"
        good, bad = make_folder(folder, count)
        print(f"{len(good)} good files, {len(bad)} broken: {', '.join(bad.values())}")
        table = Table()

        arguments = command(folder, root / "straight", "--workers", 2)
        whole, counts, results, code, stderr = finished(arguments)
        for result in results:
            if result["status"] == "failed":
                print(f"  {bad.get(Path(result['input']).name)}: {result['reason'][len(str(folder)) + 1 :]}")
        table.row("uninterrupted", whole, counts, code, faults_of(good, bad, results, code, stderr))
        truth = digests(root / "straight")
        times = {p: p.stat().st_mtime_ns for p in (root / "straight").glob("*.dng")}
        seconds, counts, results, code, stderr = finished(arguments)
        faults = faults_of(good, bad, results, code, stderr) + difference(root / "straight", truth)
        if counts.get("done") or times != {p: p.stat().st_mtime_ns for p in (root / "straight").glob("*.dng")}:
            faults.append("something was made again")
        table.row("again", seconds, counts, code, faults)

        start = time.monotonic()
        faults = killed(folder, root / "killed", truth, kills, rng, whole - seconds)
        _, counts, results, code, stderr = finished(command(folder, root / "killed", "--workers", 2))
        faults += faults_of(good, bad, results, code, stderr) + difference(root / "killed", truth)
        table.row(f"killed {kills} times", time.monotonic() - start, counts, code, faults)

        try:
            import distributed
        except ImportError:
            print("the package distributed is not installed: no cluster")
        else:
            with Cluster(root / "dask") as cluster:
                seconds, counts, results, code, stderr = finished(
                    command(folder, root / "cluster", "--cluster", cluster.address)
                )
                faults = faults_of(good, bad, results, code, stderr) + difference(root / "cluster", truth)
                table.row("cluster", seconds, counts, code, faults)
                seconds, counts, results, code, stderr, faults = restarted(
                    folder, root / "restarted", cluster, len(good)
                )
                faults += faults_of(good, bad, results, code, stderr) + difference(root / "restarted", truth)
                table.row("restarted", seconds, counts, code, faults)
            print(f"distributed {distributed.__version__}")
    print(
        f"rawkit {rawkit.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}, {device()}, {commit()}"
    )
    sys.exit(table.failed)


if __name__ == "__main__":
    main()
