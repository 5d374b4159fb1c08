"""The ``rawkit`` command.  Each command parses, calls one public function and prints; there is no science here.

Exit codes: 0 all done; 1 some files failed; 2 the command cannot be carried out as given; 3 nothing failed, but
outputs that exist already were left alone; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys

from rawkit.cli import calibration, denoising, viewing, synthesis, demo  # isort: skip  (the order in the help)
from rawkit.cli.app import app
from rawkit.cli.output import FAILED, INTERRUPTED, stop
from rawkit.errors import RawkitError, of_system, own_fault

__all__ = ["app", "calibration", "demo", "denoising", "main", "synthesis", "viewing"]


def main() -> None:
    """Entry point: every error becomes one line and an exit code; ``RAWKIT_DEBUG=1`` shows where ours come from."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name need not be text
    try:
        app()
    except RawkitError as error:
        stop(str(error), FAILED)
    except Exception as error:
        if os.environ.get("RAWKIT_DEBUG"):
            raise
        stop(of_system(error) if isinstance(error, OSError) else own_fault(error), FAILED)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        stop("interrupted; files that were finished are whole, the others do not exist.", INTERRUPTED)
