"""Data sets of clean and noisy raw pairs: many pictures, ISOs and exposures, on disk, resumable.

A *pair* is a clean picture as the simulated camera would record it without noise, and one noisy exposure of it.  Its
noise depends on the data set's seed, the clean file's *content*, the ISO and the number of the exposure,

    seed of a pair = first 32 bits of SHA-256("<seed>:<SHA-256 of the clean file>:<ISO>"),   frame = number

and on nothing else: not on names, order, other files, shards, workers or interruptions.  Equal numbers of different
ISOs are independent; the numbers of one ISO are a burst of one scene.

A *unit* is one output file, written whole or not at all:

=========== =================================================================================================
format      units
=========== =================================================================================================
dng         ``short/<name>_iso<ISO>_s<number>.dng`` noisy, ``long/<name>.dng`` clean (two bits below one DN)
tiff        the same with 16-bit (noisy) and float32 (clean) mosaics as stored; levels, CFA and color in the description
npz         the same with ``im`` (planes, h, w) as stored, ``black_level`` (planes, 1, 1) and ``white_level`` [DN],
            ``wb`` (4 gains relative to green), ``ccm`` (camera to sRGB), ``phases``: the keys of LED's loader.  Bayer
            planes in the order R, Gr, B, Gb of the low-light data sets (SID, ELD), others in CFA order
hdf5        ``part-<number>.h5`` of several pairs: a group per pair with ``noisy`` uint16, ``clean`` float32 as stored
webdataset  ``part-<number>.tar`` of several pairs: ``<key>.noisy.npy``, ``<key>.clean.npy``, ``<key>.json``
=========== =================================================================================================

``pairs.txt`` lists noisy and clean files of the formats with single files, "./short/x ./long/y" as SID, ELD and LED do.
``manifest.jsonl`` has a line of settings, then one line per unit in fixed order: file, status (done, failed, missing),
SHA-256, its pairs.  It is replaced as a whole every few seconds, so it is valid at any moment; what a crash leaves
unlisted is made again, with the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import rawkit
from rawkit.errors import MetadataError, OutputExistsError, RawkitError
from rawkit.noise.export import SimulatedCamera
from rawkit.raw.develop import srgb_from_camera
from rawkit.raw.dng import write_dng
from rawkit.raw.image import RawImage, pack, pad_to_period
from rawkit.resources import replacing, sha256

Format = Literal["dng", "npz", "hdf5", "webdataset", "tiff"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIX = {"dng": ".dng", "npz": ".npz", "hdf5": ".h5", "webdataset": ".tar", "tiff": ".tif"}
_PARTS = ("hdf5", "webdataset")
_LAYOUT = 1  # of the manifest
_CHECKPOINT = 5.0  # s between manifests, or
_CHECKPOINT_SHARE = 0.02  # of the time, where writing one takes long
_ASIDE = (".json", ".jsonl", ".txt", ".csv", ".md", ".xmp")  # files beside pictures


@dataclass(frozen=True)
class Source:
    """A clean file: its path under the folder of clean pictures, and the SHA-256 of its bytes (None: unreadable)."""

    name: str
    digest: str | None


@dataclass(frozen=True)
class Pair:
    """One clean picture and one noisy exposure of it (``number`` None: the clean picture alone)."""

    source: Source
    name: str
    key: str
    iso: float = 0.0
    number: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Unit:
    """One output file and the pairs in it."""

    file: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a data set consists of; the same values give the same bytes.

    Parameters
    ----------
    folder : Path
        Clean pictures, raw files or photographs; folders in it are searched too.
    isos : tuple of float
    count : int
        Noisy exposures of each picture at each ISO.
    format : str
        See module.
    camera : SimulatedCamera
    seed : int, 0 <= seed < 2**32
    pairs_per_file : int
        Of hdf5 and webdataset.
    shard : (i, n), 1 <= i <= n
        Make only every n-th unit, starting with the i-th; the n shards together are the whole set.
    """

    folder: Path
    isos: tuple[float, ...]
    count: int = 1
    format: Format = "dng"
    camera: SimulatedCamera = field(default_factory=SimulatedCamera)
    seed: int = 0
    pairs_per_file: int = 32
    shard: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        first, of = self.shard
        checks = (
            (
                bool(self.isos) and all(0 < iso < float("inf") for iso in self.isos),
                f"isos are {self.isos}; positive numbers",
            ),
            (len(set(self.isos)) == len(self.isos), f"isos are {self.isos}; each once"),
            (self.count >= 1, f"count is {self.count}; at least 1"),
            (self.format in FORMATS, f"format is {self.format!r}; one of {', '.join(FORMATS)}"),
            (0 <= self.seed < 2**32, f"seed is {self.seed}; 0 to 2**32 - 1"),
            (self.pairs_per_file >= 1, f"pairs_per_file is {self.pairs_per_file}; at least 1"),
            (1 <= first <= of, f"shard is {first}/{of}; i/n with 1 <= i <= n"),
        )
        for good, text in checks:
            if not good:
                raise ValueError(text + " needed.")

    @property
    def manifest(self) -> str:
        """Name of the manifest; each shard has its own."""
        return f"manifest{self._shard_name}.jsonl"

    @property
    def pair_list(self) -> str:
        return f"pairs{self._shard_name}.txt"

    @property
    def _shard_name(self) -> str:
        return "" if self.shard[1] == 1 else f"-{self.shard[0]}-of-{self.shard[1]}"

    def settings(self) -> dict[str, Any]:
        """Everything that decides about the bytes, as plain data; files by their content."""
        plain = {
            "isos": self.isos, "count": self.count, "format": self.format, "seed": self.seed, "shard": self.shard,
            "pairs_per_file": self.pairs_per_file if self.format in _PARTS else None,
            "camera": self.camera.settings(),
        }  # fmt: skip
        return json.loads(json.dumps(plain))

    def sources(self) -> tuple[Source, ...]:
        """The clean files by name, with their digests.

        Raises
        ------
        RawkitError
            The folder holds no files.
        """
        paths = sorted(
            p for p in self.folder.rglob("*")
            if p.is_file() and not p.name.startswith(".") and p.suffix.lower() not in _ASIDE
        )  # fmt: skip
        if not paths:
            raise RawkitError(f"{self.folder} holds no pictures; give a folder of clean raw files or photographs.")
        return tuple(Source(p.relative_to(self.folder).as_posix(), _digest(p)) for p in paths)

    def units(self, sources: Sequence[Source]) -> tuple[Unit, ...]:
        """The files of this shard, in the order of the manifest."""
        names = _short_names([source.name for source in sources])
        noisy = [
            Pair(
                source, name, f"{name}_iso{iso:g}_s{number:03d}", iso, number, pair_seed(self.seed, source.digest, iso)
            )
            for source, name in zip(sources, names, strict=True)
            for iso in self.isos
            for number in range(self.count)
        ]
        suffix, step = _SUFFIX[self.format], self.pairs_per_file
        if self.format in _PARTS:
            groups = [tuple(noisy[first : first + step]) for first in range(0, len(noisy), step)]
            units = [Unit(f"part-{number:06d}{suffix}", group) for number, group in enumerate(groups)]
        else:
            clean = [
                Unit(f"long/{name}{suffix}", (Pair(s, name, name),)) for s, name in zip(sources, names, strict=True)
            ]
            units = clean + [Unit(f"short/{pair.key}{suffix}", (pair,)) for pair in noisy]
            units.sort(key=lambda unit: (unit.pairs[0].source.name, unit.file))  # a worker keeps the picture it read
        return tuple(units[self.shard[0] - 1 :: self.shard[1]])


@dataclass(frozen=True)
class Outcome:
    """What a run of ``write_dataset`` left behind.

    Parameters
    ----------
    units, done, made : int
        Files of this shard, those that are there now, those made by this run.
    failed : tuple of (str, str)
        File, or source inside a part, and why it could not be made.
    missing : tuple of str
        Files not made for another reason: the run stopped before them.
    stopped : str or None
        Why the run stopped early.
    """

    units: int
    done: int
    made: int
    failed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    stopped: str | None

    @property
    def complete(self) -> bool:
        return self.done == self.units and not self.failed


def pair_seed(seed: int, digest: str | None, iso: float) -> int:
    """Seed of a clean file's noise at one ISO (formula in the module's head).

    Examples
    --------
    >>> pair_seed(0, "ab", 800) == pair_seed(0, "ab", 800.0) != pair_seed(1, "ab", 800)
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{digest}:{iso:g}".encode()).digest()[:4], "big")


def write_dataset(
    dataset: Dataset,
    output: Path,
    *,
    mapper: Callable[[Callable[[Unit], Any], Sequence[Unit]], Iterator[Any]] | None = None,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Make what is missing of a data set.

    Parameters
    ----------
    dataset : Dataset
    output : Path
        Folder; when it holds an unfinished run of the same settings, that run is finished.
    mapper : callable (function, units) -> iterator of results, in order
        ``rawkit.parallel.map_files`` with its options bound; a result has ``value``, ``error`` and ``errno``.
        None: one after the other in this process.
    verify : bool
        Read finished files again and make those anew whose SHA-256 has changed; otherwise their size must fit.
    progress : callable (done, total)

    Raises
    ------
    OutputExistsError
        The folder holds a data set of other settings, or other files of these names.
    RawkitError
        There are no clean pictures.
    """
    settings, sources = dataset.settings(), dataset.sources()
    units = dataset.units(sources)
    book = _Manifest(output / dataset.manifest, settings, units)
    book.resume(verify=verify)
    todo = [unit for unit in units if unit.file not in book.done]
    already = len(units) - len(todo)
    output.mkdir(parents=True, exist_ok=True)
    _sweep(output, todo)
    book.write()
    stopped, made = None, 0
    make = partial(make_unit, dataset=dataset, output=output)
    results = (mapper or _one_by_one)(make, todo)
    try:
        for number, (unit, result) in enumerate(zip(todo, results, strict=True), start=1):
            if result.error is None:
                book.done[unit.file] = result.value
                made += 1
            else:
                book.failed[unit.file] = result.error
            if result.errno == errno.ENOSPC:
                stopped = f"the disk is full ({output}); make room and run the same command again"
                del book.failed[unit.file]
                break
            book.checkpoint()
            if progress is not None:
                progress(already + number, len(units))
    finally:
        closing = getattr(results, "close", None)
        if closing is not None:
            closing()
        try:
            book.write()
            if dataset.format not in _PARTS:
                _write_pair_list(output / dataset.pair_list, book, dataset)
        except OSError as error:
            stopped = stopped or f"the manifest could not be brought up to date ({error}); the last one is valid"
    failed = [*book.failed.items(), *book.failed_inside()]
    missing = [u.file for u in units if u.file not in book.done and u.file not in book.failed]
    return Outcome(
        len(units), len(units) - len(missing) - len(book.failed), made, tuple(failed), tuple(missing), stopped
    )


def make_unit(unit: Unit, *, dataset: Dataset, output: Path) -> dict[str, Any]:
    """Make one file; its record for the manifest.

    Pairs of a part that cannot be made are left out and named in the record; of a file of its own, the error is raised.
    """
    target = output / unit.file
    with replacing(target, overwrite=True) as temporary:
        try:
            failed = _WRITERS[dataset.format](temporary, unit, dataset)
        except OSError as error:
            if error.errno is None and os.strerror(errno.ENOSPC) in str(error):  # HDF5 keeps the number in its text
                raise OSError(errno.ENOSPC, str(error)) from error
            raise
    pairs = [_pair_record(pair) for pair in unit.pairs if pair.key not in failed]
    record = {"sha256": sha256(target), "bytes": target.stat().st_size, "pairs": pairs}
    if failed:
        record["failed"] = [{"key": key, "reason": reason} for key, reason in failed.items()]
    return record


def _pair_record(pair: Pair) -> dict[str, Any]:
    record: dict[str, Any] = {"key": pair.key, "source": pair.source.name, "source_sha256": pair.source.digest}
    if pair.number is not None:
        record |= {"iso": pair.iso, "seed": pair.seed, "frame": pair.number}
    return record


# ------------------------------------------------------------------------------------------------------- pictures


@lru_cache(maxsize=1)
def _clean(camera: SimulatedCamera, path: Path, digest: str) -> RawImage:
    """Clean pictures are used for many exposures in a row; ``digest`` keys the cache by content."""
    return camera.clean(path)


def _render(pair: Pair, dataset: Dataset) -> tuple[RawImage, RawImage | None]:
    """Clean and noisy raw of a pair.

    Raises
    ------
    RawkitError, OSError
        The clean file has changed since the manifest was begun, or cannot be read.
    """
    path = dataset.folder / pair.source.name
    if pair.source.digest is None:
        raise RawkitError(f"{path} cannot be read.")
    clean = _clean(dataset.camera, path, pair.source.digest)
    if pair.number is None:
        return clean, None
    return clean, dataset.camera.noisy(clean, iso=pair.iso, seed=pair.seed, frame=pair.number)[0]


def _single(unit: Unit, dataset: Dataset) -> RawImage:
    clean, noisy = _render(unit.pairs[0], dataset)
    return clean if noisy is None else noisy


def _write_dng(path: Path, unit: Unit, dataset: Dataset) -> dict[str, str]:
    image = _single(unit, dataset)
    write_dng(replace(image, metadata=replace(image.metadata, source=None)), path, overwrite=True)
    return {}


def _write_tiff(path: Path, unit: Unit, dataset: Dataset) -> dict[str, str]:
    import tifffile

    image = _single(unit, dataset)
    facts = json.dumps(_facts(image), sort_keys=True)
    with open(path, "wb") as stream:
        tifffile.imwrite(stream, image.mosaic, description=facts, software="rawkit", metadata=None)
    return {}


def _write_npz(path: Path, unit: Unit, dataset: Dataset) -> dict[str, str]:
    image = _single(unit, dataset)
    order = np.argsort(_low_light_order(image))
    phases = [image.phases[p] for p in image.plane_phases]
    facts = _facts(image)
    with open(path, "wb") as stream:
        np.savez(
            stream,
            im=pack(pad_to_period(image.mosaic, image.cfa), image.cfa)[order],
            black_level=np.array([image.black_level[p] for p in image.plane_phases], np.float32)[order, None, None],
            white_level=np.float32(image.white_level),
            wb=np.array(facts["wb"], np.float32),
            ccm=np.array(facts["ccm"], np.float32),
            phases=np.array(phases)[order],
        )
    return {}


def _low_light_order(image: RawImage) -> list[int]:
    """Rank of each plane: R, Gr, B, Gb for Bayer, as it is for others."""
    if not image.cfa.is_bayer:
        return list(range(len(image.plane_phases)))
    return [("R", "Gr", "B", "Gb").index(image.phases[p]) for p in image.plane_phases]


def _facts(image: RawImage) -> dict[str, Any]:
    """What a trainer must know of a mosaic besides its pixels."""
    meta = image.metadata
    neutral = meta.as_shot_neutral or (1.0, 1.0, 1.0)
    wb = [neutral[1] / n for n in neutral]
    matrix = srgb_from_camera(meta) if meta.color_matrices else np.eye(3)
    return {
        "cfa": str(image.cfa),
        "black_level": [float(b) for b in image.black_level],
        "white_level": float(image.white_level),
        "wb": [*wb, wb[1]],
        "ccm": np.asarray(matrix).round(6).tolist(),
        "iso": meta.iso,
        "noise_profile": meta.noise_profile,
    }


def _parts(unit: Unit, dataset: Dataset, failed: dict[str, str]) -> Iterator[tuple[Pair, RawImage, RawImage]]:
    """The pairs of a part that can be made; the others' reasons go into ``failed``."""
    for pair in unit.pairs:
        try:
            clean, noisy = _render(pair, dataset)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            failed[pair.key] = str(error)
        except (RawkitError, ValueError) as error:
            failed[pair.key] = " ".join(str(error).split())
        else:
            if noisy is not None:
                yield pair, clean, noisy


def _write_hdf5(path: Path, unit: Unit, dataset: Dataset) -> dict[str, str]:
    try:
        import h5py
    except ImportError:
        raise RawkitError("format hdf5 needs the package 'h5py'; run: pip install 'rawkit-camera[hdf5]'.") from None
    failed: dict[str, str] = {}
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        for pair, clean, noisy in _parts(unit, dataset, failed):
            group = file.create_group(pair.key)
            group.create_dataset("noisy", data=noisy.mosaic)
            group.create_dataset("clean", data=clean.mosaic.astype(np.float32))
            group.attrs["json"] = json.dumps({**_pair_record(pair), **_facts(noisy)}, sort_keys=True)
    return failed


def _write_tar(path: Path, unit: Unit, dataset: Dataset) -> dict[str, str]:
    failed: dict[str, str] = {}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for pair, clean, noisy in _parts(unit, dataset, failed):
            facts = json.dumps({**_pair_record(pair), **_facts(noisy)}, sort_keys=True).encode()
            _add(tar, f"{pair.key}.noisy.npy", _npy(noisy.mosaic))
            _add(tar, f"{pair.key}.clean.npy", _npy(clean.mosaic.astype(np.float32)))
            _add(tar, f"{pair.key}.json", facts)
    return failed


def _npy(array: NDArray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no owner and no time: the same bytes wherever and whenever it is made
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


_WRITERS: dict[str, Callable[[Path, Unit, Dataset], dict[str, str]]] = {
    "dng": _write_dng, "tiff": _write_tiff, "npz": _write_npz, "hdf5": _write_hdf5, "webdataset": _write_tar,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- bookkeeping


class _Manifest:
    """The state of a run, and its file; the one thing here that changes."""

    def __init__(self, path: Path, settings: dict[str, Any], units: Sequence[Unit]) -> None:
        self.path, self.settings, self.units = path, settings, units
        self.done: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._written, self._cost = 0.0, 0.0

    def resume(self, *, verify: bool) -> None:
        """Take over what an earlier run finished."""
        if not self.path.exists():
            there = next((u.file for u in self.units if (self.path.parent / u.file).exists()), None)
            if there is not None:
                raise OutputExistsError(
                    f"{self.path.parent / there} exists, but no {self.path.name} that would say what it is; choose "
                    "another folder with -o."
                )
            return
        header, *records = read_manifest(self.path)
        if header["settings"] != self.settings or header["rawkit"] != rawkit.__version__:
            changed = [k for k, v in self.settings.items() if header["settings"].get(k) != v] or ["rawkit's version"]
            raise OutputExistsError(
                f"{self.path} belongs to a data set of other settings ({', '.join(changed)}); repeat those, or choose "
                "another folder with -o."
            )
        planned = {unit.file: unit for unit in self.units}
        for record in records:
            unit = planned.get(record.pop("file"))
            if unit is None or record.pop("status") != "done" or "failed" in record:
                continue
            same = record["pairs"] == [_pair_record(pair) for pair in unit.pairs]
            if same and _is_whole(self.path.parent / unit.file, record, verify=verify):
                self.done[unit.file] = record

    def checkpoint(self) -> None:
        """Write the manifest now and then."""
        since = time.monotonic() - self._written
        if since > max(_CHECKPOINT, self._cost / _CHECKPOINT_SHARE):
            self.write()

    def write(self) -> None:
        begun = time.monotonic()
        header = {
            "rawkit_dataset": _LAYOUT, "rawkit": rawkit.__version__, "settings": self.settings,
            "units": len(self.units), "done": len(self.done), "complete": self._complete(),
        }  # fmt: skip
        with replacing(self.path, overwrite=True) as temporary, open(temporary, "w", encoding="utf-8") as stream:
            for line in (header, *map(self._line, self.units)):
                stream.write(json.dumps(line, sort_keys=True) + "\n")
        self._written = time.monotonic()
        self._cost = self._written - begun

    def _line(self, unit: Unit) -> dict[str, Any]:
        if unit.file in self.done:
            return {"file": unit.file, "status": "done", **self.done[unit.file]}
        if unit.file in self.failed:
            return {"file": unit.file, "status": "failed", "reason": self.failed[unit.file]}
        return {"file": unit.file, "status": "missing"}

    def _complete(self) -> bool:
        return len(self.done) == len(self.units) and not self.failed_inside()

    def failed_inside(self) -> list[tuple[str, str]]:
        """Pairs that finished parts lack, and why."""
        lacking = [(file, entry) for file, record in self.done.items() for entry in record.get("failed", ())]
        return [(f"{file}: {entry['key']}", entry["reason"]) for file, entry in lacking]


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Lines of a manifest: its settings first, then one record per file.

    Raises
    ------
    MetadataError
        It is not a manifest of this layout.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if lines[0]["rawkit_dataset"] != _LAYOUT:
            raise KeyError
    except (ValueError, KeyError, IndexError, TypeError, OSError):
        raise MetadataError(f"{path} is not a data-set manifest of layout {_LAYOUT}.") from None
    return lines


def _is_whole(path: Path, record: dict[str, Any], *, verify: bool) -> bool:
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return not verify or sha256(path) == record["sha256"]


def _write_pair_list(path: Path, book: _Manifest, dataset: Dataset) -> None:
    """Noisy and clean file of every exposure that is there."""
    suffix = _SUFFIX[dataset.format]
    noisy = [unit for unit in book.units if unit.pairs[0].number is not None and unit.file in book.done]
    with replacing(path, overwrite=True) as temporary:
        lines = (f"./{unit.file} ./long/{unit.pairs[0].name}{suffix}\n" for unit in noisy)
        temporary.write_text("".join(lines), encoding="utf-8")


def _sweep(output: Path, units: Sequence[Unit]) -> None:
    """Remove the half-written files that a killed run of this shard left."""
    ours = {Path(unit.file).name for unit in units}
    for folder in {(output / unit.file).parent for unit in units}:
        for path in folder.glob(".*.part") if folder.is_dir() else ():
            if re.sub(r"(\.\d+\.part)+$", "", path.name.lstrip(".")) in ours:
                path.unlink(missing_ok=True)


def _digest(path: Path) -> str | None:
    try:
        return sha256(path)
    except OSError:
        return None


def _short_names(names: Sequence[str]) -> list[str]:
    """Names for files and keys: no folders, dots or blanks; the extension is kept where names would collide.

    Examples
    --------
    >>> _short_names(["a b.png", "c/d.dng", "c/d.png"])
    ['a-b', 'c-d-dng', 'c-d-png']

    Raises
    ------
    RawkitError
        Two names stay equal.
    """

    def plain(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "-", text)

    stems = [plain(os.path.splitext(name)[0]) for name in names]
    short = [stem if stems.count(stem) == 1 else plain(name) for stem, name in zip(stems, names, strict=True)]
    for name, other in zip(names, short, strict=True):
        if short.count(other) > 1:
            raise RawkitError(f"two clean pictures would both be called {other}; rename {name}.")
    return short


@dataclass(frozen=True)
class _Result:
    value: Any = None
    error: str | None = None
    errno: int | None = None


def _one_by_one(function: Callable[[Unit], Any], units: Iterable[Unit]) -> Iterator[_Result]:
    for unit in units:
        try:
            yield _Result(value=function(unit))
        except (RawkitError, OSError, ValueError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield _Result(error=reason, errno=getattr(error, "errno", None))
