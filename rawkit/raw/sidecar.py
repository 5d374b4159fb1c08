"""XMP sidecars: edits that other programs keep in a file of their own, beside the raw.

Two customs of naming: ``IMG_1.xmp`` (Adobe and most others) and ``IMG_1.NEF.xmp`` (darktable, digiKam).  A copy keeps
the custom of its original.  Reference: XMP specification part 3, section 3 (external storage).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rawkit.errors import OutputExistsError
from rawkit.resources import replacing


def sidecars(raw: Path) -> tuple[Path, ...]:
    """The XMP files that belong to a raw file."""
    names = {f"{raw.stem}.xmp".lower(), f"{raw.name}.xmp".lower()}
    return tuple(sorted(p for p in raw.parent.glob("*.[xX][mM][pP]") if p.name.lower() in names and p.is_file()))


def copy_sidecars(raw: Path, output: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Copy the sidecars of ``raw`` beside ``output`` under its name, byte for byte.

    Raises
    ------
    OutputExistsError
        A sidecar of ``output`` is there and ``overwrite`` is false; none has been copied then.
    """
    pairs = []
    for old in sidecars(raw):
        name = output.name if old.name.lower() == f"{raw.name}.xmp".lower() else output.stem
        pairs.append((old, output.with_name(f"{name}.xmp")))
    taken = next((new for _, new in pairs if new.exists()), None)
    if taken is not None and not overwrite:
        raise OutputExistsError(f"{taken} exists; use --overwrite to replace it, or choose another folder with -o.")
    for old, new in pairs:
        with replacing(new, overwrite=overwrite) as temporary:
            shutil.copyfile(old, temporary)
    return tuple(new for _, new in pairs)
