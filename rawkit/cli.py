"""The ``rawkit`` command.  Each command parses, calls one public function and prints; there is no science here.

Exit codes: 0 all done; 1 some files failed; 2 the command cannot be carried out as given; 3 nothing failed, but
outputs that exist already were left alone; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

import rawkit
from rawkit.errors import OutputExistsError, RawkitError

FAILED, USAGE, SKIPPED, INTERRUPTED = 1, 2, 3, 130
_GIGABYTE = 10**9
_TIME_LIMIT = 1800.0  # seconds for one file of a batch

app = typer.Typer(
    name="rawkit",
    help="Camera raw noise: calibrate a sensor, denoise a raw file, make realistic noisy raws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Iso = Annotated[float | None, typer.Option("--iso", help="ISO, for files that do not record it.")]
Black = Annotated[str | None, typer.Option("--black-level", help="Black level [DN]: one number, or R,Gr,Gb,B.")]
White = Annotated[float | None, typer.Option("--white-level", help="White level [DN], black included.")]
Cfa = Annotated[str | None, typer.Option("--cfa", help="Color filter array: RGGB, BGGR, GRBG, GBRG or MONO.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT of a headless .raw file.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Samples of a headless .raw file: <u2, >u2, u1, <f4.")]
Model = Annotated[str, typer.Option("--model", help="classical, the name of bundled weights, or a .safetensors file.")]
ProfileFile = Annotated[Path | None, typer.Option("--profile", help="Camera profile made by 'rawkit calibrate'.")]
Camera = Annotated[str | None, typer.Option("--camera", help="Look the noise up under this camera name.")]
Darktable = Annotated[Path | None, typer.Option("--darktable", help="Path of darktable's noiseprofiles.json.")]
BaseIso = Annotated[float, typer.Option("--base-iso", help="ISO at which the amplification is 1.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Recursive = Annotated[bool, typer.Option("-r", "--recursive", help="Take the folders in a folder too.")]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Files at a time, each in a process of its own; 1 uses all cores.")
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="Work on a Dask cluster instead: its scheduler, tcp://HOST:PORT.")
]
TimeLimit = Annotated[float, typer.Option("--time-limit", help="Seconds for one file of a batch; then it failed.")]
Memory = Annotated[
    float | None, typer.Option("--memory", help="GB for one process of a batch; else its share of the computer's.")
]
Log = Annotated[Path | None, typer.Option("--log", help="Add a JSON line for every file to this file.")]
Folder = Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results.")]


class EmvaConvention(StrEnum):
    """Which estimates 'calibrate --emva' gives."""

    default = "default"
    emva1288 = "emva1288"


class NoiseMode(StrEnum):
    """Noise models of 'synthesize'."""

    pg = "pg"
    eld = "eld"
    measured = "measured"


class ColorPreset(StrEnum):
    """Published ranges of colors and exposures."""

    brooks2019 = "brooks2019"


class DatasetFormat(StrEnum):
    """Files of a data set."""

    dng = "dng"
    npz = "npz"
    hdf5 = "hdf5"
    webdataset = "webdataset"
    tiff = "tiff"


class FrameKind(StrEnum):
    """Which frames 'realism' compares."""

    dark = "dark"
    flat = "flat"


class OutputFormat(StrEnum):
    """What 'denoise' writes."""

    dng = "dng"
    linear_dng = "linear-dng"
    tiff = "tiff"


def main() -> None:
    """Entry point: every error of ours becomes one line and an exit code."""
    try:
        app()
    except RawkitError as error:
        stop(str(error), FAILED)
    except KeyboardInterrupt:
        stop("interrupted; files that were finished are whole, the others do not exist.", INTERRUPTED)


def stop(message: str, code: int) -> NoReturn:
    """Print one line to stderr and leave."""
    err.print("rawkit: " + " ".join(message.split()), markup=False, highlight=False)
    sys.exit(code)


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Arrays as lists, paths as text, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def progress_bar(text: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, total); silent for machines."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class FileOptions:
    """What the user says about files that do not say it themselves."""

    def __init__(self, iso: float | None, black: str | None, white: float | None, cfa: str | None, size: str | None,
                 dtype: str | None) -> None:  # fmt: skip
        try:
            levels = None if black is None else [float(part) for part in black.split(",")]
            width, height = (None, None) if size is None else (int(part) for part in size.lower().split("x"))
        except ValueError:
            stop(f"--black-level takes numbers ({black}), --size takes WIDTHxHEIGHT ({size}).", USAGE)
        check_iso(iso)
        if levels is not None and len(levels) not in (1, 3, 4):
            stop(f"--black-level takes one number, or one per phase; found {len(levels)}.", USAGE)
        self.levels = None if levels is None else levels[0] if len(levels) == 1 else levels
        self.iso, self.white, self.cfa, self.width, self.height, self.dtype = iso, white, cfa, width, height, dtype

    def keywords(self) -> dict[str, Any]:
        """Of ``read_raw``."""
        spec = None
        if self.width is not None or self.dtype is not None:
            spec = rawkit.MosaicSpec(width=self.width, height=self.height, dtype=self.dtype)
        return {"iso": self.iso, "black_level": self.levels, "white_level": self.white, "cfa": self.cfa,
                "mosaic": spec}  # fmt: skip

    def read(self, path: Path) -> Any:
        return rawkit.read_raw(path, **self.keywords())


def check_iso(iso: float | None) -> None:
    if iso is not None and not 0 < iso < float("inf"):
        stop(f"--iso takes a positive number, found {iso:g}.", USAGE)


def _isos(text: str) -> tuple[float, ...]:
    """ISOs of a comma-separated list; anything else ends the program."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        stop(f"--iso takes numbers, as 800 or 800,3200; found {text}.", USAGE)
    for value in values:
        check_iso(value)
    return values


_EVALUATION_CAMERA = "opporeno10x_pmrid"


def check_inputs(files: list[Path]) -> list[Path]:
    """Files as given, folders replaced by the files in them."""
    found: list[Path] = []
    for path in files:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if not inside:
                stop(f"{path} holds no files.", USAGE)
            found += [p for p in inside if p.suffix.lower() != ".json"]
        elif path.is_file():
            found.append(path)
        else:
            stop(f"{path} is not there.", USAGE)
    return found


def finish(results: list[dict[str, Any]], *, as_json: bool, verb: str) -> NoReturn:
    """Print the summary of a batch and leave with its exit code."""
    failed = [r for r in results if r["status"] == "failed"]
    skipped = [r for r in results if r["status"] == "skipped"]
    already = sum(r["status"] == "already done" for r in results)
    done = len(results) - len(failed) - len(skipped) - already
    if as_json:
        print_json({"files": results, "done": done, "already_done": already, "skipped": len(skipped),
                    "failed": len(failed)})  # fmt: skip
    elif len(results) > 1:
        before = f"{already} already done, " if already else ""
        out.print(f"{done} {verb}, {before}{len(skipped)} skipped, {len(failed)} failed", highlight=False)
        if failed:
            table = Table("failed", "why", box=None, pad_edge=False)
            table.columns[1].overflow = "fold"
            for result in failed:
                reason = result["reason"].removeprefix(f"{result['input']}: ")
                table.add_row(Text(Path(result["input"]).name), Text(reason))
            out.print(table)
    sys.exit(FAILED if failed else SKIPPED if skipped else 0)


def tell_trouble(result: dict[str, Any]) -> None:
    """One line on stderr for a file that failed or was skipped."""
    if result["status"] in ("failed", "skipped"):
        err.print(f"rawkit: {result['status']}: {result['reason']}", markup=False, highlight=False)


class BatchOptions:
    """Where the files of a batch are worked on, and what each may cost."""

    def __init__(
        self, workers: int, cluster: str | None, time_limit: float, memory: float | None, log: Path | None
    ) -> None:
        if cluster is not None and "://" not in cluster:
            stop(f"--cluster takes the address of a Dask scheduler as tcp://HOST:PORT, found {cluster}.", USAGE)
        if not time_limit > 0 or (memory is not None and not memory > 0):
            stop("--time-limit and --memory take positive numbers.", USAGE)
        self.workers, self.cluster, self.time_limit, self.log = workers, cluster, time_limit, log
        self.memory = None if memory is None else int(memory * _GIGABYTE)

    def is_serial(self, count: int) -> bool:
        """One file needs no process of its own."""
        return count == 1 and self.workers == 1 and self.cluster is None

    @property
    def threads(self) -> int | None:
        """Of each process; None: as many as there are cores."""
        from rawkit.parallel import usable_cores

        if self.cluster is not None:
            return 1
        return None if self.workers == 1 else max(1, usable_cores() // self.workers)

    def mapper(self, count: int, *, on_gpu: bool = False) -> Any:
        """``map_files`` for a batch of ``count`` files; a GPU's driver maps more memory than it uses."""
        from functools import partial

        from rawkit.parallel import PROCESSES, SERIAL, Limits, map_files, physical_memory

        if self.is_serial(count):
            return partial(map_files, backend=SERIAL)
        if self.cluster is not None:
            return partial(map_files, backend=self.cluster)
        workers = min(self.workers, count)
        if self.threads is not None:  # the processes share the cores; their libraries would each take all
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(self.threads))
        installed = None if on_gpu else physical_memory()
        memory = self.memory or (None if installed is None else installed // workers)
        return partial(map_files, backend=PROCESSES, workers=workers, limits=Limits(self.time_limit, memory))

    def note(self, result: dict[str, Any]) -> None:
        """Add a line to the log."""
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                file.write(json.dumps({"time": time, **result}, default=_plain) + "\n")


class RateColumn(ProgressColumn):
    """Files per minute."""

    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{60 * speed:.1f}/min")


@contextmanager
def batch_bar(text: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Progress of a batch: files done, their rate, the time that remains; call it once per file."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn(),
        TextColumn("remaining"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)


def run_batch(files: list[Path], work: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the work on every file; one bad file does not stop the others."""
    results = []
    for path in files:
        try:
            results.append({"input": str(path), "status": "done", **work(path)})
        except OutputExistsError as error:
            results.append({"input": str(path), "status": "skipped", "reason": str(error)})
            tell_trouble(results[-1])
        except (RawkitError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            results.append({"input": str(path), "status": "failed", "reason": reason})
            tell_trouble(results[-1])
    return results


def _version(asked: bool) -> None:
    if asked:
        out.print(rawkit.__version__, highlight=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A raw file.")],
    iso: Iso = None,
    black_level: Black = None,
    white_level: White = None,
    cfa: Cfa = None,
    size: Size = None,
    dtype: Dtype = None,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    as_json: JsonFlag = False,
) -> None:
    """Print what a raw file records, and the noise parameters that would be used for it.

    Example: `rawkit inspect IMG_0001.dng --json`
    """
    from rawkit.restore.files import noise_numbers

    check_inputs([file])
    image = FileOptions(iso, black_level, white_level, cfa, size, dtype).read(file)
    meta = image.metadata
    active = getattr(image, "active_area", None)
    pixels = image.mosaic if isinstance(image, rawkit.RawImage) else image.pixels
    facts: dict[str, Any] = {
        "file": str(file),
        "format": meta.file_format,
        "decoder": meta.decoder,
        "camera": meta.camera(),
        "make": meta.make,
        "model": meta.model,
        "serial": meta.serial,
        "kind": "mosaic" if isinstance(image, rawkit.RawImage) else "linear (demosaiced)",
        "cfa": str(image.cfa) if isinstance(image, rawkit.RawImage) else None,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "dtype": str(pixels.dtype),
        "active_area": active,
        "black_level": dict(zip(image.phases, image.black_level, strict=True)),
        "white_level": image.white_level,
        "iso": meta.iso,
        "exposure_time": meta.exposure_time,
        "aperture": meta.aperture,
        "focal_length": meta.focal_length,
        "lens": meta.lens,
        "datetime": meta.datetime,
        "orientation": meta.orientation,
        "as_shot_neutral": meta.as_shot_neutral,
        "color_matrices": [{"light_source": light, "xyz_to_camera": matrix} for light, matrix in meta.color_matrices],
        "noise_profile": meta.noise_profile,
        "noise_reduction_applied": meta.noise_reduction_applied,
        "opcode_lists": {name: len(data) for name, data in meta.opcode_lists.items()},
        "notes": list(meta.notes),
    }
    try:
        facts["noise"] = noise_numbers(
            image, rawkit.find_noise(image, profile=profile, camera=camera, darktable=darktable)
        )
    except RawkitError as error:
        facts["noise"] = None
        facts["noise_missing"] = str(error)
    if as_json:
        print_json(facts)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in facts.items():
        if key in ("noise", "noise_missing", "make", "model") or value in (None, [], {}, ()):
            continue
        table.add_row(key.replace("_", " "), json.dumps(value, default=_plain) if not isinstance(value, str) else value)
    if meta.iso is None:
        table.add_row("iso", "not recorded; supply it with --iso N")
    out.print(table)
    if facts["noise"] is None:
        out.print(f"noise: {facts['noise_missing']}", markup=False, highlight=False)
        return
    noise = facts["noise"]
    out.print(f"noise: {noise['description']}", markup=False, highlight=False)
    for phase, gain, var in zip(noise["phases"], noise["system_gain"], noise["read_var"], strict=True):
        out.print(f"  {phase:<2}  K = {gain:.5g} DN/e-   read noise = {var**0.5:.4g} DN = {var**0.5 / gain:.3g} e-")


@app.command()
def gain(
    iso: Annotated[float | None, typer.Argument(help="ISO.")] = None,
    db: Annotated[float | None, typer.Option("--db", help="Amplification in dB.")] = None,
    multiple: Annotated[float | None, typer.Option("--multiple", help="Amplification as a factor.")] = None,
    stops: Annotated[float | None, typer.Option("--stops", help="Amplification in stops.")] = None,
    base_iso: BaseIso = 100.0,
    as_json: JsonFlag = False,
) -> None:
    """Convert ISO, dB, multiple and stops into each other.

    Example: `rawkit gain 6400`, or `rawkit gain --db 36 --base-iso 160`
    """
    given = [v for v in (iso, db, multiple, stops) if v is not None]
    if len(given) != 1:
        stop(f"give exactly one of ISO, --db, --multiple, --stops; found {len(given)}.", USAGE)
    try:
        if iso is not None:
            value = rawkit.Gain.from_iso(iso, base_iso=base_iso)
        elif db is not None:
            value = rawkit.Gain.from_db(db, base_iso=base_iso)
        elif multiple is not None:
            value = rawkit.Gain(multiple, base_iso)
        else:
            value = rawkit.Gain.from_stops(stops, base_iso=base_iso)
    except ValueError as error:
        stop(str(error), USAGE)
    numbers = {name: float(getattr(value, name)) for name in ("iso", "multiple", "db", "stops")}
    if as_json:
        print_json(numbers)
    else:
        out.print("ISO {iso:g} = {multiple:g}x = {db:.2f} dB = {stops:.4g} stops".format(**numbers), highlight=False)


@app.command()
def calibrate(
    frames: Annotated[
        Path, typer.Argument(help="Folder of flats and darks, a manifest.csv, or an EMVA 1288 descriptor.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Profile to write (JSON).")],
    make: Annotated[str | None, typer.Option("--make", help="Camera maker, if the files do not tell.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Camera model, if the files do not tell.")] = None,
    base_iso: BaseIso = 100.0,
    report: Annotated[Path | None, typer.Option("--report", help="Also write a report page (HTML).")] = None,
    emva: Annotated[
        EmvaConvention | None, typer.Option("--emva", help="Also give the EMVA 1288 figures, in this convention.")
    ] = None,
    spatial: Annotated[bool, typer.Option(help="Measure DSNU, PRNU and defects too.")] = True,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Decoding threads.")] = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure a camera's noise from flats and darks and write its profile.

    Example: `rawkit calibrate frames/ -o my_camera.json --report report.html`
    """
    for path in (output, report):
        if path is not None and path.exists() and not overwrite:
            stop(f"{path} exists; use --overwrite to replace it.", USAGE)
    try:
        found = rawkit.FrameSet.open(frames, base_iso=base_iso)
    except RawkitError as error:
        stop(str(error), USAGE)
    with progress_bar("measuring frames", quiet=as_json) as progress:
        result = rawkit.calibrate(
            found, make=make, model=model, base_iso=base_iso, spatial=spatial, workers=workers, progress=progress
        )
    reports = {}
    if emva is not None:
        from rawkit.sensor.emva import emva_reports

        with progress_bar("EMVA 1288 figures", quiet=as_json) as progress:
            reports = emva_reports(found, convention=emva.value, progress=progress)
    result.profile.save(output, overwrite=overwrite)
    if report is not None:
        from rawkit.report.calibration import save_calibration_page

        save_calibration_page(result, report, emva=reports, overwrite=overwrite)
    if as_json:
        print_json({"profile": str(output), "left_out": [[str(p), why] for p, why in result.left_out],
                    "verdicts": {f"{iso:g}": text for iso, text in result.verdicts.items()},
                    "emva": {phase: r.to_dict() for phase, r in reports.items()},
                    "maps": sorted(result.profile.maps), **result.profile.to_dict()})  # fmt: skip
        return
    table = Table("ISO", "phase", "K [DN/e-]", "+-", "read noise [DN]", "+-", "[e-]", box=None, pad_edge=False)
    for number, params in result.profile.noise.table:
        for p, phase in enumerate(result.profile.phases):
            k, v = params.system_gain[p], params.read_var[p]
            table.add_row(f"{number:g}", phase, f"{k:.5g}", f"{params.system_gain_se[p]:.2g}", f"{v**0.5:.4f}",
                          f"{params.read_var_se[p] / (2 * v**0.5):.2g}", f"{v**0.5 / k:.3f}")  # fmt: skip
    out.print(table)
    for number, verdict in result.verdicts.items():
        out.print(f"ISO {number:g}: {verdict}", markup=False, highlight=False)
    for phase, figures in reports.items():
        emva_table = Table("EMVA 1288", "value", "+-", "unit", title=f"phase {phase}, {figures.convention}", box=None)
        for figure in figures.figures.values():
            emva_table.add_row(figure.name, f"{figure.value:.6g}", f"{figure.se:.2g}", figure.unit)
        out.print(emva_table)
        for remark in figures.remarks:
            out.print(f"EMVA 1288: {remark}", markup=False, highlight=False)
    for path, why in result.left_out:
        out.print(f"left out: {path.name}: {why}", markup=False, highlight=False)
    out.print(f"{output} written: {result.profile.name}, {len(found.frames)} frames", markup=False, highlight=False)


@app.command()
def estimate(
    files: Annotated[list[Path], typer.Argument(help="Raw photographs, folders of them, or patterns.")],
    iso: Iso = None,
    black_level: Black = None,
    white_level: White = None,
    cfa: Cfa = None,
    size: Size = None,
    dtype: Dtype = None,
    recursive: Recursive = False,
    workers: Workers = 1,
    cluster: Cluster = None,
    time_limit: TimeLimit = _TIME_LIMIT,
    memory: Memory = None,
    log: Log = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate system gain and read noise from a single photograph, with 95 % intervals; of each of several.

    Example: `rawkit estimate IMG_0001.dng --json`, or `rawkit estimate photos/ --workers 4 --log noise.jsonl`
    """
    from functools import partial

    from rawkit.batch import estimate_file, find_inputs

    options = FileOptions(iso, black_level, white_level, cfa, size, dtype)
    batch = BatchOptions(workers, cluster, time_limit, memory, log)
    try:
        inputs = [item.path for item in find_inputs(files, recursive=recursive)]
    except ValueError as error:
        stop(str(error), USAGE)
    alone = batch.is_serial(len(inputs))
    results = []
    with batch_bar("estimating", len(inputs), quiet=as_json or alone) as advance:
        work = partial(estimate_file, reading=options.keywords())
        with closing(batch.mapper(len(inputs))(work, inputs)) as answers:
            for answer in answers:
                name = {"input": str(answer.item)}
                if answer.value is None:
                    results.append({**name, "status": "failed", "reason": answer.error})
                else:
                    found = answer.value
                    results.append(
                        {**name, "status": "done", **{f.name: getattr(found, f.name) for f in fields(found)}}
                    )
                    if not as_json:
                        if not alone:
                            out.print(f"{answer.item.name}:", markup=False, highlight=False)
                        _tell_estimate(found)
                batch.note(results[-1])
                advance()
                tell_trouble(results[-1])
    if as_json and alone and results[0]["status"] == "done":
        print_json({"file": results[0].pop("input"), **results[0]})
        return
    finish(results, as_json=as_json, verb="estimated")


def _tell_estimate(found: Any) -> None:
    table = Table("phase", "K [DN/e-]", "95 %", "read noise [DN]", "95 %", "signal [DN]", box=None, pad_edge=False)
    for p, phase in enumerate(found.phases):
        (low, high), (quiet, loud) = found.system_gain_interval[p], found.read_noise_interval[p]
        table.add_row(phase, f"{found.system_gain[p]:.4g}", f"{low:.4g} to {high:.4g}", f"{found.read_noise[p]:.3g}",
                      f"{quiet:.3g} to {loud:.3g}", "{:.0f} to {:.0f}".format(*found.mean_range[p]))  # fmt: skip
    out.print(table)
    if found.pooled:
        out.print("one amplifier was assumed for all phases; they do not contradict it")
    if not all(found.identifiable):
        out.print("nothing in the picture is dark enough to show the read noise: take its interval seriously")


profiles = typer.Typer(help="List, show, convert and compare camera profiles.", no_args_is_help=True)
app.add_typer(profiles, name="profiles")


@profiles.command("list")
def profiles_list(as_json: JsonFlag = False) -> None:
    """List your own profiles and the bundled ones.

    Example: `rawkit profiles list`
    """
    from rawkit.resources import bundled_profiles, library_folder

    rows = []
    for kind, paths in (("library", sorted(library_folder().glob("*.json"))), ("bundled", bundled_profiles())):
        for path in paths:
            profile = rawkit.CameraProfile.load(path)
            rows.append({"kind": kind, "camera": profile.name, "isos": profile.noise.isos, "path": str(path)})
    if as_json:
        print_json(rows)
        return
    table = Table("", "camera", "ISOs", "file", box=None, pad_edge=False)
    for row in rows:
        isos = row["isos"]
        table.add_row(row["kind"], row["camera"], f"{len(isos)}: {isos[0]:g} to {isos[-1]:g}", Path(row["path"]).name)
    out.print(table)
    out.print(f"your own profiles go into {library_folder()}", markup=False, highlight=False)


@profiles.command("show")
def profiles_show(
    file: Annotated[Path, typer.Argument(help="A profile.")],
    iso: Annotated[float | None, typer.Option("--iso", help="Only this ISO, interpolated if need be.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a profile holds.

    Example: `rawkit profiles show my_camera.json --iso 1000`
    """
    import numpy as np

    check_iso(iso)
    profile = rawkit.CameraProfile.load(file)
    if as_json and iso is None:
        print_json(profile.to_dict())
        return
    entries = profile.noise.table if iso is None else [(iso, profile.noise.at(iso))]
    phases = profile.phases or ("all",)
    rows = [
        {
            "iso": number,
            "phase": phase,
            "system_gain": float(np.broadcast_to(params.system_gain, len(phases))[p]),
            "read_noise": float(np.broadcast_to(params.read_var, len(phases))[p]) ** 0.5,
            "origin": params.origin,
        }
        for number, params in entries
        for p, phase in enumerate(phases)
    ]
    if as_json:
        print_json(rows)
        return
    out.print(f"{profile.name}, {profile.cfa or 'CFA not recorded'}, {profile.bit_depth} bits", highlight=False)
    table = Table("ISO", "phase", "K [DN/e-]", "read noise [DN]", "[e-]", "", box=None, pad_edge=False)
    for row in rows:
        noise_e = row["read_noise"] / row["system_gain"]
        table.add_row(f"{row['iso']:g}", row["phase"], f"{row['system_gain']:.5g}", f"{row['read_noise']:.4g}",
                      f"{noise_e:.3g}", row["origin"])  # fmt: skip
    out.print(table)
    if profile.noise.gain_switches:
        out.print("gain switches at ISO " + ", ".join(f"{s:g}" for s in profile.noise.gain_switches), highlight=False)


class ProfileFormat(StrEnum):
    """Formats of 'profiles import' and 'profiles export'."""

    darktable = "darktable"
    eld = "eld"
    csv = "csv"
    dng = "dng"


@profiles.command("import")
def profiles_import(
    file: Annotated[Path, typer.Argument(help="darktable noiseprofiles.json, ELD-type JSON, or CSV.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Profile to write (JSON).")],
    format: Annotated[ProfileFormat, typer.Option("--format", help="What the file is.")],
    camera: Annotated[str | None, typer.Option("--camera", help="Which camera of the file.")] = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn other programs' noise parameters into a profile.

    Example: `rawkit profiles import noiseprofiles.json --format darktable --camera "Nikon D5000" -o d5000.json`
    """
    from rawkit.sensor import exchange

    check_inputs([file])
    if format is ProfileFormat.csv:
        profile = exchange.from_csv(file, model=camera)
    elif camera is None or format is ProfileFormat.dng:
        stop("say which camera of the file with --camera (a DNG's own tag is read by 'rawkit inspect').", USAGE)
    elif format is ProfileFormat.darktable:
        profile = exchange.from_darktable(file, camera)
    else:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            parameters = document.get("params", document)[camera]
        except (ValueError, KeyError, AttributeError):
            stop(f"{file} holds no ELD parameters of {camera}.", FAILED)
        profile = exchange.from_eld(parameters, make="", model=camera)
    profile.save(output, overwrite=overwrite)
    if as_json:
        print_json({"profile": str(output), **profile.to_dict()})
    else:
        out.print(f"{output} written: {profile.name}, {len(profile.noise.isos)} ISOs", markup=False, highlight=False)


@profiles.command("export")
def profiles_export(
    file: Annotated[Path, typer.Argument(help="A profile.")],
    format: Annotated[ProfileFormat, typer.Option("--format", help="What to write.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; not needed for dng.")] = None,
    iso: Iso = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a profile for other programs; 'dng' prints the NoiseProfile tag of one ISO.

    Example: `rawkit profiles export my_camera.json --format darktable -o noiseprofiles.json`
    """
    from rawkit.resources import replacing
    from rawkit.sensor import exchange

    check_inputs([file])
    check_iso(iso)
    profile = rawkit.CameraProfile.load(file)
    if format is ProfileFormat.dng:
        if iso is None:
            stop("a NoiseProfile tag belongs to one ISO; say which with --iso N.", USAGE)
        pairs = exchange.dng_noise_profile(profile, iso)
        if as_json:
            print_json({"iso": iso, "noise_profile": pairs})
        else:
            out.print(exchange.dng_noise_profile_text(profile, iso), markup=False, highlight=False)
        return
    if output is None:
        stop("say where to write with -o FILE.", USAGE)
    if format is ProfileFormat.darktable:
        exchange.save_darktable([profile], output, overwrite=overwrite)
    elif format is ProfileFormat.csv:
        exchange.to_csv(profile, output, overwrite=overwrite)
    else:
        with replacing(output, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(exchange.to_eld(profile), indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json({"output": str(output)})
    else:
        out.print(f"{output} written", markup=False, highlight=False)


@profiles.command("compare")
def profiles_compare(
    first: Annotated[Path, typer.Argument(help="A profile.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare two profiles over the ISOs they share: second over first.

    Example: `rawkit profiles compare mine.json calibration_data/profiles/sonya7s2_pmn.json`
    """
    from rawkit.sensor.exchange import compare

    ratios = compare(rawkit.CameraProfile.load(first), rawkit.CameraProfile.load(second))
    if as_json:
        print_json([{f.name: getattr(r, f.name) for f in fields(r)} for r in ratios])
        return
    table = Table("ISO", "phase", "K ratio", "+-", "read noise ratio [e-]", "+-", box=None, pad_edge=False)
    for r in ratios:
        numbers = (f"{r.gain_ratio:.4f}", f"{r.gain_ratio_se:.2g}", f"{r.read_noise_ratio:.4f}")
        table.add_row(f"{r.iso:g}", r.phase, *numbers, f"{r.read_noise_ratio_se:.2g}")
    out.print(table)


@app.command()
def denoise(
    files: Annotated[list[Path], typer.Argument(help="Raw files, folders of them, or patterns.")],
    output: Folder = None,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    model: Model = "classical",
    strength: Annotated[float, typer.Option("--strength", min=0.0, help="Times the noise; 0 changes nothing.")] = 1.0,
    chroma: Annotated[
        float | None, typer.Option("--chroma", min=0.0, help="Strength for color noise, if not --strength.")
    ] = None,
    self_ensemble: Annotated[
        bool,
        typer.Option("--self-ensemble", help="Mean over eight turns of a Bayer mosaic: better, eight times slower."),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    format: Annotated[OutputFormat, typer.Option("--format", help="What to write.")] = OutputFormat.dng,
    exiftool: Annotated[
        bool, typer.Option("--exiftool", help="Let ExifTool, if installed, add tags that a fresh DNG lacks.")
    ] = False,
    iso: Iso = None,
    black_level: Black = None,
    white_level: White = None,
    cfa: Cfa = None,
    size: Size = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")] = False,
    recursive: Recursive = False,
    workers: Workers = 1,
    cluster: Cluster = None,
    time_limit: TimeLimit = _TIME_LIMIT,
    memory: Memory = None,
    log: Log = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove the noise of raw files; each result is a raw file again, `<stem>_denoised.dng`.

    The same command again finishes an interrupted batch: results that are there already are left alone.

    Example: `rawkit denoise *.dng -o clean/ --profile my_camera.json`, or `rawkit denoise photos/ -r -o clean/`
    """
    from functools import partial

    from rawkit.batch import Job, find_inputs, run_jobs
    from rawkit.restore.files import DenoiseSettings, denoise_file

    options = FileOptions(iso, black_level, white_level, cfa, size, dtype)
    batch = BatchOptions(workers, cluster, time_limit, memory, log)
    settings = DenoiseSettings(
        model=model, strength=strength, chroma_strength=chroma, self_ensemble=self_ensemble, format=format.value,
        profile=profile, camera=camera, darktable=darktable, reading=options.keywords(), exiftool=exiftool,
        device=device, threads=batch.threads,
    )  # fmt: skip
    try:
        inputs = find_inputs(files, recursive=recursive)
        on_gpu = rawkit.Denoiser.load(model, device=device).device != "cpu"
        parameters = settings.parameters()
    except ValueError as error:
        stop(str(error), USAGE)
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}", USAGE)
    jobs = [
        Job(
            item.path,
            (output / item.subfolder if output else item.path.parent) / f"{item.path.stem}_denoised{settings.suffix}",
        )
        for item in inputs
    ]
    alone = batch.is_serial(len(jobs))
    results = []
    with (
        batch_bar("denoising", len(jobs), quiet=as_json or alone) as advance,
        progress_bar(inputs[0].path.name, quiet=as_json or not alone) as progress,
    ):
        work = partial(denoise_file, settings=settings, **({"progress": progress} if alone else {}))
        mapper = batch.mapper(len(jobs), on_gpu=on_gpu)
        outcomes = run_jobs(jobs, work, parameters=parameters, mapper=mapper, overwrite=overwrite, dry_run=dry_run)
        with closing(outcomes):
            for result in outcomes:
                results.append(result)
                batch.note(result)
                advance()
                tell_trouble(result)
                if not as_json:
                    _tell_denoised(result)
    finish(results, as_json=as_json, verb="planned" if dry_run else "denoised")


def _tell_denoised(result: dict[str, Any]) -> None:
    name, target, status = Path(result["input"]).name, result["output"], result["status"]
    if status == "already done":
        out.print(f"{name}: {target} is already done", markup=False, highlight=False)
    if status not in ("done", "would be done"):
        return
    verb, noise = "->" if status == "done" else "would write", result["noise"]["description"]
    out.print(f"{name} {verb} {target}  (noise: {noise})", markup=False, highlight=False)
    if warning := result.get("noise_check", {}).get("warning"):
        err.print(f"{name}: {warning}; is this profile for this camera and ISO?", markup=False)
    for note in result["notes"]:
        err.print(f"{name}: {note}", markup=False, highlight=False)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A raw file.")],
    after: Annotated[Path, typer.Argument(help="The same picture, denoised.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Page to write (HTML).")],
    crop: Annotated[str | None, typer.Option("--crop", help="Show this part only: LEFT,TOP,WIDTH,HEIGHT.")] = None,
    exposure: Annotated[float, typer.Option("--exposure", help="Brightens both renders.")] = 1.0,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    iso: Iso = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a picture before and after on one page: slider, zoom, residual, figures of noise and sharpness.

    Example: `rawkit compare IMG_0001.dng clean/IMG_0001_denoised.dng -o page.html`
    """
    from rawkit.report.compare import compare_images, comparison_page, find_noise_or_why, save_comparison

    if output.exists() and not overwrite:
        stop(f"{output} exists; use --overwrite to replace it.", USAGE)
    if not 0 < exposure < float("inf"):
        stop(f"--exposure takes a positive factor, found {exposure:g}.", USAGE)
    try:
        part = None if crop is None else tuple(int(number) for number in crop.split(","))
    except ValueError:
        part = ()
    if part is not None and len(part) != 4:
        stop(f"--crop takes LEFT,TOP,WIDTH,HEIGHT, found {crop}.", USAGE)
    for path in (before, after):
        check_inputs([path])
    options = FileOptions(iso, None, None, None, None, None)
    first, second = (options.read(path) for path in (before, after))
    noise, source = find_noise_or_why(first, profile=profile, camera=camera, darktable=darktable)
    result = compare_images(first, second, noise, exposure=exposure)
    try:
        page = comparison_page(result, before=before.name, after=after.name, noise=source, crop=part)
    except ValueError as error:
        stop(str(error), USAGE)
    save_comparison(page, output, overwrite=overwrite)
    if as_json:
        print_json({"page": str(output), "noise": source, **result.to_dict()})
        return
    for name, value in (("sharpness kept", result.sharpness), ("noise taken away", result.taken)):
        out.print(f"{name}: {'not known' if value is None else format(value, '.3f')}", highlight=False)
    out.print(f"open {output}", markup=False, highlight=False)


@app.command()
def evaluate(
    clean: Annotated[Path, typer.Option("--clean", help="Folder of clean photographs, not used in training.")],
    model: Model = "classical",
    peer: Annotated[str | None, typer.Option("--peer", help="Another denoiser on the same noise.")] = None,
    iso: Annotated[str, typer.Option("--iso", help="ISOs, separated by commas.")] = "800,1600,3200,6400,12800",
    profile: ProfileFile = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="So many pictures, evenly spread.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure denoisers on clean pictures with the noise of a calibrated camera.

    Example: `rawkit evaluate --clean Kodak24/ --model fast --peer classical`
    """
    from rawkit.noise.standard_scene import pictures_in
    from rawkit.resources import bundled_profiles
    from rawkit.restore.evaluate import evaluate as measure
    from rawkit.restore.evaluate import scaled_noise

    isos = _isos(iso)
    default = next(p for p in bundled_profiles() if p.stem == _EVALUATION_CAMERA)
    camera = rawkit.CameraProfile.load(profile or default)
    try:
        files = pictures_in(clean)
        names = dict.fromkeys([model] if peer is None else [model, peer])
        methods = {name: rawkit.Denoiser.load(name, device=device).denoise_planes for name in names}
    except ValueError as error:
        stop(str(error), USAGE)
    if count:
        files = files[:: max(1, len(files) // count)][:count]
    noise = {value: scaled_noise(camera, value) for value in isos}
    table = Table(title=f"{len(files)} pictures with the noise of {camera.name}")
    for name in ("ISO", "denoiser", "raw dB", "sRGB dB", "SSIM", "removed / noise", "lag", "CPU s/MP"):
        table.add_column(name, justify="left" if name == "denoiser" else "right")
    scores = []
    with progress_bar("evaluating", quiet=as_json) as progress:
        for score in measure({"noisy": lambda planes, params: planes, **methods}, files, noise):
            scores.append(score.to_dict())
            progress(len(scores), len(isos) * (len(methods) + 1))
            table.add_row(
                f"{score.iso:g}", score.method, f"{score.raw_db:.2f}", f"{score.srgb_db:.2f}", f"{score.ssim:.3f}",
                f"{score.ratio:.3f}", f"{score.lag:+.3f}", f"{score.seconds_per_megapixel:.2f}",
            )  # fmt: skip
    if as_json:
        print_json({"camera": camera.name, "pictures": len(files), "scores": scores})
    else:
        out.print(table)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, such as models/recipes/fast.toml.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run: state, log, weights.")],
    photographs: Annotated[
        Path | None, typer.Option("--photographs", help="Folder of clean photographs, instead of the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after so long; --resume goes on.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train a denoiser on clean photographs; Ctrl-C keeps everything.

    Example: `rawkit train models/recipes/fast.toml --photographs my_photos/ -o my_run/`
    """
    try:
        from rawkit.train.denoiser import Recipe
        from rawkit.train.denoiser import train as run
    except ImportError as error:
        stop(f"training needs {error.name}; run: pip install 'rawkit-camera[torch]'.", FAILED)

    from dataclasses import replace

    try:
        settings = Recipe.read(recipe)
        if photographs is not None:
            settings = replace(settings, photographs=str(photographs))
        with progress_bar(settings.name, quiet=as_json) as progress:
            weights = run(
                settings,
                output,
                resume=resume,
                device=device,
                seconds=None if minutes is None else 60 * minutes,
                progress=lambda step, steps, loss: progress(step, steps),
            )
    except (ValueError, FileNotFoundError) as error:
        stop(str(error), USAGE)
    if as_json:
        print_json({"weights": str(weights), "state": str(output / "state.safetensors")})
    else:
        out.print(f"{weights} written; go on with --resume", markup=False, highlight=False)


@app.command()
def synthesize(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Clean pictures: raw files or photographs (PNG, JPEG, TIFF); for a data set, their folder."
        ),
    ],
    profile: ProfileFile = None,
    iso: Annotated[str | None, typer.Option("--iso", help="ISO to simulate; several for a data set: 800,3200.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same noise.")] = 0,
    output: Folder = None,
    camera: Camera = None,
    darktable: Darktable = None,
    mode: Annotated[NoiseMode | None, typer.Option("--mode", help="Noise model; else the profile's best.")] = None,
    cfa: Cfa = None,
    black_level: Annotated[float | None, typer.Option("--black-level", help="Of the simulated camera [DN].")] = None,
    white_level: White = None,
    like: Annotated[
        Path | None, typer.Option("--like", help="Give photographs this raw file's levels and color.")
    ] = None,
    ranges: Annotated[
        ColorPreset | None,
        typer.Option("--ranges", help="Draw each photograph's color and exposure from these ranges."),
    ] = None,
    exposure: Annotated[
        float, typer.Option("--exposure", help="Light of a photograph; 1: its white just clips.")
    ] = 1.0,
    reduce: Annotated[
        int, typer.Option("--reduce", min=1, help="Average N x N pixels of the clean picture first.")
    ] = 1,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Data set: exposures per picture and ISO.")
    ] = None,
    format: Annotated[DatasetFormat | None, typer.Option("--format", help="Data set: format of its files.")] = None,
    shard: Annotated[str | None, typer.Option("--shard", help="Data set: make part i of n only, as i/n.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Data set: processes.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Data set: address of a Dask scheduler.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Data set: check the hash of what is there.")] = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the noisy raw file that a camera would have taken of a clean picture, or a data set of such pairs.

    Example: `rawkit synthesize clean.png --profile my_camera.json --iso 3200 --seed 7 -o noisy/`

    Data set: `rawkit synthesize clean/ --profile my_camera.json --iso 800,3200 --count 4 --format npz -o set/`;
    the same command again finishes an interrupted one.
    """
    if iso is None:
        stop("say which ISO to simulate: --iso N.", USAGE)
    isos = _isos(iso)
    first_iso = isos[0]
    if not 0 < exposure < float("inf"):
        stop(f"--exposure takes a positive factor, found {exposure:g}.", USAGE)
    inputs = check_inputs(files)
    from rawkit.noise.export import SimulatedCamera, synthesize_file
    from rawkit.noise.unprocess import BROOKS_2019

    simulated = SimulatedCamera(
        profile=None if profile is None else profile.resolve(),
        camera=camera,
        darktable=darktable,
        mode=None if mode is None else mode.value,
        cfa=cfa,
        black_level=black_level,
        white_level=white_level,
        like=None if like is None else like.resolve(),
        ranges=None if ranges is None else BROOKS_2019,
        color_seed=seed,
        exposure=exposure,
        reduce=reduce,
    )
    if count is not None or format is not None or shard is not None or len(isos) > 1:
        if len(files) != 1 or not files[0].is_dir() or output is None:
            stop("a data set is made of one folder of clean pictures, into a folder given with -o.", USAGE)
        synthesize_dataset(
            files[0], output, simulated, isos=isos, count=count or 1, format=(format or DatasetFormat.dng).value,
            seed=seed, shard=shard, workers=workers, cluster=cluster, verify=verify, as_json=as_json,
        )  # fmt: skip

    def one(path: Path) -> dict[str, Any]:
        target = (output or path.parent) / f"{path.stem}_iso{first_iso:g}_seed{seed}.dng"
        description = synthesize_file(path, target, simulated, iso=first_iso, seed=seed, overwrite=overwrite)
        if not as_json:
            out.print(f"{path.name} -> {target}  (noise: {description})", markup=False, highlight=False)
        return {"output": str(target), "noise": description}

    finish(run_batch(inputs, one), as_json=as_json, verb="made")


def synthesize_dataset(
    folder: Path, output: Path, camera: Any, *, shard: str | None, workers: int | None, cluster: str | None,
    verify: bool, as_json: bool, **options: Any,
) -> NoReturn:  # fmt: skip
    """Make or finish a data set, and leave with its exit code."""
    from functools import partial

    from rawkit.noise.datasets import Dataset, write_dataset
    from rawkit.parallel import PROCESSES, map_files

    try:
        first, of = (1, 1) if shard is None else (int(part) for part in shard.split("/"))
        dataset = Dataset(folder=folder.resolve(), camera=camera, shard=(first, of), **options)
    except ValueError as error:
        stop(f"{error}" if shard is None or "needed" in str(error) else f"--shard takes i/n, found {shard}.", USAGE)
    mapper = partial(map_files, backend=cluster or PROCESSES, workers=workers)
    with progress_bar("pairs", quiet=as_json) as progress:
        outcome = write_dataset(dataset, output.resolve(), mapper=mapper, verify=verify, progress=progress)
    if as_json:
        print_json({**{f.name: getattr(outcome, f.name) for f in fields(outcome)}, "complete": outcome.complete,
                    "manifest": str(output / dataset.manifest)})  # fmt: skip
    else:
        for name, reason in outcome.failed:
            err.print(f"rawkit: failed: {name}: {reason}", markup=False, highlight=False)
        out.print(f"{outcome.done} of {outcome.units} files are there, {outcome.made} made now", highlight=False)
        out.print(f"{output / dataset.manifest} says what each is", markup=False, highlight=False)
    if outcome.stopped is not None:
        missing = (
            f"{len(outcome.missing)} files are missing, the first is {outcome.missing[0]}" if outcome.missing else ""
        )
        stop("; ".join(part for part in (outcome.stopped, missing) if part) + ".", FAILED)
    sys.exit(0 if outcome.complete else FAILED)


@app.command()
def realism(
    real: Annotated[Path, typer.Argument(help="Real frames: a folder, a manifest.csv or an EMVA 1288 descriptor.")],
    synthetic: Annotated[Path, typer.Argument(help="Synthetic frames of the same camera and setting.")],
    report: Annotated[Path | None, typer.Option("--report", help="Also write a report page (HTML).")] = None,
    kind: Annotated[FrameKind, typer.Option("--kind", help="Which frames of a manifest or descriptor.")] = (
        FrameKind.dark
    ),
    iso: Annotated[float | None, typer.Option("--iso", help="Which ISO of a manifest or descriptor.")] = None,
    cfa: Cfa = None,
    splits: Annotated[int, typer.Option("--splits", min=1, help="Halvings of the real frames.")] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the halvings and the classifier.")] = 0,
    classifier: Annotated[bool, typer.Option(help="Train the classifier too; it takes most of the time.")] = True,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare synthetic frames with real ones, every measure beside what real frames differ by among themselves.

    Example: `rawkit realism darks/ synthetic_darks/ --report realism.html`
    """
    from rawkit.noise.realism import compare_frames, read_stack

    check_iso(iso)
    for path in (real, synthetic):
        check_inputs([path])
    stacks = [read_stack(path, kind=kind.value, iso=iso, cfa=cfa) for path in (real, synthetic)]
    result = compare_frames(*stacks, splits=splits, seed=seed, classifier=classifier)
    left_out = [(str(path), why) for stack in stacks for path, why in stack.left_out]
    if report is not None:
        from rawkit.report.realism import save_realism_page

        notes = tuple(f"Left out: {Path(name).name}: {why}" for name, why in left_out)
        save_realism_page(result, report, real=str(real), synthetic=str(synthetic), notes=notes, overwrite=overwrite)
    if as_json:
        print_json({**result.to_dict(), "left_out": left_out, "report": None if report is None else str(report)})
        return
    for name, why in left_out:
        err.print(f"rawkit: left out: {name}: {why}", markup=False, highlight=False)
    table = Table("", "real-real", "limit", "synthetic", "verdict", box=None, pad_edge=False)
    for finding in result.findings:
        numbers = (f"{number:.3g}" for number in (finding.floor, finding.limit, finding.value))
        table.add_row(finding.measure.title, *numbers, finding.verdict)
    out.print(table)
    out.print(result.verdict, markup=False, highlight=False)
    if report is not None:
        out.print(f"{report} written", markup=False, highlight=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page and the files.")] = Path(
        "demo-output"
    ),
    input: Annotated[
        Path | None, typer.Option("--input", help="Denoise this raw file instead of simulated ones.")
    ] = None,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    iso: Iso = None,
    as_json: JsonFlag = False,
) -> None:
    """Calibrate a simulated camera, denoise its pictures, and show both on one page.

    Example: `rawkit demo`, or `rawkit demo --input IMG_0001.dng`
    """
    from rawkit.demo import demo_on_file, demo_on_simulation

    if input is not None:
        check_inputs([input])
        image = FileOptions(iso, None, None, None, None, None).read(input)
        found = rawkit.find_noise(image, profile=profile, camera=camera, darktable=darktable)
        with progress_bar(input.name, quiet=as_json) as progress:
            summary = demo_on_file(image, found, output, progress=progress)
    else:
        with progress_bar("simulated camera", quiet=as_json) as progress:
            summary = demo_on_simulation(output, progress=progress)
    if as_json:
        print_json(summary)
        return
    if "calibration" in summary:
        table = Table("ISO", "phase", "K true", "K measured", "+-", "read noise true", "measured", "+-", box=None)
        for row in summary["calibration"]:
            numbers = (f"{row[key]:.4f}" for key in ("gain_true", "gain", "gain_se", "read_true", "read", "read_se"))
            table.add_row(f"{row['iso']:g}", row["phase"], *numbers)
        out.print(table)
    for row in summary["pictures"]:
        psnr = f"PSNR {row['psnr_before']:.2f} -> {row['psnr_after']:.2f} dB" if "psnr_before" in row else row["noise"]
        out.print(f"{row['picture']}: {psnr}", highlight=False)
    out.print(f"\nopen {summary['page']}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
