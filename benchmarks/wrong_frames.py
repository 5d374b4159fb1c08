"""How often are good frames accused, and how often are wrong ones found?

Simulated sets (bare NumPy), 142 x 142 pixels, K = 2 DN/e-, read noise 4 DN, black 512: six pairs of darks and seven
of flats from 0 to 9,000 DN with 1 % flicker, 30 % vignetting, 1 % PRNU, 1.5 DN DSNU and 0.1 % hot pixels.  "good"
sets hold nothing wrong: plain; with a response that bends by 2 % or 5 % at white; with darks from 0.1 to 30 s at
1 e-/s.  The others hold one wrong pair: light of so many e- in a dark; a dark or a flat of a higher or lower ISO.

Usage: python benchmarks/wrong_frames.py [--runs 300]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from synthetic import expose, field

from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.dark import fit_darks
from rawkit.sensor.frames import PairStatistics, pair_statistics
from rawkit.sensor.misfits import light_leaks, mislabelled_darks, mislabelled_flats
from rawkit.sensor.photon_transfer import FIT_UP_TO

GAIN, READ_NOISE, BLACK, WHITE = 2.0, 4.0, 512.0, 16383.0
SHAPE = (142, 142)
ELECTRONS = (50.0, 150.0, 400.0, 1000.0, 2000.0, 3200.0, 4500.0)
SERIES = (0.1, 0.5, 2.0, 8.0, 16.0, 30.0)  # s
STOP = 2.0
THIRD = 2.0 ** (1 / 3)


class Sensor:
    """One sensor's fixed pattern and its frames."""

    def __init__(self, seed: int, bend: float = 0.0) -> None:
        self.rng, self.bend = np.random.default_rng(seed), bend
        self.light = field(SHAPE, prnu=0.01, vignetting=0.3, rng=self.rng)
        self.offsets = 1.5 * self.rng.standard_normal(SHAPE)
        self.hot = np.where(self.rng.random(SHAPE) < 1e-3, 500.0, 0.0)

    def frame(self, electrons: float, amplified: float) -> RawImage:
        light = electrons * self.light * (1 + 0.01 * self.rng.standard_normal())
        signal = expose(
            light, system_gain=GAIN * amplified, read_noise=0.0, black=0.0, white=1e9, rng=self.rng, hot=self.hot
        )
        bent = signal * (1.0 - self.bend * signal / (WHITE - BLACK))
        stored = BLACK + self.offsets + bent + READ_NOISE * amplified * self.rng.standard_normal(SHAPE)
        pixels = np.clip(np.round(stored), 0, WHITE).astype(np.uint16)
        return RawImage(raster=pixels, cfa=CFA.mono(), black=BlackLevel.constant(BLACK), white_level=WHITE)

    def pair(
        self, electrons: float, *, dark: bool = False, seconds: float = 0.01, amplified: float = 1.0
    ) -> PairStatistics:
        """``amplified``: K and read noise are so many times those of the label; the level in DN stays."""
        first, second = (self.frame(electrons / amplified, amplified) for _ in range(2))
        return replace(pair_statistics(first, second, dark=dark), exposure_time=seconds)


def judged(darks: list[PairStatistics], flats: list[PairStatistics]) -> tuple[list[bool], list[bool], list[bool]]:
    """What calibrate() asks of every pair: leaks, mislabelled darks, mislabelled flats."""
    leaks = light_leaks(darks)
    kept = [pair for pair, leak in zip(darks, leaks, strict=True) if not leak]
    other_darks = [ratio is not None for ratio in mislabelled_darks(kept)]
    dark = fit_darks([pair for pair, other in zip(kept, other_darks, strict=True) if not other])
    gains = mislabelled_flats(flats, dark.mean, dark.read_var, highest=FIT_UP_TO * (WHITE - BLACK))
    return leaks, other_darks, [ratio is not None for ratio in gains]


def good(bend: float = 0.0, current: float = 0.0) -> Callable[[int], tuple[bool, bool]]:
    def run(seed: int) -> tuple[bool, bool]:
        sensor = Sensor(seed, bend)
        darks = [sensor.pair(current * t, dark=True, seconds=t) for t in SERIES]
        return False, any(map(any, judged(darks, [sensor.pair(e) for e in ELECTRONS])))

    return run


def wrong(leak: float = 0.0, dark: float = 1.0, flat: float = 1.0) -> Callable[[int], tuple[bool, bool]]:
    """The wrong pair, which comes last, left out by its right name, and any other accused."""

    def run(seed: int) -> tuple[bool, bool]:
        sensor = Sensor(seed)
        darks = [sensor.pair(0.0, dark=True) for _ in range(5)]
        darks.append(sensor.pair(leak, dark=True, amplified=dark))
        flats = [sensor.pair(e) for e in ELECTRONS]
        level = float(np.exp(sensor.rng.uniform(np.log(150.0), np.log(4500.0))))
        flats += [sensor.pair(level, amplified=flat)] if flat != 1.0 else []
        leaks, other_darks, other_flats = judged(darks, flats)
        found = leaks[-1] if leak else other_darks[-1] if dark != 1.0 else other_flats[-1]
        wrong_darks, wrong_flats = leak > 0 or dark != 1.0, flat != 1.0
        good_darks = [*leaks[: len(leaks) - wrong_darks], *other_darks[: 6 - wrong_darks - sum(leaks)]]
        return found, any([*good_darks, *other_flats[: len(other_flats) - wrong_flats]])

    return run


CASES: dict[str, Callable[[int], tuple[bool, bool]]] = {
    "good": good(),
    "good, response bends 2 % at white": good(bend=0.02),
    "good, response bends 5 % at white": good(bend=0.05),
    "good, darks of 0.1 to 30 s at 1 e-/s": good(current=1.0),
    "leak of 2 e- (1 read noise)": wrong(leak=2.0),
    "leak of 4 e-": wrong(leak=4.0),
    "leak of 20 e-": wrong(leak=20.0),
    "dark of an ISO a stop higher": wrong(dark=STOP),
    "dark of an ISO a stop lower": wrong(dark=1 / STOP),
    "flat of an ISO a third of a stop higher": wrong(flat=THIRD),
    "flat of an ISO a third of a stop lower": wrong(flat=1 / THIRD),
    "flat of an ISO a stop higher": wrong(flat=STOP),
    "flat of an ISO two stops lower": wrong(flat=STOP**-2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    print(f"device: CPU {platform.machine()}, one thread; commit {commit.strip()}; {runs} sets each")
    print(f"{'set':42s} {'wrong one found':>16s} {'good one accused':>17s}")
    for name, run in CASES.items():
        found, accused = np.sum([run(seed) for seed in range(runs)], axis=0)
        print(
            f"{name:42s} {'' if name.startswith('good') else f'{found}/{runs}':>16s} {f'{accused}/{runs}':>17s}",
            flush=True,
        )


if __name__ == "__main__":
    main()
