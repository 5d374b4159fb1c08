"""The command view: a local page."""

from __future__ import annotations

import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

import rawkit
from rawkit.cli.app import app
from rawkit.cli.options import (
    Black,
    Camera,
    Cfa,
    Darktable,
    Device,
    Dtype,
    FileOptions,
    Folder,
    Iso,
    Model,
    ProfileFile,
    Size,
)
from rawkit.cli.options import White as WhiteLevel
from rawkit.cli.output import FAILED, USAGE, out, stop
from rawkit.errors import of_system

_ADDRESS = "127.0.0.1"  # never another: the page shows the user's files
_DECODING_SECONDS = 300.0


@app.command()
def view(
    file: Annotated[Path, typer.Argument(help="A raw file, or a folder of them.")],
    output: Folder = None,
    profile: ProfileFile = None,
    camera: Camera = None,
    darktable: Darktable = None,
    model: Model = "auto",
    device: Device = "auto",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0 takes any free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the page's address.")] = False,
    iso: Iso = None,
    black_level: Black = None,
    white_level: WhiteLevel = None,
    cfa: Cfa = None,
    size: Size = None,
    dtype: Dtype = None,
) -> None:
    """Denoise a part of a raw file live on a page in the browser, choose the strengths, save.

    The page is for this computer and this run only; Ctrl-C ends it.

    Example: `rawkit view IMG_0001.dng --profile my_camera.json`
    """
    from dataclasses import replace
    from functools import partial

    from rawkit.parallel import Limits, map_files, physical_memory
    from rawkit.restore.files import DenoiseSettings

    try:
        import uvicorn

        from rawkit.view.server import guarded_app, new_token
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "starlette", "pydantic", "uvicorn"):
            raise
        stop("rawkit view needs fastapi; run: pip install 'rawkit-camera[view]'", FAILED)
    from rawkit.view.folder import Folder as OpenedFolder
    from rawkit.view.session import Session

    options = FileOptions(iso, black_level, white_level, cfa, size, dtype)
    settings = DenoiseSettings(
        model=model, profile=profile, camera=camera, darktable=darktable, reading=options.keywords(), device=device
    )
    try:
        folder = OpenedFolder.of(file)
        settings = replace(settings, model=rawkit.Denoiser.load(model, device=device).name)
        settings.parameters()
        listener = socket.create_server((_ADDRESS, port))
    except ValueError as error:
        stop(str(error), USAGE)
    except OSError as error:
        told = f"port {port} cannot be used ({error.strerror}); take another with --port, or 0 for any"
        stop(of_system(error) if error.filename else told, USAGE)
    session = Session(
        folder, settings, output=output,
        decode=partial(map_files, workers=1, limits=Limits(_DECODING_SECONDS, physical_memory())),
    )  # fmt: skip

    class Server(uvicorn.Server):
        """On Ctrl-C ends the work in progress, at its next tile, then itself."""

        def handle_exit(self, sig: int, frame: object) -> None:
            session.stop()
            super().handle_exit(sig, frame)  # pyright: ignore[reportArgumentType]

    token, port = new_token(), listener.getsockname()[1]
    address = f"http://{_ADDRESS}:{port}/?token={token}"
    out.print(f"open {address}\nCtrl-C ends it.")
    if not no_browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    guarded = guarded_app(session, token=token, port=port)
    config = uvicorn.Config(guarded, log_level="warning", access_log=False, server_header=False)
    with suppress(KeyboardInterrupt):  # uvicorn may raise again what it was ended by
        Server(config).run(sockets=[listener])
    out.print("ended.")
