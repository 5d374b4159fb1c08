"""Consoles, exit codes, progress and summaries that the commands share."""

from __future__ import annotations

import json
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
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def stop(message: str, code: int) -> NoReturn:
    """Print one line to stderr and leave."""
    err.print("rawkit: " + " ".join(message.split()), markup=False, highlight=False)
    sys.exit(code)


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, default=plain) + "\n")


def plain(value: Any) -> Any:
    """Arrays as lists, paths as text, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def progress_bar(text: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress callback (done, total); silent for machines."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
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
        out.print(f"{done} {verb}, {before}{len(skipped)} skipped, {len(failed)} failed", highlight=False)
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
        err.print(f"rawkit: {result['status']}: {result['reason']}", markup=False, highlight=False)


class RateColumn(ProgressColumn):
    """Files per minute."""

    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{60 * speed:.1f}/min")


@contextmanager
def batch_bar(text: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Progress of a batch: files done, their rate, the time that remains; call it once per file."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeElapsedColumn(),
        TextColumn("remaining"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
