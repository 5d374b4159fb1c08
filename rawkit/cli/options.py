"""Options that several commands have, and what becomes of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import rawkit
from rawkit.cli.batches import TIME_LIMIT
from rawkit.cli.output import USAGE, stop
from rawkit.errors import RawkitError, of_system

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Iso = Annotated[float | None, typer.Option("--iso", help="ISO, for files that do not record it.")]
Black = Annotated[str | None, typer.Option("--black-level", help="Black level [DN]: one number, or R,Gr,Gb,B.")]
White = Annotated[float | None, typer.Option("--white-level", help="White level [DN], black included.")]
Cfa = Annotated[str | None, typer.Option("--cfa", help="Color filter array: RGGB, BGGR, GRBG, GBRG or MONO.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT of a headless .raw file.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Samples of a headless .raw file: <u2, >u2, u1, <f4.")]
Model = Annotated[
    str,
    typer.Option("--model", help="classical, bundled weights (base, fast), a .safetensors file; auto: the best here."),
]
ProfileFile = Annotated[Path | None, typer.Option("--profile", help="Camera profile made by 'rawkit calibrate'.")]
Camera = Annotated[str | None, typer.Option("--camera", help="Look the noise up under this camera name.")]
Darktable = Annotated[Path | None, typer.Option("--darktable", help="Path of darktable's noiseprofiles.json.")]
BaseIso = Annotated[float, typer.Option("--base-iso", help="ISO at which the amplification is 1.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Recursive = Annotated[bool, typer.Option("-r", "--recursive", help="Take the folders in a folder too.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Files at a time, each in a process of its own.  [default: 1 on all cores; 1 per GPU]"
    ),
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="Work on a Dask cluster instead: its scheduler, tcp://HOST:PORT.")
]
TimeLimit = Annotated[float, typer.Option("--time-limit", help="Seconds for one file; then it failed.")]
Memory = Annotated[float | None, typer.Option("--memory", help="GB for one process; else its share of the computer's.")]
Log = Annotated[Path | None, typer.Option("--log", help="Add a JSON line for every file to this file.")]
Folder = Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results.")]


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
        """``read_raw`` in a process of its own: a decoder that crashes or hangs ends in one line here."""
        from rawkit.batch import read_file
        from rawkit.parallel import Limits, map_files, physical_memory

        work, limits = partial(read_file, reading=self.keywords()), Limits(TIME_LIMIT, physical_memory())
        (result,) = map_files(work, [path], workers=1, limits=limits)
        if result.value is None:
            raise RawkitError(result.error)
        return result.value


def check_iso(iso: float | None) -> None:
    if iso is not None and not 0 < iso < float("inf"):
        stop(f"--iso takes a positive number, found {iso:g}.", USAGE)


def parse_isos(text: str) -> tuple[float, ...]:
    """ISOs of a comma-separated list; anything else ends the program."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        stop(f"--iso takes numbers, as 800 or 800,3200; found {text}.", USAGE)
    for value in values:
        check_iso(value)
    return values


def check_there(*paths: Path) -> None:
    """A path that leads nowhere ends the program."""
    for path in paths:
        try:
            there = path.exists()
        except OSError as error:  # a name that is too long, a folder that may not be looked into
            stop(of_system(error), USAGE)
        if not there:
            stop(f"{path} is not there.", USAGE)
