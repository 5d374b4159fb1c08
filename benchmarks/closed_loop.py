"""Does calibration find again what synthesis was told?

A camera in bare NumPy (Tukey-lambda read noise, row noise, dark shading, DSNU, PRNU, color bias) is photographed and
calibrated.  Then every mode of the synthesizer takes the same pictures and is calibrated likewise:

    numpy       told the truth, calibrated: the second opinion on calibration
    pg          K and read variance of the truth
    eld         K, Tukey-lambda law, row noise and color bias of the truth
    eld, fit    the ELD model of the profile that calibration made of NumPy's frames
    measured    the profile that calibration made of NumPy's frames
    resample    NumPy's dark frames, as calibration found them, and K of the truth

Resampled residuals of n frames have lost (2 n - 1)/n^2 of their excess kurtosis, 8 % for 24 frames, so their
Tukey-lambda law is not compared.

Each number is (found - told) / standard error of what was found, or, where it is a map, stated as such.  Over many
runs such numbers have mean 0 and root mean square 1; "-": the mode has no such thing.

Usage: python benchmarks/closed_loop.py [--runs 8] [--height 320] [--width 480] [--values]
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from synthetic import bayer_map, expose

from rawkit.errors import CalibrationWarning
from rawkit.noise.eld import EldParams
from rawkit.noise.real_darks import RealDarks
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.frames import FrameSet
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile

GAIN, BLACK, WHITE, ISO = 1.7, 256.0, 4095.0, 800.0
TUKEY_LAMBDA, TUKEY_SCALE, ROW_NOISE = -0.08, 1.4, 0.8
COLOR_BIAS = (0.6, 0.2, -0.1, 0.9)
DSNU, SHADING, PRNU, VIGNETTING = 0.7, 2.0, 0.01, 0.15
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.1)  # of saturation; the last one clips
DARKS, MIDDLE_FLATS = 24, 16
MODES = ("numpy", "pg", "eld", "eld, fit", "measured", "resample")
CFA_BAYER = CFA.bayer("RGGB")

Camera = Callable[[np.ndarray, int], np.ndarray]


class NumpyCamera:
    """The truth: ``shoot(light, number)`` gives one frame (H, W) uint16 for expected DN above black."""

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
        surface = SHADING * (x**2 - y / 2)
        self.shading = surface - surface.mean()
        self.dsnu = DSNU * self.rng.standard_normal(shape)
        self.response = 1.0 + PRNU * self.rng.standard_normal(shape)

    def shoot(self, light: np.ndarray, number: int) -> np.ndarray:
        shape = light.shape
        tukey = TUKEY_SCALE * stats.tukeylambda.ppf(self.rng.random(shape), TUKEY_LAMBDA)
        rows = ROW_NOISE * self.rng.standard_normal((shape[0], 1))
        offset = bayer_map("RGGB", COLOR_BIAS, shape) + self.shading + self.dsnu + rows + tukey
        return expose(
            light / GAIN * self.response,
            system_gain=GAIN,
            read_noise=0.0,
            black=BLACK,
            white=WHITE,
            rng=self.rng,
            dsnu=offset,
        )


def synthetic_camera(synthesizer: NoiseSynthesizer, seed: int) -> Camera:
    def shoot(light: np.ndarray, number: int) -> np.ndarray:
        return synthesizer.stored(light, ISO, cfa=CFA_BAYER, black=BLACK, white_level=WHITE, seed=seed, frame=number)

    return shoot


def photograph(camera: Camera, shape: tuple[int, int], folder: Path) -> None:
    """Darks and flats of a camera, as .npy files with a manifest."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    field = (1.0 - VIGNETTING * (x**2 + y**2) / 2.0).astype(np.float32)
    plan = [("dark", 0.0)] * DARKS
    for level in LEVELS:
        plan += [("flat", level)] * (MIDDLE_FLATS if level == 0.5 else 2)
    with open(folder / "manifest.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "kind", "iso", "exposure_time", "black_level", "white_level", "cfa"])
        for number, (kind, level) in enumerate(plan):
            name = f"{number:03d}.npy"
            np.save(folder / name, camera(np.float32(level * (WHITE - BLACK)) * field, number))
            time = 0.01 if kind == "dark" else level
            writer.writerow([name, kind, ISO, time, BLACK, WHITE, "RGGB"])


def calibrated(camera: Camera, shape: tuple[int, int], keep: Path | None = None) -> CameraProfile:
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        photograph(camera, shape, folder)
        return calibrate(FrameSet.from_folder(folder), model="loop", workers=1).profile


def numbers(profile: CameraProfile) -> dict[str, tuple[float, float]]:
    """Value and standard error of what a calibration found, phases averaged."""
    params, details = profile.noise.at(ISO), profile.details[ISO]

    def mean(value: object, error: object, *, common: bool = False) -> tuple[float, float]:
        v, e = np.atleast_1d(np.asarray(value, float)), np.atleast_1d(np.asarray(error, float))
        return float(v.mean()), float(e.mean() if common else np.sqrt((e**2).sum()) / e.size)

    found = {
        "K [DN/e-]": mean(params.system_gain, params.system_gain_se),
        # Row noise is part of every phase's variance and common to them.
        "read variance [DN2]": mean(params.read_var, params.read_var_se, common=details.row_noise > 0.1),
        "row noise [DN]": mean(details.row_noise, details.row_noise_se),
        "PRNU [%]": tuple(100 * v for v in mean(details.prnu, details.prnu_se)),
        "DSNU [DN]": mean(details.dsnu, details.dsnu_se),
        "color bias R - B [DN]": (
            details.black_offset[0] - details.black_offset[3],
            float(np.hypot(details.black_offset_se[0], details.black_offset_se[3])),
        ),
    }
    if details.tukey_lambda is not None:
        found["Tukey lambda"] = mean(details.tukey_lambda, details.tukey_lambda_se)
    return found


def truths(mode: str, calibration: CameraProfile) -> dict[str, float]:
    """What a mode was told."""
    found = {name: value for name, (value, _) in numbers(calibration).items()}
    if mode == "measured":
        return found
    if mode == "eld, fit":
        return {name: found[name] for name in ("K [DN/e-]", "read variance [DN2]", "row noise [DN]",
                                               "color bias R - B [DN]")}  # fmt: skip
    eld = EldParams(GAIN, TUKEY_LAMBDA, TUKEY_SCALE, ROW_NOISE)
    told = {"K [DN/e-]": GAIN, "read variance [DN2]": float(eld.params.read_var)}
    if mode == "pg":
        return told | {"row noise [DN]": 0.0}
    if mode == "resample":  # of the darks themselves, not of what they are a sample of
        darks = ("read variance [DN2]", "row noise [DN]", "color bias R - B [DN]", "DSNU [DN]")
        return {"K [DN/e-]": GAIN} | {name: found[name] for name in darks}
    told |= {"row noise [DN]": ROW_NOISE, "color bias R - B [DN]": COLOR_BIAS[0] - COLOR_BIAS[3]}
    return (
        told | {"Tukey lambda": TUKEY_LAMBDA} | ({"PRNU [%]": 100 * PRNU, "DSNU [DN]": DSNU} if mode == "numpy" else {})
    )


def shading_error(profile: CameraProfile, camera: NumpyCamera) -> float:
    """Root mean square of (found - true) dark shading [DN], on blocks of 32 x 32 pixels."""
    model = DarkModel.from_profile(profile, ISO)
    if model is None:
        return float("nan")
    true = camera.shading + bayer_map("RGGB", COLOR_BIAS, camera.shading.shape)
    rest = (model.fixed_pattern - true).astype(np.float64)
    height, width = (size // 32 * 32 for size in rest.shape)
    blocks = rest[:height, :width].reshape(height // 32, 32, width // 32, 32).mean(axis=(1, 3))
    return float(np.sqrt(np.mean((blocks - blocks.mean()) ** 2)))


def one_run(
    seed: int, shape: tuple[int, int], modes: Sequence[str] = MODES
) -> dict[str, tuple[dict[str, tuple[float, float, float]], float]]:
    """Mode -> (quantity -> (told, found, standard error), shading error [DN])."""
    camera = NumpyCamera(shape, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        calibration = calibrated(camera.shoot, shape, folder)
        images = [
            RawImage(
                raster=np.load(folder / f"{number:03d}.npy"),
                cfa=CFA_BAYER,
                black=BlackLevel.constant(BLACK),
                white_level=WHITE,
            )
            for number in range(DARKS)
        ]
    eld = EldParams(GAIN, TUKEY_LAMBDA, TUKEY_SCALE, ROW_NOISE, COLOR_BIAS)
    flat = NoiseParams(GAIN, float(np.mean(eld.params.read_var)))
    synthesizers = {
        "pg": NoiseSynthesizer(flat),
        "eld": NoiseSynthesizer(eld),
        "eld, fit": NoiseSynthesizer(calibration, mode="eld"),
        "measured": NoiseSynthesizer(calibration, mode="measured"),
        "resample": NoiseSynthesizer(flat, dark=RealDarks.from_images(images)),
    }
    profiles = {"numpy": calibration} | {
        mode: calibrated(synthetic_camera(synthesizer, seed), shape)
        for mode, synthesizer in synthesizers.items()
        if mode in modes
    }
    results = {}
    for mode, profile in profiles.items():
        found, told = numbers(profile), truths(mode, calibration)
        both = {name: (told[name], *found[name]) for name in told if name in found}
        error = shading_error(profile, camera) if mode in ("numpy", "measured", "resample") else float("nan")
        results[mode] = (both, error)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--height", type=int, default=320)
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--values", action="store_true", help="print the values of the first run as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore", CalibrationWarning)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    runs = []
    for seed in range(options.runs):
        runs.append(one_run(seed + 1, (options.height, options.width)))
        print(f"run {seed + 1} of {options.runs}", file=sys.stderr, flush=True)
    print(f"{platform.machine()}, commit {commit}, {options.runs} runs of {options.width} x {options.height} pixels")
    names = list(runs[0]["numpy"][0])
    if options.values:
        for name in names:
            for mode in MODES:
                if name in runs[0][mode][0]:
                    told, found, error = runs[0][mode][0][name]
                    print(f"  {name:24s}{mode:10s} told {told:9.4f} found {found:9.4f} +- {error:.4f}")
    print("(found - told) / standard error: mean over runs and root mean square")
    print(f"{'':24s}" + "".join(f"{mode:>16s}" for mode in MODES))
    for name in names:
        cells = []
        for mode in MODES:
            z = np.array([(r[mode][0][name][1] - r[mode][0][name][0]) / r[mode][0][name][2]
                          for r in runs if name in r[mode][0]])  # fmt: skip
            cells.append(f"{z.mean():+8.2f} {np.sqrt((z**2).mean()):5.2f}" if z.size else "-")
        print(f"{name:24s}" + "".join(f"{cell:>16s}" for cell in cells))
    shading = {mode: np.mean([r[mode][1] for r in runs]) for mode in MODES}
    cells = [f"{shading[mode]:.3f}" if np.isfinite(shading[mode]) else "-" for mode in MODES]
    print(f"{'shading off by [DN rms]':24s}" + "".join(f"{cell:>16s}" for cell in cells))


if __name__ == "__main__":
    main()
