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

from rawkit.errors import UnsupportedRawError
from rawkit.raw import dng_pixels
from rawkit.raw.dng_directory import RawDirectory
from rawkit.raw.tiff import TiffFile

_CELL = 256  # pixels
_NEW_DIGEST, _OLD_DIGEST = 51111, 50972
_LINEARIZATION_TABLE = 50712
_MD5_BYTES = 16


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


def digest_mismatch(tiff: TiffFile, directory: RawDirectory, stored: NDArray) -> str | None:
    """Compare a DNG's raw data with the digest it records.

    Parameters
    ----------
    tiff, directory
        The file and its main raw image.
    stored : (H, W) or (H, W, C)
        Its decoded raster.

    Returns
    -------
    str or None
        What is wrong; None when the digest is right, absent, or cannot be checked.

    Notes
    -----
    Checked: NewRawImageDigest, or RawImageDigest where only that is there, of 9- to 16-bit integers and 32-bit floats,
    stored losslessly and without a LinearizationTable.  Of lossy data the digest is taken over compressed bytes, and
    how writers hash 8-bit and 16- or 24-bit float samples is not specified.  Not checked either where a transparency
    mask belongs to the digest and is damaged or of a form rawkit does not read.
    """
    raw = directory.ifd
    layout = dng_pixels.Layout.from_ifd(raw, len(tiff.data))
    lossless = layout.compression in (dng_pixels.UNCOMPRESSED, dng_pixels.JPEG, dng_pixels.DEFLATE)
    plain = layout.bits == 32 if layout.is_float else layout.bits > 8
    if not (lossless and plain) or _LINEARIZATION_TABLE in raw:
        return None
    for tag, name in ((_NEW_DIGEST, "NewRawImageDigest"), (_OLD_DIGEST, "RawImageDigest")):
        entry = directory.first.entries.get(tag)
        if entry is None or len(entry.data) != _MD5_BYTES or not any(entry.data):
            continue
        try:
            mask = dng_pixels.transparency_mask(tiff) if tag == _NEW_DIGEST else None
        except UnsupportedRawError:  # the picture can be read, what else the digest covers cannot
            return None
        found = new_raw_image_digest(stored, mask) if tag == _NEW_DIGEST else raw_image_digest(stored)
        if found == entry.data:
            return None
        return (
            f"The raw data do not have the {name} the file records ({found.hex()[:8]}..., not "
            f"{entry.data.hex()[:8]}...): they are damaged, or a program changed them and left the digest."
        )
    return None
