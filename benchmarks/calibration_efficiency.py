"""How close does the calibration come to the best possible estimate, and do its intervals cover?

Simulated sensor (bare NumPy): 142 x 142 pixels (640 x 480 for the bent response), levels 0 to 1600 DN,
K = 2 DN/e-, read noise 4 DN, black 512, with 1 % flicker, 30 % vignetting, 1 % PRNU, 1.5 DN DSNU and 0.1 % hot
pixels; optionally a response that bends by 2 % at the white level.  The bound is that of Cramer and Rao for (K, v)
from all pairs together:

    I = sum_i (nu_i / 2) v_i^-2 [mu_i, 1]^T [mu_i, 1]

Usage: python benchmarks/calibration_efficiency.py [--runs 1000]
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from synthetic import expose, field

from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.dark import fit_darks
from rawkit.sensor.frames import pair_statistics
from rawkit.sensor.photon_transfer import fit_photon_transfer

GAIN, READ_NOISE, BLACK, WHITE = 2.0, 4.0, 512.0, 16383.0
READ_VAR = READ_NOISE**2 + 1 / 12
ELECTRONS = (25.0, 50.0, 100.0, 200.0, 400.0, 600.0, 800.0)
BENT_ELECTRONS = tuple(np.linspace(100.0, 5200.0, 24))


def shoot(electrons, light, offsets, hot, rng, bend):
    frame = expose(electrons * light, system_gain=GAIN, read_noise=0.0, black=0.0, white=1e9, rng=rng, hot=hot).astype(
        float
    )
    bent = frame * (1 - bend * frame / (WHITE - BLACK))
    value = BLACK + offsets + bent + READ_NOISE * rng.standard_normal(light.shape)
    pixels = np.clip(np.round(value), 0, WHITE).astype(np.uint16)
    return RawImage(raster=pixels, cfa=CFA.mono(), black=BlackLevel.constant(BLACK), white_level=WHITE)


def calibrate_once(seed, shape, levels, dark_pairs, bend):
    rng = np.random.default_rng(seed)
    light = field(shape, prnu=0.01, vignetting=0.3, rng=rng)
    offsets = 1.5 * rng.standard_normal(shape)
    hot = np.where(rng.random(shape) < 1e-3, 500.0, 0.0)

    def pair(electrons, dark, exclude=None):
        a, b = (shoot(electrons * (1 + 0.01 * rng.standard_normal()), light, offsets, hot, rng, bend) for _ in range(2))
        return pair_statistics(a, b, dark=dark, exclude=exclude)

    darks = [pair(0.0, True) for _ in range(dark_pairs)]
    dark = fit_darks(darks)
    hot_seen = np.unique(np.concatenate([d.hot for d in darks]))
    curve = fit_photon_transfer(
        [pair(e, False, hot_seen) for e in levels], dark.mean, dark.read_var, dark.read_var_se, white=WHITE - BLACK
    )
    found = np.array([curve.system_gain[0], dark.read_var[0]])
    error = np.array([curve.system_gain_se[0], dark.read_var_se[0]])
    return found, error


def bound(shape, levels, dark_pairs):
    """Cramer-Rao standard deviations of (K, v); the mean light of the vignetted field is 1 - 0.3 / 3."""
    pixels = shape[0] * shape[1]
    information = np.zeros((2, 2))
    for mu, pairs in [(0.0, dark_pairs), *((GAIN * e * 0.9, 1) for e in levels)]:
        v = GAIN * mu + READ_VAR
        information += pixels * pairs / 2 / v**2 * np.outer([mu, 1.0], [mu, 1.0])
    return np.sqrt(np.diag(np.linalg.inv(information)))


def report(title, shape, levels, dark_pairs, runs, bend):
    results = [calibrate_once(seed, shape, levels, dark_pairs, bend) for seed in range(runs)]
    found, error = (np.array(column) for column in zip(*results, strict=True))
    true = np.array([GAIN, READ_VAR])
    limit = bound(shape, levels, dark_pairs)
    print(f"\n{title}: {runs} runs, {len(levels)} flat pairs, {dark_pairs} dark pairs")
    print(f"{'':10} {'bias %':>8} {'+-':>7} {'sd %':>7} {'sd/CRLB':>8} {'stated/sd':>10} {'95 % cover':>11}")
    for i, name in enumerate(("K", "read var")):
        deviation = found[:, i].std(ddof=1)
        cover = np.mean(np.abs(found[:, i] - true[i]) < 1.96 * error[:, i])
        print(
            f"{name:10} {100 * (found[:, i].mean() / true[i] - 1):8.3f} {100 * deviation / true[i] / runs**0.5:7.3f} "
            f"{100 * deviation / true[i]:7.3f} {deviation / limit[i]:8.3f} {error[:, i].mean() / deviation:10.3f} "
            f"{100 * cover:10.1f}%"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"device: CPU {platform.machine()}, one thread; commit {commit}")
    report("linear response", (142, 142), ELECTRONS, 4, runs, 0.0)
    report("response bending 2 % at white", (480, 640), BENT_ELECTRONS, 4, max(runs // 25, 4), 0.02)


if __name__ == "__main__":
    main()
