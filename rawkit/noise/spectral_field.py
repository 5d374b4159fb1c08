"""Gaussian noise of a given two-dimensional spectrum, independent of tiles.

The sensor is covered by blocks of h x w pixels, each a periodic field

    z = Re, Im  ifft2( sqrt(S(u, v) h w) (a + i b) ),      a, b = N(0, 1), keyed by the block's place

of unit variance and spectrum S (mean 1); the real and the imaginary part are two fields, for two neighbors.  Blocks
overlap by an eighth and are blended with sine and cosine, whose squares add up to one, so that variance is 1 and
correlations run on everywhere, up to a block's length.

Spectral lines are coherent over a whole frame.  A bin that stands out from the bins three away by a factor of 3 is
taken out of S and drawn once per frame instead, with its measured amplitude and a random phase: h x w pixels that are
repeated over the sensor.

A tile computes every block it touches, whole: it gets the noise of the full frame's tile, at the price of the blocks'
parts outside.  Sums have two terms, so their order does not matter.  Transforms are in double precision: another FFT
(on a GPU) differs by 1e-15 of the noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rawkit.noise.kernels import add_block, fill_spectrum
from rawkit.noise.rng import pixel_words

#: Stream of the blocks' draws.
SPECTRUM_STREAM = 4
#: Stream of the lines' phases.
LINE_STREAM = 10
_OVERLAP = 8  # block lengths per overlap
_LINE_DISTANCE = 3  # bins; a line between two bins has leaked 99 % of its power nearer than that
_LINE_FACTOR = 3.0


@dataclass(frozen=True, eq=False)
class SpectralField:
    """Unit-variance noise with the spectrum of ``log_spectrum``.

    Parameters
    ----------
    log_spectrum : (h, w) float
        Natural logarithm of the power, ``numpy.fft.fft2`` order; normalized and made symmetric here.

    Examples
    --------
    >>> field = SpectralField(np.zeros((16, 16)))
    >>> z = field.draw((64, 64), seed=1)
    >>> bool(np.array_equal(z[10:30, 5:50], field.draw((20, 45), seed=1, origin=(10, 5))))
    True
    """

    log_spectrum: NDArray[np.floating]

    @cached_property
    def _power(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(h, w) power of the broad spectrum and of the lines; together their mean is 1."""
        power = np.exp(np.asarray(self.log_spectrum, np.float64))
        power = (power + np.roll(power[::-1, ::-1], (1, 1), (0, 1))) / 2.0
        power /= power.mean()
        if min(power.shape) < 2 * _LINE_DISTANCE + 2:
            return power, np.zeros_like(power)
        reach = range(-_LINE_DISTANCE, _LINE_DISTANCE + 1)
        ring = np.stack(
            [np.roll(power, (i, j), (0, 1)) for i in reach for j in reach if max(abs(i), abs(j)) == _LINE_DISTANCE]
        )
        line = power > _LINE_FACTOR * ring.max(axis=0)
        broad = np.where(line, np.median(ring, axis=0), power)
        return broad, power - broad

    @cached_property
    def amplitude(self) -> NDArray[np.float64]:
        """(h, w): sqrt(S h w) of the broad spectrum."""
        return np.sqrt(self._power[0] * self.log_spectrum.size)

    def lines(self, *, seed: int, frame: int) -> NDArray[np.float32] | None:
        """One period (h, w) of the lines of a frame; None without lines.

        A pair of conjugate bins of power S is sqrt(4 S / (h w)) cos(phase), one that is its own conjugate
        +- sqrt(S / (h w)).
        """
        import scipy.fft

        power = self._power[1]
        u, v = np.nonzero(power)
        if not u.size:
            return None
        height, width = power.shape
        own = (2 * u % height == 0) & (2 * v % width == 0)
        first = own | (u * width + v < (-u % height) * width + (-v % width))
        u, v, own = u[first], v[first], own[first]
        turn = pixel_words(u, v, LINE_STREAM, seed, frame).astype(np.float64) / 2.0**32
        phase = np.where(own, np.where(turn < 0.5, 1.0, -1.0), 2.0 * np.exp(2j * np.pi * turn))
        spectrum = np.zeros(power.shape, np.complex128)
        spectrum[u, v] = np.sqrt(power[u, v] * power.size) * phase
        return np.real(np.asarray(scipy.fft.ifft2(spectrum, workers=1))).astype(np.float32)

    @cached_property
    def windows(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights along a block's rows and columns."""
        return _window(self.amplitude.shape[0]), _window(self.amplitude.shape[1])

    @property
    def stride(self) -> tuple[int, int]:
        """Distance of neighboring blocks [pixels]."""
        height, width = self.amplitude.shape
        return height - height // _OVERLAP, width - width // _OVERLAP

    def strip(self, block_row: int, left: int, width: int, *, seed: int, frame: int) -> NDArray[np.float32]:
        """Blocks of one row of blocks, blended along the columns: (h, width) float32 from sensor column ``left`` on."""
        import scipy.fft

        height, length = self.amplitude.shape
        step = self.stride[1]
        strip = np.zeros((height, width), np.float32)
        spectrum = np.empty((height, length), np.complex128)
        first, last = -(-(left - length + 1) // step), (left + width - 1) // step
        for pair in range(first // 2, last // 2 + 1):
            fill_spectrum(spectrum, self.amplitude, block_row * height, pair * length, SPECTRUM_STREAM, seed, frame)
            block = scipy.fft.ifft2(spectrum, overwrite_x=True, workers=1)
            for part in (0, 1):
                start = (2 * pair + part) * step - left
                if -length < start < width:
                    add_block(strip, block, part, self.windows[1], max(-start, 0), max(start, 0))
        return strip

    def bands(
        self, shape: tuple[int, int], *, seed: int, frame: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The field in bands of whole rows: first row in the tile, (n, W) float32."""
        top, left = origin
        step = self.stride[0]
        bottom = top + shape[0]
        down = self.windows[0]
        overlap = down.size - step
        lines = self.lines(seed=seed, frame=frame)
        columns = np.arange(left, left + shape[1]) % self.amplitude.shape[1]
        before = self.strip(top // step - 1, left, shape[1], seed=seed, frame=frame) if top % step < overlap else None
        for block_row in range(top // step, (bottom - 1) // step + 1):
            strip = self.strip(block_row, left, shape[1], seed=seed, frame=frame)
            band = strip[:step].copy()
            if before is not None:
                band[:overlap] *= down[:overlap, None]
                band[:overlap] += before[step:] * down[step:, None]
            start = block_row * step
            low, high = max(top, start), min(bottom, start + step)
            band = band[low - start : high - start]
            if lines is not None:
                band += lines[np.arange(low, high) % len(lines)][:, columns]
            yield low - top, band
            before = strip

    def draw(
        self, shape: tuple[int, int], *, seed: int, frame: int = 0, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """(H, W) float32 field of a tile whose first pixel has the sensor coordinates ``origin``."""
        out = np.empty(shape, np.float32)
        for first, band in self.bands(shape, seed=seed, frame=frame, origin=origin):
            out[first : first + len(band)] = band
        return out


def _window(length: int) -> NDArray[np.float32]:
    """1 in the middle, a quarter of a sine wave at either end; shifted by the stride the squares add up to 1."""
    overlap = length // _OVERLAP
    rise = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1))
    window = np.ones(length)
    window[:overlap] = rise
    window[length - overlap :] = rise[::-1]
    return window.astype(np.float32)
