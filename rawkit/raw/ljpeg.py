"""Lossless JPEG encoder for the raw data of DNG files (ITU-T T.81 process 14, predictor 1).

Each sample x [DN, at most P bits] is predicted from its left neighbor in the same component, the first column
from the row above, the very first sample as 2**(P - 1).  What is coded is the difference

    d = x - prediction  (modulo 2**16, in [-32768, 32767]):  the Huffman code of its category
    s = bit length of abs(d), 0 to 16, and behind it s extra bits: d, or d + 2**s - 1 when d < 0

and category 16, which holds only -32768, carries no extra bits (T.81 H.1.2.2).

A mosaic tile of h x w pixels is coded as h x w/2 samples of 2 components, so that with a Bayer array the
neighbor of the same component is the neighbor of the same color.  DNG asks only that the number of samples
agrees (DNG 1.7.1, chapter 3, "Compression").  Predictor 1 because it is the one every raw reader knows.

References
----------
ITU-T Recommendation T.81 (1992), annexes C, F.1.2, H and K.2.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

_CATEGORIES = 17  # bit lengths 0 ... 16
_LONGEST_CODE = 16  # bits, T.81 annex C
_RESERVED = _CATEGORIES  # pseudo-symbol that takes the longest code, so that no real code is all ones

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_DHT, _SOF3, _SOS = 0xC4, 0xC3, 0xDA


def _category_table() -> NDArray[np.uint8]:
    """Bit length of abs(d) for each 16-bit pattern of d."""
    magnitude = np.abs(np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32))
    return np.ceil(np.log2(magnitude + 1.0)).astype(np.uint8)


_CATEGORY = _category_table()


@njit(cache=True, nogil=True)
def _count_categories(samples, step, first, category, histogram):  # pragma: no cover - compiled
    """Histogram of difference categories; ``samples`` (h, n) uint16, components interleaved every ``step``."""
    height, width = samples.shape
    for row in range(height):
        above = samples[max(row - 1, 0)]
        here = samples[row]
        for i in range(min(step, width)):
            prediction = above[i] if row else first
            histogram[category[np.uint16(here[i] - prediction)]] += 1
        for i in range(step, width):
            histogram[category[np.uint16(here[i] - here[i - step])]] += 1


@njit(cache=True, nogil=True)
def _emit(samples, step, first, category, code, length, out):  # pragma: no cover - compiled
    """Entropy-code ``samples`` into ``out`` with byte stuffing; number of bytes written."""
    height, width = samples.shape
    pending = np.uint64(0)  # bits not yet written, in the low end
    count = 0  # how many of them
    position = 0
    for row in range(height):
        above = samples[max(row - 1, 0)]
        here = samples[row]
        for i in range(width):
            if i >= step:
                prediction = here[i - step]
            elif row:
                prediction = above[i]
            else:
                prediction = first
            difference = np.uint16(here[i] - prediction)
            s = category[difference]
            extra = np.uint64(s) if s < 16 else np.uint64(0)
            mask = (np.uint64(1) << extra) - np.uint64(1)
            # d for d > 0, d + 2**s - 1 = (d - 1) modulo 2**s for d < 0: the sign bit is subtracted.
            value = np.uint64(difference) - (np.uint64(difference) >> np.uint64(15))
            pending = (((pending << np.uint64(length[s])) | np.uint64(code[s])) << extra) | (value & mask)
            count += length[s] + np.int64(extra)
            if count >= 32:
                count -= 32
                word = np.uint32(pending >> np.uint64(count))
                # A byte of the word is 0xFF exactly where a byte of its complement is zero.
                inverse = ~word
                if (inverse - np.uint32(0x01010101)) & word & np.uint32(0x80808080):
                    for shift in (24, 16, 8, 0):
                        byte = np.uint8((word >> np.uint32(shift)) & np.uint32(0xFF))
                        out[position] = byte
                        position += 1
                        if byte == 0xFF:
                            out[position] = 0
                            position += 1
                else:
                    out[position] = np.uint8(word >> np.uint32(24))
                    out[position + 1] = np.uint8((word >> np.uint32(16)) & np.uint32(0xFF))
                    out[position + 2] = np.uint8((word >> np.uint32(8)) & np.uint32(0xFF))
                    out[position + 3] = np.uint8(word & np.uint32(0xFF))
                    position += 4
    padding = -count % 8
    pending = (pending << np.uint64(padding)) | ((np.uint64(1) << np.uint64(padding)) - np.uint64(1))
    count += padding
    while count:
        count -= 8
        byte = np.uint8((pending >> np.uint64(count)) & np.uint64(0xFF))
        out[position] = byte
        position += 1
        if byte == 0xFF:
            out[position] = 0
            position += 1
    return position


def code_lengths(histogram: Sequence[int]) -> dict[int, int]:
    """Huffman code lengths [bits] of the symbols that occur, none above 16 and none all ones.

    A reserved symbol of count zero takes the longest code and is dropped again (T.81 K.2); lengths above 16 are
    folded back by the exchange of T.81 figure K.3, which keeps the code complete.

    Parameters
    ----------
    histogram : sequence of int
        How often each symbol occurs.

    Returns
    -------
    dict of symbol to length, more frequent symbols never longer than rarer ones

    Examples
    --------
    >>> code_lengths([8, 4, 2, 1])
    {0: 1, 1: 2, 2: 3, 3: 4}
    """
    used = [(int(n), symbol) for symbol, n in enumerate(histogram) if n]
    forest: list[tuple[int, int, tuple[int, ...]]] = [(n, symbol, (symbol,)) for n, symbol in [*used, (0, _RESERVED)]]
    heapq.heapify(forest)
    depth = dict.fromkeys([symbol for _, symbol in used] + [_RESERVED], 0)
    while len(forest) > 1:
        n1, tie1, leaves1 = heapq.heappop(forest)
        n2, tie2, leaves2 = heapq.heappop(forest)
        for symbol in leaves1 + leaves2:
            depth[symbol] += 1
        heapq.heappush(forest, (n1 + n2, max(tie1, tie2), leaves1 + leaves2))
    per_length = [0] * (len(depth) + 1)
    for bits in depth.values():
        per_length[bits] += 1
    for bits in range(len(per_length) - 1, _LONGEST_CODE, -1):
        while per_length[bits]:
            shorter = next(j for j in range(bits - 2, 0, -1) if per_length[j])
            per_length[bits] -= 2
            per_length[bits - 1] += 1
            per_length[shorter] -= 1
            per_length[shorter + 1] += 2
    longest = max(bits for bits, n in enumerate(per_length) if n)
    per_length[longest] -= 1  # the reserved symbol's place
    lengths = [bits for bits, n in enumerate(per_length) for _ in range(n)]
    by_frequency = [symbol for _, symbol in sorted(used, key=lambda item: (-item[0], item[1]))]
    return dict(zip(by_frequency, lengths, strict=True))


def _canonical(lengths: dict[int, int]) -> tuple[NDArray[np.uint32], NDArray[np.int64], bytes]:
    """Codes and lengths by category, and the DHT payload: codes count up within a length, symbols in order."""
    ordered = sorted(lengths, key=lambda symbol: (lengths[symbol], symbol))
    codes, bits = np.zeros(_CATEGORIES, np.uint32), np.zeros(_CATEGORIES, np.int64)
    code, previous = -1, 0
    for symbol in ordered:
        code = (code + 1) << (lengths[symbol] - previous)
        previous = lengths[symbol]
        codes[symbol], bits[symbol] = code, previous
    counts = bytes(sum(1 for n in lengths.values() if n == k) for k in range(1, _LONGEST_CODE + 1))
    return codes, bits, b"\0" + counts + bytes(ordered)


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def encode(tile: NDArray[np.uint16], precision: int) -> bytes:
    """Lossless JPEG stream of one tile.

    Parameters
    ----------
    tile : (H, W) uint16, W even [DN]
        A mosaic; coded as W/2 samples of 2 components.
    tile : (H, W, C) uint16, C = 1 to 4 [DN]
        Demosaiced colors; coded as C components.
    precision : int, 2 to 16
        Bits per sample; every value is below 2**precision.

    Returns
    -------
    bytes, from SOI to EOI

    Raises
    ------
    ValueError
        The tile has another shape or type, or a value does not fit the precision.

    Notes
    -----
    Compiled code that releases the GIL: tiles can be coded in threads.

    References
    ----------
    ITU-T T.81 annex H; DNG 1.7.1 specification, chapter 3.

    Examples
    --------
    >>> stream = encode(np.arange(64, dtype=np.uint16).reshape(8, 8), 6)
    >>> stream[:2].hex(), stream[-2:].hex()
    ('ffd8', 'ffd9')
    """
    tile = np.asarray(tile)
    if tile.dtype != np.uint16 or tile.ndim not in (2, 3) or tile.size == 0:
        raise ValueError(f"a tile is (H, W) or (H, W, C) uint16, not {tile.shape} {tile.dtype}.")
    height, width = tile.shape[:2]
    if tile.ndim == 2 and width % 2:
        raise ValueError(f"a mosaic tile {width} pixels wide cannot be halved into 2 components; pad it to even width.")
    components = 2 if tile.ndim == 2 else tile.shape[2]
    if not 1 <= components <= 4:
        raise ValueError(f"lossless JPEG interleaves 1 to 4 components, the tile has {components}.")
    columns = width // 2 if tile.ndim == 2 else width
    if max(height, columns) > 0xFFFF:
        raise ValueError(f"a tile of {height} x {columns} samples is larger than a JPEG can be; use smaller tiles.")
    largest = int(tile.max())
    if not 2 <= precision <= 16 or largest >> precision:
        raise ValueError(f"the tile's maximum {largest} needs more than precision {precision} (2 to 16 bits).")

    samples = np.ascontiguousarray(tile).reshape(height, columns * components)
    first = np.uint16(1 << (precision - 1))
    histogram = np.zeros(_CATEGORIES, np.int64)
    _count_categories(samples, components, first, _CATEGORY, histogram)
    code, length, table = _canonical(code_lengths(histogram.tolist()))
    extra = np.arange(_CATEGORIES) % 16  # category 16 has none
    bits = int((histogram * (length + extra)).sum())
    out = np.empty(2 * (bits // 8 + 1), np.uint8)  # every byte might need stuffing
    size = _emit(samples, components, first, _CATEGORY, code, length, out)

    ids = range(components)
    frame = struct.pack(">BHHB", precision, height, columns, components) + b"".join(bytes((i, 0x11, 0)) for i in ids)
    scan = bytes((components,)) + b"".join(bytes((i, 0)) for i in ids) + bytes((1, 0, 0))
    header = _SOI + _segment(_DHT, table) + _segment(_SOF3, frame) + _segment(_SOS, scan)
    return header + out[:size].tobytes() + _EOI
