"""Which files a page may open: those of one folder, and nothing that leads out of it.

A name from the page is opened only when it is among the names that the page was given, has no step upwards, no root
and no NUL, and when the file it leads to, all links followed, lies below the folder, all links followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from rawkit.batch import find_inputs
from rawkit.errors import RawkitError


class OutsideError(RawkitError):
    """A name leads out of the opened folder."""


class UnknownFileError(RawkitError):
    """The opened folder has no raw file of that name."""


@dataclass(frozen=True)
class Folder:
    """The opened file, or the opened folder.

    Parameters
    ----------
    root : Path
        Folder.
    only : str or None
        The one file of it that was opened; None: all its raw files.
    """

    root: Path
    only: str | None = None

    @classmethod
    def of(cls, path: Path) -> Folder:
        """Of a file or a folder as the user named it."""
        if not path.exists():
            raise ValueError(f"{path} is not there.")
        if path.is_dir():
            find_inputs([path])  # says so when it holds no raw files
            return cls(path)
        return cls(path.parent, path.name)

    def names(self) -> list[str]:
        """Names of the files that may be opened, sorted."""
        if self.only is not None:
            return [self.only]
        try:
            return [item.path.name for item in find_inputs([self.root]) if self._inside(item.path)]
        except ValueError:
            return []  # the last one was taken away meanwhile

    def path(self, name: str) -> Path:
        """The file of that name.

        Raises
        ------
        OutsideError, UnknownFileError
        """
        forms = (PurePosixPath(name), PureWindowsPath(name))
        if "\0" in name or any(form.anchor or ".." in form.parts for form in forms):
            raise OutsideError(f"{name!r} is not inside the opened folder.")
        path = self.root / name
        if self.only is None and not self._inside(path):
            raise OutsideError(f"{name!r} leads out of the opened folder.")
        if name not in self.names() or not path.is_file():
            raise UnknownFileError(f"the opened folder has no raw file {name!r}.")
        return path

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())
