"""Options of commands that work on many files, and how such a command goes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rawkit.cli.output import USAGE, batch_bar, plain, stop, tell_trouble

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
        if not time_limit > 0 or (memory is not None and not memory > 0):
            stop("--time-limit and --memory take positive numbers.", USAGE)
        self.workers, self.gpus = workers or max(1, len(gpus)), gpus
        self.cluster, self.time_limit, self.log = cluster, time_limit, log
        self.memory = None if memory is None else int(memory * _GIGABYTE)

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
        with batch_bar(text, count, quiet=as_json or self.is_single(count)) as advance, closing(outcomes):
            for result in outcomes:
                results.append(result)
                self._note(result)
                advance()
                tell_trouble(result)
                if not as_json:
                    tell(result)
        return results

    def _note(self, result: dict[str, Any]) -> None:
        """Add a line to the log."""
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                file.write(json.dumps({"time": time, **result}, default=plain) + "\n")
