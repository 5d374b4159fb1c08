"""The page's server: routes, errors as one line, one thread that computes.

    GET  /               the page
    GET  /api/files      names of the files, models, where results go
    POST /api/open       what is known of a file, with its overview
    POST /api/overview   the overview at another exposure
    POST /api/part       a part before, after and in between; 204 when the same page has asked for another one since
    POST /api/save       write the whole file
    GET  /api/saving     tiles done, of how many

``rawkit.view.guard`` decides who may ask.  An error of a file is answered with 422 and one line; the server goes on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from rawkit.errors import RawkitError, of_system, own_fault
from rawkit.report.compare import figures
from rawkit.report.html import data_uri
from rawkit.restore.files import noise_numbers
from rawkit.view.folder import OutsideError, UnknownFileError
from rawkit.view.guard import Guard
from rawkit.view.page import page, policy
from rawkit.view.picture import Box, Opened
from rawkit.view.session import Look, Session, Shown, StaleError

Value = TypeVar("Value")

_TOKEN_BYTES = 32
_MOST_STRENGTH = 4.0
_MOST_STOPS = 10.0  # of exposure
_FARTHEST = 1_000_000  # pixels


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    file: Annotated[str, Field(max_length=1024)]


class _Exposed(_Asked):
    stops: Annotated[float, Field(ge=-_MOST_STOPS, le=_MOST_STOPS)] = 0.0


class _Looked(_Asked):
    model: Annotated[str, Field(max_length=1024)]
    strength: Annotated[float, Field(ge=0, le=_MOST_STRENGTH)] = 1.0
    chroma: Annotated[float | None, Field(ge=0, le=_MOST_STRENGTH)] = None

    def look(self) -> Look:
        return Look(self.model, self.strength, self.chroma)


class _PartAsked(_Looked, _Exposed):
    page: Annotated[str, Field(max_length=64)]
    left: Annotated[int, Field(ge=-_FARTHEST, le=_FARTHEST)]
    top: Annotated[int, Field(ge=-_FARTHEST, le=_FARTHEST)]
    width: Annotated[int, Field(ge=1, le=_FARTHEST)]
    height: Annotated[int, Field(ge=1, le=_FARTHEST)]


class _SaveAsked(_Looked):
    overwrite: bool = False


def new_token() -> str:
    """A random number for one run."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def guarded_app(session: Session, *, token: str, port: int) -> ASGIApp:
    """The page and its answers, for those who know the token.

    Parameters
    ----------
    session : Session
    token : str
        See ``new_token``.
    port : int
        The server listens there, on 127.0.0.1.
    """
    worker = ThreadPoolExecutor(1, thread_name_prefix="rawkit-view")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        session.stop()
        worker.shutdown(wait=True, cancel_futures=True)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=life, redirect_slashes=False)
    _answer_errors(app)

    async def compute(work: Callable[[], Value]) -> Value:
        try:
            return await asyncio.get_running_loop().run_in_executor(worker, work)
        except (RawkitError, OSError, ValueError, MemoryError):
            raise
        except Exception as error:  # an untrusted file reached code that did not expect it: it costs this answer only
            raise RawkitError(own_fault(error)) from error

    @app.get("/")
    def start() -> HTMLResponse:
        nonce = secrets.token_urlsafe(_TOKEN_BYTES)
        return HTMLResponse(page(nonce), headers={"Content-Security-Policy": policy(nonce)})

    @app.get("/api/files")
    def files() -> dict[str, Any]:
        return {"files": session.folder.names(), "models": session.models}

    @app.post("/api/open")
    async def open_file(asked: _Exposed) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            opened = session.opened(asked.file)
            small = session.overview(asked.file, exposure=2.0**asked.stops)
            return {
                **_described(opened),
                "overview": data_uri(small, full_chroma=True),
                "target": str(session.target(asked.file)),
            }

        return await compute(work)

    @app.post("/api/overview")
    async def overview(asked: _Exposed) -> dict[str, str]:
        small = await compute(lambda: session.overview(asked.file, exposure=2.0**asked.stops))
        return {"overview": data_uri(small, full_chroma=True)}

    @app.post("/api/part", response_model=None)
    async def part(asked: _PartAsked) -> dict[str, Any] | Response:
        number = session.newest(asked.page)
        box = Box(asked.left, asked.top, asked.width, asked.height)

        def work() -> dict[str, Any]:
            shown = session.show(
                asked.file,
                asked.look(),
                box,
                exposure=2.0**asked.stops,
                overtaken=lambda: session.is_stale(asked.page, number),
            )
            return _pictured(shown)

        try:
            return await compute(work)
        except StaleError:
            return Response(status_code=204)

    @app.post("/api/save")
    async def save(asked: _SaveAsked) -> dict[str, Any]:
        result = await compute(lambda: session.save(asked.file, asked.look(), overwrite=asked.overwrite))
        told = ("status", "reason", "output", "seconds", "notes", "noise_check")
        return {name: result[name] for name in told if name in result}

    @app.get("/api/saving")
    async def saving() -> dict[str, int | None]:
        done, total = session.saving or (None, None)
        return {"done": done, "total": total}

    return Guard(app, token=token, port=port)


def _described(opened: Opened) -> dict[str, Any]:
    metadata = opened.image.metadata
    return {
        "width": opened.width,
        "height": opened.height,
        "camera": metadata.camera(),
        "iso": metadata.iso,
        "noise": None if opened.noise is None else noise_numbers(opened.image, opened.noise),
        "source": opened.source,
        "notes": [*opened.notes],
    }


def _pictured(shown: Shown) -> dict[str, Any]:
    c, box = shown.comparison, shown.box
    after = {"after": c.after, "residual": c.residual} if shown.denoised else {}
    check = c.check.to_dict() if c.check is not None and shown.denoised else None
    return {
        "box": {"left": box.left, "top": box.top, "width": box.width, "height": box.height},
        "pictures": {
            name: data_uri(picture, full_chroma=True) for name, picture in {"before": c.before, **after}.items()
        },
        "check": check,
        "figures": figures(c) if shown.denoised else [],
    }


def _answer_errors(app: FastAPI) -> None:
    """Every error as one line of JSON."""

    def line(status: int, text: str) -> JSONResponse:
        return JSONResponse({"error": " ".join(text.split())}, status_code=status)

    @app.exception_handler(OutsideError)
    async def outside(_: Request, error: OutsideError) -> JSONResponse:
        return line(403, f"refused: {error}")

    @app.exception_handler(UnknownFileError)
    async def unknown(_: Request, error: UnknownFileError) -> JSONResponse:
        return line(404, str(error))

    @app.exception_handler(RawkitError)
    @app.exception_handler(ValueError)
    async def bad_file(_: Request, error: Exception) -> JSONResponse:
        return line(422, str(error))

    @app.exception_handler(OSError)
    async def bad_disk(_: Request, error: OSError) -> JSONResponse:
        return line(422, of_system(error))

    @app.exception_handler(MemoryError)
    async def too_large(_: Request, error: MemoryError) -> JSONResponse:
        return line(422, f"not enough memory ({error}).")

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return line(422, f"the request is not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> JSONResponse:
        return line(error.status_code, str(error.detail))
