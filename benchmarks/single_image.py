"""How well does one photograph tell system gain and read noise?  Errors, coverage of 95 % intervals, time.

python benchmarks/single_image.py KODAK_DIR PHOTO_DIR [--pictures 36] [--megapixels 24] [--all-photos]

Scenes: 8-bit photographs, linearized (sRGB), divided by a white balance, sampled as a 14-bit RGGB mosaic at random
exposure.  Their own grain and 8-bit steps are noise at this scale (at K = 0.5 DN/e- one 8-bit step in mid gray has a
third of the shot noise's variance), so "clean" scenes have it removed by wavelet thresholding; "as they are" keep it,
and show by how much such a picture misleads any estimator.  The smaller set is used at its own size, the larger one
averaged 2 x 2 in linear light.  Noise: Poisson and normal in bare NumPy, rounded, clipped.

"dark": pictures with at least 1 % of their pixels where shot noise is below read noise.  "shown": pictures that
the estimate itself declares dark enough for its read noise.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import pywt
from PIL import Image

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.single_image import estimate

LEVELS = ((0.5, 4.0), (2.0, 25.0), (8.0, 200.0))  # K [DN/e-], v [DN^2], 1/12 of quantization included
WHITE_BALANCE = np.array([2.0, 1.0, 1.6])
SPAN = 15871.0
EXPOSURES = (0.3, 1.2)
GRAIN = 4.0  # standard deviations of the picture's own noise below which a wavelet coefficient is dropped
DARK_SHARE = 0.01
HELD_OUT = 12  # photographs, every sixth from the fourth, that no constant was tuned on


def to_linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.0) + 0.055) / 1.055) ** 2.4)


def to_srgb(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * np.maximum(v, 0.0031308) ** (1 / 2.4) - 0.055)


def without_grain(channel: np.ndarray, levels: int = 4) -> np.ndarray:
    """Translation-invariant hard threshold of one sRGB channel (H, W) in [0, 1]."""
    height, width = channel.shape
    period = 2**levels
    padded = np.pad(channel, ((period, period + -height % period), (period, period + -width % period)), mode="reflect")
    coarse, *details = pywt.swt2(padded, "db2", levels, trim_approx=True, norm=True)
    grain = max(float(np.median(np.abs(details[-1][2]))) / 0.6745, 0.5 / 255.0)
    kept = [tuple(np.where(np.abs(d) > GRAIN * grain, d, 0.0) for d in level) for level in details]
    return pywt.iswt2([coarse, *kept], "db2", norm=True)[period : period + height, period : period + width]


def scene(path: Path, *, halve: bool, clean: bool) -> np.ndarray:
    """(H, W) RGGB mosaic in [0, 1], linear."""
    rgb = to_linear(np.asarray(Image.open(path).convert("RGB"), np.float64) / 255.0)
    if halve:
        rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
        rgb = (rgb[::2, ::2] + rgb[1::2, ::2] + rgb[::2, 1::2] + rgb[1::2, 1::2]) / 4.0
    rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    if clean:
        smooth = np.stack([without_grain(to_srgb(rgb[..., i])) for i in range(3)], axis=-1)
        rgb = to_linear(np.clip(smooth, 0.0, 1.0))
    rgb = rgb / WHITE_BALANCE
    mosaic = np.empty(rgb.shape[:2])
    mosaic[::2, ::2], mosaic[1::2, 1::2] = rgb[::2, ::2, 0], rgb[1::2, 1::2, 2]
    mosaic[::2, 1::2], mosaic[1::2, ::2] = rgb[::2, 1::2, 1], rgb[1::2, ::2, 1]
    return mosaic


def photograph(signal: np.ndarray, gain: float, var: float, black: float, rng: np.random.Generator) -> RawImage:
    """A noisy raw of ``signal`` (H, W) [DN above black]."""
    value = gain * rng.poisson(signal / gain) + np.sqrt(var - 1 / 12) * rng.standard_normal(signal.shape) + black
    stored = np.clip(np.rint(value), 0, SPAN + black).astype(np.uint16)
    return RawImage(raster=stored, cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(black), white_level=SPAN + black)


def trial(mosaic: np.ndarray, level: int, black: float, rng: np.random.Generator) -> tuple | None:
    """Relative errors of K and sigma, coverage of both, 'shown' and 'dark'; None where the estimate was refused."""
    gain, var = LEVELS[level]
    signal = mosaic * SPAN
    dark = float((gain * signal < var).mean()) >= DARK_SHARE
    try:
        found = estimate(photograph(signal, gain, var, black, rng), workers=1)
    except CalibrationError:
        return None
    low_k, high_k = found.system_gain_interval.T
    low_v, high_v = found.read_var_interval.T
    return (
        float(found.system_gain.mean()) / gain - 1.0,
        float(np.sqrt(found.read_var.mean() / var)) - 1.0,
        float(((low_k <= gain) & (gain <= high_k)).mean()),
        float(((low_v <= var) & (var <= high_v)).mean()),
        bool(found.identifiable.all()),
        dark,
    )


def table(title: str, paths: list[Path], *, halve: bool, clean: bool = True, black: float = 512.0) -> None:
    rows: list[list[tuple]] = [[] for _ in LEVELS]
    refused = 0
    for index, path in enumerate(paths):
        rng = np.random.default_rng(index)
        mosaic = scene(path, halve=halve, clean=clean) * np.exp(rng.uniform(*np.log(EXPOSURES)))
        for level in range(len(LEVELS)):
            result = trial(mosaic, level, black, rng)
            refused += result is None
            rows[level] += [result] if result else []
    names = [f"K={k:g}, v={v:g}" for k, v in LEVELS] + ["all"]
    for name, part in zip(names, [*rows, [one for level in rows for one in level]], strict=True):
        a = np.array(part, float)
        error, shown, dark = np.abs(a[:, :2]) * 100, a[:, 4] > 0, a[:, 5] > 0
        sigma = [
            f"{np.median(error[pick, 1]):6.2f} ({pick.sum():3d})" if pick.any() else " " * 12 for pick in (dark, shown)
        ]
        k_median, k_most, k_bias = np.median(error[:, 0]), np.quantile(error[:, 0], 0.9), np.median(a[:, 0]) * 100
        print(
            f"{title:34s} {name:13s} {len(a):4d} {k_median:7.2f} {k_most:7.1f} {k_bias:+7.2f} "
            f"{sigma[0]:>13s} {sigma[1]:>13s} {a[:, 2].mean():6.3f} {a[:, 3].mean():6.3f}"
        )
    if refused:
        print(f"{title:34s} refused: {refused}")


def speed(path: Path, megapixels: float) -> None:
    mosaic = scene(path, halve=False, clean=False)
    rows, cols = int(np.sqrt(megapixels * 1e6 / 1.5)) // 2 * 2, int(np.sqrt(megapixels * 1e6 * 1.5)) // 2 * 2
    repeats = (rows // mosaic.shape[0] + 1, cols // mosaic.shape[1] + 1)
    signal = np.tile(mosaic, repeats)[:rows, :cols] * SPAN
    for black in (512.0, 0.0):
        image = photograph(signal, 2.0, 25.0, black, np.random.default_rng(0))
        estimate(photograph(signal[:600, :600], 2.0, 25.0, black, np.random.default_rng(0)))  # compile
        for workers in (1, 2):
            start = time.perf_counter()
            estimate(image, workers=workers)
            seconds = time.perf_counter() - start
            print(f"{cols}x{rows}, black {black:.0f}, {workers} thread(s): {seconds:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("small", type=Path, help="folder of pictures used at their own size")
    parser.add_argument("large", type=Path, help="folder of photographs averaged 2x2")
    parser.add_argument("--pictures", type=int, default=36, help="pictures of each set at most")
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--all-photos", action="store_true", help="not only those held out from tuning")
    options = parser.parse_args()
    small = sorted(options.small.glob("*.png"))[: options.pictures]
    large = sorted(options.large.glob("*.jpg"))
    large = (large if options.all_photos else large[3::6][:HELD_OUT])[: options.pictures]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"{platform.processor() or platform.machine()}, {commit.strip()}; errors in %, (n) pictures, 95 % coverage")
    print(
        f"{'set':34s} {'noise':13s} {'n':>4s} {'K med':>7s} {'K 90%':>7s} {'K bias':>7s} "
        f"{'sigma dark':>13s} {'sigma shown':>13s} {'cov K':>6s} {'cov v':>6s}"
    )
    for paths, halve, name in ((large, True, "photographs"), (small, False, "small pictures")):
        table(f"{name}, clean", paths, halve=halve)
        table(f"{name}, clean, black 0", paths, halve=halve, black=0.0)
        table(f"{name}, as they are", paths, halve=halve, clean=False)
    speed(small[0], options.megapixels)


if __name__ == "__main__":
    main()
