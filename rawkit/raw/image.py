"""What a raw file holds: a mosaic of digital numbers, its color filter array and its levels.

The stored value y [DN] of a pixel at (row i, column j) of the active area is

    y = x + b_phase(i, j) + dh_j + dv_i                  (DNG 1.7.1 specification, chapter 5)

with x the signal [DN], b the repeating black level and dh, dv the optional per-column and per-row black
deltas.  ``signal()`` returns x: black removed, negative values kept (they are half of the noise in the dark).

Phases.  A *phase* is a class of pixels that share one noise model.  Canonical order, whatever the file's CFA:

    Bayer    R, Gr, Gb, B     (Gr: the green in red rows, Gb: the green in blue rows)
    X-Trans  R, G, B
    mono     Y
    linear   R, G, B          (demosaiced images: LinearImage, a type of its own)

Planes.  ``pack`` splits a mosaic into planes of equal size, one for each site of the CFA period: Bayer gives
4 planes in phase order, X-Trans 36 in row-major order, mono 1.  ``plane_phases`` names the phase of each plane.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import MetadataError

FloatArray = NDArray[np.floating]

_BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")


@dataclass(frozen=True)
class CFA:
    """Color filter array, relative to the top-left pixel of the active area.

    Parameters
    ----------
    pattern : str
        Color letters of one period in row-major order: ``"RGGB"``, ``"GBRG"`` ..., 36 letters for X-Trans,
        ``"Y"`` for a monochrome sensor.
    shape : (int, int)
        Rows and columns of one period.

    Examples
    --------
    >>> CFA.bayer("GBRG").phases
    ('R', 'Gr', 'Gb', 'B')
    >>> CFA.bayer("GBRG").phase_map.tolist()
    [[2, 3], [0, 1]]
    """

    pattern: str
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, cols = self.shape
        if len(self.pattern) != rows * cols:
            raise ValueError(
                f"CFA pattern {self.pattern!r} has {len(self.pattern)} letters, its shape needs {rows * cols}."
            )
        known = (
            (self.shape == (2, 2) and self.pattern in _BAYER)
            or (self.shape == (1, 1) and self.pattern == "Y")
            or (self.shape == (6, 6) and set(self.pattern) == set("RGB"))
        )
        if not known:
            raise ValueError(
                f"CFA {self.pattern!r} {rows}x{cols} is not known; "
                f"use one of {', '.join(_BAYER)}, a 6x6 X-Trans, or MONO."
            )

    @classmethod
    def bayer(cls, pattern: str) -> CFA:
        """Bayer array from its four letters, e.g. ``"RGGB"``."""
        return cls(pattern.upper(), (2, 2))

    @classmethod
    def mono(cls) -> CFA:
        """No color filter."""
        return cls("Y", (1, 1))

    @classmethod
    def xtrans(cls, pattern: str) -> CFA:
        """Fujifilm X-Trans array from 36 letters in row-major order."""
        return cls(pattern.upper(), (6, 6))

    @classmethod
    def parse(cls, text: str) -> CFA:
        """CFA from user text: four Bayer letters, 36 X-Trans letters, or ``MONO``."""
        word = text.strip().upper()
        if word in ("MONO", "MONOCHROME", "Y"):
            return cls.mono()
        return cls.xtrans(word) if len(word) == 36 else cls.bayer(word)

    def __str__(self) -> str:
        return "MONO" if self.shape == (1, 1) else self.pattern

    @property
    def is_bayer(self) -> bool:
        return self.shape == (2, 2)

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases in canonical order."""
        if self.is_bayer:
            return ("R", "Gr", "Gb", "B")
        return ("Y",) if self.shape == (1, 1) else ("R", "G", "B")

    @cached_property
    def phase_map(self) -> NDArray[np.intp]:
        """(rows, cols) index into ``phases`` for each site of one period."""
        letters = np.array(list(self.pattern)).reshape(self.shape)
        names = letters.astype("U2")
        if self.is_bayer:
            red_row = (letters == "R").any(axis=1)
            for row in range(2):
                names[row, letters[row] == "G"] = "Gr" if red_row[row] else "Gb"
        return np.vectorize(self.phases.index)(names).astype(np.intp)

    @cached_property
    def sites(self) -> tuple[tuple[int, int], ...]:
        """(row, column) inside one period of each packed plane: phase order for Bayer, row-major otherwise."""
        every = [(r, c) for r in range(self.shape[0]) for c in range(self.shape[1])]
        return tuple(sorted(every, key=lambda rc: int(self.phase_map[rc]))) if self.is_bayer else tuple(every)

    @property
    def plane_phases(self) -> tuple[int, ...]:
        """Index into ``phases`` of each packed plane."""
        return tuple(int(self.phase_map[rc]) for rc in self.sites)

    def rolled(self, rows: int, cols: int) -> CFA:
        """The same array seen from a pixel ``rows`` further down and ``cols`` further right.

        Examples
        --------
        >>> CFA.bayer("RGGB").rolled(1, 0).pattern
        'GBRG'
        """
        letters = np.array(list(self.pattern)).reshape(self.shape)
        rolled = np.roll(letters, (-rows, -cols), axis=(0, 1))
        return CFA("".join(rolled.ravel()), self.shape)


def pack(mosaic: NDArray, cfa: CFA) -> NDArray:
    """Split a mosaic into its planes.

    Parameters
    ----------
    mosaic : (H, W)
        H and W multiples of the CFA period (see ``pad_to_period``).

    Returns
    -------
    (P, H / rows, W / cols), P = 4 for Bayer in order R, Gr, Gb, B; 36 for X-Trans; 1 for mono.

    Raises
    ------
    ValueError
        H or W is no multiple.
    """
    rows, cols = cfa.shape
    if mosaic.shape[0] % rows or mosaic.shape[1] % cols:
        raise ValueError(f"mosaic {mosaic.shape} is not a whole number of {rows}x{cols} CFA periods; pad it first.")
    return np.stack([mosaic[r::rows, c::cols] for r, c in cfa.sites])


def unpack(planes: NDArray, cfa: CFA) -> NDArray:
    """Inverse of ``pack``: (P, h, w) planes back to the (H, W) mosaic."""
    rows, cols = cfa.shape
    count, height, width = planes.shape
    if count != rows * cols:
        raise ValueError(f"{count} planes do not make a {cfa} mosaic, {rows * cols} are needed.")
    mosaic = np.empty((height * rows, width * cols), planes.dtype)
    for plane, (r, c) in zip(planes, cfa.sites, strict=True):
        mosaic[r::rows, c::cols] = plane
    return mosaic


def pad_to_period(mosaic: NDArray, cfa: CFA) -> NDArray:
    """Extend a mosaic at its bottom and right to whole CFA periods, repeating pixels of the same phase."""
    rows, cols = cfa.shape
    for axis, period in ((0, rows), (1, cols)):
        missing = -mosaic.shape[axis] % period
        if not missing:
            continue
        start = mosaic.shape[axis] - period
        if start < 0:
            raise ValueError(f"mosaic {mosaic.shape} is smaller than one {rows}x{cols} CFA period.")
        tail = np.take(mosaic, range(start, start + missing), axis=axis)
        mosaic = np.concatenate([mosaic, tail], axis=axis)
    return mosaic


@dataclass(frozen=True, eq=False)
class BlackLevel:
    """Black level of the active area.

    Parameters
    ----------
    pattern : (rows, cols) float64 [DN]
        Repeats from the top-left pixel of the active area.  (1, 1, C) for an image of C planes.
    delta_h, delta_v : (W,), (H,) float64 [DN] or None
        Added per column and per row (DNG BlackLevelDeltaH, BlackLevelDeltaV).
    """

    pattern: FloatArray
    delta_h: FloatArray | None = None
    delta_v: FloatArray | None = None

    @classmethod
    def constant(cls, value: float) -> BlackLevel:
        return cls(np.full((1, 1), float(value)))

    @classmethod
    def per_phase(cls, values: tuple[float, ...], cfa: CFA) -> BlackLevel:
        """Black level from one value per phase of ``cfa``, in canonical order."""
        if len(values) == 1:
            return cls.constant(values[0])
        if len(values) != len(cfa.phases):
            raise ValueError(f"{len(values)} black levels for the {len(cfa.phases)} phases {', '.join(cfa.phases)}.")
        return cls(np.asarray(values, np.float64)[cfa.phase_map])

    def remove(self, stored: NDArray) -> NDArray[np.float32]:
        """Stored values (H, W) or (H, W, C) minus black, float32, negatives kept."""
        signal = stored.astype(np.float32)
        self._accumulate(signal, -1.0)
        return signal

    def add(self, signal: NDArray) -> NDArray[np.float32]:
        """Inverse of ``remove``."""
        stored = signal.astype(np.float32)
        self._accumulate(stored, 1.0)
        return stored

    def _accumulate(self, image: NDArray[np.float32], sign: float) -> None:
        rows, cols = self.pattern.shape[:2]
        for r in range(rows):
            for c in range(cols):
                image[r::rows, c::cols] += np.float32(sign) * self.pattern[r, c].astype(np.float32)
        extra = (1,) * (image.ndim - 2)
        if self.delta_h is not None:
            image += (sign * self.delta_h).astype(np.float32).reshape(1, -1, *extra)
        if self.delta_v is not None:
            image += (sign * self.delta_v).astype(np.float32).reshape(-1, 1, *extra)

    def phase_means(self, cfa: CFA) -> tuple[float, ...]:
        """Mean black level of each phase of ``cfa`` [DN], with the deltas of its own rows and columns."""
        rows, cols = np.lcm(self.pattern.shape[0], cfa.shape[0]), np.lcm(self.pattern.shape[1], cfa.shape[1])
        black = np.tile(self.pattern, (rows // self.pattern.shape[0], cols // self.pattern.shape[1]))
        across, down = _site_means(self.delta_h, cfa.shape[1]), _site_means(self.delta_v, cfa.shape[0])
        repeats = (rows // cfa.shape[0], cols // cfa.shape[1])
        black = black + np.tile(down[:, None] + across, repeats)
        phase = np.tile(cfa.phase_map, repeats)
        return tuple(float(black[phase == p].mean()) for p in range(len(cfa.phases)))

    def plane_means(self, planes: int) -> tuple[float, ...]:
        """Mean black level of each plane of an image without a color filter array [DN], deltas included."""
        deltas = float(_site_means(self.delta_h, 1)[0] + _site_means(self.delta_v, 1)[0])
        return tuple(float(b) + deltas for b in np.broadcast_to(self.pattern.mean(axis=(0, 1)), (planes,)))


def _site_means(delta: FloatArray | None, period: int) -> FloatArray:
    """(period,) means of a delta over every ``period``-th row or column; zeros where there is none."""
    return np.zeros(period) if delta is None else np.array([delta[i::period].mean() for i in range(period)])


@dataclass(frozen=True, eq=False)
class Metadata:
    """What a file says about the picture.  ``None`` and empty mean *not recorded*, never a default.

    Parameters
    ----------
    iso : float or None
    exposure_time : float or None
        Seconds.
    aperture : float or None
        f-number.
    temperature : float or None
        Degrees Celsius, of the sensor or camera where the maker records it, else of the air.
    as_shot_neutral : tuple of float or None
        Camera color of neutral under the shot's light, largest usually 1 (DNG AsShotNeutral).
    color_matrices : tuple of (int, (3, 3) float64)
        EXIF light source code and the XYZ-to-camera matrix for it (DNG ColorMatrix1, 2).
    noise_profile : tuple of (float, float)
        DNG NoiseProfile (S, O) per color plane; one pair or one per plane.
    opcode_lists : dict of str to bytes
        OpcodeList1..3 as stored.
    """

    make: str | None = None
    model: str | None = None
    unique_camera_model: str | None = None
    serial: str | None = None
    lens: str | None = None
    software: str | None = None
    datetime: str | None = None
    iso: float | None = None
    exposure_time: float | None = None
    aperture: float | None = None
    focal_length: float | None = None
    orientation: int = 1
    as_shot_neutral: tuple[float, ...] | None = None
    color_matrices: tuple[tuple[int, FloatArray], ...] = ()
    baseline_exposure: float | None = None
    noise_profile: tuple[tuple[float, float], ...] | None = None
    noise_reduction_applied: float | None = None
    temperature: float | None = None
    opcode_lists: dict[str, bytes] = field(default_factory=dict)
    source: Path | None = None
    file_format: str = "memory"
    decoder: str = "none"
    notes: tuple[str, ...] = ()

    def camera(self) -> str:
        """Make and model in one string, the make not repeated; ``"unknown camera"`` when neither is recorded."""
        make, model = (self.make or "").strip(), (self.model or "").strip()
        if make and model.lower().startswith(make.split()[0].lower()):
            make = ""
        return " ".join(part for part in (make, model) if part) or self.unique_camera_model or "unknown camera"


@dataclass(frozen=True, eq=False, kw_only=True)
class _Levels:
    black: BlackLevel
    white_level: float
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def iso(self) -> float:
        """ISO speed; raises ``MetadataError`` when the file does not record it."""
        if self.metadata.iso is None:
            raise MetadataError(
                f"{self.metadata.source or 'this image'} does not record its ISO; "
                "say it with --iso N (or read_raw(..., iso=N))."
            )
        return self.metadata.iso


@dataclass(frozen=True, eq=False, kw_only=True)
class RawImage(_Levels):
    """A mosaic as the sensor delivered it.

    Parameters
    ----------
    raster : (H0, W0) uint16 or float32 [DN]
        Everything the file stores, masked borders included, linear, black included.
    cfa : CFA
        Relative to the top-left pixel of the active area.
    active_area : (top, left, bottom, right) or None
        Light-sensitive part of ``raster``; None means all of it.
    black : BlackLevel
        Relative to the active area.
    white_level : float
        Saturation [DN], black included.
    """

    raster: NDArray
    cfa: CFA
    active_area: tuple[int, int, int, int] | None = None

    @property
    def mosaic(self) -> NDArray:
        """(H, W) view of the active area [DN, black included]."""
        if self.active_area is None:
            return self.raster
        top, left, bottom, right = self.active_area
        return self.raster[top:bottom, left:right]

    @property
    def phases(self) -> tuple[str, ...]:
        return self.cfa.phases

    @property
    def plane_phases(self) -> tuple[int, ...]:
        return self.cfa.plane_phases

    @property
    def black_level(self) -> tuple[float, ...]:
        """Mean black level of each phase [DN]."""
        return self.black.phase_means(self.cfa)

    def signal(self) -> NDArray[np.float32]:
        """(H, W) float32 [DN, black removed, negatives kept]."""
        return self.black.remove(self.mosaic)

    def planes(self) -> NDArray[np.float32]:
        """(P, h, w) float32 signal, one plane per CFA site; odd sizes are padded (``from_planes`` crops)."""
        return pack(pad_to_period(self.signal(), self.cfa), self.cfa)

    def from_planes(self, planes: NDArray) -> NDArray:
        """Inverse of ``planes``: (P, h, w) signal planes to the (H, W) signal."""
        height, width = self.mosaic.shape
        return unpack(planes, self.cfa)[:height, :width]

    def with_signal(self, signal: NDArray) -> RawImage:
        """The same image with another signal.

        Parameters
        ----------
        signal : (H, W) float [DN, black removed]

        Returns
        -------
        RawImage whose raster is float32: the signal plus black in the active area, the source's values around it.
        """
        if signal.shape != self.mosaic.shape:
            raise ValueError(f"signal {signal.shape} does not fit the active area {self.mosaic.shape}.")
        stored = self.black.add(signal)
        if self.active_area is None:
            return replace(self, raster=stored)
        raster = self.raster.astype(np.float32)
        top, left, bottom, right = self.active_area
        raster[top:bottom, left:right] = stored
        return replace(self, raster=raster)


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearImage(_Levels):
    """A demosaiced linear image (DNG PhotometricInterpretation LinearRaw): every pixel has all colors.

    Its noise is correlated between neighbors, because demosaicing and resampling mixed them; a noise model
    per pixel still holds, white noise does not.

    Parameters
    ----------
    pixels : (H, W, C) uint8, uint16 or float32 [DN], black included
    """

    pixels: NDArray

    @property
    def phases(self) -> tuple[str, ...]:
        return ("R", "G", "B") if self.pixels.shape[2] == 3 else tuple(f"C{i}" for i in range(self.pixels.shape[2]))

    @property
    def plane_phases(self) -> tuple[int, ...]:
        return tuple(range(self.pixels.shape[2]))

    @property
    def black_level(self) -> tuple[float, ...]:
        """Mean black level of each plane [DN]."""
        return self.black.plane_means(self.pixels.shape[2])

    def signal(self) -> NDArray[np.float32]:
        """(H, W, C) float32 [DN, black removed]."""
        return self.black.remove(self.pixels)

    def planes(self) -> NDArray[np.float32]:
        """(C, H, W) float32 signal."""
        return np.ascontiguousarray(np.moveaxis(self.signal(), 2, 0))

    def from_planes(self, planes: NDArray) -> NDArray:
        """Inverse of ``planes``: (C, H, W) to (H, W, C)."""
        return np.moveaxis(planes, 0, 2)

    def with_signal(self, signal: NDArray) -> LinearImage:
        """The same image with another (H, W, C) signal [DN, black removed]; pixels become float32."""
        if signal.shape != self.pixels.shape:
            raise ValueError(f"signal {signal.shape} does not fit the image {self.pixels.shape}.")
        return replace(self, pixels=self.black.add(signal))


AnyRaw = RawImage | LinearImage
