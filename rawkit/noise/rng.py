"""Counter-based random numbers: every draw is a pure function of (seed, frame, row, column, stream).

    words = Philox4x32-10(key = (seed, frame), counter = (column, row, stream, 0))

gives 128 random bits for one sensor pixel, without any state.  A tile, a crop, another order or another number
of workers therefore sees the same noise, and a picture can be made again from its seed.

Bits to numbers, for the four 32-bit words w0 .. w3 of a pixel:

    Poisson(mu), mu < 24     Poisson(g) + Poisson(d),  g the multiple of 1/4 below mu, d = mu - g:  counts of Poisson
                             variables add.  The first comes from an alias table of 64 counts (w0), the second, mostly
                             0, by comparing w1 with its tail probabilities.
    Poisson(mu), mu >= 24    floor(mu + sqrt(mu) x + (1/3 + x^2/6) - (x/36 + x^3/72)/sqrt(mu)
                                   + (-8/405 + 7 x^2/810 + x^4/270)/mu),    x = N(0, 1) of w0
    N(0, 1)                  inverse CDF of one word: the top bit is the sign, the others the tail probability

The expansion is that of the inverse Poisson CDF (Giles 2016).  Its law departs from Poisson's by a Kullback-Leibler
divergence of 2.7e-8 at 24 electrons and less above: 10^7 draws raise chi^2 by 0.5.  The alias table holds
probabilities to 2^-26/64.  The normal quantile is right to 1e-6 and reaches 6.3 standard deviations.

All arithmetic is integer, or single precision with +, -, *, /, sqrt, floor and comparisons only, each rounded by
IEEE 754 and never contracted: any machine that keeps to it (``device`` on a GPU) gives the same bits.

References
----------
Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox; seven rounds already pass
every test of BigCrush, ten are used).
Giles, "Algorithm 955: approximation of the inverse Poisson cumulative distribution function", ACM Transactions on
Mathematical Software 42 (2016) 7.
Walker, "An efficient method for generating discrete random variables with general distributions", ACM Transactions
on Mathematical Software 3 (1977) 253-256.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import float32, int32, njit, uint32, uint64
from numpy.typing import ArrayLike, NDArray

# Philox4x32 round multipliers and the two Weyl constants of its key schedule (Salmon et al. 2011, table 2).
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10
_M0, _M1 = PHILOX_MULTIPLIERS
_W0, _W1 = PHILOX_WEYL

#: Mean [e-] from which the expansion of the inverse CDF is used.
EXPANSION_FROM = np.float32(24)
#: Largest mean [e-] the sampler accepts; a thousand times the deepest well.
MAX_MEAN = 1e9

#: Rows of the alias table per electron of mean.
ALIAS_STEPS = 4
#: Counts that a row of the alias table knows: 0 .. 63.  Poisson(24) exceeds them with probability 1e-11.
ALIAS_COUNTS = 64
_ALIAS_BITS = 6
_ALIAS_SHARE_BITS = 32 - _ALIAS_BITS

#: ln(1 + t) = t (c0 + c1 t + ...) for 1 + t from sqrt(1/2) to sqrt(2): Chebyshev interpolation, error 7e-8.
LOG_SERIES = tuple(
    np.float32(c)
    for c in (
        0.99999994,
        -0.500003755,
        0.333346069,
        -0.249689072,
        0.199133486,
        -0.172782063,
        0.161262482,
        -0.0989535078,
    )
)
#: z = s - (a0 + a1 s + a2 s^2 + a3 s^3) / (1 + b1 s + ... + b4 s^4), s = sqrt(-2 ln p), p from 2^-33 to 1/2 the upper
#: tail probability of z: minimax fit, error 2.4e-8.
TAIL_TOP = tuple(np.float32(c) for c in (3.22129824, 9.34329417, 2.64167669, 0.09758069))
TAIL_BOTTOM = tuple(np.float32(c) for c in (1.0, 5.63746562, 4.66751949, 0.72668152, 0.01589364))
#: Bits of the float32 sqrt(1/2), where the mantissa's range is cut.
ROOT_HALF_BITS = 0x3F3504F3
LN_2 = np.float32(math.log(2.0))

#: Series of exp(-d) to d^6, for d below 1/4; the next term is 1.2e-8.
EXP_SERIES = tuple(np.float32((-1) ** k / math.factorial(k)) for k in range(7))
#: d^7/7! is the last tail probability of the remainder's count that is looked at; the next is below 4e-10.
RECIPROCALS = tuple(np.float32(1.0 / k) for k in range(1, 8))
#: Coefficients of the expansion above, in order of x.
EXPANSION_0 = (np.float32(1 / 3), np.float32(1 / 6))
EXPANSION_1 = (np.float32(-1 / 36), np.float32(-1 / 72))
EXPANSION_2 = (np.float32(-8 / 405), np.float32(7 / 810), np.float32(1 / 270))

_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = LOG_SERIES
_A0, _A1, _A2, _A3 = TAIL_TOP
_B0, _B1, _B2, _B3, _B4 = TAIL_BOTTOM
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = EXP_SERIES
_, _R2, _R3, _R4, _R5, _R6, _R7 = RECIPROCALS
_X00, _X02 = EXPANSION_0
_X11, _X13 = EXPANSION_1
_X20, _X22, _X24 = EXPANSION_2
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_STEPS, _STEP = np.float32(ALIAS_STEPS), np.float32(1.0 / ALIAS_STEPS)
#: 2^-32: a word as a share of the unit interval.
WORD = np.float32(2.0**-32)
_HALF_WORD = np.float32(2.0**-31)

_LIMIT = 2**32

#: Pixels that the loops below work on at a time; their buffers stay in the first-level cache.
CHUNK = 256

# Loops without branches, calls or divisions that can raise are run several pixels per instruction by LLVM.
_jit = njit(cache=True, nogil=True, error_model="numpy")


def check_key(seed: int, frame: int) -> tuple[int, int]:
    """``(seed, frame)`` as the two key words, or ``ValueError``: both are integers from 0 to 2**32 - 1."""
    for name, value in (("seed", seed), ("frame", frame)):
        if not 0 <= int(value) < _LIMIT:
            raise ValueError(f"{name} {value}: give an integer from 0 to {_LIMIT - 1}.")
    return int(seed), int(frame)


@njit(inline="always")
def _rounds(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    c0, c1, c2, c3 = uint32(c0), uint32(c1), uint32(c2), uint32(c3)
    k0, k1 = uint32(k0), uint32(k1)
    for _ in range(PHILOX_ROUNDS):
        high = uint64(_M0) * uint64(c0)
        low = uint64(_M1) * uint64(c2)
        c0, c1, c2, c3 = (
            uint32(uint32(low >> uint64(32)) ^ c1 ^ k0),
            uint32(low),
            uint32(uint32(high >> uint64(32)) ^ c3 ^ k1),
            uint32(high),
        )
        k0 = uint32(k0 + uint32(_W0))
        k1 = uint32(k1 + uint32(_W1))
    return c0, c1, c2, c3


@_jit
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10: four counter words and two key words to four random words (uint32).

    Examples
    --------
    >>> [f"{int(w):08x}" for w in philox(0, 0, 0, 0, 0, 0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    return _rounds(c0, c1, c2, c3, k0, k1)


@_jit
def row_words(words: Any, count: Any, row: Any, left: Any, stream: Any, seed: Any, frame: Any) -> None:
    """Fill ``words[:, :count]`` (4, n) uint32 with the draws of the pixels from column ``left`` on in ``row``."""
    for j in range(count):
        words[0, j], words[1, j], words[2, j], words[3, j] = _rounds(left + j, row, stream, 0, seed, frame)


@_jit
def pixel_words(rows: Any, columns: Any, stream: Any, seed: Any, frame: Any) -> Any:
    """First word of each of the pixels (n,) int, (n,) int: (n,) uint32."""
    words = np.empty(rows.size, np.uint32)
    for j in range(rows.size):
        words[j] = _rounds(columns[j], rows[j], stream, 0, seed, frame)[0]
    return words


@_jit
def normals(word: Any, z: Any, scratch: Any, scratch_bits: Any, count: Any) -> None:
    """Standard normals ``z`` (n,) float32 of the words (n,) uint32; ``scratch_bits`` is ``scratch`` as int32.

    -ln p is taken from the exponent and a series in the mantissa, then z from the rational function of s above.
    """
    for j in range(count):
        scratch[j] = (float32(int32(word[j] & uint32(0x7FFFFFFF))) + _HALF) * WORD
    for j in range(count):
        bits = int32(scratch_bits[j])
        exponent = int32(int32(bits - int32(ROOT_HALF_BITS)) >> int32(23))
        scratch_bits[j] = int32(bits - int32(exponent << int32(23)))
        z[j] = float32(exponent)
    for j in range(count):
        t = scratch[j] - _ONE
        log = t * (_L0 + t * (_L1 + t * (_L2 + t * (_L3 + t * (_L4 + t * (_L5 + t * (_L6 + t * _L7)))))))
        half = -(z[j] * LN_2) - log
        s = np.sqrt(half + half)
        top = _A0 + s * (_A1 + s * (_A2 + s * _A3))
        bottom = _B0 + s * (_B1 + s * (_B2 + s * (_B3 + s * _B4)))
        tail = s - top / bottom
        z[j] = tail if word[j] & uint32(0x80000000) else -tail


@cache
def alias_table() -> NDArray[np.int32]:
    """Alias tables of Poisson(k/4), k = 0 .. 95: (96 * 64,) int32, alias in the low 6 bits, share in the high 26.

    Column c of a row is taken with probability 1/64, and then replaced by its alias unless 26 further bits are below
    its share.
    """
    rows = int(EXPANSION_FROM) * ALIAS_STEPS
    counts = np.arange(ALIAS_COUNTS)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    table = np.empty((rows, ALIAS_COUNTS), np.uint32)
    for row in range(rows):
        mean = row / ALIAS_STEPS
        mass = np.exp(counts * np.log(mean) - mean - log_factorial) if row else (counts == 0).astype(float)
        table[row] = _alias_row(mass / mass.sum())
    return table.reshape(-1).view(np.int32)


def _alias_row(mass: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Walker's table of a discrete law, packed."""
    share, alias = mass * mass.size, np.arange(mass.size)
    small, large = [int(i) for i in np.flatnonzero(share < 1)], [int(i) for i in np.flatnonzero(share >= 1)]
    whole = np.ones(mass.size)
    while small and large:
        under, over = small.pop(), large[-1]
        whole[under], alias[under] = share[under], over
        share[over] -= 1.0 - share[under]
        if share[over] < 1.0:
            small.append(large.pop())
    scale = 2**_ALIAS_SHARE_BITS
    kept = np.minimum(np.rint(whole * scale), scale - 1).astype(np.uint32)
    return (kept << np.uint32(_ALIAS_BITS)) | alias.astype(np.uint32)


@_jit
def few_electrons(mean: Any, w0: Any, w1: Any, table: Any, index: Any, counts: Any, count: Any) -> None:
    """Poisson counts (n,) float32 of means below ``EXPANSION_FROM``; larger means are taken as 0."""
    for j in range(count):
        mu: Any = mean[j] if mean[j] < EXPANSION_FROM else _ZERO
        index[j] = int32(int32(mu * _STEPS) << int32(_ALIAS_BITS)) + int32(w0[j] >> uint32(_ALIAS_SHARE_BITS))
    for j in range(count):
        index[j] = table[index[j]]
    for j in range(count):
        entry = uint32(index[j])
        keeps = int32(w0[j] & uint32(2**_ALIAS_SHARE_BITS - 1)) < int32(entry >> uint32(_ALIAS_BITS))
        own, alias = int32(w0[j] >> uint32(_ALIAS_SHARE_BITS)), int32(entry & uint32(ALIAS_COUNTS - 1))
        counts[j] = float32(own if keeps else alias)
    for j in range(count):
        mu: Any = mean[j] if mean[j] < EXPANSION_FROM else _ZERO
        d = mu - float32(int32(mu * _STEPS)) * _STEP
        v = float32(int32(w1[j] >> uint32(1))) * _HALF_WORD
        # Probabilities of 1 .. 7 electrons, then of at least 7 .. 1: no difference of nearly equal numbers.
        p1 = (_E0 + d * (_E1 + d * (_E2 + d * (_E3 + d * (_E4 + d * (_E5 + d * _E6)))))) * d
        p2 = p1 * d * _R2
        p3 = p2 * d * _R3
        p4 = p3 * d * _R4
        p5 = p4 * d * _R5
        p6 = p5 * d * _R6
        t7 = p6 * d * _R7
        t6 = p6 + t7
        t5 = p5 + t6
        t4 = p4 + t5
        t3 = p3 + t4
        t2 = p2 + t3
        t1 = p1 + t2
        more = (_ONE if v < t1 else _ZERO) + (_ONE if v < t2 else _ZERO) + (_ONE if v < t3 else _ZERO)
        more += (_ONE if v < t4 else _ZERO) + (_ONE if v < t5 else _ZERO) + (_ONE if v < t6 else _ZERO)
        counts[j] += more + (_ONE if v < t7 else _ZERO)


@_jit
def many_electrons(mean: Any, x: Any, counts: Any, count: Any) -> None:
    """Poisson counts of means from ``EXPANSION_FROM`` on, from standard normals ``x``; other counts are kept."""
    for j in range(count):
        big = mean[j] >= EXPANSION_FROM
        mu = mean[j] if big else EXPANSION_FROM
        whole, z = np.floor(mu), x[j]
        z2, root = z * z, np.sqrt(mu)
        middle = (_X00 + z2 * _X02) + z * (_X11 + z2 * _X13) / root + (_X20 + z2 * (_X22 + z2 * _X24)) / mu
        # The whole part is added last: at 10^6 electrons float32 knows numbers to 1/16 only.
        drawn = whole + np.floor((mu - whole) + (root * z + middle))
        counts[j] = drawn if big else counts[j]


@_jit
def poisson(
    mean: Any, words: Any, table: Any, index: Any, x: Any, scratch: Any, bits: Any, counts: Any, n: Any
) -> None:
    """Poisson counts (n,) float32 of the means (n,) float32 [e-], not negative; ``words`` as of ``row_words``.

    ``index`` int32 and ``x``, ``scratch`` float32 (with ``bits``, its int32 view) are scratch space.
    """
    least, most = mean[0], mean[0]
    for j in range(n):
        least, most = min(least, mean[j]), max(most, mean[j])
    if least < EXPANSION_FROM:
        few_electrons(mean, words[0], words[1], table, index, counts, n)
    if most >= EXPANSION_FROM:
        normals(words[0], x, scratch, bits, n)
        many_electrons(mean, x, counts, n)


@_jit
def _fill(
    means: Any, counts: Any, gauss: Any, table: Any, top: Any, left: Any, stream: Any, seed: Any, frame: Any
) -> None:
    words, index = np.empty((4, CHUNK), np.uint32), np.empty(CHUNK, np.int32)
    x, scratch = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    bits = scratch.view(np.int32)
    for i in range(means.shape[0]):
        for first in range(0, means.shape[1], CHUNK):
            n = min(CHUNK, means.shape[1] - first)
            here = slice(first, first + n)
            row_words(words, n, top + i, left + first, stream, seed, frame)
            poisson(means[i, here], words, table, index, x, scratch, bits, counts[i, here], n)
            normals(words[2], gauss[i, here], scratch, bits, n)


def fields(
    means: ArrayLike, *, seed: int, frame: int = 0, stream: int = 0, origin: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Poisson counts and independent standard normals for a rectangle of sensor pixels.

    Parameters
    ----------
    means : (H, W) float [e-]
        Expected counts; zero where not positive.
    seed, frame, stream : int
        0 to 2**32 - 1.  Different values give independent fields.
    origin : (row, column)
        Sensor coordinates of the rectangle's first pixel.

    Returns
    -------
    counts, normals : (H, W) float32
        Counts beyond 2**24 are rounded to float32.

    Raises
    ------
    ValueError
        A mean is not a number, or above ``MAX_MEAN``.

    Examples
    --------
    >>> whole, _ = fields(np.full((8, 8), 3.0), seed=1)
    >>> part, _ = fields(np.full((4, 4), 3.0), seed=1, origin=(2, 3))
    >>> bool((whole[2:6, 3:7] == part).all())
    True
    """
    seed, frame = check_key(seed, frame)
    values = np.asarray(means, np.float32)
    if values.size and not np.all(values <= MAX_MEAN):
        raise ValueError(f"expected counts must be numbers up to {MAX_MEAN:g} electrons, found {values.max()}.")
    positive = np.ascontiguousarray(np.maximum(values, 0))
    counts, gauss = np.empty_like(positive), np.empty_like(positive)
    _fill(positive, counts, gauss, alias_table(), int(origin[0]), int(origin[1]), int(stream), seed, frame)
    return counts, gauss


def normal_field(
    shape: tuple[int, int], *, seed: int, frame: int = 0, stream: int, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Standard normals for a rectangle of sensor pixels (H, W) float32; arguments as for ``fields``."""
    return fields(np.zeros(shape, np.float32), seed=seed, frame=frame, stream=stream, origin=origin)[1]
