"""Where rawkit's own data files and the user's profiles lie.

Data travel beside the package: in a checkout as ``calibration_data/``, in a wheel as
``rawkit/_data/calibration_data/``.  The user's own profiles lie in the platform's data folder, or in the folder
named by the environment variable ``RAWKIT_PROFILES``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from rawkit.errors import OutputExistsError, ProfileError, WeightsError

PACKAGE = Path(__file__).resolve().parent
_DIGITS = 18  # of a whole number: what 64 bits hold


def data_folder(name: str) -> Path:
    """Folder of packaged data, e.g. ``"calibration_data"``; from the wheel, else from the checkout."""
    for folder in (PACKAGE / "_data" / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ProfileError(f"the folder {name} that belongs to rawkit is missing; install rawkit again.")


def bundled_profiles() -> list[Path]:
    """Profiles that come with rawkit, sorted by name."""
    return sorted((data_folder("calibration_data") / "profiles").glob("*.json"))


def find_recipe(name: str) -> Path:
    """A recipe of training: the name of a bundled one, or a TOML file.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    folder = data_folder("models") / "recipes"
    for path in (folder / f"{name}.toml", Path(name)):
        if path.is_file():
            return path
    bundled = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
    raise ValueError(f"there is no recipe {name}; there are: {bundled}, or give a TOML file.")


def library_folder() -> Path:
    """The user's own profiles; the folder need not exist."""
    chosen = os.environ.get("RAWKIT_PROFILES")
    if chosen:
        return Path(chosen)
    from platformdirs import user_data_path

    return user_data_path("rawkit", appauthor=False) / "profiles"


def library_digest() -> str | None:
    """SHA-256 of the contents of the user's own profiles, in the order of their names; None where there are none."""
    contents = "".join(sha256(path) for path in sorted(library_folder().glob("*.json")))
    return hashlib.sha256(contents.encode()).hexdigest() if contents else None


@lru_cache(maxsize=1)
def profile_validator() -> Callable[[Any], str | None]:
    """Function that checks a decoded profile against the JSON Schema: None if it fits, else what does not."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = json.loads((data_folder("calibration_data") / "schema.json").read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema)

    def check(document: Any) -> str | None:
        error = best_match(validator.iter_errors(document))
        if error is None:
            return None
        where = "/".join(str(part) for part in error.absolute_path) or "the top level"
        return f"at {where}: {error.message}"

    return check


def parse_json(text: str | bytes) -> Any:
    """Decoded JSON of a file that anybody may have written: every number in it is finite.

    Raises
    ------
    ValueError
        Not JSON, NaN or Infinity (which JSON does not have), a number beyond what a float holds, or deeper nesting
        than the parser follows.

    Examples
    --------
    >>> parse_json('{"iso": 100, "gain": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 must be a number that a float holds.
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word[:20]} must be a number that a float holds.")

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= _DIGITS else refuse(digits)

    def broken(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits)

    try:
        return json.loads(text, parse_int=whole, parse_float=broken, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None


def bundled_weights() -> dict[str, dict[str, Any]]:
    """Network weights that come with rawkit: name -> file, sha256, bytes, card (``models/manifest.json``)."""
    manifest = data_folder("models") / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["weights"]


def find_weights(name: str, *, also: tuple[str, ...] = ()) -> Path:
    """File of a network's weights, checked against its SHA-256 when it is one of ours.

    Parameters
    ----------
    name : str
        Name of bundled weights, or a path ending in .safetensors.
    also : names that need no weights, for the message

    Raises
    ------
    WeightsError
        No such weights, or the file differs from the one that was published.
    """
    if name.endswith(".safetensors"):
        return Path(name)
    bundled = bundled_weights()
    if name not in bundled:
        known = ", ".join((*also, *bundled))
        raise WeightsError(f"no denoiser named {name!r}; there are: {known}; or give a .safetensors file.")
    path = data_folder("models") / bundled[name]["file"]
    if not path.is_file():
        raise WeightsError(f"{path.name} is missing from {path.parent}; install rawkit again.")
    if sha256(path) != bundled[name]["sha256"]:
        raise WeightsError(f"{path.name} is not the file that was published (other SHA-256); install rawkit again.")
    return path


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary path in the same folder; when the block ends well it becomes ``path``, when it fails it
    is removed and ``path`` is untouched.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; use --overwrite to replace it, or choose another folder with -o.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
