"""One function over many files, on local processes or on a Dask cluster; a bad file does not stop the others.

Results come back in the order of the inputs, whatever finished first, and only a bounded number are under way or
waiting to be handed over: neither memory nor the order of the output depends on the number of workers.

A local worker has one file at a time, so when it dies (killed for memory, a crash in a decoder) exactly one file is
in doubt.  That file is tried once more in a fresh process with nothing beside it; if it kills that one too it is
reported with that reason.  ``Limits`` bound the time of a file and the memory of a worker.  Workers leave Ctrl-C to
their parent and die with it, so nothing writes on after the program has ended.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, Protocol, TypeVar

from rawkit.errors import RawkitError

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESSES, SERIAL = "processes", "serial"
_AHEAD = 2  # files under way per worker of a cluster: one in work, one waiting
_WINDOW = 32  # files per local worker that may be finished before an earlier one: a slow file does not idle the others
_STARTS = 3  # workers in a row that may die before they are ready
_GRACE = 2.0  # seconds between the request to end, which removes temporary files, and the end


@dataclass(frozen=True)
class Limits:
    """What one file may cost; None: no limit.

    Parameters
    ----------
    seconds : float or None
        Wall time of one file; its worker is ended then, and the file is not tried again.
    memory : int or None [bytes]
        Private memory of a worker process (RLIMIT_DATA: heap and anonymous mappings, of Linux 4.7 or later); beyond it
        allocations fail and the file ends in ``MemoryError``.  Systems without such a limit ignore it.
    """

    seconds: float | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("memory", self.memory)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"the limit of {name} is {value}; a positive number is needed, or None.")


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

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[FileResult[Any, Any]]: ...


def map_files(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    backend: str = PROCESSES,
    workers: int | None = None,
    limits: Limits = Limits(),
) -> Generator[FileResult[Item, Result]]:
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
    limits : Limits
        Of local processes.  A cluster's workers have limits of their own; a serial run has none.

    Yields
    ------
    FileResult
        In the order of the items.

    Raises
    ------
    RawkitError
        The cluster cannot be reached, the package ``distributed`` is not installed, or no process can be started.

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
        return _map_processes(function, items, workers or usable_cores(), limits)
    if "://" in backend:
        return _map_dask(function, items, backend, workers)
    raise ValueError(f"backend {backend!r}: use {PROCESSES}, {SERIAL}, or the address of a Dask scheduler.")


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_memory() -> int | None:
    """Bytes of memory of this computer; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _run(function: Callable[[Item], Result], item: Item) -> FileResult[Item, Result]:
    try:
        return FileResult(item, value=function(item))
    except (RawkitError, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return FileResult(item, error=reason, errno=getattr(error, "errno", None))


@dataclass(frozen=True)
class _Task(Generic[Item]):
    """A file, its place in the input, and whether a worker has died with it."""

    index: int
    item: Item
    suspect: bool = False


@dataclass(frozen=True)
class _Mistake:
    """An exception that ``_run`` does not take for a fault of the file."""

    error: BaseException
    trace: str


def _map_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, limits: Limits
) -> Generator[FileResult[Item, Result]]:
    todo = (_Task(index, item) for index, item in enumerate(items))
    suspects: deque[_Task[Item]] = deque()
    finished: dict[int, FileResult[Item, Result]] = {}
    following = 0  # index of the result to hand over next
    with _pool(function, workers, limits) as pool:
        while True:
            while pool.has_room and not suspects and pool.newest - following < _WINDOW * workers:
                task = next(todo, None)
                if task is None:
                    break
                pool.assign(task)
            if suspects and not pool.busy:
                pool.assign(suspects.popleft())
            while following in finished:
                yield finished.pop(following)
                following += 1
            if not pool.busy:
                if not suspects and not finished:
                    return
                continue
            for task, result in pool.wait():
                if result is not None:
                    finished[task.index] = result
                elif task.suspect:
                    finished[task.index] = FileResult(
                        task.item, error="its worker process died twice (out of memory, or a crash in a decoder)"
                    )
                else:
                    suspects.append(_Task(task.index, task.item, suspect=True))


class _Worker:
    """A process and the file it has."""

    def __init__(self, function: Callable[[Any], Any], memory: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, memory), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False  # the first message says that the function is loaded
        self.task: _Task | None = None
        self.deadline = math.inf

    def end(self) -> None:
        """End the process: by closing its pipe when it is idle, by signals when it is at work."""
        self.pipe.close()
        if self.task is not None:
            self.process.terminate()
        self.process.join(_GRACE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


class _Pool:
    """Local workers; each is started when there is a file for it."""

    def __init__(self, function: Callable[[Any], Any], workers: int, limits: Limits) -> None:
        self.function, self.workers, self.limits = function, workers, limits
        self.staff: list[_Worker] = []
        self.newest = -1  # highest index assigned
        self.failed_starts = 0

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self.staff if worker.task is not None]

    @property
    def has_room(self) -> bool:
        return len(self.busy) < self.workers

    def assign(self, task: _Task) -> None:
        """Give a task to an idle worker, or to a new one; a suspect always to a new one."""
        idle = [worker for worker in self.staff if worker.task is None]
        if idle and task.suspect:
            self._dismiss(idle.pop())
        if task.suspect or not idle:
            worker = _Worker(self.function, self.limits.memory)
            self.staff.append(worker)
        else:
            worker = idle[0]
        worker.task = task
        self.newest = max(self.newest, task.index)
        if worker.ready:
            self._begin(worker)

    def wait(self) -> list[tuple[_Task, FileResult | None]]:
        """Tasks that ended, at least by one limit or message; None as a result: the worker died with it."""
        left = min(worker.deadline for worker in self.busy) - time.monotonic()
        ready = connection.wait([worker.pipe for worker in self.busy], None if left == math.inf else max(left, 0.0))
        events = [event for worker in self.busy if worker.pipe in ready for event in self._message(worker)]
        for worker in self.busy:
            if worker.deadline <= time.monotonic() and worker.task is not None:
                reason = f"not done after {self.limits.seconds:g} s, the limit for one file"
                events.append((worker.task, FileResult(worker.task.item, error=reason)))
                self._dismiss(worker)
        return events

    def _begin(self, worker: _Worker) -> None:
        """Send the task; its time begins."""
        assert worker.task is not None
        if self.limits.seconds is not None:
            worker.deadline = time.monotonic() + self.limits.seconds
        with contextlib.suppress(BrokenPipeError):  # it died while idle: the next wait finds its pipe at the end
            worker.pipe.send(worker.task.item)

    def _message(self, worker: _Worker) -> Iterator[tuple[_Task, FileResult | None]]:
        task = worker.task
        assert task is not None
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._dismiss(worker)
            if worker.ready:
                yield task, None
                return
            self.failed_starts += 1
            if self.failed_starts >= _STARTS:
                code = worker.process.exitcode
                raise RawkitError(f"worker processes end before they begin (exit code {code}).") from None
            self.assign(task)
            return
        if isinstance(message, _Mistake):
            raise message.error from RuntimeError(message.trace)
        if not worker.ready:
            worker.ready, self.failed_starts = True, 0
            self._begin(worker)
            return
        worker.task, worker.deadline = None, math.inf
        yield task, message

    def _dismiss(self, worker: _Worker) -> None:
        worker.end()
        self.staff.remove(worker)


@contextlib.contextmanager
def _pool(function: Callable[[Any], Any], workers: int, limits: Limits) -> Iterator[_Pool]:
    """Fresh processes; what is under way is ended when the caller stops early."""
    pool = _Pool(function, workers, limits)
    try:
        yield pool
    finally:
        for worker in pool.busy:
            worker.process.terminate()
        for worker in pool.staff:
            worker.end()


def _serve(pipe: connection.Connection, function: Callable[[Any], Any], memory: int | None) -> None:
    """A worker's life: say that it is ready, then one result per item until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory(memory)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_run(function, item))
        except Exception as error:
            trace = traceback.format_exc()
            try:
                pipe.send(_Mistake(error, trace))
            except Exception:  # the exception itself cannot be sent
                pipe.send(_Mistake(RuntimeError(str(error)), trace))


def _leave(number: int, frame: Any) -> None:
    """As an exception, so that ``finally`` removes temporary files."""
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _limit_memory(memory: int | None) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash on a damaged file leaves no core dump
    if memory is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _map_dask(
    function: Callable[[Item], Result], items: Iterable[Item], address: str, workers: int | None
) -> Generator[FileResult[Item, Result]]:
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

        def submit(item: Item) -> _Future:
            return client.submit(_run, function, item, pure=False)

        def oldest() -> FileResult[Item, Result]:
            item, future = waiting.popleft()
            try:
                return future.result()
            except Exception:  # the cluster lost it: KilledWorker, CancelledError, CommClosedError and their kin
                try:
                    return submit(item).result()
                except Exception as error:
                    return FileResult(item, error=f"the cluster gave no result, twice ({type(error).__name__})")

        for item in items:
            waiting.append((item, submit(item)))
            if len(waiting) >= ahead:
                yield oldest()
        while waiting:
            yield oldest()
