"""One Bayer arrangement for all: RGGB planes of any Bayer mosaic, and the turns that keep the arrangement.

A mirror about a border pixel keeps the color of every pixel of a Bayer array, since rows and columns alternate with
period two.  So any arrangement becomes RGGB by mirroring one row or column in front, and an RGGB mosaic of an odd
number of columns is RGGB again when it is read from right to left.  Transposing RGGB swaps Gr and Gb only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rawkit.raw.image import CFA, pack, pad_to_period, unpack

_CANONICAL = "RGGB"
_RGGB = CFA.bayer(_CANONICAL)

#: The eight turns of a square: transpose first, then flip rows, then flip columns.
TURNS = tuple((t, r, c) for t in (False, True) for r in (False, True) for c in (False, True))


def canonical(cfa: CFA) -> CFA:
    """RGGB for any Bayer array, others unchanged."""
    return CFA.bayer(_CANONICAL) if cfa.is_bayer else cfa


def _lead(cfa: CFA) -> tuple[int, int]:
    """Rows and columns to put before a mosaic so that it starts at the red pixel of a Bayer array."""
    if not cfa.is_bayer:
        return 0, 0
    row, col = divmod(cfa.pattern.index("R"), 2)
    return row, col


def canonical_planes(signal: NDArray[np.float32], cfa: CFA) -> NDArray[np.float32]:
    """Planes of a mosaic, Bayer brought to RGGB, continued by mirroring to whole periods.

    A mirror about a border pixel keeps the color phase of a Bayer array.  Other arrays are only continued at
    the bottom and right, by repeating the last period's pixels of the same phase.

    Examples
    --------
    >>> canonical_planes(np.arange(12, dtype=np.float32).reshape(3, 4), CFA.bayer("GBRG"))[0].tolist()
    [[4.0, 6.0], [4.0, 6.0]]
    """
    if not cfa.is_bayer:
        return pack(pad_to_period(signal, cfa), cfa)
    if min(signal.shape) < 2:
        raise ValueError(f"mosaic {signal.shape} is smaller than one Bayer period.")
    before = _lead(cfa)
    pads = [(first, (first + size) % 2) for first, size in zip(before, signal.shape, strict=True)]
    return pack(np.asarray(np.pad(signal, pads, mode="reflect"), np.float32), canonical(cfa))


def from_canonical_planes(planes: NDArray, cfa: CFA, shape: tuple[int, ...]) -> NDArray:
    """Inverse of ``canonical_planes`` for a mosaic of ``shape``."""
    top, left = _lead(cfa)
    return unpack(planes, canonical(cfa))[top : top + shape[0], left : left + shape[1]]


def turn(planes: NDArray[np.float32], *, transpose: bool, rows: bool, columns: bool) -> NDArray[np.float32]:
    """RGGB planes (4, h, w) of the mosaic transposed and read backwards; undone by ``turn_back``.

    A mosaic that is flipped grows by two rows or columns, its own pixels mirrored.
    """
    mosaic = unpack(planes, _RGGB)
    mosaic = mosaic.T if transpose else mosaic
    for axis, flip in enumerate((rows, columns)):
        if flip:  # to odd length, then backwards, then to even length
            mosaic = np.flip(_mirrored(mosaic, axis), axis)
            mosaic = _mirrored(mosaic, axis)
    return pack(np.ascontiguousarray(mosaic), _RGGB)


def turn_back(planes: NDArray[np.float32], *, transpose: bool, rows: bool, columns: bool) -> NDArray[np.float32]:
    """Inverse of ``turn``."""
    mosaic = unpack(planes, _RGGB)
    for axis, flip in enumerate((rows, columns)):
        if flip:
            keep = [slice(None), slice(None)]
            keep[axis] = slice(1, -1)
            mosaic = np.flip(mosaic[tuple(keep)], axis)
    return pack(np.ascontiguousarray(mosaic.T if transpose else mosaic), _RGGB)


def _mirrored(mosaic: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    pads = [(0, 0), (0, 0)]
    pads[axis] = (0, 1)
    return np.pad(mosaic, pads, mode="reflect")
