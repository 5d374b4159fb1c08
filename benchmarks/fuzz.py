"""Do damaged files cost anything but themselves?

Mutants of small valid files (``tests/mutants.py``: DNGs of every compression, NEF, RAF and CR3 heads, TIFF, PNG, .npy
and bare mosaics with sidecars, camera profiles, darktable's and ELD-type noise parameters, CSV, EMVA 1288 descriptors,
manifests, records of batches, recipes, weights) are read, and a share of the pictures denoised and written, in worker
processes under a limit of time and memory.  Counted per kind of file:

    done        read as if nothing had happened
    refused     a ``RawkitError``: one line that says what is wrong
    memory      ``MemoryError`` within the limit, which ends in one line too
    wrong       another exception, an output that is not whole, or a traceback on stderr
    died, hung  the worker ended, or the file took longer than the limit (20 s of wall or CPU time)
    warned      Python's warnings or the codecs' own words on stderr: not wrong, but not for a user's eyes

Every mutant is a function of (seed, number), so a number found wrong is enough to repeat it; ``--keep`` saves its file.

    python benchmarks/fuzz.py --count 10000 --seed 1 --workers 1 --keep wrong/
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from mutants import Seed, mutant, seed_files  # noqa: E402

from rawkit.errors import RawkitError  # noqa: E402
from rawkit.parallel import PROCESSES, SERIAL, Limits, map_files  # noqa: E402

SECONDS = 20.0
MEMORY = 2 * 10**9  # bytes
DENOISED = 0.3  # share of the pictures that are denoised and written, not only read
DONE, REFUSED, NO_MEMORY, WRONG, DIED, HUNG = "done", "refused", "memory", "wrong", "died", "hung"
STATES = (DONE, REFUSED, NO_MEMORY, WRONG, DIED, HUNG)
BAD = (WRONG, DIED, HUNG)
HEADS_ONLY = "a headless mosaic needs a sidecar."  # the RAF and CR3 are metadata without a picture
ISOS = (50.0, 800.0, 1e6)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    state: str
    text: str = ""
    warned: str = ""
    memory: int = 0  # bytes, largest resident size of the worker so far
    seconds: float = 0.0  # of CPU time


@lru_cache(maxsize=1)
def seeds_in(folder: Path) -> tuple[Seed, ...]:
    """The seeds that ``save_seeds`` wrote."""
    listed = json.loads((folder / "seeds.json").read_text(encoding="utf-8"))
    return tuple(Seed(name, kind, form, (folder / name).read_bytes()) for name, kind, form in listed)


def save_seeds(folder: Path, seeds: list[Seed]) -> None:
    """Write the seeds for the workers to read."""
    for seed in seeds:
        (folder / seed.name).write_bytes(seed.data)
    listed = json.dumps([(seed.name, seed.kind, seed.form) for seed in seeds])
    (folder / "seeds.json").write_text(listed, encoding="utf-8")


def make_mutant(folder: Path, base: int, number: int) -> tuple[Seed, bytes, np.random.Generator]:
    """Mutant ``number`` of run ``base``: its seed, its bytes, and the generator for what is done with it."""
    rng = np.random.default_rng([base, number])
    seeds = seeds_in(folder)
    seed = seeds[rng.integers(len(seeds))]
    return seed, mutant(seed, [other for other in seeds if other.form == seed.form], rng), rng


def try_mutant(folder: Path, base: int, number: int) -> Outcome:
    """Make a mutant, give it to its reader, and tell what happened; runs in a worker."""
    seed, data, rng = make_mutant(folder, base, number)
    place = folder / f"work_{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    told = _catch_stderr(folder)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            READERS[seed.kind](place, seed, data, rng)
            state, text = DONE, ""
        except RawkitError as error:
            state, text = (WRONG if "rawkit itself failed" in str(error) else REFUSED), str(error)
        except MemoryError as error:
            state, text = NO_MEMORY, str(error)
        except Exception as error:
            state, text = WRONG, f"{type(error).__name__} at {_where(error)}: {error}"
    seconds = time.process_time() - start
    if seconds > SECONDS:
        state, text = HUNG, f"{seconds:.0f} s of CPU time"
    words = told()
    if "Traceback" in words:
        state, text = WRONG, words
    warned = "; ".join(sorted({f"{w.category.__name__} at {Path(w.filename).name}:{w.lineno}" for w in caught}))
    if words:
        warned = f"{warned} {words.splitlines()[0][:80]}".strip()
    return Outcome(state, text[:300], warned, _peak_memory(), seconds)


def check_seeds(folder: Path) -> None:
    """All seeds are read, and the pictures denoised: a reader that refuses everything would pass for a careful one.

    It also compiles and caches the kernels, whose time is no file's.
    """
    for answer in map_files(partial(_read_seed, folder), range(len(seeds_in(folder))), workers=1):
        if answer.error is not None and not answer.error.endswith(HEADS_ONLY):
            raise AssertionError(answer.error)


def _read_seed(folder: Path, index: int) -> None:
    seed = seeds_in(folder)[index]
    place = folder / f"seed_{index}"
    place.mkdir()
    _catch_stderr(folder)
    READERS[seed.kind](place, seed, seed.data, _Always())  # pyright: ignore[reportArgumentType]


class _Always:
    """A generator for which every share is taken."""

    def random(self) -> float:
        return 0.0


def _where(error: BaseException) -> str:
    """The innermost line of rawkit, and the one that raised."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    ours = [f"{Path(file).name}:{line}" for file, line in places if f"{os.sep}rawkit{os.sep}" in file]
    return " < ".join(dict.fromkeys([f"{Path(places[-1][0]).name}:{places[-1][1]}", *ours[-1:]]))


def _catch_stderr(folder: Path) -> Callable[[], str]:
    """From now on the process's stderr, C libraries' included, goes to a file; the function reads what came."""
    path = folder / f"stderr_{os.getpid()}"
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 2)
    os.close(target)
    return lambda: path.read_text(encoding="utf-8", errors="replace")


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------------------- readers


def _read_picture(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.raw.exif_copy import carried_metadata
    from rawkit.raw.metadata import exif_metadata
    from rawkit.raw.read import read_raw
    from rawkit.sensor.frames import FrameSet

    path = place / seed.name
    path.write_bytes(data)
    if seed.kind == "mosaic":
        (place / f"{seed.name}.json").write_text('{"cfa": "RGGB", "black_level": 32, "white_level": 16383, "iso": 800}')
    share = rng.random()
    exif_metadata(path)
    carried_metadata(path)
    if share < DENOISED:
        _denoise(path)
    elif share < DENOISED + 0.1:
        FrameSet.from_files([path])
    else:
        read_raw(path)


def _read_sidecar(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from mutants import SHAPE

    (place / "image.raw").write_bytes(np.full(SHAPE, 900, "<u2").tobytes())
    (place / "image.raw.json").write_bytes(data)
    from rawkit.raw.read import read_raw

    read_raw(place / "image.raw")


def _denoise(path: Path) -> None:
    """As ``rawkit denoise`` does; the output is whole, or there is none."""
    from rawkit.batch import DONE as WRITTEN
    from rawkit.batch import Job, run_jobs
    from rawkit.raw.read import read_raw
    from rawkit.restore.files import DenoiseSettings, denoise_file

    settings = DenoiseSettings(threads=1)
    target = path.parent / "out" / "result.dng"

    def work(source: Path, target: Path, *, write: Path | None) -> Generator[None, None, dict[str, Any]]:
        try:
            return (yield from denoise_file(source, target, settings, write=write))
        except (ValueError, OSError) as error:  # a batch survives them, but their words are for programmers
            raise RuntimeError(f"{type(error).__name__} at {_where(error)}: {error}") from error

    (result,) = run_jobs([Job(path, target)], work, parameters={}, mapper=partial(map_files, backend=SERIAL))
    left = sorted(p.name for p in target.parent.iterdir()) if target.parent.is_dir() else []
    expected = [".rawkit.jsonl", "result.dng"] if result["status"] == WRITTEN else []
    if left != expected:
        raise AssertionError(f"{result['status']}, and the output's folder holds {left}")
    if result["status"] == WRITTEN:
        read_raw(target)
    else:
        raise RawkitError(result["reason"])


def _read_profile(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.sensor.profile import CameraProfile

    path = place / seed.name
    path.write_bytes(data)
    profile = CameraProfile.load(path)
    profile.to_frame()
    for iso in ISOS:
        try:
            profile.noise.at(iso)
        except RawkitError:
            continue
    profile.save(place / "again.json")


def _read_darktable(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.sensor.exchange import from_darktable

    (place / seed.name).write_bytes(data)
    from_darktable(place / seed.name, "Nikon D5000").save(place / "profile.json")


def _read_eld(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.sensor.exchange import eld_parameters, from_eld

    (place / seed.name).write_bytes(data)
    parameters = eld_parameters(place / seed.name, "Camera")
    from_eld(parameters, make="", model="Camera").save(place / "profile.json")


def _read_csv(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.sensor.exchange import from_csv

    (place / seed.name).write_bytes(data)
    from_csv(place / seed.name).save(place / "profile.json")


def _read_frames(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    import imagecodecs
    from mutants import SHAPE

    from rawkit.sensor.frames import FrameSet

    for name, level in (("flat", 900), ("dark", 32)):
        (place / f"{name}.png").write_bytes(imagecodecs.png_encode(np.full(SHAPE, level, np.uint16)))
    (place / seed.name).write_bytes(data)
    for frame in FrameSet.open(place / seed.name).frames:
        frame.read()


def _read_records(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.batch import RECORD_NAME, Job, find_inputs, run_jobs

    for name in ("a.dng", "b.dng", "other.dng"):
        (place / name).write_bytes(b"content")
    (place / RECORD_NAME).write_bytes(data)
    jobs = [Job(item.path, place / "a.dng") for item in find_inputs([place])]
    list(run_jobs(jobs, _copy, parameters={}, mapper=partial(map_files, backend=SERIAL)))


def _copy(source: Path, target: Path, *, write: Path | None) -> dict[str, Any]:
    if write is not None:
        shutil.copyfile(source, write)
    return {}


def _read_recipe(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.train.denoiser import Recipe

    (place / seed.name).write_bytes(data)
    try:
        Recipe.read(place / seed.name)
    except ValueError as error:  # a recipe is written by hand: misuse, which the command prints in one line
        raise RawkitError(str(error)) from None


def _read_weights(place: Path, seed: Seed, data: bytes, rng: np.random.Generator) -> None:
    from rawkit.nn.weights import load_network

    (place / seed.name).write_bytes(data)
    load_network(place / seed.name)


Reader = Callable[[Path, Seed, bytes, np.random.Generator], None]
READERS: dict[str, Reader] = {
    "raw": _read_picture, "mosaic": _read_picture, "sidecar": _read_sidecar, "profile": _read_profile,
    "darktable": _read_darktable, "eld": _read_eld, "csv": _read_csv, "emva": _read_frames, "frames": _read_frames,
    "records": _read_records, "recipe": _read_recipe, "weights": _read_weights,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- runs


def run(
    count: int, base: int, *, workers: int = 1, first: int = 0, keep: Path | None = None, torch: bool = True,
    seconds: float = SECONDS,
    progress: Callable[[int, Outcome], None] | None = None,
) -> list[tuple[Seed, int, Outcome]]:  # fmt: skip
    """Try the mutants ``first`` ... ``first + count - 1`` of run ``base``."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_seeds(folder, seed_files(torch=torch))
        check_seeds(folder)
        limits = Limits(seconds, MEMORY)
        answers = map_files(
            partial(try_mutant, folder, base), range(first, first + count), backend=PROCESSES, workers=workers,
            limits=limits,
        )  # fmt: skip
        for answer in answers:
            seed, data, _ = make_mutant(folder, base, answer.item)
            outcome = answer.value
            if outcome is None:
                hung = "the limit for one file" in (answer.error or "")
                outcome = Outcome(HUNG if hung else DIED, answer.error or "")
            results.append((seed, answer.item, outcome))
            if keep is not None and outcome.state in BAD:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{base}_{answer.item}_{seed.name}").write_bytes(data)
            if progress is not None:
                progress(answer.item, outcome)
        seeds_in.cache_clear()
    return results


def batch_of_mutants(count: int, base: int, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """``rawkit denoise`` on a folder of damaged pictures; its result, and the files whose fate it does not tell."""
    inputs, outputs = folder / "in", folder / "out"
    inputs.mkdir(parents=True)
    seeds = [seed for seed in seed_files(torch=False) if seed.kind == "raw"]
    for number in range(count):
        rng = np.random.default_rng([base, number])
        seed = seeds[rng.integers(len(seeds))]
        (inputs / f"{number:03d}_{seed.name}").write_bytes(mutant(seed, seeds, rng))
    command = [sys.executable, "-m", "rawkit.cli", "denoise", str(inputs), "-o", str(outputs), "--json",
               "--model", "classical", "--time-limit", f"{SECONDS:g}", "--memory", f"{MEMORY / 1e9:g}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    told = {Path(file["input"]).name: file for file in json.loads(done.stdout)["files"]}
    untold = [path.name for path in inputs.iterdir() if path.name not in told]
    whole = {Path(file["output"]).name for file in told.values() if file["status"] == "done"}
    present = {path.name for path in outputs.iterdir()} - {".rawkit.jsonl"} if outputs.is_dir() else set()
    return done, untold + sorted(whole ^ present)


def table(results: list[tuple[Seed, int, Outcome]]) -> dict[str, Counter[str]]:
    """Counts of every state, and of warnings, per kind of file and in all."""
    rows: dict[str, Counter[str]] = {}
    for seed, _, outcome in results:
        for name in (seed.kind if seed.kind != "raw" else seed.name, "all"):
            rows.setdefault(name, Counter())[outcome.state] += 1
            rows[name]["warned"] += bool(outcome.warned)
    return {name: rows[name] for name in sorted(rows, key=lambda n: (n == "all", n))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutants")
    parser.add_argument("--seed", type=int, default=1, help="of the run")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="wall time of a file; more on a busy computer")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder for the files that were not handled as they should be")
    parser.add_argument("--batch", type=int, default=40, help="mutants in one run of 'rawkit denoise'; 0: none")
    parser.add_argument("--json", action="store_true", help="counts and findings as JSON")
    given = parser.parse_args()

    def show(number: int, outcome: Outcome) -> None:
        if outcome.state in BAD:
            print(f"{number}: {outcome.state}: {outcome.text}", file=sys.stderr, flush=True)
        elif number % 500 == 0:
            print(f"{number} ...", file=sys.stderr, flush=True)

    start, cpu = time.monotonic(), time.process_time()
    results = run(
        given.count,
        given.seed,
        workers=given.workers,
        first=given.first,
        keep=given.keep,
        progress=show,
        seconds=given.seconds,
    )
    rows = table(results)
    bad = [(number, seed.name, outcome) for seed, number, outcome in results if outcome.state in BAD]
    findings = Counter(f"{outcome.text}" for _, _, outcome in bad)
    warned = Counter(outcome.warned for _, _, outcome in results if outcome.warned)
    summary = {
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                 check=False).stdout.strip(),
        "seed": given.seed, "first": given.first, "count": given.count, "seconds": round(time.monotonic() - start, 1),
        "parent_cpu_seconds": round(time.process_time() - cpu, 1),
        "slowest_file_cpu_seconds": round(max(outcome.seconds for _, _, outcome in results), 2),
        "largest_worker_bytes": max(outcome.memory for _, _, outcome in results),
    }  # fmt: skip
    if given.batch:
        with tempfile.TemporaryDirectory() as name:
            done, untold = batch_of_mutants(given.batch, given.seed, Path(name))
        summary |= {"batch_exit_code": done.returncode, "batch_traceback": "Traceback" in done.stdout + done.stderr,
                    "batch_untold": untold}  # fmt: skip
    if given.json:
        print(json.dumps({**summary, "kinds": rows, "bad": [(n, s, o.state, o.text) for n, s, o in bad],
                          "warned": warned}, indent=1))  # fmt: skip
    else:
        for name, value in summary.items():
            print(f"{name}: {value}")
        print(f"\n| file | {' | '.join((*STATES, 'warned'))} |\n|---{'|---' * (len(STATES) + 1)}|")
        for name, row in rows.items():
            print(f"| {name} | {' | '.join(str(row[state]) for state in (*STATES, 'warned'))} |")
        for text, number in (*findings.most_common(40), *warned.most_common(20)):
            print(f"{number} x {text}")
    sys.exit(1 if bad or summary.get("batch_untold") or summary.get("batch_traceback") else 0)


if __name__ == "__main__":
    main()
