"""Non-learned denoiser for planes with unit noise: shrinkage of patch principal components, over scales.

A patch is a b x b block of all P planes at one place, a vector p of d = P b^2 numbers; in a Bayer raw it holds
b x b whole CFA periods, so colors and their half-pixel offsets are treated jointly.  With E the eigenvectors
(rows) of the patches' covariance in the tile and m their mean,

    w = E (p - m)                              E orthonormal: unit noise stays unit noise
    first pass     w' = w   where |w| > TAU s, else 0
    second pass    w' = w q^2 / (q^2 + ETA s^2)        q: coefficient of the first pass's result (empirical Wiener)
    estimate       p' = E^T w' + m

Every pixel is the mean of all patches that cover it, weighted by 1 / (1 + energy kept): patches that were easy
to describe count more.  s is the noise of the coefficient, 1 for a mosaic.

Patches cannot see noise coarser than themselves.  Each tile is therefore also filtered at half size, made by
keeping the low quarter of its orthonormal DCT (again unit noise), and the low frequencies of that result replace
those of the fine one.

A demosaiced image has noise that is correlated between neighbors: little at high, more at low frequencies.  There
s of each coefficient is estimated as min(1, median|w| / 0.6745): sparse image detail hardly moves a median, and
the white-noise model is never exceeded, so detail is not mistaken for noise.

References
----------
Muresan and Parks, "Adaptive principal components and image denoising", ICIP 2003.
Yu and Sapiro, "DCT image denoising: a simple and effective image denoising algorithm", IPOL 2011 (sliding patches,
aggregation).
Pierazzo, Morel and Facciolo, "Multi-scale DCT denoising", IPOL 2017 (DCT pyramid).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rawkit.restore.tiling import Progress, map_tiles, tile_for_memory

#: Hard threshold of the first pass, in noise standard deviations.
TAU = 2.6
#: Noise variance the Wiener pass assumes: below 1 because it errs towards keeping detail.
ETA = 0.85
#: Coarser scales after the finest, and the part of a coarse scale's frequencies that is used.
LEVELS = 2
MERGED = 0.5

#: Numbers in a patch: enough to see structure, few enough to estimate their covariance from one tile.
_PATCH_NUMBERS = 100
_LANES = 8  # rows of a matrix product fused into one pass
_COLUMNS = 256  # patches handled together; their coefficients stay in the second-level cache
_SAMPLES_PER_NUMBER = 160  # patches used to estimate the covariance, per number in a patch
_CHUNK = 2048  # samples summed in float32 before float64 takes over
_JACOBI_SWEEPS = 12
_JACOBI_TOLERANCE = 1e-5  # cosine between rows that count as orthogonal
_MEDIAN_SAMPLES = 4096  # a median of so many is known to 2 %
_MEDIAN_OF_ABS_NORMAL = 0.6744897501960817
_LEAST_NOISE = 1e-6  # of a component; its square, which gains are divided by, is a float32 above 0
_XTRANS_PLANES = 36
_XTRANS_PERIOD = 6
_XTRANS_OFFSETS = (0, 2, 4)
_SMALLEST_SCALE = 24  # planes smaller than this are not filtered at half size again

# Peak float32 copies of a tile (padded, pilot, sums, weights, DCT), and what one worker may spend on them.
_BYTES_PER_SAMPLE = 48.0
_TILE_BUDGET = 32e6

_JIT: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"contract"}}


def patch_edge(planes: int) -> int:
    """Edge b of a patch: 10 for one plane, 5 for RGB and Bayer (10 mosaic pixels), 2 for X-Trans (12)."""
    return max(2, math.isqrt(_PATCH_NUMBERS // planes))


def denoise_unit(
    planes: NDArray[np.float32],
    *,
    sigma: float = 1.0,
    correlated: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Denoise planes whose noise has unit variance.

    Parameters
    ----------
    planes : (P, h, w) float32
        P = 4 for Bayer, 1 for mono, 3 for demosaiced color, 36 for X-Trans (row-major sites).
    sigma : float, > 0
        Noise standard deviation assumed: 1 for what is there, less to keep more.
    correlated : bool
        Demosaiced images: estimate the noise of each component (see module).
    workers : int
        Threads; the result does not depend on it.

    Returns
    -------
    (P, h, w) float32

    Examples
    --------
    >>> flat = np.random.default_rng(1).standard_normal((4, 64, 64)).astype(np.float32)
    >>> bool(denoise_unit(flat).var() < 0.05)
    True
    """
    if planes.ndim != 3:
        raise ValueError(f"planes are {planes.shape}; (P, h, w) is needed.")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; a positive noise standard deviation is needed.")
    scaled = np.asarray(planes, np.float32) / np.float32(sigma)
    edge = tile_for_memory(
        planes.shape[0], bytes_per_sample=_BYTES_PER_SAMPLE, budget=_TILE_BUDGET, smallest=160, largest=512
    )
    overlap = 8 if planes.shape[0] == _XTRANS_PLANES else 32
    tile = denoise_xtrans if planes.shape[0] == _XTRANS_PLANES else denoise_tile
    clean = map_tiles(
        lambda piece: tile(piece, correlated=correlated),
        scaled,
        tile=edge,
        overlap=overlap,
        workers=workers,
        progress=progress,
    )
    clean *= np.float32(sigma)
    return clean


def denoise_tile(planes: NDArray[np.float32], *, correlated: bool = False, levels: int = LEVELS) -> NDArray[np.float32]:
    """One tile (P, h, w) of unit noise over ``levels`` + 1 scales."""
    fine = denoise_scale(planes, correlated=correlated)
    half = (planes.shape[1] // 2, planes.shape[2] // 2)
    if levels == 0 or min(half) < _SMALLEST_SCALE:
        return fine
    coarse = denoise_tile(low_frequencies(planes, half), correlated=correlated, levels=levels - 1)
    return replace_low_frequencies(fine, coarse)


def denoise_xtrans(planes: NDArray[np.float32], *, correlated: bool = False) -> NDArray[np.float32]:
    """X-Trans: the mean over nine positions of the 6 x 6 grid, so that the grid does not show.

    Patches step by whole periods; moving the period's origin by 0, 2 or 4 pixels each way makes patches of every
    third pixel, each with principal components of its own.
    """
    _, height, width = planes.shape
    padded = _mirror(planes, 1)
    mosaic = _to_mosaic(padded)
    total = np.zeros_like(mosaic)
    times = np.zeros_like(mosaic)
    rows, cols = (size * _XTRANS_PERIOD for size in (height + 1, width + 1))
    for dy in _XTRANS_OFFSETS:
        for dx in _XTRANS_OFFSETS:
            window = (slice(dy, dy + rows), slice(dx, dx + cols))
            moved = np.ascontiguousarray(_from_mosaic(mosaic[window]))
            total[window] += _to_mosaic(denoise_tile(moved, correlated=correlated, levels=0))
            times[window] += 1
    inner = slice(_XTRANS_PERIOD, -_XTRANS_PERIOD)
    return np.ascontiguousarray(_from_mosaic(total[inner, inner] / times[inner, inner]))


def _to_mosaic(planes: NDArray) -> NDArray:
    """(36, h, w) row-major sites to (6 h, 6 w)."""
    n, (_, h, w) = _XTRANS_PERIOD, planes.shape
    return planes.reshape(n, n, h, w).transpose(2, 0, 3, 1).reshape(n * h, n * w)


def _from_mosaic(mosaic: NDArray) -> NDArray:
    """Inverse of ``_to_mosaic``."""
    n, (h, w) = _XTRANS_PERIOD, mosaic.shape
    return mosaic.reshape(h // n, n, w // n, n).transpose(1, 3, 0, 2).reshape(n * n, h // n, w // n)


def low_frequencies(planes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Planes at a smaller ``shape`` from their lowest orthonormal DCT coefficients; white unit noise stays so."""
    return _inverse_dct(_dct(planes)[:, : shape[0], : shape[1]])


def replace_low_frequencies(fine: NDArray[np.float32], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """``fine`` with its lowest DCT coefficients taken from ``coarse``: all of them below half of ``MERGED`` of the
    coarse scale's band, none above ``MERGED``, and a raised-cosine blend between (a sharp edge would ring)."""
    spectrum, low = _dct(fine), _dct(coarse)
    rows, cols = low.shape[1:]
    share = np.outer(_taper(rows), _taper(cols)).astype(np.float32)
    spectrum[:, :rows, :cols] += share * (low - spectrum[:, :rows, :cols])
    return _inverse_dct(spectrum)


def _dct(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.fft import dctn

    return np.asarray(dctn(planes, axes=(1, 2), norm="ortho"), np.float32)


def _inverse_dct(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.fft import idctn

    return np.ascontiguousarray(idctn(spectrum, axes=(1, 2), norm="ortho"), dtype=np.float32)


def _taper(length: int) -> NDArray[np.float64]:
    position = np.clip((np.arange(length) / length / MERGED - 0.5) / 0.5, 0.0, 1.0)
    return 0.5 + 0.5 * np.cos(np.pi * position)


def denoise_scale(planes: NDArray[np.float32], *, correlated: bool = False) -> NDArray[np.float32]:
    """Both passes at one scale on (P, h, w) planes of unit noise."""
    b = patch_edge(planes.shape[0])
    step = 1 if planes.shape[0] >= 4 else 2
    if min(planes.shape[1:]) < b:
        return planes.copy()  # smaller than one patch: nothing to learn from
    padded = _mirror(planes, b - 1)  # every pixel is covered by all its patches
    samples = _sample_patches(planes, b)
    basis, mean = principal_components(samples)
    noise = _component_noise(samples, basis, mean) if correlated else np.ones(mean.size, np.float32)
    pilot = _one_pass(padded, padded, False, b, step, basis, mean, TAU * noise)
    clean = _one_pass(padded, pilot, True, b, step, basis, mean, ETA * noise**2)
    return np.ascontiguousarray(clean[:, b - 1 : 1 - b, b - 1 : 1 - b])


def _mirror(planes: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """Planes (P, h, w) continued by ``margin`` mirrored samples on each side."""
    return np.asarray(np.pad(planes, [(0, 0), (margin, margin), (margin, margin)], mode="symmetric"), np.float32)


def _one_pass(
    planes: NDArray, pilot: NDArray, use_pilot: bool, b: int, step: int, basis: NDArray, mean: NDArray, level: NDArray
) -> NDArray[np.float32]:
    total, weight = np.zeros_like(planes), np.zeros(planes.shape[1:], np.float32)
    rows, back = _padded(basis), _padded(np.ascontiguousarray(basis.T))
    _shrink(planes, pilot, use_pilot, b, step, rows, back, mean, level.astype(np.float32), total, weight)
    # With a step of 2 the outermost mirrored samples may lie in no patch; they are cut off by the caller.
    return np.divide(total, weight, out=total, where=weight > 0)


def _padded(basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """``basis`` with zero rows and columns up to a multiple of the lanes of ``_multiply``."""
    size = -(-basis.shape[0] // _LANES) * _LANES
    out = np.zeros((size, size), np.float32)
    out[: basis.shape[0], : basis.shape[1]] = basis
    return out


def _sample_patches(planes: NDArray[np.float32], b: int) -> NDArray[np.float32]:
    """(d, n) patches on a regular grid, about ``_SAMPLES_PER_NUMBER`` times d of them."""
    windows = np.lib.stride_tricks.sliding_window_view(planes, (b, b), axis=(1, 2))
    wanted = _SAMPLES_PER_NUMBER * planes.shape[0] * b * b
    stride = max(1, math.isqrt(windows.shape[1] * windows.shape[2] // wanted))
    chosen = windows[:, ::stride, ::stride]
    return np.ascontiguousarray(chosen.transpose(0, 3, 4, 1, 2)).reshape(planes.shape[0] * b * b, -1)


def principal_components(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eigenvectors (rows, strongest first) of the covariance of ``samples`` (d, n), and their mean (d,).

    Computed without BLAS and LAPACK: their threads compete with the tiles' own, and their last bits depend on them.
    """
    mean = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    centered = samples - mean[:, None]
    covariance = np.zeros((mean.size, mean.size))
    for start in range(0, samples.shape[1], _CHUNK):
        chunk = centered[:, start : start + _CHUNK]
        covariance += product(chunk, np.ascontiguousarray(chunk.T))
    vectors, lengths = _jacobi(covariance / samples.shape[1])
    return np.ascontiguousarray(vectors[np.argsort(-lengths, kind="stable")], dtype=np.float32), mean


def _component_noise(samples: NDArray, basis: NDArray, mean: NDArray) -> NDArray[np.float32]:
    """Robust noise standard deviation of each component, never above the white-noise model's 1, and never 0."""
    some = samples[:, :: max(1, samples.shape[1] // _MEDIAN_SAMPLES)]
    typical = np.median(np.abs(product(basis, some - mean[:, None])), axis=1)
    return np.clip(typical / _MEDIAN_OF_ABS_NORMAL, _LEAST_NOISE, 1.0).astype(np.float32)


def product(a: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix product a x in this thread."""
    missing = -a.shape[1] % _LANES
    out = np.empty((a.shape[0], x.shape[1]), np.float32)
    _multiply(np.pad(a, ((0, 0), (0, missing))), np.pad(x, ((0, missing), (0, 0))), out)
    return out


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _jacobi(symmetric: Any) -> Any:
    """Eigenvectors (rows) of a positive semidefinite matrix, and its eigenvalues.

    One-sided Jacobi: rotate pairs of rows of J A, J = 1 at first, until all rows are orthogonal.  Then J A A J^T is
    diagonal and so is J A J^T.  J stays orthonormal whatever the tolerance.
    """
    n = symmetric.shape[0]
    work, vectors = symmetric.copy(), np.eye(n)
    for _ in range(_JACOBI_SWEEPS):
        worst = 0.0
        for p in range(n - 1):
            for q in range(p + 1, n):
                alpha = beta = gamma = 0.0
                for t in range(n):
                    alpha += work[p, t] * work[p, t]
                    beta += work[q, t] * work[q, t]
                    gamma += work[p, t] * work[q, t]
                limit = math.sqrt(alpha * beta)
                if abs(gamma) <= _JACOBI_TOLERANCE * limit or limit == 0.0:
                    continue
                worst = max(worst, abs(gamma) / limit)
                zeta = (beta - alpha) / (2.0 * gamma)
                tangent = (1.0 if zeta >= 0 else -1.0) / (abs(zeta) + math.sqrt(1.0 + zeta * zeta))
                cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
                sine = cosine * tangent
                for t in range(n):
                    a, b = work[p, t], work[q, t]
                    work[p, t], work[q, t] = cosine * a - sine * b, sine * a + cosine * b
                    a, b = vectors[p, t], vectors[q, t]
                    vectors[p, t], vectors[q, t] = cosine * a - sine * b, sine * a + cosine * b
        if worst < _JACOBI_TOLERANCE:
            break
    lengths = np.empty(n)
    for p in range(n):
        lengths[p] = math.sqrt(np.sum(work[p] * work[p]))
    return vectors, lengths


@njit(**_JIT)
def _multiply(a: Any, x: Any, out: Any) -> None:
    """out = a x for (m, k) and (k, n), k a multiple of eight; one thread, the same bits everywhere."""
    out[:] = 0
    for k in range(0, a.shape[1], 8):
        for i in range(a.shape[0]):
            a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            a4, a5, a6, a7 = a[i, k + 4], a[i, k + 5], a[i, k + 6], a[i, k + 7]
            for t in range(x.shape[1]):
                out[i, t] += (
                    a0 * x[k, t] + a1 * x[k + 1, t] + a2 * x[k + 2, t] + a3 * x[k + 3, t]
                    + a4 * x[k + 4, t] + a5 * x[k + 5, t] + a6 * x[k + 6, t] + a7 * x[k + 7, t]
                )  # fmt: skip


@njit(**_JIT)
def _gather(planes: Any, b: Any, step: Any, y: Any, first: Any, mean: Any, out: Any) -> None:
    """Columns of ``out`` (d, n): patches at row ``y``, columns ``first``, ``first + step`` ..., minus their mean."""
    d = 0
    for p in range(planes.shape[0]):
        for i in range(b):
            for j in range(b):
                m = mean[d]
                if step == 1:
                    for t in range(out.shape[1]):
                        out[d, t] = planes[p, y + i, first + j + t] - m
                else:
                    for t in range(out.shape[1]):
                        out[d, t] = planes[p, y + i, first + j + t * step] - m
                d += 1


@njit(**_JIT)
def _scatter(
    patches: Any, mean: Any, weight: Any, b: Any, step: Any, y: Any, first: Any, total: Any, sums: Any
) -> None:
    """Add weighted patches (d, n) and their weights where they came from."""
    d = 0
    for p in range(total.shape[0]):
        for i in range(b):
            for j in range(b):
                m = mean[d]
                for t in range(weight.size):
                    total[p, y + i, first + j + t * step] += weight[t] * (patches[d, t] + m)
                d += 1
    for i in range(b):
        for j in range(b):
            for t in range(weight.size):
                sums[y + i, first + j + t * step] += weight[t]


@njit(**_JIT)
def _shrink(
    planes: Any, pilot: Any, use_pilot: Any, b: Any, step: Any, basis: Any, back: Any, mean: Any, level: Any,
    total: Any, sums: Any,
) -> None:  # fmt: skip
    """One pass over all patches; ``level`` is the threshold, or with a pilot the noise variance, per component."""
    used, size = mean.size, basis.shape[0]
    last_y, last_x = planes.shape[1] - b, planes.shape[2] - b
    across = last_x // step + 1
    chunks = -(-across // _COLUMNS)
    one = np.float32(1)
    for chunk in range(chunks):
        start, stop = across * chunk // chunks, across * (chunk + 1) // chunks
        n = stop - start
        patches, coefs = np.zeros((size, n), np.float32), np.empty((size, n), np.float32)
        guide, weight = np.empty((size, n), np.float32), np.empty(n, np.float32)
        y = 0
        while True:
            _gather(planes, b, step, y, start * step, mean, patches)
            _multiply(basis, patches, coefs)
            weight[:] = 1
            if use_pilot:
                _gather(pilot, b, step, y, start * step, mean, patches)
                _multiply(basis, patches, guide)
                for d in range(used):
                    for t in range(n):
                        energy = guide[d, t] * guide[d, t]
                        gain = energy / (energy + level[d])
                        coefs[d, t] *= gain
                        weight[t] += gain * gain
            else:
                for d in range(used):
                    for t in range(n):
                        kept = one if abs(coefs[d, t]) > level[d] else one - one
                        coefs[d, t] *= kept
                        weight[t] += kept
            for t in range(n):
                weight[t] = one / weight[t]
            _multiply(back, coefs, patches)
            _scatter(patches, mean, weight, b, step, y, start * step, total, sums)
            if y == last_y:
                break
            y = min(y + step, last_y)
