"""How good is denoising on clean pictures with synthetic noise, and what does it cost?

    python benchmarks/denoise_quality.py [folder of PNG or JPEG] [--count N] [--iso 1600 6400 12800]

Pictures are unprocessed to a linear RGGB mosaic of 959 DN (10 bit, black 64), get Poisson-Gaussian noise drawn by
NumPy with the coefficients MegEngine/PMRID publishes for the Reno 10x (``run_benchmark.py``), and every method sees
the Anscombe-stabilized planes.  Columns: raw PSNR (peak = white, packed planes) / PSNR and SSIM after white
balance, clip and the sRGB curve; processor seconds per mosaic megapixel, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from skimage.restoration import cycle_spin, denoise_nl_means, denoise_wavelet

from rawkit.noise.unprocess import photograph_to_raw
from rawkit.raw.develop import srgb_curve
from rawkit.raw.image import CFA
from rawkit.restore.denoise import Denoiser
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import anscombe, inverse_anscombe

BLACK, WHITE = 64.0, 1023.0
SPAN = WHITE - BLACK
NEUTRAL = (0.5, 1.0, 0.62)
# XYZ (D65) to camera, a typical phone sensor; the same for every picture.
MATRIX = np.array([[0.838, -0.263, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]])
BALANCE = (1 / np.array([NEUTRAL[0], NEUTRAL[1], NEUTRAL[1], NEUTRAL[2]]))[:, None, None]

Method = Callable[[np.ndarray, NoiseParams], np.ndarray]


def reno10x(iso: float) -> NoiseParams:
    """K = 0.0005995267 ISO + 0.00868861, v = 7.11772e-7 ISO^2 + 6.514934e-4 ISO + 0.11492713 [DN of 959]."""
    return NoiseParams(0.0005995267 * iso + 0.00868861, 7.11772e-7 * iso**2 + 6.514934e-4 * iso + 0.11492713)


def stabilized(per_plane: Callable[[np.ndarray], np.ndarray]) -> Method:
    """A filter of single unit-noise planes as a method on signal planes."""

    def method(planes: np.ndarray, params: NoiseParams) -> np.ndarray:
        d = anscombe(planes, params)
        return inverse_anscombe(np.stack([per_plane(plane) for plane in d]).astype(np.float32), params)

    return method


def wavelet(plane: np.ndarray) -> np.ndarray:
    return cycle_spin(
        plane, func=denoise_wavelet, max_shifts=3, workers=1,
        func_kw={"sigma": 1.0, "wavelet": "sym4", "mode": "soft", "method": "BayesShrink", "rescale_sigma": True},
    )  # fmt: skip


def nlm(plane: np.ndarray) -> np.ndarray:
    return denoise_nl_means(plane, patch_size=5, patch_distance=9, h=0.8, sigma=1.0, fast_mode=True)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


def scores(clean: np.ndarray, estimate: np.ndarray) -> tuple[float, float, float]:
    """Raw PSNR, rendered PSNR, rendered SSIM."""
    shown = [srgb_curve(np.clip(x / SPAN * BALANCE, 0, 1)) for x in (clean, estimate)]
    ssim = [structural_similarity(a, b, data_range=1.0) for a, b in zip(*shown, strict=True)]
    return psnr(clean / SPAN, estimate / SPAN), psnr(*shown), float(np.mean(ssim))


def clean_planes(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    raw = photograph_to_raw(
        rgb, cfa=CFA.bayer("RGGB"), white_level=WHITE, black=BLACK, as_shot_neutral=NEUTRAL, color_matrix=MATRIX
    )
    return raw.planes()


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("RAWKIT_TEST_DATA", beside)) / "eval" / "Kodak24"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--count", type=int, help="use only so many pictures, evenly spread")
    parser.add_argument("--iso", type=float, nargs="+", default=[1600, 6400, 12800])
    parser.add_argument("--only", nargs="+", help="methods to run")
    options = parser.parse_args()

    files = sorted(p for p in options.folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if options.count:
        files = files[:: max(1, len(files) // options.count)][: options.count]
    if not files:
        parser.error(f"no PNG or JPEG pictures in {options.folder}")
    denoiser = Denoiser.load("classical")
    methods: dict[str, Method] = {
        "noisy": lambda planes, params: planes,
        "wavelet per plane": stabilized(wavelet),
        "NLM per plane": stabilized(nlm),
        "rawkit classical": denoiser.denoise_planes,
    }
    if options.only:
        methods = {name: methods[name] for name in options.only}
    for name, method in methods.items():  # compile before timing
        method(np.ones((4, 64, 64), np.float32), NoiseParams(1.0, 1.0)), name

    print(f"{len(files)} pictures of {options.folder.name}, {platform.machine()}")
    print(f"{'ISO':>6s} {'method':20s} {'raw dB':>8s} {'sRGB dB':>8s} {'SSIM':>6s} {'s/MP':>6s}")
    for iso in options.iso:
        params = reno10x(iso)
        totals = {name: np.zeros(4) for name in methods}
        megapixels = 0.0
        for path in files:
            clean = clean_planes(path)
            rng = np.random.default_rng(zlib.crc32(f"{path.name} {iso:g}".encode()))
            shot = params.system_gain * rng.poisson(clean / params.system_gain)
            noisy = (shot + rng.normal(0.0, np.sqrt(params.read_var), clean.shape)).astype(np.float32)
            megapixels += clean.size / 1e6
            for name, method in methods.items():
                start = time.process_time()
                estimate = method(noisy, params)
                spent = time.process_time() - start
                totals[name] += np.array([*scores(clean, estimate), spent])
        for name, total in totals.items():
            raw, shown, ssim = total[:3] / len(files)
            print(f"{iso:6g} {name:20s} {raw:8.2f} {shown:8.2f} {ssim:6.3f} {total[3] / megapixels:6.2f}", flush=True)


if __name__ == "__main__":
    main()
