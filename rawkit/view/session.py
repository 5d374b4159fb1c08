"""What a page does, without the web: open, show a part, save.

One thread at a time works with a session; only ``newest``, ``is_stale`` and ``stop`` may be called from others.  Of the
requests of one page the newest counts: one that has been overtaken is dropped before it is worked on and, between two
tiles, while it is.

Raw files are decoded through ``rawkit.parallel``, so that a file that crashes the decoder does not end the program.
The whole picture is saved as ``rawkit denoise`` saves it (``rawkit.batch``): under a hidden name, then renamed; with
the same settings the bytes are the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rawkit.batch import Job, run_jobs
from rawkit.errors import RawkitError, UnsupportedRawError, WeightsError
from rawkit.parallel import SERIAL, MapFunction, map_files
from rawkit.report.compare import Comparison, find_noise_or_why
from rawkit.resources import bundled_weights
from rawkit.restore.denoise import CLASSICAL, Denoiser
from rawkit.restore.files import DenoiseSettings, defects_to_repair, denoise_file, read_noted
from rawkit.restore.tiling import Progress
from rawkit.view.folder import Folder
from rawkit.view.picture import Box, Opened, Part, denoised_part, exposed, overview, rendered_part, with_neutral

_FILES_KEPT, _PARTS_KEPT, _DENOISERS_KEPT = 2, 24, 2
_PAGES_KEPT = 64  # of which the newest request is remembered
#: Pixels of a part at most; a part of this size takes a few seconds.
MOST_PIXELS = 4_000_000

Value = TypeVar("Value")
_IN_THIS_PROCESS = partial(map_files, backend=SERIAL)


class StaleError(RawkitError):
    """A newer request of the same page has overtaken this one."""


class _StopWork(BaseException):
    """Ends work between two tiles; no ``Exception``, which would be taken for a fault of the file."""


class _Recent(Generic[Value]):
    """The values used last, made when they are missing."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self.values:
            self.values[key] = make()
        self.values.move_to_end(key)
        while len(self.values) > self.count:
            self.values.popitem(last=False)
        return self.values[key]


@dataclass(frozen=True)
class Look:
    """What decides a denoised part.

    Parameters
    ----------
    model : str
        One of ``Session.models``.
    strength, chroma_strength
        As of ``Denoiser.__call__``.
    """

    model: str = CLASSICAL
    strength: float = 1.0
    chroma_strength: float | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """A part of a picture as the page shows it.

    Parameters
    ----------
    box : Box
        Of the upright picture; the one asked for, moved inside it.
    comparison : Comparison
    denoised : bool
        False where the noise is not known: ``after`` is ``before``.
    """

    box: Box
    comparison: Comparison
    denoised: bool


class Session:
    """The opened folder, what was computed for it, and who asked last.

    Parameters
    ----------
    folder : Folder
    settings : DenoiseSettings
        Noise sources, reading, device and threads; its model is offered beside the bundled ones.
    output : Path or None
        Folder of what is saved; None: beside the raw file.
    decode : MapFunction
        ``map_files`` with its options bound: processes with limits keep a crash of a decoder outside.
    """

    def __init__(
        self,
        folder: Folder,
        settings: DenoiseSettings,
        *,
        output: Path | None = None,
        decode: MapFunction = _IN_THIS_PROCESS,
    ) -> None:
        self.folder, self.settings, self.output, self.decode = folder, settings, output, decode
        self.models = tuple(dict.fromkeys((settings.model, CLASSICAL, *bundled_weights())))
        self.saving: tuple[int, int] | None = None  # tiles done, of how many
        self._opened: _Recent[Opened] = _Recent(_FILES_KEPT)
        self._overviews: _Recent[NDArray[np.float32]] = _Recent(_FILES_KEPT)
        self._parts: _Recent[Part] = _Recent(_PARTS_KEPT)
        self._denoisers: _Recent[Denoiser] = _Recent(_DENOISERS_KEPT)
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def newest(self, page: str) -> int:
        """Number of a request, the newest of its page from now on."""
        with self._lock:
            self._count += 1
            self._newest[page] = self._count
            self._newest.move_to_end(page)
            while len(self._newest) > _PAGES_KEPT:
                self._newest.popitem(last=False)
            return self._count

    def is_stale(self, page: str, number: int) -> bool:
        """Whether the page has asked for something else since."""
        with self._lock:
            return self._newest.get(page, number) != number

    def stop(self) -> None:
        """Let work end at the next tile; nothing half done remains."""
        self._stopping.set()

    def opened(self, name: str) -> Opened:
        """A file of the folder, read once as long as it does not change.

        Raises
        ------
        OutsideError, UnknownFileError
            See ``Folder.path``.
        RawkitError, OSError
            The file cannot be read.
        """
        path = self.folder.path(name)
        return self._opened.get(_identity(path), lambda: self._open(path))

    def overview(self, name: str, *, exposure: float) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 sRGB, small and upright."""
        image = self.opened(name).image
        return exposed(self._overviews.get(_identity(self.folder.path(name)), lambda: overview(image)), exposure)

    def show(
        self, name: str, look: Look, box: Box, *, exposure: float, overtaken: Callable[[], bool] = lambda: False
    ) -> Shown:
        """A part of a file, before, after and in between.

        Parameters
        ----------
        name : str
        look : Look
        box : Box
            Of the upright picture; moved inside it.
        exposure : float
            Multiplies the render.
        overtaken : callable
            True when nobody waits for the result any more.

        Raises
        ------
        StaleError
            The request was overtaken.
        RawkitError, OSError, ValueError
        """
        if self._stopping.is_set() or overtaken():
            raise StaleError("a newer request has overtaken this one.")
        opened = self.opened(name)
        wanted = box.inside(opened.width, opened.height)
        if wanted.width * wanted.height > MOST_PIXELS:
            raise UnsupportedRawError(
                f"a part of {wanted.width} x {wanted.height} pixels was asked for; {MOST_PIXELS} pixels are the most."
            )
        denoiser = self._denoiser(look.model)

        def work() -> Part:
            return denoised_part(
                opened, denoiser, wanted, strength=look.strength, chroma_strength=look.chroma_strength,
                workers=self.settings.threads, progress=self._until(overtaken),
            )  # fmt: skip

        try:
            part = self._parts.get((*_identity(opened.path), look, wanted), work)
        except _StopWork:
            raise StaleError("a newer request has overtaken this one.") from None
        return Shown(wanted, rendered_part(opened, part, exposure=exposure), part.after is not None)

    def target(self, name: str) -> Path:
        """Where ``save`` writes, as ``rawkit denoise`` does."""
        source = self.folder.path(name)
        return (self.output or source.parent) / f"{source.stem}_denoised{self.settings.suffix}"

    def save(self, name: str, look: Look, *, overwrite: bool = False) -> dict[str, Any]:
        """Denoise the whole file and write it.

        Returns
        -------
        dict
            As of ``rawkit.batch.run_jobs``.
        """
        self._known(look.model)
        settings = replace(
            self.settings, model=look.model, strength=look.strength, chroma_strength=look.chroma_strength
        )
        until = self._until(lambda: False)

        def note(done: int, total: int) -> None:
            until(done, total)
            self.saving = (done, total)

        job = Job(self.folder.path(name), self.target(name))
        work = partial(denoise_file, settings=settings, progress=note)
        self.saving = (0, 0)
        try:
            parameters = settings.parameters()
            (result,) = run_jobs([job], work, parameters=parameters, mapper=_IN_THIS_PROCESS, overwrite=overwrite)
            return result
        except _StopWork:
            raise RawkitError(f"{job.target} was not written: the program was ended.") from None
        finally:
            self.saving = None

    def _open(self, path: Path) -> Opened:
        (result,) = self.decode(partial(read_noted, reading=self.settings.reading), [path])
        if result.value is None:
            raise UnsupportedRawError(result.error or f"{path.name} cannot be read.")
        image, notes = result.value
        shown = with_neutral(image)
        noise, source = find_noise_or_why(
            shown, profile=self.settings.profile, camera=self.settings.camera, darktable=self.settings.darktable
        )
        defects = None if noise is None else defects_to_repair(shown, noise, notes)
        return Opened(path, shown, noise, source, tuple(notes), defects)

    def _denoiser(self, model: str) -> Denoiser:
        self._known(model)
        return self._denoisers.get(model, lambda: Denoiser.load(model, device=self.settings.device))

    def _known(self, model: str) -> None:
        """The page chooses among the models that were offered: no other file is ever read as weights."""
        if model not in self.models:
            raise WeightsError(f"the model {model!r} was not offered; there are: {', '.join(self.models)}.")

    def _until(self, overtaken: Callable[[], bool]) -> Progress:
        def check(done: int, total: int) -> None:
            if self._stopping.is_set() or (done < total and overtaken()):
                raise _StopWork

        return check


def _identity(path: Path) -> tuple[str, int, int]:
    """Changes when the file does."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size
