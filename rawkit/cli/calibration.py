"""Commands about cameras: inspect, gain, calibrate, estimate, profiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import rawkit
from rawkit.batch import read_file
from rawkit.cli.app import app
from rawkit.cli.batches import TIME_LIMIT, BatchOptions, inputs_or_stop
from rawkit.cli.options import (
    BaseIso,
    Black,
    Camera,
    Cfa,
    Cluster,
    Darktable,
    Dtype,
    FileOptions,
    Iso,
    JsonFlag,
    Log,
    Memory,
    Overwrite,
    ProfileFile,
    Recursive,
    Size,
    TimeLimit,
    White,
    Workers,
    check_iso,
    check_there,
)
from rawkit.cli.output import (
    FAILED,
    USAGE,
    finish,
    out,
    print_json,
    progress_bar,
    stop,
    to_json,
)
from rawkit.errors import RawkitError
from rawkit.parallel import DIED, Limits, map_files, physical_memory, relayed


class EmvaConvention(StrEnum):
    """Which estimates 'calibrate --emva' gives."""

    default = "default"
    emva1288 = "emva1288"


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

    check_there(file)
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
        table.add_row(key.replace("_", " "), to_json(value) if not isinstance(value, str) else value)
    if meta.iso is None:
        table.add_row("iso", "not recorded; supply it with --iso N")
    out.print(table)
    if facts["noise"] is None:
        out.print(f"noise: {facts['noise_missing']}")
        return
    noise = facts["noise"]
    out.print(f"noise: {noise['description']}")
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
        out.print("ISO {iso:g} = {multiple:g}x = {db:.2f} dB = {stops:.4g} stops".format(**numbers))


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
    check_there(frames)
    with progress_bar("measuring frames", quiet=as_json) as progress, relayed(progress) as told:
        work = partial(
            _measure, output=output, report=report, emva=None if emva is None else emva.value, base_iso=base_iso,
            overwrite=overwrite, make=make, model=model, spatial=spatial, workers=workers, progress=told,
        )  # fmt: skip
        (answer,) = map_files(work, [frames], workers=1, limits=Limits(memory=physical_memory()))
    if answer.value is None:
        stop(_blamed(frames, answer.error or ""), FAILED)
    found = answer.value
    if isinstance(found, str):
        stop(found, USAGE)
    if as_json:
        print_json(found.document)
        return
    table = Table("ISO", "phase", "K [DN/e-]", "+-", "read noise [DN]", "+-", "[e-]", box=None, pad_edge=False)
    for number, params in found.table:
        for p, phase in enumerate(found.phases):
            k, v = params.system_gain[p], params.read_var[p]
            table.add_row(f"{number:g}", phase, f"{k:.5g}", f"{params.system_gain_se[p]:.2g}", f"{v**0.5:.4f}",
                          f"{params.read_var_se[p] / (2 * v**0.5):.2g}", f"{v**0.5 / k:.3f}")  # fmt: skip
    out.print(table)
    for number, verdict in found.document["verdicts"].items():
        out.print(f"ISO {number}: {verdict}")
    for phase, figures in found.reports.items():
        emva_table = Table("EMVA 1288", "value", "+-", "unit", title=f"phase {phase}, {figures.convention}", box=None)
        for figure in figures.figures.values():
            emva_table.add_row(figure.name, f"{figure.value:.6g}", f"{figure.se:.2g}", figure.unit)
        out.print(emva_table)
        for remark in figures.remarks:
            out.print(f"EMVA 1288: {remark}")
    for path, why in found.document["left_out"]:
        out.print(f"left out: {Path(path).name}: {why}")
    out.print(f"{output} written: {found.camera}, {found.frames} frames")


@dataclass(frozen=True)
class _Measured:
    """What there is to print of a calibration; its profile and page are written already."""

    document: dict[str, Any]
    table: Any
    phases: tuple[str, ...]
    reports: dict[str, Any]
    camera: str
    frames: int


def _measure(
    frames: Path, *, output: Path, report: Path | None, emva: Any, base_iso: float, overwrite: bool,
    progress: Callable[[int, int], None], **options: Any,
) -> _Measured | str:  # fmt: skip
    """Calibrate and write, in a process of its own; a text is what is wrong with ``frames``."""
    try:
        found = rawkit.FrameSet.open(frames, base_iso=base_iso)
    except RawkitError as error:
        return str(error)
    result = rawkit.calibrate(found, base_iso=base_iso, progress=progress, **options)
    reports = {}
    if emva is not None:
        from rawkit.sensor.emva import emva_reports

        reports = emva_reports(found, convention=emva, progress=progress)
    result.profile.save(output, overwrite=overwrite)
    if report is not None:
        from rawkit.report.calibration import save_calibration_page

        save_calibration_page(result, report, emva=reports, overwrite=overwrite)
    document = {
        "profile": str(output), "left_out": [[str(path), why] for path, why in result.left_out],
        "verdicts": {f"{iso:g}": text for iso, text in result.verdicts.items()},
        "emva": {phase: figures.to_dict() for phase, figures in reports.items()},
        "maps": sorted(result.profile.maps), **result.profile.to_dict(),
    }  # fmt: skip
    profile = result.profile
    return _Measured(document, profile.noise.table, profile.phases or (), reports, profile.name, len(found.frames))


def _blamed(frames: Path, reason: str) -> str:
    """Why a calibration failed; after the death of its process, the frames that kill a decoder on their own."""
    if DIED not in reason:
        return reason
    folder = frames if frames.is_dir() else frames.parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    limits = Limits(TIME_LIMIT, physical_memory())
    deadly = [r.item.name for r in map_files(partial(read_file, reading={}), files, workers=1, limits=limits)
              if r.error and DIED in r.error]  # fmt: skip
    return f"{frames}: {reason}" + (f"; it does so with {', '.join(deadly)}: take that away." if deadly else ".")


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
    workers: Workers = None,
    cluster: Cluster = None,
    time_limit: TimeLimit = TIME_LIMIT,
    memory: Memory = None,
    log: Log = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate system gain and read noise from a single photograph, with 95 % intervals; of each of several.

    Example: `rawkit estimate IMG_0001.dng --json`, or `rawkit estimate photos/ --workers 4 --log noise.jsonl`
    """
    from rawkit.batch import estimate_file

    options = FileOptions(iso, black_level, white_level, cfa, size, dtype)
    batch = BatchOptions(workers, cluster, time_limit, memory, log)
    inputs = [item.path for item in inputs_or_stop(files, recursive=recursive)]
    alone = batch.is_single(len(inputs))
    estimates: dict[str, Any] = {}

    def outcomes() -> Generator[dict[str, Any]]:
        work = partial(estimate_file, reading=options.keywords())
        with closing(batch.mapper(len(inputs))(work, inputs)) as answers:
            for answer in answers:
                if answer.value is None:
                    yield {"input": str(answer.item), "status": "failed", "reason": answer.error}
                else:
                    estimates[str(answer.item)] = answer.value
                    facts = {f.name: getattr(answer.value, f.name) for f in fields(answer.value)}
                    yield {"input": str(answer.item), "status": "done", **facts}

    def tell(result: dict[str, Any]) -> None:
        if result["status"] == "done":
            if not alone:
                out.print(f"{Path(result['input']).name}:")
            _tell_estimate(estimates.pop(result["input"]))

    results = batch.collect(outcomes(), len(inputs), text="estimating", as_json=as_json, tell=tell)
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
    out.print(f"your own profiles go into {library_folder()}")


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
    out.print(f"{profile.name}, {profile.cfa or 'CFA not recorded'}, {profile.bit_depth} bits")
    table = Table("ISO", "phase", "K [DN/e-]", "read noise [DN]", "[e-]", "", box=None, pad_edge=False)
    for row in rows:
        noise_e = row["read_noise"] / row["system_gain"]
        table.add_row(f"{row['iso']:g}", row["phase"], f"{row['system_gain']:.5g}", f"{row['read_noise']:.4g}",
                      f"{noise_e:.3g}", row["origin"])  # fmt: skip
    out.print(table)
    if profile.noise.gain_switches:
        out.print("gain switches at ISO " + ", ".join(f"{s:g}" for s in profile.noise.gain_switches))


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
    camera: Annotated[
        str | None, typer.Option("--camera", help="Which camera of the file; of a CSV, its name.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn other programs' noise parameters into a profile.

    Example: `rawkit profiles import noiseprofiles.json --format darktable --camera "Nikon D5000" -o d5000.json`
    """
    from rawkit.sensor import exchange

    check_there(file)
    if format is ProfileFormat.csv:
        profile = exchange.from_csv(file, model=camera)
    elif camera is None or format is ProfileFormat.dng:
        stop("say which camera of the file with --camera (a DNG's own tag is read by 'rawkit inspect').", USAGE)
    elif format is ProfileFormat.darktable:
        profile = exchange.from_darktable(file, camera)
    else:
        profile = exchange.from_eld(exchange.eld_parameters(file, camera), make="", model=camera)
    profile.save(output, overwrite=overwrite)
    if as_json:
        print_json({"profile": str(output), **profile.to_dict()})
    else:
        out.print(f"{output} written: {profile.name}, {len(profile.noise.isos)} ISOs")


@profiles.command("export")
def profiles_export(
    file: Annotated[Path, typer.Argument(help="A profile.")],
    format: Annotated[ProfileFormat, typer.Option("--format", help="What to write.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; dng is printed.")] = None,
    iso: Annotated[float | None, typer.Option("--iso", help="Of dng: the ISO whose tag is printed.")] = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a profile for other programs; 'dng' prints the NoiseProfile tag of one ISO.

    Example: `rawkit profiles export my_camera.json --format darktable -o noiseprofiles.json`
    """
    from rawkit.resources import replacing
    from rawkit.sensor import exchange

    check_there(file)
    check_iso(iso)
    profile = rawkit.CameraProfile.load(file)
    if format is ProfileFormat.dng:
        if iso is None:
            stop("a NoiseProfile tag belongs to one ISO; say which with --iso N.", USAGE)
        if output is not None:
            stop("a NoiseProfile tag is printed, not written; leave -o out.", USAGE)
        pairs = exchange.dng_noise_profile(profile, iso)
        if as_json:
            print_json({"iso": iso, "noise_profile": pairs})
        else:
            out.print(exchange.dng_noise_profile_text(profile, iso))
        return
    if output is None:
        stop("say where to write with -o FILE.", USAGE)
    if iso is not None:
        stop(f"--iso is for --format dng; {format.value} takes all ISOs of the profile.", USAGE)
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
        out.print(f"{output} written")


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
