"""Tags that only ExifTool knows, on request: an external program, never needed.

A fresh DNG carries EXIF, GPS, XMP, IPTC and the maker note by rawkit's own means.  ExifTool writes in addition what it
derives from maker notes and other containers; tags that are there are not touched (``-wm cg``: create only).

Reference: P. Harvey, ExifTool, "Application documentation", options -tagsFromFile and -wm.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from rawkit.errors import RawkitError

_TIMEOUT = 60.0  # s; a healthy file takes less than one
_COPY = ("-EXIF:all", "-GPS:all", "-XMP:all", "-IPTC:all")


def add_missing(source: Path, target: Path) -> tuple[str, ...]:
    """Let ExifTool add to ``target`` the tags of ``source`` that it lacks.

    Returns
    -------
    tuple of str
        Names of the tags that were added, as ``group:tag``.

    Raises
    ------
    RawkitError
        ExifTool is not installed, takes too long, or refuses.
    """
    program = shutil.which("exiftool")
    if program is None:
        raise RawkitError("exiftool is not installed; leave --exiftool out, rawkit carries EXIF, GPS and XMP itself.")
    before = _tags(program, target)
    _run(
        program,
        ["-q", "-q", "-m", "-overwrite_original", "-wm", "cg", "-tagsFromFile", str(source.resolve()), *_COPY,
         "--", str(target.resolve())],
    )  # fmt: skip
    return tuple(sorted(_tags(program, target) - before))


def _tags(program: str, path: Path) -> set[str]:
    listed = json.loads(_run(program, ["-j", "-G1", "-a", "-m", "-q", "-q", "--", str(path.resolve())]))
    skipped = ("System:", "File:", "ExifTool:", "Composite:")
    return {name for name in listed[0] if name != "SourceFile" and not name.startswith(skipped)}


def _run(program: str, arguments: list[str]) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise RawkitError(f"exiftool took longer than {_TIMEOUT:g} s; leave --exiftool out for this file.") from error
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise RawkitError(f"exiftool refused ({reason}); leave --exiftool out for this file.")
    return done.stdout
