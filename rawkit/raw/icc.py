"""Minimal ICC profiles of linear RGB spaces: what tells a program which colors plain numbers are.

A version 4 matrix/TRC display profile: the tone curve is the identity, the columns of the matrix are the primaries as
CIE XYZ [relative to white Y = 1], adapted from D65 to the profile connection space's D50 by the Bradford transform:

    M = (P diag(P^-1 w)),  P: columns (x/y, 1, z/y) of the primaries, w: XYZ of white
    M50 = B^-1 diag(B w50 / B w) B M

References: ICC.1:2022 (profile version 4.4), sections 7.2 (header), 9 and 10 (tags and types), annex E (Bradford);
ITU-R BT.2020-2, table 4; IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

# CIE x, y of the red, green and blue primaries
REC2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_D65 = (0.3127, 0.3290)  # CIE x, y
_D50 = np.array([0.9642, 1.0, 0.8249])  # of the profile connection space, ICC.1 section 7.2.16
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_VERSION = 0x04400000
_DATE = (2026, 1, 1, 0, 0, 0)  # of this definition: the same profile is the same bytes
_COPYRIGHT = "CC0: no rights reserved"

Primaries = tuple[tuple[float, float], ...]


def xyz_from_rgb(primaries: Primaries) -> NDArray[np.float64]:
    """(3, 3) linear RGB with white D65 to CIE XYZ.

    Examples
    --------
    >>> xyz_from_rgb(REC2020)[1].round(4).tolist()
    [0.2627, 0.678, 0.0593]
    """
    columns = np.array([_xyz(point) for point in primaries]).T
    return columns * np.linalg.solve(columns, _xyz(_D65))


def _xyz(point: tuple[float, float]) -> NDArray[np.float64]:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def adaptation() -> NDArray[np.float64]:
    """(3, 3) Bradford transform of XYZ from D65 to D50."""
    cones = _BRADFORD @ np.stack([_xyz(_D65), _D50], axis=1)
    scale = np.diag(cones[:, 1] / cones[:, 0])
    return np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD


def linear_profile(name: str, primaries: Primaries) -> bytes:
    """The profile of a linear RGB space with white D65.

    Parameters
    ----------
    name : str
        Its description.
    primaries : ((x, y), (x, y), (x, y))
        CIE chromaticities of red, green and blue.
    """
    adapt = adaptation()
    columns = (adapt @ xyz_from_rgb(primaries)).T
    curve = b"curv" + bytes(8)  # count 0: identity
    tags = {
        b"desc": _text(name),
        b"cprt": _text(_COPYRIGHT),
        b"wtpt": _numbers(b"XYZ ", _D50),
        b"chad": _numbers(b"sf32", adapt.ravel()),
        b"rXYZ": _numbers(b"XYZ ", columns[0]),
        b"gXYZ": _numbers(b"XYZ ", columns[1]),
        b"bXYZ": _numbers(b"XYZ ", columns[2]),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start = 128 + 4 + 12 * len(tags)
    table, data, places = b"", b"", {}
    for signature, block in tags.items():
        if block not in places:  # the three curves share their bytes
            places[block] = start + len(data)
            data += block + bytes(-len(block) % 4)
        table += signature + struct.pack(">II", places[block], len(block))
    size = start + len(data)
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s4sQI12s4s44x",
        size, bytes(4), _VERSION, b"mntr", b"RGB ", b"XYZ ", *_DATE, b"acsp", bytes(4), 0, bytes(4), bytes(4), 0, 0,
        _fixed(_D50), bytes(4),
    )  # fmt: skip
    profile = header + struct.pack(">I", len(tags)) + table + data
    # Profile ID: MD5 with flags, rendering intent and the ID itself zero, as they are here.
    return profile[:84] + hashlib.md5(profile, usedforsecurity=False).digest() + profile[100:]


def _fixed(values: NDArray) -> bytes:
    """s15Fixed16Number."""
    return struct.pack(f">{len(values)}i", *(round(float(v) * 65536) for v in values))


def _numbers(kind: bytes, values: NDArray) -> bytes:
    return kind + bytes(4) + _fixed(values)


def _text(text: str) -> bytes:
    """multiLocalizedUnicodeType, one record in American English."""
    words = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words
