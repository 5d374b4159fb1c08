"""One function over many files, on local processes or on a Dask cluster; a bad file does not stop the others.

Results come back in the order of the inputs, whatever finished first, and only a bounded number are under way or
waiting to be handed over: neither memory nor the order of the output depends on the number of workers.

When a local worker dies (killed for memory, a crash in a decoder) what it had is in doubt: one file, or as many as
there are stages.  Each is tried once more in a fresh process with nothing beside it; if it kills that one too it is
reported with that reason.  ``Limits`` bound the time of a file and the memory of a worker.  Workers leave Ctrl-C to
their parent and die with it, so nothing writes on after the program has ended.

A function in stages (``Staged``: read, compute, write) may overlap them: while a worker computes with one file it reads
the next and writes the last one, so that what the middle stage needs, a GPU, does not wait for files.

A cluster may lose workers: Dask gives their files to others.  When its scheduler is lost, what was under way is sent
again as soon as it is back, within ``CLUSTER_RETURN`` seconds; without it the run ends.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from typing import Any, Generic, Protocol, TypeVar

from rawkit.errors import RawkitError, in_one_line

Item = TypeVar("Item")
Result = TypeVar("Result")

PROCESSES, SERIAL = "processes", "serial"
_AHEAD = 2  # files under way per worker of a cluster: one in work, one waiting
_WINDOW = 32  # files per local worker that may be finished before an earlier one: a slow file does not idle the others
_STARTS = 3  # workers in a row that may die before they are ready
DIED = "its worker process died twice (out of memory, or a crash in a decoder)"
CLUSTER_RETURN = 120.0  # seconds that a run waits for a lost scheduler, or for the first worker of a cluster
_CONNECT = 30.0  # seconds for one attempt to reach a scheduler
_LOOK = 5.0  # seconds between looks whether a cluster still has workers
_LOSSES = 10  # of the cluster while it is asked for one file
_telling = threading.Lock()  # a pipe takes one message at a time, and the threads of a computation may all tell
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


class Staged(Protocol):
    """A function whose work on one item has stages, which may overlap those of other items.

    Parameters
    ----------
    stages : int
    steps : generator function of one item
        Yields at the end of every stage but the last, and returns the result.  Stages may run in different threads.
    """

    stages: int

    def __call__(self, item: Any) -> Any: ...

    def steps(self, item: Any) -> Generator[None, None, Any]: ...


Value = TypeVar("Value")


def last(steps: Generator[None, None, Value]) -> Value:
    """What the steps return, one after the other in this thread."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


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
    environments: Sequence[Mapping[str, str]] = ({},),
    overlap: bool = False,
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
    environments : sequence of mappings
        Environment variables of local processes, which take them in turn: ``CUDA_VISIBLE_DEVICES`` of each GPU.
    overlap : bool
        ``function`` is ``Staged``, and each local process overlaps its stages; a file's time then begins when the
        one before it is done.

    Yields
    ------
    FileResult
        In the order of the items.

    Raises
    ------
    RawkitError
        The cluster cannot be reached or does not come back, the package ``distributed`` is not installed, or no
        process can be started.

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
        pool = _Pool(function, workers or usable_cores(), limits, environments, overlap=overlap)
        return _map_processes(pool, items)
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
        return FileResult(item, error=in_one_line(error), errno=getattr(error, "errno", None))


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


def _map_processes(pool: _Pool, items: Iterable[Item]) -> Generator[FileResult[Item, Any]]:
    todo = (_Task(index, item) for index, item in enumerate(items))
    suspects: deque[_Task[Item]] = deque()
    finished: dict[int, FileResult[Item, Any]] = {}
    following = 0  # index of the result to hand over next
    with contextlib.closing(pool):
        while True:
            while pool.has_room and not suspects and pool.newest - following < _WINDOW * pool.workers:
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
                    finished[task.index] = FileResult(task.item, error=DIED)
                else:
                    suspects.append(_Task(task.index, task.item, suspect=True))


class _Worker:
    """A process and the files it has, in the order of its answers."""

    def __init__(self, slot: int, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.slot = slot
        self.ready = False  # the first message says that the function is loaded
        self.tasks: deque[_Task] = deque()
        self.deadline = math.inf  # of the first task

    def end(self) -> None:
        """End the process: by closing its pipe when it is idle, by signals when it is at work."""
        self.pipe.close()
        if self.tasks:
            self.process.terminate()
        self.process.join(_GRACE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C reaches this thread at the end, and a process that is started here only when it is told to hear it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # Python starts it with the first process, and lets interrupts through then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Pool:
    """Local workers; each is started when there is a file for it."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        workers: int,
        limits: Limits,
        environments: Sequence[Mapping[str, str]],
        *,
        overlap: bool,
    ) -> None:
        self.function, self.workers, self.limits = function, workers, limits
        self.environments, self.overlap = environments, overlap
        self.each: int = function.stages if overlap else 1  # pyright: ignore[reportFunctionMemberAccess]
        self.staff: list[_Worker] = []
        self.newest = -1  # highest index assigned
        self.failed_starts = 0

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self.staff if worker.tasks]

    @property
    def has_room(self) -> bool:
        return sum(len(worker.tasks) for worker in self.staff) < self.workers * self.each

    def assign(self, task: _Task) -> None:
        """Give a task to the worker that has least to do, or to a new one; a suspect always to a new one."""
        idle = [worker for worker in self.staff if not worker.tasks]
        if idle and task.suspect:
            self._dismiss(idle.pop())
        if task.suspect or (not idle and len(self.staff) < self.workers):
            worker = self._hire()
        else:
            worker = min(self.staff, key=lambda worker: len(worker.tasks))
        worker.tasks.append(task)
        self.newest = max(self.newest, task.index)
        if worker.ready:
            self._begin(worker, task)

    def wait(self) -> list[tuple[_Task, FileResult | None]]:
        """Tasks that ended, at least by one limit or message; None as a result: the worker died with it."""
        left = min(worker.deadline for worker in self.busy) - time.monotonic()
        ready = connection.wait([worker.pipe for worker in self.busy], None if left == math.inf else max(left, 0.0))
        events = [event for worker in self.busy if worker.pipe in ready for event in self._message(worker)]
        for worker in self.busy:
            if worker.deadline <= time.monotonic():
                late, *others = worker.tasks
                reason = f"not done after {self.limits.seconds:g} s, the limit for one file"
                events.append((late, FileResult(late.item, error=reason)))
                events += [(other, None) for other in others]
                self._dismiss(worker)
        return events

    def close(self) -> None:
        """End all workers, and what is under way."""
        for worker in self.busy:
            worker.process.terminate()
        for worker in self.staff:
            worker.end()

    def _hire(self) -> _Worker:
        slot = min(set(range(self.workers)) - {worker.slot for worker in self.staff})
        environment = dict(self.environments[slot % len(self.environments)])
        worker = _Worker(slot, self.function, self.limits.memory, environment, self.overlap)
        self.staff.append(worker)
        return worker

    def _begin(self, worker: _Worker, task: _Task) -> None:
        """Send a task; the time of the first begins."""
        if task is worker.tasks[0]:
            self._set_deadline(worker)
        with contextlib.suppress(BrokenPipeError):  # it died while idle: the next wait finds its pipe at the end
            worker.pipe.send(task.item)

    def _set_deadline(self, worker: _Worker) -> None:
        limit = self.limits.seconds
        worker.deadline = math.inf if limit is None or not worker.tasks else time.monotonic() + limit

    def _message(self, worker: _Worker) -> Iterator[tuple[_Task, FileResult | None]]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._dismiss(worker)
            if worker.ready:
                yield from ((task, None) for task in worker.tasks)
                return
            self.failed_starts += 1
            if self.failed_starts >= _STARTS:
                code = worker.process.exitcode
                raise RawkitError(f"worker processes end before they begin (exit code {code}).") from None
            for task in worker.tasks:
                self.assign(task)
            return
        if isinstance(message, _Mistake):
            raise message.error from RuntimeError(message.trace)
        if not worker.ready:
            worker.ready, self.failed_starts = True, 0
            for task in worker.tasks:
                self._begin(worker, task)
            return
        task = worker.tasks.popleft()
        self._set_deadline(worker)
        yield task, message

    def _dismiss(self, worker: _Worker) -> None:
        worker.end()
        self.staff.remove(worker)


def _serve(
    pipe: connection.Connection,
    function: Callable[[Any], Any],
    memory: int | None,
    environment: dict[str, str],
    overlap: bool,
) -> None:
    """A worker's life: say that it is ready, then one result per item until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environment)
    _limit_memory(memory)
    pipe.send(None)
    if overlap:
        _answer_in_stages(pipe, function)  # pyright: ignore[reportArgumentType]
        return
    for item in _received(pipe):
        _answer(pipe, function, item)


def _received(pipe: connection.Connection) -> Iterator[Any]:
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        yield item


def _answer(pipe: connection.Connection, function: Callable[[Any], Any], item: Any) -> None:
    try:
        result = _run(function, item)
        try:
            pipe.send(result)
        except MemoryError:  # the copy that travels is the one too many
            pipe.send(FileResult(item, error="not enough memory to hand over the result"))
    except Exception as error:
        trace = traceback.format_exc()
        try:
            pipe.send(_Mistake(error, trace))
        except Exception:  # the exception itself cannot be sent
            pipe.send(_Mistake(RuntimeError(str(error)), trace))


def _answer_in_stages(pipe: connection.Connection, function: Staged) -> None:
    """A thread for each stage, which takes the items in their order."""
    lanes = [ThreadPoolExecutor(1) for _ in range(function.stages)]
    for item in _received(pipe):
        steps = function.steps(item)
        stage: Future[list] = lanes[0].submit(_advance, steps)
        for lane in lanes[1:-1]:
            stage = lane.submit(_advance, steps, stage)
        lanes[-1].submit(_answer, pipe, partial(_end, steps, stage), item)


def _advance(steps: Generator[None, None, Any], before: Future[list] | None = None) -> list[Any]:
    """The next stage after ``before``: an empty list, or the result in a list when it was the last."""
    if before is not None and before.result():
        return before.result()
    try:
        next(steps)
    except StopIteration as end:
        return [end.value]
    return []


def _end(steps: Generator[None, None, Any], before: Future[list], item: Any) -> Any:
    result = before.result()
    return result[0] if result else last(steps)


def _leave(number: int, frame: Any) -> None:
    """As an exception, so that ``finally`` removes temporary files; once, so that nothing breaks that off."""
    signal.signal(number, signal.SIG_IGN)
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
    waiting: deque[tuple[Item, Any]] = deque()

    def oldest() -> FileResult[Item, Result]:
        item, future = waiting.popleft()
        failed = False
        for _ in range(_LOSSES):
            try:
                return cluster.result(future)
            except _ClusterLost:
                cluster.reconnect()
                future, others = cluster.send(item), [other for other, _ in waiting]
                waiting.clear()
                waiting.extend((other, cluster.send(other)) for other in others)
            except RawkitError:
                raise
            except Exception as error:  # KilledWorker, or something that cannot be sent or loaded
                if failed:
                    return FileResult(item, error=f"the cluster gave no result, twice ({type(error).__name__})")
                failed, future = True, cluster.send(item)
        raise cluster.gone()

    with contextlib.closing(_Cluster(address, function)) as cluster:
        ahead = _AHEAD * (workers or cluster.threads)
        for item in items:
            waiting.append((item, cluster.send(item)))
            if len(waiting) >= ahead:
                yield oldest()
        while waiting:
            yield oldest()


class _ClusterLost(Exception):
    """The scheduler, or all workers, are gone: what was under way must be sent again."""


class _Cluster:
    """A Dask cluster and the function it works on; after ``reconnect`` it knows nothing of what was sent before."""

    def __init__(self, address: str, function: Callable[[Any], Any]) -> None:
        try:
            import distributed
        except ImportError:
            raise RawkitError(
                f"a Dask cluster ({address}) needs the package 'distributed'; run: pip install distributed."
            ) from None
        self.address, self.function, self.new_client = address, function, distributed.Client
        try:
            self.client = self._connected()
        except (OSError, ValueError) as error:
            raise RawkitError(f"no Dask scheduler answers at {address} ({type(error).__name__}).") from None
        try:
            self.client.wait_for_workers(1, timeout=CLUSTER_RETURN)
        except OSError:
            self.close()
            raise RawkitError(
                f"the Dask cluster at {address} has had no worker for {CLUSTER_RETURN:g} s; start some: dask worker "
                f"{address}."
            ) from None

    @property
    def threads(self) -> int:
        """Files that all workers together take at a time."""
        each: Any = self.client.nthreads()
        return max(1, sum(each.values()))

    def send(self, item: Any) -> Any:
        """A future of the item's result."""
        try:
            return self.client.submit(_run, self.function, item, pure=False)
        except Exception as error:  # of a client that is closed
            return error

    def result(self, future: Any) -> Any:
        """What a future holds, as soon as it is there.

        Raises
        ------
        _ClusterLost
        """
        if isinstance(future, Exception):
            raise _ClusterLost from future
        seen = time.monotonic()  # a worker
        while True:
            try:
                return future.result(timeout=_LOOK)
            except TimeoutError:
                pass
            except (OSError, CancelledError) as error:  # of the connection: the function's own are results
                raise _ClusterLost from error
            try:
                if self.client.nthreads():
                    seen = time.monotonic()
            except Exception as error:  # many kinds, of a connection that is closing
                raise _ClusterLost from error
            if time.monotonic() > seen + CLUSTER_RETURN:
                raise self.gone()

    def reconnect(self) -> None:
        """Wait for the scheduler and a worker.

        Raises
        ------
        RawkitError
            They did not come back in time.
        """
        deadline = time.monotonic() + CLUSTER_RETURN
        self.close()
        while True:
            try:
                self.client = self._connected()
                self.client.wait_for_workers(1, timeout=max(deadline - time.monotonic(), 1.0))
                return
            except Exception:  # many kinds, while a scheduler starts or ends
                self.close()
                if time.monotonic() > deadline:
                    raise self.gone() from None
                time.sleep(1.0)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # it may be lost already
            self.client.close(timeout=_GRACE)

    def _connected(self) -> Any:
        return self.new_client(self.address, timeout=_CONNECT, set_as_default=False)

    def gone(self) -> RawkitError:
        """What to say when it does not come back."""
        return RawkitError(
            f"the Dask cluster at {self.address} was lost and has not come back within {CLUSTER_RETURN:g} s; finished "
            "files are whole, and the same command does the others."
        )


@contextlib.contextmanager
def relayed(progress: Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, total) that may be given to a local worker; it calls ``progress`` here.

    It travels with the function of ``map_files``, when its processes start.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)

    def hear() -> None:
        with contextlib.suppress(EOFError, OSError):
            while (told := ours.recv()) is not None:
                progress(*told)

    listener = threading.Thread(target=hear, daemon=True)
    listener.start()
    try:
        yield partial(_tell, theirs)
    finally:
        theirs.send(None)
        listener.join()
        ours.close()
        theirs.close()


def _tell(pipe: connection.Connection, done: int, total: int) -> None:
    with _telling:
        pipe.send((done, total))
