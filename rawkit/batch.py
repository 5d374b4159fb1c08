"""Many files in, one output each: finished ones are recognized, and only whole ones appear.

A worker writes its result beside the target under a hidden name, of each attempt its own: two that were given the
same file, when a cluster loses sight of the first, do not meet.  The parent then writes a line about it into
``.rawkit.jsonl`` in the output's folder and renames it, in this order.  Whenever the program is stopped,

    the target is there, with its line      it is finished: the next run finds the same input, parameters and version
                                            in the line and the line's SHA-256 in the file, and leaves it alone
    the line is there without the target    it is made again
    a hidden file is there                  it is removed by the next run, and made again

A target without a line, or whose line tells of other parameters, is somebody else's: it is left alone and said so.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
import stat
import time
import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import rawkit
from rawkit.errors import DamagedDataWarning, RawkitError, in_one_line, own_fault
from rawkit.parallel import MapFunction, last
from rawkit.resources import sha256

# Files that lie beside raw files and are none; a folder's are passed over.
_BESIDE_RAWS = {
    ".avi", ".csv", ".db", ".dop", ".gif", ".gpx", ".heic", ".heif", ".htm", ".html", ".ini", ".jpe", ".jpeg", ".jpg",
    ".json", ".jsonl", ".log", ".lrv", ".md", ".mov", ".mp4", ".pdf", ".pp3", ".thm", ".toml", ".txt", ".wav", ".webp",
    ".xmp",
}  # fmt: skip
RECORD_NAME = ".rawkit.jsonl"
DONE, ALREADY_DONE, SKIPPED, FAILED, PLANNED = "done", "already done", "skipped", "failed", "would be done"
_HIDDEN = re.compile(r"\.{1,2}(?P<stem>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.[a-z]+)(\.\d+\.part)?$")


@dataclass(frozen=True)
class Input:
    """A file, and the folder it was found in, relative to the one that was named."""

    path: Path
    subfolder: Path = Path()


def find_inputs(paths: Iterable[Path], *, recursive: bool = False, also: Collection[str] = ()) -> list[Input]:
    """Files as named; folders and patterns (``*.dng``) replaced by the raw files in them.

    Of a folder, hidden files, outputs of earlier runs (``.rawkit.jsonl`` names them) and files that are no raws by
    their suffix (pictures, films, sidecars, text) are left out.

    Parameters
    ----------
    paths : iterable of Path
    recursive : bool
        Folders of folders too.
    also : collection of str
        Suffixes to take although no raw file has them.

    Returns
    -------
    list of Input
        Sorted within a folder; a file that was named twice is there once.

    Raises
    ------
    ValueError
        A path is not there, or holds no files.
    """
    found: list[Input] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                _in_folder(path, path, recursive, _BESIDE_RAWS.difference(also)),
                key=lambda i: (i.subfolder, i.path.name),
            )
            if not inside:
                looks_on = "" if recursive else "; --recursive looks into its folders"
                raise ValueError(f"{path} holds no files of the kinds that are needed{looks_on}.")
            found += inside
        elif path.exists():
            found.append(Input(path))
        else:
            matches = sorted(glob.glob(str(path), recursive=recursive))
            if not matches:
                raise ValueError(f"{path} is not there.")
            files = [Path(match) for match in matches if not Path(match).is_dir()]
            if not files:
                raise ValueError(f"{path} fits folders only; give the folders themselves, or their files ({path}/*).")
            found += map(Input, files)
    return list({item.path: item for item in found}.values())


def _in_folder(folder: Path, root: Path, recursive: bool, beside: set[str]) -> Iterator[Input]:
    made = read_records(folder)
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if recursive and not path.is_symlink():
                yield from _in_folder(path, root, recursive, beside)
        elif path.suffix.lower() not in beside and path.name not in made:
            yield Input(path, folder.relative_to(root))


Facts = dict[str, Any]


class Work(Protocol):
    """Makes one file: reads the source, writes to ``write`` (None: nothing), tells about it.

    A generator function yields after reading and before writing (``rawkit.parallel.Staged``).
    """

    def __call__(self, source: Path, target: Path, *, write: Path | None) -> Facts | Generator[None, None, Facts]: ...


@dataclass(frozen=True)
class Job:
    """An input and the output it becomes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Record:
    """What a line of ``.rawkit.jsonl`` says of a finished file.

    Parameters
    ----------
    output, output_sha256 : name in the folder, and the file's content
    input, input_sha256 : the same of the source
    parameters : dict
        Everything else that decides the output, as JSON holds it.
    version : str
        Of rawkit.
    """

    output: str
    output_sha256: str
    input: str
    input_sha256: str
    parameters: dict[str, Any]
    version: str


@dataclass(frozen=True)
class _Order:
    job: Job
    dry_run: bool


@dataclass(frozen=True)
class _Made:
    facts: Facts
    input_sha256: str
    written: Path | None
    output_sha256: str | None
    seconds: float


@dataclass(frozen=True)
class _Maker:
    """Runs in a worker."""

    work: Work
    stages: ClassVar[int] = 3  # read, compute, write

    def __call__(self, order: _Order) -> _Made:
        return last(self.steps(order))

    def steps(self, order: _Order) -> Generator[None, None, _Made]:
        start = time.monotonic()
        source, target = order.job.source, order.job.target
        name = f".{target.stem}.{secrets.token_hex(4)}.part{target.suffix}"
        write = None if order.dry_run else target.with_name(name)
        made = None
        try:
            _check_regular(source)
            digest = sha256(source)
            facts = self.work(source, target, write=write)
            if isinstance(facts, Generator):
                facts = yield from facts
            made = _Made(facts, digest, write, None if write is None else sha256(write), time.monotonic() - start)
            return made
        except Exception as error:
            raise _explained(error, source) from error
        finally:
            if made is None and write is not None:
                write.unlink(missing_ok=True)


def _check_regular(path: Path) -> None:
    """Opening a pipe or a device might wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise RawkitError(f"{path} is no regular file.")


def read_file(path: Path, *, reading: Mapping[str, Any]) -> Any:
    """``read_raw`` without words on the console: of damaged data ``metadata.notes`` tells too."""
    from rawkit.raw.read import read_raw

    try:
        _check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedDataWarning)
            return read_raw(path, **reading)
    except Exception as error:
        raise _explained(error, path) from error


def estimate_file(path: Path, *, reading: Mapping[str, Any]) -> Any:
    """``rawkit.sensor.single_image.estimate`` of a file; ``reading``: keywords of ``read_raw``."""
    from rawkit.sensor.single_image import estimate

    image = read_file(path, reading=reading)
    try:
        return estimate(image)
    except Exception as error:
        raise _explained(error, path) from error


def _explained(error: Exception, source: Path) -> Exception:
    """The error with the file's name in its message; of a mistake of ours, with its place too."""
    text = in_one_line(error)
    if isinstance(error, MemoryError):
        text = f"not enough memory ({text})"
    elif not isinstance(error, RawkitError | OSError | ValueError):  # an untrusted file reached code not made for it
        text = own_fault(error)
    elif str(source) in text:
        return error
    named = RawkitError(f"{source}: {text}")
    named.errno = getattr(error, "errno", None)  # pyright: ignore[reportAttributeAccessIssue]
    return named


def read_records(folder: Path) -> dict[str, Record]:
    """The last record of every output in a folder; lines cut by a crash, or that no run wrote, are passed over."""
    try:
        lines = (folder / RECORD_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(record.output, str) and isinstance(record.parameters, dict):
            found[record.output] = record
    return found


def append_record(folder: Path, record: Record) -> None:
    """Add a line and have it on disk when this returns."""
    path = folder / RECORD_NAME
    line = json.dumps(asdict(record), sort_keys=True) + "\n"
    with open(path, "ab+") as file:
        if file.tell() and _last_byte(path) != b"\n":
            line = "\n" + line
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def run_jobs(
    jobs: Sequence[Job],
    work: Work,
    *,
    parameters: dict[str, Any],
    mapper: MapFunction,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Generator[dict[str, Any]]:
    """Make every output that is not finished.

    Parameters
    ----------
    jobs : sequence of Job
    work : Work
        Importable by name when ``mapper`` uses processes.
    parameters : dict
        What decides an output besides its input, as plain JSON values.
    mapper : MapFunction
        ``rawkit.parallel.map_files`` with its options bound; must keep the order.
    overwrite : bool
        Make outputs again that exist.
    dry_run : bool
        ``work`` is called without a file to write.

    Yields
    ------
    dict
        In the order of the jobs: ``input``, ``output``, ``status`` ("done", "already done", "skipped", "failed",
        "would be done"), ``reason`` of the last two kinds, ``seconds`` and what ``work`` told.
    """
    parameters = json.loads(json.dumps(parameters))
    records = {folder: read_records(folder) for folder in {job.target.parent for job in jobs}}
    if not dry_run:
        _sweep(jobs)
    decided: dict[int, dict[str, Any]] = {}
    ordered: list[int] = []  # places of the jobs that were given to the mapper

    def orders() -> Iterator[_Order]:
        taken: dict[Path, Path] = {}
        for place, job in enumerate(jobs):
            other = taken.setdefault(job.target, job.source)
            if other != job.source:
                reason = f"{job.source}: its output {job.target} is also that of {other}; use another folder or name."
                decided[place] = _result(job, FAILED, reason=reason)
                continue
            outcome = _decide(job, records[job.target.parent].get(job.target.name), parameters, overwrite)
            if outcome is not None:
                decided[place] = outcome
                continue
            ordered.append(place)
            yield _Order(job, dry_run)

    following = 0
    try:
        with contextlib.closing(mapper(_Maker(work), orders())) as answers:
            for count, answer in enumerate(answers):
                while following < ordered[count]:
                    yield decided.pop(following)
                    following += 1
                following += 1
                if answer.value is None:
                    yield _result(answer.item.job, FAILED, reason=answer.error)
                else:
                    yield _finish(answer.item.job, answer.value, parameters)
        while following < len(jobs):
            yield decided.pop(following)
            following += 1
    finally:
        if not dry_run:
            _sweep(jobs)


def _result(job: Job, status: str, **facts: Any) -> dict[str, Any]:
    return {"input": str(job.source), "output": str(job.target), "status": status, **facts}


def _decide(job: Job, record: Record | None, parameters: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The result of a job that needs no work; None for one that does."""
    if overwrite or not job.target.exists():
        return None
    advice = "use --overwrite to replace it, or another folder with -o."
    if record is None:
        return _result(job, SKIPPED, reason=f"{job.target} exists; {advice}")
    if differences := _differences(record, parameters):
        return _result(job, SKIPPED, reason=f"{job.target} exists, made with {differences}; {advice}")
    try:
        if sha256(job.source) != record.input_sha256:
            return _result(job, SKIPPED, reason=f"{job.target} exists, made from another {record.input}; {advice}")
        if sha256(job.target) != record.output_sha256:
            return _result(job, SKIPPED, reason=f"{job.target} exists, changed since rawkit made it; {advice}")
    except OSError as error:
        return _result(job, FAILED, reason=f"{job.source}: {error.strerror}")
    return _result(job, ALREADY_DONE)


def _differences(record: Record, parameters: dict[str, Any]) -> str:
    """How a record's parameters and version differ from the wanted ones, for people; empty if they do not."""
    pairs = {"rawkit": (record.version, rawkit.__version__)}
    pairs |= {
        name: (record.parameters.get(name), parameters.get(name)) for name in sorted({*record.parameters, *parameters})
    }
    return ", ".join(
        f"{name} {_short(old)} instead of {_short(new)}" for name, (old, new) in pairs.items() if old != new
    )


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def _finish(job: Job, made: _Made, parameters: dict[str, Any]) -> dict[str, Any]:
    """Record a result, then give it its name."""
    facts = {**made.facts, "seconds": round(made.seconds, 3)}
    if made.written is None or made.output_sha256 is None:
        return _result(job, PLANNED, **facts)
    record = Record(
        job.target.name, made.output_sha256, job.source.name, made.input_sha256, parameters, rawkit.__version__
    )  # fmt: skip
    try:
        append_record(job.target.parent, record)
        os.replace(made.written, job.target)
    except OSError as error:
        made.written.unlink(missing_ok=True)
        return _result(job, FAILED, reason=f"{job.target}: {error.strerror}")
    return _result(job, DONE, **facts)


def _sweep(jobs: Iterable[Job]) -> None:
    """Remove the hidden files that a killed run left of these outputs."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(job.target.parent, set()).add(job.target.name)
    for folder, ours in names.items():
        for path in folder.iterdir() if folder.is_dir() else ():
            match = _HIDDEN.match(path.name)
            if match and match["stem"] + match["suffix"] in ours:
                path.unlink(missing_ok=True)
