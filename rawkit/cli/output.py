"""Consoles, exit codes, progress and summaries that the commands share.

What is printed comes from files that anybody may have written: it is shown as it is, no part of it is markup.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

FAILED, USAGE, SKIPPED, INTERRUPTED = 1, 2, 3, 130
_bars: list[Progress] = []  # that are shown now


class _BesideBars(Console):
    """A console of plain text, which takes the progress bar off the terminal while it prints."""

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(stderr=stderr, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        for bar in _bars:
            bar.stop()
        try:
            super().print(*objects, **options)
        finally:
            for bar in _bars:
                bar.start()


out = _BesideBars(stderr=False)
err = _BesideBars(stderr=True)


def stop(message: str, code: int) -> NoReturn:
    """Print one line to stderr and leave."""
    err.print("rawkit: " + " ".join(message.split()))
    sys.exit(code)


def print_json(document: Any) -> None:
    sys.stdout.write(to_json(document, indent=1) + "\n")


def to_json(document: Any, *, indent: int | None = None) -> str:
    """JSON of anything that results hold: arrays are lists, paths text, and numbers that JSON lacks (NaN) are null.

    Examples
    --------
    >>> to_json({"page": Path("a.html"), "interval": (1.5, math.inf)})
    '{"page": "a.html", "interval": [1.5, null]}'
    """
    return json.dumps(_plain(document), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


@contextmanager
def _shown_bar(*columns: ProgressColumn, quiet: bool) -> Iterator[Progress]:
    """A bar on the terminal, gone at the end; none where stderr is a file."""
    quiet = quiet or not err.is_terminal
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        _bars.append(bar)
        try:
            yield bar
        finally:
            _bars.remove(bar)


def _label() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


@contextmanager
def progress_bar(text: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, total); silent for machines."""
    columns = (_label(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _shown_bar(*columns, quiet=quiet) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def finish(results: list[dict[str, Any]], *, as_json: bool, verb: str) -> NoReturn:
    """Print the summary of a batch and leave with its exit code."""
    failed = [r for r in results if r["status"] == "failed"]
    skipped = [r for r in results if r["status"] == "skipped"]
    already = sum(r["status"] == "already done" for r in results)
    done = len(results) - len(failed) - len(skipped) - already
    if as_json:
        print_json({"files": results, "done": done, "already_done": already, "skipped": len(skipped),
                    "failed": len(failed)})  # fmt: skip
    elif len(results) > 1:
        before = f"{already} already done, " if already else ""
        out.print(f"{done} {verb}, {before}{len(skipped)} skipped, {len(failed)} failed")
        if failed:
            table = Table("failed", "why", box=None, pad_edge=False)
            table.columns[1].overflow = "fold"
            for result in failed:
                reason = result["reason"].removeprefix(f"{result['input']}: ")
                table.add_row(Text(Path(result["input"]).name), Text(reason))
            out.print(table)
    sys.exit(FAILED if failed else SKIPPED if skipped else 0)


def tell_trouble(result: dict[str, Any]) -> None:
    """One line on stderr for a file that failed or was skipped."""
    if result["status"] in ("failed", "skipped"):
        err.print(f"rawkit: {result['status']}: {result['reason']}")


class RateColumn(ProgressColumn):
    """Files per minute."""

    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{60 * speed:.1f}/min")


@contextmanager
def batch_bar(text: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Progress of a batch: files done, their rate, the time that remains; call it once per file."""
    columns = (
        _label(), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn(), TextColumn("remaining"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with _shown_bar(*columns, quiet=quiet) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
