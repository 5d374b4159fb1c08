"""Does the noise of a picture match the parameters it was denoised with?

In the stabilized domain the noise has a variance that is known (``anscombe_variance``, near 1).  On areas that the
denoised picture shows to be flat, the variance of the noisy picture itself is measured by the diagonal difference

    h = (D00 - D01 - D10 + D11) / 2,          E[h^2] = var[D]

of 2 x 2 pixels of one phase, which no linear gradient disturbs.  The ratio of measured to expected variance is 1 when
the parameters are right; it tells about the shot noise where the picture is bright and about the read noise where it
is dark.  Only the choice of the flat areas rests on the denoised picture, so a poor denoiser cannot hide a wrong
profile.  The correlation of neighbors of h's two diagonals tells colored noise (processed or scaled raws) from white.

A denoised picture without flat areas shows texture, or noise that a profile with too small numbers has left in it.
Then the blocks are chosen in the noisy picture, by the energy of its coarser Haar details, of which h is independent
in white noise.  The ratio counts only if it is nearly the same in all of them: noise is, texture is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import anscombe, anscombe_variance

_BLOCK = 8  # packed pixels
_MOST = 8192  # blocks of a plane that are looked at, evenly spread
_FLATTEST = 0.1  # part of the blocks that is looked at
_FLAT = 0.5  # standard deviation of D within a block, above which it counts as structured
_FEWEST = 20  # blocks for a statement
_TOLERANCE = 1.4  # ratio of variances that is noticed; texture alone reaches 1.3 in small busy pictures
_CORRELATION = 0.15
_CLIPPED = 0.95  # of white
_BRIGHT = 200.0  # e-, above which var[D] is 1 to 1e-3
# Interquartile range of blocks' ratios over their median: 0.49 for noise (chi^2 of 16 differences), texture has more.
_SPREAD = 0.58


@dataclass(frozen=True)
class NoiseCheck:
    """Measured noise beside the assumed.

    Parameters
    ----------
    ratio : float or None
        Variance measured over variance assumed, all flat areas; None where the picture has none.
    dark, bright : float or None
        The same for the darker and the brighter half of the flat areas.
    correlation : float or None
        Of neighboring pixels of one phase; 0 for white noise; None where the denoised picture has no flat areas.
    blocks : int
        Blocks of 8 x 8 pixels of a phase that were used.
    """

    ratio: float | None
    dark: float | None
    bright: float | None
    correlation: float | None
    blocks: int

    @property
    def warning(self) -> str | None:
        """What does not fit, in one line; None when it fits or cannot be told."""
        if self.dark is None or self.bright is None:
            return None
        off = [
            f"{part} areas have {ratio:.2f} times the variance of the noise profile"
            for part, ratio in (("dark", self.dark), ("bright", self.bright))
            if not 1 / _TOLERANCE < ratio < _TOLERANCE
        ]
        if self.correlation is not None and abs(self.correlation) > _CORRELATION:
            off.append(f"neighboring pixels' noise is correlated ({self.correlation:+.2f}): not an untouched raw")
        return "; ".join(off) or None

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain values."""
        return {
            "variance_ratio": self.ratio,
            "dark": self.dark,
            "bright": self.bright,
            "correlation": self.correlation,
            "blocks": self.blocks,
            "warning": self.warning,
        }


#: Of a picture that was not looked at.
UNCHECKED = NoiseCheck(None, None, None, None, 0)


def noise_check(
    noisy: NDArray[np.float32], clean: NDArray[np.float32], params: NoiseParams, *, white: float
) -> NoiseCheck:
    """Compare a picture's noise with the assumed parameters.

    Parameters
    ----------
    noisy, clean : (P, h, w) float32 [DN, black removed]
        Planes before and after denoising.
    params : NoiseParams
        Scalars, or (P, 1, 1).
    white : float [DN, black removed]
        Pixels near it are left out: clipping takes their noise away.
    """
    own = [NoiseParams(*_of_plane(params, i, len(noisy))) for i in range(len(noisy))]
    found = [_plane(n, c, p, white) for n, c, p in zip(noisy, clean, own, strict=True)]
    level, ratio, product = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if level.size >= _FEWEST:
        return _summary(level, ratio, product)
    coarse = [_coarsely_flat(n, p, white) for n, p in zip(noisy, own, strict=True)]
    energy, level, ratio = (np.concatenate(parts) for parts in zip(*coarse, strict=True))
    chosen = np.argsort(energy)[: max(_FEWEST, int(_FLATTEST * energy.size))]
    if chosen.size < _FEWEST or _spread(ratio[chosen]) > _SPREAD:
        return NoiseCheck(None, None, None, None, 0)
    return _summary(level[chosen], ratio[chosen], None)


def _summary(level: NDArray, ratio: NDArray, product: NDArray | None) -> NoiseCheck:
    bright = level > np.median(level)
    dark_ratio = float(ratio[~bright].mean())
    return NoiseCheck(
        float(ratio.mean()),
        dark_ratio,
        float(ratio[bright].mean()) if bright.any() else dark_ratio,
        float(product.mean() / ratio.mean()) if product is not None and ratio.any() else None,
        int(level.size),
    )


def _spread(ratio: NDArray) -> float:
    lower, middle, upper = np.quantile(ratio, (0.25, 0.5, 0.75))
    return float((upper - lower) / middle) if middle > 0 else math.inf


def _of_plane(params: NoiseParams, index: int, count: int) -> tuple[float, float]:
    gain, var = (np.broadcast_to(np.ravel(v), (count,)) for v in (params.system_gain, params.read_var))
    return float(gain[index]), float(var[index])


def _plane(
    noisy: NDArray[np.float32], clean: NDArray[np.float32], params: NoiseParams, white: float
) -> tuple[NDArray, NDArray, NDArray]:
    """Level [e-], variance ratio and lag product of the blocks of one plane that are flattest when denoised."""
    given, result = _blocks(noisy), _blocks(clean)
    estimate = np.asarray(anscombe(result, params))
    structure = estimate.std(axis=(1, 2))
    usable = (given.max(axis=(1, 2)) < _CLIPPED * white) & (structure < _FLAT)
    order = np.flatnonzero(usable)[np.argsort(structure[usable])]
    chosen = order[: max(_FEWEST, int(_FLATTEST * len(estimate)))]
    d = np.asarray(anscombe(given[chosen], params))
    level, expected = _expected(result[chosen], params)
    rest = d - estimate[chosen]
    rest -= rest.mean(axis=(1, 2), keepdims=True)
    product = (rest[:, :, :-1] * rest[:, :, 1:]).mean(axis=(1, 2)) / 2 + (rest[:, :-1] * rest[:, 1:]).mean(
        axis=(1, 2)
    ) / 2
    # a block's own mean was removed, which takes 1/64 of the variance from every product
    product = product + (rest**2).mean(axis=(1, 2)) / _BLOCK**2
    return level, (_details(d)[-1] ** 2).mean(axis=(1, 2)) / expected, product / expected


def _coarsely_flat(noisy: NDArray[np.float32], params: NoiseParams, white: float) -> tuple[NDArray, NDArray, NDArray]:
    """Energy of coarse details, level [e-] and variance ratio of the blocks of one noisy plane."""
    given = _blocks(noisy)
    given = given[given.max(axis=(1, 2)) < _CLIPPED * white]
    level, expected = _expected(given, params)
    d = np.asarray(anscombe(given, params))
    finest, rest, energy = _details(d), d, np.zeros(len(d))
    while (rest := _details(rest)[0]).shape[1] > 1:
        energy += sum((part**2).sum(axis=(1, 2)) for part in _details(rest)[1:])
    return energy / expected, level, (finest[-1] ** 2).mean(axis=(1, 2)) / expected


def _blocks(plane: NDArray) -> NDArray[np.float64]:
    """(N, 8, 8) blocks of a plane, evenly spread."""
    rows, columns = (n // _BLOCK for n in plane.shape)
    step = max(1, math.ceil(math.sqrt(rows * columns / _MOST)))
    cut = plane[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)[::step, :, ::step]
    return cut.swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK).astype(np.float64)


def _details(d: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Orthonormal Haar transform of blocks: mean, columns, rows and diagonal, which is h of the module."""
    a, b, c, e = d[:, ::2, ::2], d[:, ::2, 1::2], d[:, 1::2, ::2], d[:, 1::2, 1::2]
    return (a + b + c + e) / 2, (a - b + c - e) / 2, (a + b - c - e) / 2, (a - b - c + e) / 2


def _expected(blocks: NDArray[np.float64], params: NoiseParams) -> tuple[NDArray, NDArray]:
    """Level [e-] of blocks and var[D] there."""
    level = np.maximum(blocks.mean(axis=(1, 2)) / params.system_gain, 0.0)
    read_var_e = float(params.read_var / params.system_gain**2)
    return level, np.interp(level, *_expected_variance(level, read_var_e)) if level.size else level


def _expected_variance(level: NDArray, read_var_e: float) -> tuple[NDArray, NDArray]:
    """Levels and var[D] there, on a short grid to interpolate in; beyond it the variance stays what it is, 1."""
    grid = np.concatenate(([0.0], np.geomspace(0.1, min(float(level.max()) + 1.0, _BRIGHT), 32)))
    return grid, anscombe_variance(grid, read_var_e)
