"""Commands about denoising: denoise, compare, evaluate, train."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import rawkit
from rawkit.cli.app import app
from rawkit.cli.batches import TIME_LIMIT, BatchOptions, inputs_or_stop, jobs_for
from rawkit.cli.options import (
    Black,
    Camera,
    Cfa,
    Cluster,
    Darktable,
    Device,
    Dtype,
    FileOptions,
    Folder,
    Iso,
    JsonFlag,
    Log,
    Memory,
    Model,
    Overwrite,
    ProfileFile,
    Recursive,
    Size,
    TimeLimit,
    White,
    Workers,
    check_there,
    parse_isos,
)
from rawkit.cli.output import FAILED, USAGE, err, finish, out, print_json, progress_bar, stop
from rawkit.errors import of_system


class OutputFormat(StrEnum):
    """What 'denoise' writes."""

    dng = "dng"
    linear_dng = "linear-dng"
    tiff = "tiff"


_EVALUATION_CAMERA = "opporeno10x_pmrid"


@app.command()
def denoise(
    files: Annotated[list[Path], typer.Argument(help="Raw files, folders of them, or patterns.")],
    output: Folder = None,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    model: Model = "auto",
    strength: Annotated[float, typer.Option("--strength", min=0.0, help="Times the noise; 0 changes nothing.")] = 1.0,
    chroma: Annotated[
        float | None, typer.Option("--chroma", min=0.0, help="Strength for color noise, if not --strength.")
    ] = None,
    self_ensemble: Annotated[
        bool,
        typer.Option("--self-ensemble", help="Mean over eight turns of a Bayer mosaic: better, eight times slower."),
    ] = False,
    device: Device = "auto",
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
    workers: Workers = None,
    cluster: Cluster = None,
    time_limit: TimeLimit = TIME_LIMIT,
    memory: Memory = None,
    log: Log = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove the noise of raw files; each result is a raw file again, `<stem>_denoised.dng`.

    The same command again finishes an interrupted batch: results that are there already are left alone.

    Example: `rawkit denoise *.dng -o clean/ --profile my_camera.json`, or `rawkit denoise photos/ -r -o clean/`
    """
    from functools import partial

    from rawkit.batch import run_jobs
    from rawkit.devices import environments
    from rawkit.parallel import relayed
    from rawkit.restore.files import DenoiseSettings, denoise_file

    options = FileOptions(iso, black_level, white_level, cfa, size, dtype)
    inputs = inputs_or_stop(files, recursive=recursive)
    name, where = _chosen(model, device)
    batch = BatchOptions(workers, cluster, time_limit, memory, log, gpus=environments(where))
    settings = DenoiseSettings(
        model=name, strength=strength, chroma_strength=chroma, self_ensemble=self_ensemble,
        format=format.value, profile=profile, camera=camera, darktable=darktable, reading=options.keywords(),
        exiftool=exiftool, device=device, threads=batch.threads,
    )  # fmt: skip
    try:
        parameters = settings.parameters()
    except OSError as error:
        stop(of_system(error), USAGE)
    jobs = jobs_for(inputs, output, lambda path: f"{path.stem}_denoised{settings.suffix}")
    alone = batch.is_single(len(jobs))
    with progress_bar(inputs[0].path.name, quiet=as_json or not alone) as progress, ExitStack() as stack:
        told = stack.enter_context(relayed(progress)) if alone else None
        work = partial(denoise_file, settings=settings, progress=told)
        outcomes = run_jobs(
            jobs, work, parameters=parameters, mapper=batch.mapper(len(jobs)), overwrite=overwrite, dry_run=dry_run
        )
        results = batch.collect(outcomes, len(jobs), text="denoising", as_json=as_json, tell=_tell_denoised)
    finish(results, as_json=as_json, verb="planned" if dry_run else "denoised")


def _chosen(model: str, device: str) -> tuple[str, str]:
    """Name of the denoiser and where it computes; ends the program where it does not.

    Bundled weights are checked by their SHA-256 and loaded by the workers; here PyTorch would cost a second.
    """
    from rawkit.devices import pick_device
    from rawkit.resources import bundled_weights
    from rawkit.restore.denoise import AUTO, default_denoiser, networks_run

    try:
        name = default_denoiser() if model == AUTO else model
        if name in bundled_weights() and networks_run():
            return name, pick_device(device)
        denoiser = rawkit.Denoiser.load(model, device=device)
    except ValueError as error:
        stop(str(error), USAGE)
    return denoiser.name, denoiser.device


def _tell_denoised(result: dict[str, Any]) -> None:
    name, target, status = Path(result["input"]).name, result["output"], result["status"]
    if status == "already done":
        out.print(f"{name}: {target} is already done")
    if status not in ("done", "would be done"):
        return
    verb, noise = "->" if status == "done" else "would write", result["noise"]["description"]
    out.print(f"{name} {verb} {target}  (noise: {noise})")
    if warning := result.get("noise_check", {}).get("warning"):
        err.print(f"{name}: {warning}; is this profile for this camera and ISO?")
    for note in result["notes"]:
        err.print(f"{name}: {note}")


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
    check_there(before, after)
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
        out.print(f"{name}: {'not known' if value is None else format(value, '.3f')}")
    out.print(f"open {output}")


@app.command()
def evaluate(
    clean: Annotated[Path, typer.Option("--clean", help="Folder of clean photographs, not used in training.")],
    model: Model = "auto",
    peer: Annotated[str | None, typer.Option("--peer", help="Another denoiser on the same noise.")] = None,
    iso: Annotated[str, typer.Option("--iso", help="ISOs, separated by commas.")] = "800,1600,3200,6400,12800",
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Camera whose noise it is; else a telephone, the OPPO Reno 10x.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="So many pictures, evenly spread.")] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Measure denoisers on clean pictures with the noise of a calibrated camera.

    Example: `rawkit evaluate --clean Kodak24/ --model fast --peer classical`
    """
    from rawkit.noise.standard_scene import pictures_in
    from rawkit.resources import bundled_profiles
    from rawkit.restore.evaluate import evaluate as measure
    from rawkit.restore.evaluate import scaled_noise

    isos = parse_isos(iso)
    default = next(p for p in bundled_profiles() if p.stem == _EVALUATION_CAMERA)
    camera = rawkit.CameraProfile.load(profile or default)
    try:
        files = pictures_in(clean)
        denoisers = [rawkit.Denoiser.load(name, device=device) for name in (model, peer) if name is not None]
        methods = {denoiser.name: denoiser.denoise_planes for denoiser in denoisers}
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
    recipe: Annotated[str, typer.Argument(help="fast, base, best, or a TOML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run: state, log, weights.")],
    photographs: Annotated[
        Path | None, typer.Option("--photographs", help="Folder of clean photographs, instead of the recipe's.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option("--validation", help="Folder of photographs never trained on, to measure with.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after so long; --resume goes on.")] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train a denoiser on clean photographs; Ctrl-C keeps everything.

    Example: `rawkit train fast --photographs my_photos/ -o my_run/`
    """
    try:
        from rawkit.train.denoiser import Recipe
        from rawkit.train.denoiser import train as run
    except ImportError as error:
        stop(f"training needs {error.name}; run: pip install 'rawkit-camera[torch]'.", FAILED)

    from dataclasses import replace

    from rawkit.resources import find_recipe

    try:
        folders = {"photographs": photographs, "validation": validation}
        settings = replace(
            Recipe.read(find_recipe(recipe)), **{name: str(path) for name, path in folders.items() if path is not None}
        )
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
        out.print(f"{weights} written; go on with --resume")
