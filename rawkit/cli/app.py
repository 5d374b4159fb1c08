"""The program itself: its name, its help and its version."""

from __future__ import annotations

from typing import Annotated

import typer

import rawkit
from rawkit.cli.output import out

app = typer.Typer(
    name="rawkit",
    help="Camera raw noise: calibrate a sensor, denoise a raw file, make realistic noisy raws.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        out.print(rawkit.__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""
