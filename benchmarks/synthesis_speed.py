"""How fast is Poisson-Gaussian synthesis on one core?  Mosaic megapixels per second, best of three runs.

python benchmarks/synthesis_speed.py [--megapixels 4]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np

from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA
from rawkit.sensor.params import NoiseParams

GAIN, READ_VAR = 2.5, 9.0
LEVELS_E = (0.5, 3.0, 9.0, 30.0, 1000.0)


def best_of_three(run: Callable[[], object]) -> float:
    """Shortest CPU time of three runs [s]."""
    times = []
    for _ in range(3):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def numpy_noise(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same model with NumPy's generators."""
    analog = GAIN * rng.poisson(clean / GAIN) + rng.normal(0.0, np.sqrt(READ_VAR - 1 / 12), clean.shape)
    return np.rint(analog).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=4.0)
    side = int(np.sqrt(parser.parse_args().megapixels * 1e6))
    synthesizer, rng = NoiseSynthesizer(NoiseParams(GAIN, READ_VAR)), np.random.default_rng(1)
    scenes = {f"{level:g} e-": np.full((side, side), level * GAIN, np.float32) for level in LEVELS_E}
    exponent = np.linspace(-1, 4, side * side).reshape(side, side)
    scenes["0.1 .. 10000 e-"] = (GAIN * 10**exponent).astype(np.float32)
    synthesizer.mosaic(np.zeros((2, 2), np.float32), 100, cfa=CFA.mono(), seed=0)  # compile
    print(f"{platform.processor() or platform.machine()}, one thread, {side}x{side}, MP/s")
    print(f"{'signal':18s} {'rawkit':>8s} {'numpy':>8s}")
    for name, clean in scenes.items():
        ours = best_of_three(lambda clean=clean: synthesizer.mosaic(clean, 100, cfa=CFA.mono(), seed=1))
        theirs = best_of_three(lambda clean=clean: numpy_noise(clean, rng))
        print(f"{name:18s} {clean.size / 1e6 / ours:8.1f} {clean.size / 1e6 / theirs:8.1f}")


if __name__ == "__main__":
    main()
