"""Commands about simulated noise: synthesize, realism."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table

from rawkit.cli.app import app
from rawkit.cli.batches import TIME_LIMIT, BatchOptions, inputs_or_stop, jobs_for
from rawkit.cli.options import (
    Camera,
    Cfa,
    Cluster,
    Darktable,
    Folder,
    JsonFlag,
    Log,
    Memory,
    Overwrite,
    ProfileFile,
    Recursive,
    TimeLimit,
    White,
    Workers,
    check_iso,
    check_there,
    parse_isos,
)
from rawkit.cli.output import FAILED, USAGE, err, finish, out, print_json, progress_bar, stop


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


@app.command()
def synthesize(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Clean pictures: raw files or photographs (PNG, JPEG, TIFF), folders, patterns; or a folder for a set."
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
    recursive: Recursive = False,
    workers: Workers = None,
    cluster: Cluster = None,
    time_limit: TimeLimit = TIME_LIMIT,
    memory: Memory = None,
    log: Log = None,
    verify: Annotated[bool, typer.Option("--verify", help="Data set: check the hash of what is there.")] = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the noisy raw file that a camera would have taken of a clean picture, or a data set of such pairs.

    Example: `rawkit synthesize clean.png --profile my_camera.json --iso 3200 --seed 7 -o noisy/`

    Data set: `rawkit synthesize clean/ --profile my_camera.json --iso 800,3200 --count 4 --format npz -o set/`;
    it takes all cores if not told otherwise.

    The same command again finishes an interrupted batch or data set.
    """
    if iso is None:
        stop("say which ISO to simulate: --iso N.", USAGE)
    isos = parse_isos(iso)
    first_iso = isos[0]
    if not 0 < exposure < float("inf"):
        stop(f"--exposure takes a positive factor, found {exposure:g}.", USAGE)
    from functools import partial

    from rawkit.batch import run_jobs
    from rawkit.noise.export import PHOTOGRAPHS, SimulatedCamera, synthesize_file
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
        if log is not None:
            stop("--log is for single pictures; the manifest of a data set tells of every file.", USAGE)
        if recursive or overwrite:
            stop("a data set takes neither --recursive nor --overwrite; make a new one in another folder.", USAGE)
        from rawkit.parallel import usable_cores

        at_once = usable_cores() if cluster is None else None
        synthesize_dataset(
            files[0], output, simulated, isos=isos, count=count or 1, format=(format or DatasetFormat.dng).value,
            seed=seed, shard=shard, verify=verify, as_json=as_json,
            batch=BatchOptions(workers or at_once, cluster, time_limit, memory, log),
        )  # fmt: skip
    if verify:
        stop("--verify is for data sets (--count, --format, --shard or several ISOs).", USAGE)
    batch = BatchOptions(workers, cluster, time_limit, memory, log)
    inputs = inputs_or_stop(files, recursive=recursive, also=PHOTOGRAPHS)
    jobs = jobs_for(inputs, output, lambda path: f"{path.stem}_iso{first_iso:g}_seed{seed}.dng")
    work = partial(synthesize_file, camera=simulated, iso=first_iso, seed=seed)
    parameters = {"iso": first_iso, "seed": seed, **simulated.settings()}
    outcomes = run_jobs(jobs, work, parameters=parameters, mapper=batch.mapper(len(jobs)), overwrite=overwrite)
    results = batch.collect(outcomes, len(jobs), text="making noise", as_json=as_json, tell=_tell_synthesized)
    finish(results, as_json=as_json, verb="made")


def _tell_synthesized(result: dict[str, Any]) -> None:
    name, target = Path(result["input"]).name, result["output"]
    if result["status"] == "already done":
        out.print(f"{name}: {target} is already done")
    if result["status"] == "done":
        out.print(f"{name} -> {target}  (noise: {result['noise']})")


def synthesize_dataset(
    folder: Path, output: Path, camera: Any, *, shard: str | None, verify: bool, as_json: bool, batch: BatchOptions,
    **options: Any,
) -> NoReturn:  # fmt: skip
    """Make or finish a data set, and leave with its exit code."""
    from rawkit.noise.datasets import Dataset, Unit, write_dataset

    try:
        first, of = (1, 1) if shard is None else (int(part) for part in shard.split("/"))
        dataset = Dataset(folder=folder.resolve(), camera=camera, shard=(first, of), **options)
    except ValueError as error:
        stop(f"{error}" if shard is None or "needed" in str(error) else f"--shard takes i/n, found {shard}.", USAGE)

    def mapper(function: Callable[[Unit], Any], units: Sequence[Unit]) -> Any:
        return batch.mapper(len(units))(function, units)

    with progress_bar("pairs", quiet=as_json) as progress:
        outcome = write_dataset(dataset, output.resolve(), mapper=mapper, verify=verify, progress=progress)
    if as_json:
        print_json({**{f.name: getattr(outcome, f.name) for f in fields(outcome)}, "complete": outcome.complete,
                    "manifest": str(output / dataset.manifest)})  # fmt: skip
    else:
        for name, reason in outcome.failed:
            err.print(f"rawkit: failed: {name}: {reason}")
        out.print(f"{outcome.done} of {outcome.units} files are there, {outcome.made} made now")
        out.print(f"{output / dataset.manifest} says what each is")
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
    check_there(real, synthetic)
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
        err.print(f"rawkit: left out: {name}: {why}")
    table = Table("", "real-real", "limit", "synthetic", "verdict", box=None, pad_edge=False)
    for finding in result.findings:
        numbers = (f"{number:.3g}" for number in (finding.floor, finding.limit, finding.value))
        table.add_row(finding.measure.title, *numbers, finding.verdict)
    out.print(table)
    out.print(result.verdict)
    if report is not None:
        out.print(f"{report} written")
