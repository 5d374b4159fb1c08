"""Options of commands that work on many files, and how such a command goes."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rawkit.cli.output import USAGE, batch_bar, stop, tell_trouble, to_json
from rawkit.errors import of_system

if TYPE_CHECKING:
    from rawkit.batch import Input, Job
    from rawkit.parallel import MapFunction

_GIGABYTE = 10**9
TIME_LIMIT = 1800.0  # seconds for one file of a batch


def inputs_or_stop(files: list[Path], *, recursive: bool, also: Collection[str] = ()) -> list[Input]:
    """``rawkit.batch.find_inputs``; a path that leads to nothing ends the program."""
    from rawkit.batch import find_inputs

    try:
        return find_inputs(files, recursive=recursive, also=also)
    except ValueError as error:
        stop(str(error), USAGE)
    except OSError as error:
        stop(of_system(error), USAGE)


def jobs_for(inputs: Sequence[Input], output: Path | None, name: Callable[[Path], str]) -> list[Job]:
    """Outputs beside their inputs, or in folders under ``output`` like those that the inputs were found in."""
    from rawkit.batch import Job

    return [
        Job(item.path, (output / item.subfolder if output else item.path.parent) / name(item.path)) for item in inputs
    ]


class BatchOptions:
    """Where the files of a batch are worked on, and what each may cost.

    Parameters
    ----------
    workers : int or None
        Files at a time; None: one, or one per GPU.
    gpus : sequence of mappings
        Environment of a process for each GPU (``rawkit.devices.environments``); empty: the work is not on GPUs.
    """

    def __init__(
        self,
        workers: int | None,
        cluster: str | None,
        time_limit: float,
        memory: float | None,
        log: Path | None,
        *,
        gpus: Sequence[Mapping[str, str]] = (),
    ) -> None:
        if cluster is not None and "://" not in cluster:
            stop(f"--cluster takes the address of a Dask scheduler as tcp://HOST:PORT, found {cluster}.", USAGE)
        for name, value in (("time-limit", time_limit), ("memory", memory)):
            if value is not None and not 0 < value < math.inf:
                stop(f"--{name} takes a positive number, found {value:g}.", USAGE)
        if cluster is not None and (workers, time_limit, memory) != (None, TIME_LIMIT, None):
            stop(
                "--workers, --time-limit and --memory are of this computer; a cluster's workers have their own.", USAGE
            )
        self.workers, self.gpus = workers or max(1, len(gpus)), gpus
        self.cluster, self.time_limit, self.log = cluster, time_limit, log
        self.memory = None if memory is None else math.ceil(memory * _GIGABYTE)

    def is_single(self, count: int) -> bool:
        """One file on this computer: it is told of as it goes, not as part of a batch."""
        return count == 1 and self.workers == 1 and self.cluster is None

    @property
    def threads(self) -> int | None:
        """Of each process; None: as many as there are cores."""
        from rawkit.parallel import usable_cores

        if self.cluster is not None:
            return 1
        return None if self.workers == 1 else max(1, usable_cores() // self.workers)

    def mapper(self, count: int) -> MapFunction:
        """``map_files`` for a batch of ``count`` files."""
        from rawkit.parallel import PROCESSES, Limits, map_files, physical_memory

        if self.cluster is not None:
            logging.disable()  # Dask tells of every lost connection, with tracebacks; map_files mends it
            return partial(map_files, backend=self.cluster)
        workers = max(1, min(self.workers, count))  # of a finished data set nothing is left to make
        if self.threads is not None:  # the processes share the cores; their libraries would each take all
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(self.threads))
        installed = None if self.gpus else physical_memory()  # a GPU's driver maps more memory than it uses
        memory = self.memory or (None if installed is None else installed // workers)
        return partial(
            map_files, backend=PROCESSES, workers=workers, limits=Limits(self.time_limit, memory),
            environments=self.gpus or ({},), overlap=bool(self.gpus),
        )  # fmt: skip

    def collect(
        self,
        outcomes: Generator[dict[str, Any]],
        count: int,
        *,
        text: str,
        as_json: bool,
        tell: Callable[[dict[str, Any]], None],
    ) -> list[dict[str, Any]]:
        """All results, each logged and told as it comes, under a bar that is called ``text``."""
        results = []
        log = self._opened_log()
        with batch_bar(text, count, quiet=as_json or self.is_single(count)) as advance, closing(outcomes), log as lines:
            for result in outcomes:
                results.append(result)
                if lines is not None:
                    time = datetime.now(UTC).isoformat(timespec="seconds")
                    lines.write(to_json({"time": time, **result}) + "\n")
                advance()
                tell_trouble(result)
                if not as_json:
                    tell(result)
        return results

    def _opened_log(self) -> AbstractContextManager[TextIO | None]:
        """The log, to add lines to, before the first file is worked on."""
        if self.log is None:
            return nullcontext()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return open(self.log, "a", encoding="utf-8", buffering=1)
        except OSError as error:
            stop(f"the log cannot be written: {of_system(error)}", USAGE)
