"""Options of commands that work on many files, and the loops over files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rawkit.cli.output import USAGE, plain, stop, tell_trouble
from rawkit.errors import OutputExistsError, RawkitError

_GIGABYTE = 10**9
TIME_LIMIT = 1800.0  # seconds for one file of a batch


class BatchOptions:
    """Where the files of a batch are worked on, and what each may cost."""

    def __init__(
        self, workers: int, cluster: str | None, time_limit: float, memory: float | None, log: Path | None
    ) -> None:
        if cluster is not None and "://" not in cluster:
            stop(f"--cluster takes the address of a Dask scheduler as tcp://HOST:PORT, found {cluster}.", USAGE)
        if not time_limit > 0 or (memory is not None and not memory > 0):
            stop("--time-limit and --memory take positive numbers.", USAGE)
        self.workers, self.cluster, self.time_limit, self.log = workers, cluster, time_limit, log
        self.memory = None if memory is None else int(memory * _GIGABYTE)

    def is_serial(self, count: int) -> bool:
        """One file needs no process of its own."""
        return count == 1 and self.workers == 1 and self.cluster is None

    @property
    def threads(self) -> int | None:
        """Of each process; None: as many as there are cores."""
        from rawkit.parallel import usable_cores

        if self.cluster is not None:
            return 1
        return None if self.workers == 1 else max(1, usable_cores() // self.workers)

    def mapper(self, count: int, *, on_gpu: bool = False) -> Any:
        """``map_files`` for a batch of ``count`` files; a GPU's driver maps more memory than it uses."""
        from functools import partial

        from rawkit.parallel import PROCESSES, SERIAL, Limits, map_files, physical_memory

        if self.is_serial(count):
            return partial(map_files, backend=SERIAL)
        if self.cluster is not None:
            logging.disable()  # Dask tells of every lost connection, with tracebacks; map_files mends it
            return partial(map_files, backend=self.cluster)
        workers = min(self.workers, count)
        if self.threads is not None:  # the processes share the cores; their libraries would each take all
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, str(self.threads))
        installed = None if on_gpu else physical_memory()
        memory = self.memory or (None if installed is None else installed // workers)
        return partial(map_files, backend=PROCESSES, workers=workers, limits=Limits(self.time_limit, memory))

    def note(self, result: dict[str, Any]) -> None:
        """Add a line to the log."""
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a", encoding="utf-8") as file:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                file.write(json.dumps({"time": time, **result}, default=plain) + "\n")


def run_batch(files: list[Path], work: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the work on every file; one bad file does not stop the others."""
    results = []
    for path in files:
        try:
            results.append({"input": str(path), "status": "done", **work(path)})
        except OutputExistsError as error:
            results.append({"input": str(path), "status": "skipped", "reason": str(error)})
            tell_trouble(results[-1])
        except (RawkitError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            results.append({"input": str(path), "status": "failed", "reason": reason})
            tell_trouble(results[-1])
    return results
