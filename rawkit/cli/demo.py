"""The demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import rawkit
from rawkit.cli.app import app
from rawkit.cli.options import Camera, Darktable, FileOptions, Iso, JsonFlag, ProfileFile, check_there
from rawkit.cli.output import USAGE, out, print_json, progress_bar, stop


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

    if input is None and (profile, camera, darktable, iso) != (None, None, None, None):
        stop("--profile, --camera, --darktable and --iso are of a file of yours; name it with --input.", USAGE)
    if input is not None:
        check_there(input)
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
        out.print(f"{row['picture']}: {psnr}")
    out.print(f"\nopen {summary['page']}")
