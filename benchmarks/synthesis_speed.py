"""How fast is noise synthesis on one core, clean float32 mosaic in, uint16 file values out?

A 24-megapixel frame; CPU megapixels per second, each row's sides alternating, best of several.  Beside it NumPy's
Poisson + normal, and a straightforward NumPy ELD (Poisson, Tukey-lambda by its quantile function, a normal per row).

Usage: python benchmarks/synthesis_speed.py [--megapixels 24] [--repeats 3] [--profile PROFILE --iso ISO]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rawkit.noise.eld import EldParams
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.defects import DEFECT_DTYPE
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

GAIN, READ_VAR, BLACK, WHITE = 2.5, 9.0, 512.0, 16383.0
LEVELS_E = (0.5, 3.0, 10.0, 30.0, 1000.0)
ELD = EldParams(GAIN, -0.1, 1.5, 0.8, 0.1)
BAYER = CFA.bayer("RGGB")


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Shortest CPU time of every side [s], sides alternating."""
    for run in sides.values():
        run()
    best = dict.fromkeys(sides, np.inf)
    for _ in range(repeats):
        for name, run in sides.items():
            best[name] = min(best[name], cpu_seconds(run))
    return best


def store(analog: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(analog + BLACK), 0, WHITE).astype(np.uint16)


def numpy_pg(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return store(GAIN * rng.poisson(clean / GAIN) + rng.normal(0.0, np.sqrt(READ_VAR - 1 / 12), clean.shape))


def numpy_eld(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    p = rng.random(clean.shape)
    tukey = ELD.tukey_scale * (p**ELD.tukey_lambda - (1 - p) ** ELD.tukey_lambda) / ELD.tukey_lambda
    rows = rng.normal(0.0, ELD.row_noise, (clean.shape[0], 1))
    return store(GAIN * rng.poisson(clean / GAIN) + tukey + rows + ELD.color_bias)


def simulated_profile(shape: tuple[int, int]) -> CameraProfile:
    """A profile with everything that mode ``measured`` has: colored noise, rows, pattern, defects, uneven codes."""
    from scipy.special import ndtri

    rng = np.random.default_rng(1)
    u, v = np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij")
    codes = np.arange(400, 700)
    defects = np.array([(10, 10, "hot", 50.0), (20, 31, "telegraph", 9.0)], DEFECT_DTYPE)
    model = DarkModel(
        fixed_pattern=rng.normal(0, 0.3, shape).astype(np.float32),
        fixed_residue=0.1,
        row_series=rng.normal(0, 0.5, (20, shape[0])).astype(np.float32),
        column_noise=0.05,
        pixel_quantiles=np.tile(3 * ndtri((np.arange(1025) + 0.5) / 1025), (4, 1)).astype(np.float32),
        log_spectrum=np.log(1 + 0.2 * np.cos(2 * np.pi * u) + 0.1 * np.cos(4 * np.pi * v)).astype(np.float32),
        code_edges=(400, codes - 0.5 + rng.normal(0, 0.06, codes.size)),
        defects=defects,
        frames=20,
    )
    noise = NoiseModel([(800.0, NoiseParams(GAIN, READ_VAR))])
    return CameraProfile("", "simulated", noise, black_level=(BLACK,), white_level=WHITE, maps=model.to_maps(800))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=24.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", type=Path, help="measured: this profile in place of a simulated one")
    parser.add_argument("--iso", type=float, default=800.0)
    options = parser.parse_args()
    height = int(np.sqrt(options.megapixels * 1e6 / 1.5)) // 2 * 2
    shape = (height, height * 3 // 2 // 2 * 2)
    profile = simulated_profile(shape)
    if options.profile is not None:
        profile = CameraProfile.load(options.profile)
        model = DarkModel.from_profile(profile, options.iso)
        assert model is not None, f"{options.profile} has no dark model at ISO {options.iso:g}"
        shape = model.fixed_pattern.shape
    scenes = {f"{level:g} e-": np.full(shape, level * GAIN, np.float32) for level in LEVELS_E}
    scenes["0.1 .. 10000 e-"] = (GAIN * 10 ** np.linspace(-1, 4, shape[0] * shape[1])).astype(np.float32).reshape(shape)
    scenes["same, shuffled"] = np.random.default_rng(3).permutation(scenes["0.1 .. 10000 e-"].ravel()).reshape(shape)
    rng = np.random.default_rng(1)
    synthesizers = {
        "pg": NoiseSynthesizer(NoiseParams(GAIN, READ_VAR)),
        "eld": NoiseSynthesizer(ELD),
        "measured": NoiseSynthesizer(profile, mode="measured"),
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{platform.processor() or platform.machine()}, one thread, {shape[1]} x {shape[0]}, MP/s, commit {commit}")
    names = [*synthesizers, "numpy pg", "numpy eld"]
    print(f"{'signal':18s}" + "".join(f"{name:>11s}" for name in names))
    for scene, clean in scenes.items():
        sides: dict[str, Callable[[], object]] = {
            name: lambda s=s, clean=clean: s.stored(
                clean, options.iso, cfa=BAYER, black=BLACK, white_level=WHITE, seed=1
            )
            for name, s in synthesizers.items()
        }
        sides["numpy pg"] = lambda clean=clean: numpy_pg(clean, rng)
        sides["numpy eld"] = lambda clean=clean: numpy_eld(clean, rng)
        best = compare(sides, options.repeats)
        print(f"{scene:18s}" + "".join(f"{clean.size / 1e6 / best[name]:11.1f}" for name in names), flush=True)


if __name__ == "__main__":
    main()
