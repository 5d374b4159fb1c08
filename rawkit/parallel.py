"""One function over many files, on local processes or on a Dask cluster; a bad file does not stop the others.

Results come back in the order of the inputs, whatever finished first, and only a few per worker are under way at a
time: neither memory nor the order of the output depends on the number of workers.

A worker that dies (killed for memory, a crash in a decoder) takes the files under way with it.  Each of them is tried
once more alone; the one that kills its worker again is reported with that reason.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rawkit.errors import RawkitError

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESSES, SERIAL = "processes", "serial"
_AHEAD = 2  # files under way per worker: one in work, one waiting


@dataclass(frozen=True)
class FileResult(Generic[Item, Result]):
    """What became of one input.

    Parameters
    ----------
    item : the input
    value : result of the function, or None
    error : str or None
        Why there is no result, in one line.
    errno : int or None
        Of the operating system's error, if it was one (``errno.ENOSPC``: the disk is full).
    """

    item: Item
    value: Result | None = None
    error: str | None = None
    errno: int | None = None


class _Future(Protocol):
    def result(self) -> Any: ...


class MapFunction(Protocol):
    """``map_files`` with its options bound."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[FileResult[Any, Any]]: ...


def map_files(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    backend: str = PROCESSES,
    workers: int | None = None,
) -> Iterator[FileResult[Item, Result]]:
    """Apply a function to every file.

    Parameters
    ----------
    function : callable
        Of one item; importable by name, since other processes run it.  Its ``RawkitError``, ``OSError``,
        ``ValueError`` and ``MemoryError`` become the item's error; anything else is a mistake of ours and is raised.
    items : iterable
        Paths, or anything that can be pickled.
    backend : "processes", "serial", or the address of a Dask scheduler ("tcp://host:8786")
        Processes are started afresh (spawn).  A cluster's workers must see the same files under the same paths and
        have rawkit installed.
    workers : int or None
        Local processes; None: one per CPU core that this process may use.  Of a cluster, the files under way.

    Yields
    ------
    FileResult
        In the order of the items.

    Raises
    ------
    RawkitError
        The cluster cannot be reached, or the package ``distributed`` is not installed.

    Examples
    --------
    >>> [r.value or r.error for r in map_files(float, ["1.5", "dark"], backend="serial")]
    [1.5, "could not convert string to float: 'dark'"]
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; at least 1 is needed.")
    if backend == SERIAL:
        return (_run(function, item) for item in items)
    if backend == PROCESSES:
        return _map_processes(function, items, workers or usable_cores())
    if "://" in backend:
        return _map_dask(function, items, backend, workers)
    raise ValueError(f"backend {backend!r}: use {PROCESSES}, {SERIAL}, or the address of a Dask scheduler.")


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(function: Callable[[Item], Result], item: Item) -> FileResult[Item, Result]:
    try:
        return FileResult(item, value=function(item))
    except (RawkitError, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FileResult(item, error=reason, errno=getattr(error, "errno", None))


def _map_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[FileResult[Item, Result]]:
    todo = iter(items)
    interrupted: deque[Item] = deque()  # were under way when a worker died; each is tried again alone
    while True:
        waiting: deque[tuple[Item, _Future]] = deque()
        with _pool(1 if interrupted else workers) as pool:
            try:
                if interrupted:
                    suspect = interrupted[0]
                    try:
                        yield pool.submit(_run, function, suspect).result()
                    except BrokenProcessPool:
                        yield FileResult(
                            suspect, error="its worker process died (out of memory, or a crash in a decoder)"
                        )
                    interrupted.popleft()
                    continue
                for item in todo:
                    waiting.append((item, pool.submit(_run, function, item)))
                    if len(waiting) >= _AHEAD * workers:
                        yield waiting[0][1].result()
                        waiting.popleft()
                while waiting:
                    yield waiting[0][1].result()
                    waiting.popleft()
                return
            except BrokenProcessPool:
                interrupted.extend(item for item, _ in waiting)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes; what has not begun is dropped when the caller stops early."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_dask(
    function: Callable[[Item], Result], items: Iterable[Item], address: str, workers: int | None
) -> Iterator[FileResult[Item, Result]]:
    try:
        from distributed import Client
    except ImportError:
        raise RawkitError(
            f"a Dask cluster ({address}) needs the package 'distributed'; run: pip install distributed."
        ) from None
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RawkitError(f"no Dask scheduler answers at {address} ({type(error).__name__}).") from None
    with client:
        threads: Any = client.nthreads()
        ahead = _AHEAD * (workers or max(1, sum(threads.values())))
        waiting: deque[tuple[Item, _Future]] = deque()

        def oldest() -> FileResult[Item, Result]:
            item, future = waiting.popleft()
            try:
                return future.result()
            except Exception as error:  # the cluster lost it: KilledWorker, CommClosedError and their kin
                return FileResult(item, error=f"the cluster gave no result ({type(error).__name__})")

        for item in items:
            waiting.append((item, client.submit(_run, function, item, pure=False)))
            if len(waiting) >= ahead:
                yield oldest()
        while waiting:
            yield oldest()
