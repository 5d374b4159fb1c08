"""Counter-based random numbers: every draw is a pure function of (seed, frame, row, column, stream).

    words = Philox4x32-10(key = (seed, frame), counter = (column, row, stream, attempt))

gives 128 random bits for one sensor pixel, without any state.  A tile, a crop, another order or another number
of workers therefore sees the same noise, and a picture can be made again from its seed.

Bits to numbers, for the four 32-bit words w0 .. w3 of a pixel:

    Poisson(mu), mu < 10     exact: sequential inversion of one 53-bit uniform (w0, w1)
    Poisson(mu), mu >= 10    exact: transformed rejection PTRS on two 32-bit uniforms (w0, w1); a rejected pair
                             (about one in six) is drawn again with attempt + 1
    N(0, 1)                  inverse CDF (relative error about 1e-16) of one 53-bit uniform (w2, w3)

References
----------
Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
Hoermann, "The transformed rejection method for generating Poisson random variables", Insurance: Mathematics
and Economics 12 (1993) 39-45 (PTRS).
Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37 (1988) 477-484.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, uint32, uint64
from numpy.typing import ArrayLike, NDArray

# Philox4x32 round multipliers and the two Weyl constants of its key schedule (Salmon et al. 2011, table 2).
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

_WORD = 2.0**-32
_UNIT = 2.0**-53

#: Mean [e-] below which the Poisson sampler inverts the CDF; PTRS is valid from 10 on.
PTRS_FROM = 10.0

#: Largest mean [e-] the sampler accepts: counts stay exact integers in float64 with room to spare.
MAX_MEAN = 1e12

_LIMIT = 2**32


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
    for _ in range(_ROUNDS):
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


@njit(cache=True, nogil=True)
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10: four counter words and two key words to four random words (uint32).

    Examples
    --------
    >>> [f"{int(w):08x}" for w in philox(0, 0, 0, 0, 0, 0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    return _rounds(c0, c1, c2, c3, k0, k1)


@njit(inline="always")
def uniform53(high: Any, low: Any) -> Any:
    """Two words to a uniform on the open interval (0, 1), multiples of 2**-53 plus half a step."""
    bits = (uint64(high) << uint64(21)) | (uint64(low) >> uint64(11))
    return (float(bits) + 0.5) * _UNIT


@njit(inline="always")
def _uniform32(word: Any) -> Any:
    return (float(word) + 0.5) * _WORD


@njit(cache=True, nogil=True)
def normal_quantile(p: float) -> float:
    """Inverse CDF of N(0, 1) at ``p`` in (0, 1): AS 241, algorithm PPND16, coefficients of the paper.

    Examples
    --------
    >>> round(normal_quantile(0.975), 12)
    1.95996398454
    """
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        top = 2.5090809287301226727e3
        top = top * r + 3.3430575583588128105e4
        top = top * r + 6.7265770927008700853e4
        top = top * r + 4.5921953931549871457e4
        top = top * r + 1.3731693765509461125e4
        top = top * r + 1.9715909503065514427e3
        top = top * r + 1.3314166789178437745e2
        top = top * r + 3.3871328727963666080
        bottom = 5.2264952788528545610e3
        bottom = bottom * r + 2.8729085735721942674e4
        bottom = bottom * r + 3.9307895800092710610e4
        bottom = bottom * r + 2.1213794301586595867e4
        bottom = bottom * r + 5.3941960214247511077e3
        bottom = bottom * r + 6.8718700749205790830e2
        bottom = bottom * r + 4.2313330701600911252e1
        return q * top / (bottom * r + 1.0)
    r = math.sqrt(-math.log(p if q < 0 else 1.0 - p))
    if r <= 5.0:
        r -= 1.6
        top = 7.74545014278341407640e-4
        top = top * r + 2.27238449892691845833e-2
        top = top * r + 2.41780725177450611770e-1
        top = top * r + 1.27045825245236838258
        top = top * r + 3.64784832476320460504
        top = top * r + 5.76949722146069140550
        top = top * r + 4.63033784615654529590
        top = top * r + 1.42343711074968357734
        bottom = 1.05075007164441684324e-9
        bottom = bottom * r + 5.47593808499534494600e-4
        bottom = bottom * r + 1.51986665636164571966e-2
        bottom = bottom * r + 1.48103976427480074590e-1
        bottom = bottom * r + 6.89767334985100004550e-1
        bottom = bottom * r + 1.67638483018380384940
        bottom = bottom * r + 2.05319162663775882187
    else:
        r -= 5.0
        top = 2.01033439929228813265e-7
        top = top * r + 2.71155556874348757815e-5
        top = top * r + 1.24266094738807843860e-3
        top = top * r + 2.65321895265761230930e-2
        top = top * r + 2.96560571828504891230e-1
        top = top * r + 1.78482653991729133580
        top = top * r + 5.46378491116411436990
        top = top * r + 6.65790464350110377720
        bottom = 2.04426310338993978564e-15
        bottom = bottom * r + 1.42151175831644588870e-7
        bottom = bottom * r + 1.84631831751005468180e-5
        bottom = bottom * r + 7.86869131145613259100e-4
        bottom = bottom * r + 1.48753612908506148525e-2
        bottom = bottom * r + 1.36929880922735805310e-1
        bottom = bottom * r + 5.99832206555887937690e-1
    z = top / (bottom * r + 1.0)
    return -z if q < 0 else z


@njit(inline="always")
def _invert(mean: Any, u: Any) -> Any:
    """Smallest n with CDF(n) >= u, searched upwards from 0."""
    n = 0
    term = math.exp(-mean)
    cdf = term
    while u > cdf and term > 0.0:
        n += 1
        term *= mean / n
        cdf += term
    return float(n)


@njit(cache=True, nogil=True)
def poisson(mean: float, w0: Any, w1: Any, column: Any, row: Any, stream: Any, seed: Any, frame: Any) -> float:
    """Exact Poisson count of one pixel.

    Parameters
    ----------
    mean : float
        Expected electrons, 0 <= mean <= MAX_MEAN.
    w0, w1 : uint32
        First two words of the pixel's Philox draw at attempt 0.
    column, row, stream, seed, frame : int
        Where to draw again after a rejection.

    Returns
    -------
    float64, a whole number
    """
    if mean <= 0.0:
        return 0.0
    if mean < PTRS_FROM:
        return _invert(mean, uniform53(w0, w1))
    # Hoermann's PTRS, names of the paper.
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    attempt = 0
    while True:
        u = _uniform32(w0) - 0.5
        v = _uniform32(w1)
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return float(k)
        if k >= 0 and not (us < 0.013 and v > us):
            inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
            if math.log(v * inverse_alpha / (a / (us * us) + b)) <= k * math.log(mean) - mean - math.lgamma(k + 1.0):
                return float(k)
        attempt += 1
        w0, w1, _, _ = philox(column, row, stream, attempt, seed, frame)


@njit(cache=True, nogil=True)
def row_words(words: Any, row: Any, left: Any, stream: Any, seed: Any, frame: Any) -> None:
    """Fill ``words`` (4, W) uint32 with the draws (attempt 0) of the pixels ``left`` .. ``left + W - 1`` of ``row``.

    A loop of its own because, free of branches, it runs several pixels per instruction.
    """
    for j in range(words.shape[1]):
        words[0, j], words[1, j], words[2, j], words[3, j] = _rounds(left + j, row, stream, 0, seed, frame)


@njit(cache=True, nogil=True)
def _fill(means: Any, counts: Any, normals: Any, top: Any, left: Any, stream: Any, seed: Any, frame: Any) -> None:
    words = np.empty((4, means.shape[1]), np.uint32)
    for i in range(means.shape[0]):
        row_words(words, top + i, left, stream, seed, frame)
        for j in range(means.shape[1]):
            w0, w1, w2, w3 = words[0, j], words[1, j], words[2, j], words[3, j]
            counts[i, j] = poisson(means[i, j], w0, w1, left + j, top + i, stream, seed, frame)
            normals[i, j] = normal_quantile(uniform53(w2, w3))


def fields(
    means: ArrayLike, *, seed: int, frame: int = 0, stream: int = 0, origin: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    counts, normals : (H, W) float64

    Examples
    --------
    >>> whole, _ = fields(np.full((8, 8), 3.0), seed=1)
    >>> part, _ = fields(np.full((4, 4), 3.0), seed=1, origin=(2, 3))
    >>> bool((whole[2:6, 3:7] == part).all())
    True
    """
    seed, frame = check_key(seed, frame)
    values = np.ascontiguousarray(means, np.float64)
    if values.size and not np.all(values <= MAX_MEAN):
        raise ValueError(f"expected counts must be numbers up to {MAX_MEAN:g} electrons, found {values.max()}.")
    counts, normals = np.empty_like(values), np.empty_like(values)
    _fill(values, counts, normals, int(origin[0]), int(origin[1]), int(stream), seed, frame)
    return counts, normals
