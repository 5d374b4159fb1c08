"""The task that denoisers are compared on: photographs as a telephone would record them.

A photograph is unprocessed to a linear RGGB mosaic of 959 DN (10 bit, black 64; ``rawkit.noise.unprocess``) and gets

    x = K Poisson(clean / K) + N(0, v)          [DN, black removed], negatives and values above white kept

drawn by NumPy from a seed made of the picture's name and the ISO: the same noise for every method and every run.
The noise coefficients of the Reno 10x are those that MegEngine/PMRID publishes (``run_benchmark.py``).
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rawkit.noise.unprocess import TYPICAL_MATRIX, photograph_to_raw
from rawkit.raw.image import CFA
from rawkit.sensor.params import NoiseParams

BLACK, WHITE = 64.0, 1023.0  # DN
SPAN = WHITE - BLACK
#: Camera color of neutral.
NEUTRAL = (0.5, 1.0, 0.62)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")


def reno10x(iso: float) -> NoiseParams:
    """K = 0.0005995267 ISO + 0.00868861 [DN/e-], v = 7.11772e-7 ISO^2 + 6.514934e-4 ISO + 0.11492713 [DN^2]."""
    return NoiseParams(0.0005995267 * iso + 0.00868861, 7.11772e-7 * iso**2 + 6.514934e-4 * iso + 0.11492713)


def pictures_in(folder: Path | str) -> list[Path]:
    """Photographs of a folder, sorted.

    Raises
    ------
    ValueError
        There are none.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES) if folder.is_dir() else []
    if not files:
        raise ValueError(f"no photographs in {folder}; give a folder of {', '.join(PICTURE_SUFFIXES)} files.")
    return files


def clean_planes(path: Path) -> NDArray[np.float32]:
    """(4, h, w) signal [DN, 0 to 959] of a photograph, RGGB."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB"))
    rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    raw = photograph_to_raw(
        rgb,
        cfa=CFA.bayer("RGGB"),
        white_level=WHITE,
        black=BLACK,
        as_shot_neutral=NEUTRAL,
        color_matrix=np.array(TYPICAL_MATRIX),
    )
    return raw.planes()


def noisy_planes(clean: NDArray[np.float32], params: NoiseParams, *, name: str, iso: float) -> NDArray[np.float32]:
    """(4, h, w) float32 [DN]: ``clean`` with the noise of ``params`` (see module)."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {iso:g}".encode()))
    shot = params.system_gain * rng.poisson(clean / params.system_gain)
    return (shot + rng.normal(0.0, np.sqrt(params.read_var), clean.shape)).astype(np.float32)


def psnr(a: NDArray, b: NDArray) -> float:
    """10 log10(1 / mean square difference) [dB], peak 1; infinite for equal arrays."""
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))
