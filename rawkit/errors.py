"""Every error rawkit raises on purpose.

Each message says what was found, what was needed and what to do, in one line, so that the command line
can print it as it stands.  Wrong arguments from a programmer are ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

from pathlib import Path


class RawkitError(Exception):
    """Base of all errors about the user's data."""


class UnsupportedRawError(RawkitError):
    """The file is not a raw image, is damaged, or uses a layout that cannot be decoded."""


class MetadataError(RawkitError):
    """A number that must come from the file (black, white, ISO, CFA ...) is missing or contradictory."""


class CalibrationError(RawkitError):
    """The frames cannot support the requested fit."""


class ProfileError(RawkitError):
    """A noise profile is missing, malformed, implausible, or does not fit the image."""


class WeightsError(RawkitError):
    """Model weights are missing, damaged, or belong to another architecture."""


class CalibrationWarning(UserWarning):
    """The result stands, but something about it should be looked at."""


class DamagedDataWarning(UserWarning):
    """The file was read, but its pixels are not those it was written with."""


class OutputExistsError(RawkitError):
    """The output is there already and nobody asked to replace it."""


def of_system(error: OSError) -> str:
    """One line about an error of the operating system: the file and the reason.

    Examples
    --------
    >>> of_system(FileNotFoundError(2, "No such file or directory", "a.dng"))
    'a.dng: No such file or directory'
    """
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or " ".join(str(error).split())


def in_one_line(error: Exception) -> str:
    """What an exception says, or its name where it says nothing.

    Examples
    --------
    >>> in_one_line(ValueError("two   words")), in_one_line(MemoryError())
    ('two words', 'MemoryError')
    """
    text = of_system(error) if isinstance(error, OSError) else " ".join(str(error).split())
    return text or type(error).__name__


def own_fault(error: Exception) -> str:
    """One line about an exception that is a mistake of ours: what, where, and that we want to know of it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
    text = " ".join(str(error).split())
    return f"rawkit itself failed ({type(error).__name__}{where}: {text}); please report it."
