"""The kernels of ``rng`` and ``kernels`` in torch, for any torch device: same counters, same arithmetic, same codes.

Philox runs in int64, products masked to 32 bits; everything else is float32 with one operation per rounding, as IEEE
754 asks of +, -, *, / and sqrt, so that the codes equal those of the numba kernel bit by bit.  ``measured`` has an
FFT in between (double precision, 1e-15 of the noise): there a code may differ by 1 about once in 10^12 pixels.

Only the tile's own light crosses the bus; a camera's maps are put on the device once per ISO.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from rawkit.errors import MetadataError
from rawkit.noise.kernels import TABLE_LOW, TABLE_SIZE, TABLE_STEPS, Converter, ideal_converter, measured_converter
from rawkit.noise.read_noise import SHOT_AND_READ_STREAM, ReadNoise
from rawkit.noise.render import Tile, make_sites, tile_defects
from rawkit.noise.rng import (
    ALIAS_COUNTS,
    ALIAS_STEPS,
    EXP_SERIES,
    EXPANSION_0,
    EXPANSION_1,
    EXPANSION_2,
    EXPANSION_FROM,
    LN_2,
    LOG_SERIES,
    MAX_MEAN,
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
    PHILOX_WEYL,
    RECIPROCALS,
    ROOT_HALF_BITS,
    TAIL_BOTTOM,
    TAIL_TOP,
    WORD,
    alias_table,
    check_key,
)
from rawkit.noise.spectral_field import SPECTRUM_STREAM, SpectralField
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, BlackLevel

_MASK = 0xFFFFFFFF
_ALIAS_SHARE_BITS = 32 - ALIAS_COUNTS.bit_length() + 1
_PIXELS_AT_A_TIME = {"cpu": 1 << 16, "cuda": 1 << 23}
_OTHER_DEVICE = 1 << 20


def philox_words(
    rows: torch.Tensor, columns: torch.Tensor, stream: int, seed: int, frame: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 words of pixels.

    Parameters
    ----------
    rows, columns : int64, broadcast against each other
    stream, seed, frame : int

    Returns
    -------
    four int64 tensors of values from 0 to 2**32 - 1

    Examples
    --------
    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [f"{int(w):08x}" for w in philox_words(zero, zero, 0, 0, 0)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1 = columns & _MASK, rows & _MASK
    c2, c3 = torch.full_like(c0, stream), torch.zeros_like(c0)
    k0, k1 = seed, frame
    for _ in range(PHILOX_ROUNDS):
        high, low = c0 * PHILOX_MULTIPLIERS[0], c2 * PHILOX_MULTIPLIERS[1]  # modulo 2^64
        c0, c1, c2, c3 = (
            ((low >> 32) & _MASK) ^ c1 ^ k0,
            low & _MASK,
            ((high >> 32) & _MASK) ^ c3 ^ k1,
            high & _MASK,
        )
        k0, k1 = (k0 + PHILOX_WEYL[0]) & _MASK, (k1 + PHILOX_WEYL[1]) & _MASK
    return c0, c1, c2, c3


def normals(words: torch.Tensor) -> torch.Tensor:
    """Standard normals float32 of words int64; ``rng.normals``."""
    p = ((words & 0x7FFFFFFF).to(torch.float32) + 0.5) * float(WORD)
    bits = p.view(torch.int32)
    exponent = (bits - ROOT_HALF_BITS) >> 23
    t = (bits - (exponent << 23)).view(torch.float32) - 1.0
    half = -(exponent.to(torch.float32) * float(LN_2)) - t * _polynomial(t, LOG_SERIES)
    s = _sqrt(half + half)
    tail = s - _polynomial(s, TAIL_TOP) / _polynomial(s, TAIL_BOTTOM)
    return torch.where(words > 0x7FFFFFFF, tail, -tail)


def _sqrt(x: torch.Tensor) -> torch.Tensor:
    """Square root rounded as IEEE 754 asks; float32 ``torch.sqrt`` on a CPU can be off by one unit (MKL)."""
    return torch.sqrt(x.to(torch.float64)).to(torch.float32)


def _polynomial(x: torch.Tensor, coefficients: tuple[np.float32, ...]) -> torch.Tensor:
    """Horner's scheme, lowest order first."""
    total = x * float(coefficients[-1]) + float(coefficients[-2])
    for c in coefficients[-3::-1]:
        total = x * total + float(c)
    return total


def poisson(
    mean: torch.Tensor, words: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], table: torch.Tensor
) -> torch.Tensor:
    """Poisson counts float32 of means float32 [e-]; ``rng.poisson``."""
    few, many = mean < float(EXPANSION_FROM), mean >= float(EXPANSION_FROM)
    counts = torch.zeros_like(mean)
    if bool(few.any()):
        counts = _few_electrons(torch.where(few, mean, 0.0), words[0], words[1], table)
    if bool(many.any()):
        large = torch.where(many, mean, float(EXPANSION_FROM))
        counts = torch.where(many, _many_electrons(large, normals(words[0])), counts)
    return counts


def _few_electrons(mean: torch.Tensor, w0: torch.Tensor, w1: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    row, column = (mean * float(ALIAS_STEPS)).to(torch.int64), w0 >> _ALIAS_SHARE_BITS
    entry = table[row * ALIAS_COUNTS + column]
    keeps = (w0 & ((1 << _ALIAS_SHARE_BITS) - 1)) < (entry >> (32 - _ALIAS_SHARE_BITS))
    counts = torch.where(keeps, column, entry & (ALIAS_COUNTS - 1)).to(torch.float32)
    d = mean - row.to(torch.float32) * (1.0 / ALIAS_STEPS)
    v = (w1 >> 1).to(torch.float32) * 2.0**-31
    p = [_polynomial(d, EXP_SERIES) * d]
    for reciprocal in RECIPROCALS[1:]:
        p.append(p[-1] * d * float(reciprocal))
    tail = p[-1]
    more = (v < tail).to(torch.float32)
    for mass in p[-2::-1]:
        tail = mass + tail
        more = more + (v < tail).to(torch.float32)
    return counts + more


def _many_electrons(mean: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    whole, z2, root = torch.floor(mean), z * z, _sqrt(mean)
    middle = (z2 * float(EXPANSION_0[1]) + float(EXPANSION_0[0])) + z * _polynomial(z2, EXPANSION_1) / root
    middle = middle + _polynomial(z2, EXPANSION_2) / mean
    return whole + torch.floor((mean - whole) + (root * z + middle))


@lru_cache(maxsize=8)
def _alias_on(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(alias_table().view(np.uint32).astype(np.int64)).to(device)


def _to(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


class DeviceSynthesizer:
    """A ``NoiseSynthesizer`` that works on a torch device.

    Parameters
    ----------
    synthesizer : NoiseSynthesizer
    device : torch.device or str
    kernel : bool
        On a CPU, use the numba kernel, which gives the same values fifty times as fast as torch does there.

    Notes
    -----
    Mode ``resample`` calls its dark source on the CPU and sends the frame over.

    Examples
    --------
    >>> from rawkit.sensor.params import NoiseParams
    >>> cpu = NoiseSynthesizer(NoiseParams(2.0, 9.0))
    >>> clean = np.full((32, 32), 50.0, np.float32)
    >>> options = dict(cfa=CFA.mono(), black=64.0, white_level=1023, seed=1)
    >>> here = DeviceSynthesizer(cpu, "cpu", kernel=False).stored(torch.from_numpy(clean), None, **options)
    >>> bool((here.numpy() == cpu.stored(clean, None, **options)).all())
    True
    """

    def __init__(self, synthesizer: NoiseSynthesizer, device: torch.device | str, *, kernel: bool = True) -> None:
        self.synthesizer = synthesizer
        self.device = torch.device(device)
        self._by_kernel = kernel and self.device.type == "cpu"
        self._maps: dict[int, tuple[ReadNoise, torch.Tensor | None, torch.Tensor | None]] = {}

    def stored(
        self,
        clean: torch.Tensor,
        iso: float | None,
        *,
        cfa: CFA,
        black: BlackLevel | float,
        white_level: float,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
        place: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """``NoiseSynthesizer.stored`` of a mosaic (H, W) float32 on the device: uint16 there."""
        if self._by_kernel:
            codes = self.synthesizer.stored(
                clean.numpy(),
                iso,
                cfa=cfa,
                black=black,
                white_level=white_level,
                seed=seed,
                frame=frame,
                origin=origin,
                place=place,
            )
            return torch.from_numpy(codes)
        if not 0 < white_level <= np.iinfo(np.uint16).max:
            raise MetadataError(f"white level {white_level:g} DN does not fit a 16-bit mosaic; rescale the image.")
        read = self.synthesizer.read_noise(iso, cfa)
        converter = (
            ideal_converter(white_level)
            if read.code_edges is None
            else measured_converter(white_level, *read.code_edges)
        )
        level = black if isinstance(black, BlackLevel) else BlackLevel.constant(black)
        tile = Tile(cfa, *check_key(seed, frame), origin, origin if place is None else place)
        out = torch.empty(clean.shape, dtype=torch.uint16, device=self.device)
        for rows, analog in self._analog(clean, iso, read, tile, level):
            codes = _convert(analog, converter, self.device).clamp(0.0, float(converter.white))
            out[rows] = codes.to(torch.int32).to(torch.uint16)
        return out

    def mosaic(
        self,
        clean: torch.Tensor,
        iso: float | None,
        *,
        cfa: CFA,
        seed: int,
        frame: int = 0,
        origin: tuple[int, int] = (0, 0),
    ) -> torch.Tensor:
        """``NoiseSynthesizer.mosaic`` without a converter (``quantize=False``): analog float32 on the device."""
        if self._by_kernel:
            analog = self.synthesizer.mosaic(
                clean.numpy(), iso, cfa=cfa, seed=seed, frame=frame, origin=origin, quantize=False
            )
            return torch.from_numpy(analog)
        read = self.synthesizer.read_noise(iso, cfa, quantize=False)
        tile = Tile(cfa, *check_key(seed, frame), origin, origin)
        out = torch.empty(clean.shape, dtype=torch.float32, device=self.device)
        for rows, analog in self._analog(clean, iso, read, tile, BlackLevel.constant(0.0)):
            out[rows] = analog
        return out

    def _analog(
        self, clean: torch.Tensor, iso: float | None, read: ReadNoise, tile: Tile, black: BlackLevel
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Analog values [DN, black included] in bands of rows."""
        if clean.ndim != 2:
            raise ValueError(f"clean is {tuple(clean.shape)}; a mosaic is (H, W).")
        params = self.synthesizer.params(iso)
        signal = clean.to(self.device, torch.float32)
        ceiling = MAX_MEAN * float(np.min(params.system_gain))
        if signal.numel() and not bool((torch.isfinite(signal) & (signal <= ceiling)).all()):
            raise ValueError(f"the clean signal must be finite and at most {ceiling:g} DN.")
        height, width = int(signal.shape[0]), int(signal.shape[1])
        seed, frame, (top, left) = tile.seed, tile.frame, tile.origin
        signal, fixed, response = self._on_tile(signal, read, tile)
        sites = make_sites(params, read, tile, black, width)
        gain, inverse, sigma, table, offset = (_to(part, self.device) for part in sites)
        tables = None if read.tables is None else _to(read.tables.reshape(-1), self.device)
        line = np.zeros(height, np.float32) if read.rows is None else read.rows(seed, frame, top, height)
        if black.delta_v is not None:
            line = line + np.asarray(black.delta_v, np.float32)
        row_offset = _to(line[:, None], self.device)
        given = None if read.source is None else read.source(iso, (height, width), seed, frame, top, left)
        columns = torch.arange(left, left + width, device=self.device)[None, :]
        alias = _alias_on(self.device)
        for first, field in self._fields(read.field, (height, width), tile):
            here = slice(first, first + field) if isinstance(field, int) else slice(first, first + len(field))
            rows = torch.arange(here.start, here.stop, device=self.device)
            site = rows % gain.shape[0]
            words = philox_words(rows[:, None] + top, columns, SHOT_AND_READ_STREAM, seed, frame)
            light = signal[here]
            mean = light.clamp(min=0.0) * inverse[site]
            if response is not None:
                mean = mean * response[here]
            counts = poisson(mean, words, alias)
            if given is not None:
                noise = _to(np.asarray(given[here], np.float32), self.device)
            else:
                z = normals(words[2]) if isinstance(field, int) else field
                noise = sigma[site] * z if tables is None else _lookup(z, table[site], tables)
            if fixed is not None:
                noise = noise + fixed[here]
            below = light.clamp(max=0.0)
            yield here, counts * gain[site] + (noise + ((below + offset[site]) + row_offset[here]))

    def _on_tile(
        self, signal: torch.Tensor, read: ReadNoise, tile: Tile
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Light, fixed pattern and response of a tile; ``render.with_defects``."""
        if id(read) not in self._maps:
            # The key is an address: holding ``read`` keeps it from being given to another.
            whole = [None if m is None else _to(m, self.device) for m in (read.fixed, read.response)]
            self._maps[id(read)] = (read, whole[0], whole[1])
        _, fixed, response = self._maps[id(read)]
        shape = (int(signal.shape[0]), int(signal.shape[1]))
        read.part(read.fixed, shape, tile.place, "fixed pattern")
        read.part(read.response, shape, tile.place, "response")
        here = tuple(slice(start, start + size) for start, size in zip(tile.place, shape, strict=True))
        response = None if response is None else response[here]
        if fixed is None:
            return signal, None, response
        fixed = fixed[here]
        defects = tile_defects(read, tile, shape)
        if defects.hot is not None or defects.telegraph is not None:
            fixed = fixed.clone()
        if defects.hot is not None:
            i, j, excess = (_to(part, self.device) for part in defects.hot)
            lit = torch.where(signal[i, j] >= 0, excess, 0.0)
            signal = signal.clone()
            signal[i, j] += lit
            fixed[i, j] -= lit
        if defects.telegraph is not None:
            i, j, level = (_to(part, self.device) for part in defects.telegraph)
            fixed[i, j] += level
        return signal, fixed, response

    def _fields(
        self, field: SpectralField | None, shape: tuple[int, int], tile: Tile
    ) -> Iterator[tuple[int, torch.Tensor | int]]:
        """Bands of rows: first row, and the colored field there or the number of rows."""
        if field is not None:
            yield from _colored_bands(field, shape, tile, self.device)
            return
        step = max(1, _PIXELS_AT_A_TIME.get(self.device.type, _OTHER_DEVICE) // max(shape[1], 1))
        for first in range(0, shape[0], step):
            yield first, min(step, shape[0] - first)


def _lookup(z: torch.Tensor, start: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    place = (z - TABLE_LOW) * float(TABLE_STEPS)
    k = place.to(torch.int32).clamp(0, TABLE_SIZE - 2)
    slope = place - k.to(torch.float32)
    index = (start + k).to(torch.int64)
    low = tables[index]
    return low + slope * (tables[index + 1] - low)


def _convert(analog: torch.Tensor, converter: Converter, device: torch.device) -> torch.Tensor:
    """``kernels._convert``."""
    code = torch.round(analog)
    if converter.passes == 0:
        return code
    count = len(converter.shift)
    # Codes outside the table have no shift; a place on either side stands for all of them.
    shift = _to(np.concatenate([[0.0], converter.shift, [0.0]]).astype(np.float32), device)
    for _ in range(converter.passes):
        k = code.to(torch.int64) - converter.first
        below, above = shift[(k + 1).clamp(0, count + 1)], shift[(k + 2).clamp(0, count + 1)]
        down = (k >= 0) & (k < count) & (analog - (code - 0.5) < below)
        up = ~down & (k + 1 >= 0) & (k + 1 < count) & (analog - (code + 0.5) >= above)
        code = code - down.to(torch.float32) + up.to(torch.float32)
    return code


def _colored_bands(
    field: SpectralField, shape: tuple[int, int], tile: Tile, device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """``SpectralField.bands``."""
    amplitude = _to(field.amplitude, device)
    down, across = (_to(window, device) for window in field.windows)
    step = field.stride
    top, left = tile.origin
    bottom = top + shape[0]
    overlap = down.numel() - step[0]
    period = field.lines(seed=tile.seed, frame=tile.frame)
    lines = None if period is None else _to(period, device)
    line_columns = torch.arange(left, left + shape[1], device=device) % amplitude.shape[1]

    def strip(block_row: int) -> torch.Tensor:
        height, length = amplitude.shape
        out = torch.zeros((height, shape[1]), dtype=torch.float32, device=device)
        first, last = -(-(left - length + 1) // step[1]), (left + shape[1] - 1) // step[1]
        rows = torch.arange(block_row * height, (block_row + 1) * height, device=device)[:, None]
        for pair in range(first // 2, last // 2 + 1):
            columns = torch.arange(pair * length, (pair + 1) * length, device=device)[None, :]
            words = philox_words(rows, columns, SPECTRUM_STREAM, tile.seed, tile.frame)
            real, imaginary = (normals(w).to(torch.float64) * amplitude for w in words[:2])
            block = torch.fft.ifft2(torch.complex(real, imaginary))
            for part, values in enumerate((block.real, block.imag)):
                start = (2 * pair + part) * step[1] - left
                if -length < start < shape[1]:
                    skip, begin = max(-start, 0), max(start, 0)
                    count = min(length - skip, shape[1] - begin)
                    chosen = values[:, skip : skip + count].to(torch.float32) * across[skip : skip + count]
                    out[:, begin : begin + count] += chosen
        return out

    before = strip(top // step[0] - 1) if top % step[0] < overlap else None
    for block_row in range(top // step[0], (bottom - 1) // step[0] + 1):
        now = strip(block_row)
        band = now[: step[0]].clone()
        if before is not None:
            band[:overlap] = band[:overlap] * down[:overlap, None] + before[step[0] :] * down[step[0] :, None]
        start = block_row * step[0]
        low, high = max(top, start), min(bottom, start + step[0])
        band = band[low - start : high - start]
        if lines is not None:
            line_rows = torch.arange(low, high, device=device) % lines.shape[0]
            band = band + lines[line_rows][:, line_columns]
        yield low - top, band
        before = now
