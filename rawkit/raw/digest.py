"""MD5 digests by which DNG readers notice damaged raw data.

Both are taken over the whole stored raster, masked borders included, as little-endian samples:

    RawImageDigest (50972)     MD5 of the samples in row order           (DNG 1.7.1 specification, chapter 4)
    NewRawImageDigest (51111)  MD5 of the digests of cells of at most 256 x 256 pixels in row-major order; edge
                               cells are cut, not padded; a cell of several planes is hashed plane after plane

The cell order of the second is not in the specification but in Adobe's DNG SDK; both were checked against files
of that SDK (uint16 and float32 linear, and a Bayer file of the Adobe DNG Converter).  A transparency mask joins as
MD5(image digest, mask digest).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_CELL = 256  # pixels


def _little_endian(samples: NDArray) -> bytes:
    return np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes()


def raw_image_digest(samples: NDArray) -> bytes:
    """Old digest (tag 50972) of (H, W) or (H, W, C) stored samples: 16 bytes."""
    return hashlib.md5(_little_endian(samples), usedforsecurity=False).digest()


def new_raw_image_digest(samples: NDArray, mask: NDArray | None = None) -> bytes:
    """New digest (tag 51111).

    Parameters
    ----------
    samples : (H, W) or (H, W, C) uint16 or float32, as stored
    mask : (H, W) uint8 or uint16 or None
        Transparency mask stored beside it.

    Returns
    -------
    bytes, 16

    Examples
    --------
    >>> one_cell = hashlib.md5(hashlib.md5(bytes(8)).digest()).digest()
    >>> new_raw_image_digest(np.zeros((2, 2), np.uint16)) == one_cell
    True
    """
    height, width = samples.shape[:2]
    rows, cols = min(_CELL, height), min(_CELL, width)

    def band(top: int) -> bytes:
        digests = b""
        for left in range(0, width, cols):
            cell = samples[top : top + rows, left : left + cols]
            planar = np.moveaxis(cell, 2, 0) if cell.ndim == 3 else cell
            digests += hashlib.md5(_little_endian(planar), usedforsecurity=False).digest()
        return digests

    with ThreadPoolExecutor() as pool:
        image = hashlib.md5(b"".join(pool.map(band, range(0, height, rows))), usedforsecurity=False).digest()
    if mask is None:
        return image
    return hashlib.md5(image + new_raw_image_digest(mask), usedforsecurity=False).digest()
