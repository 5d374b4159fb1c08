"""How near do the synthesizer's modes come to real dark frames that they were not fitted to?

Real darks of EMVA 1288 reference set 001 (12-bit CCD, (C) Basler AG, CC BY-SA 3.0).  ``--split pairs``: the first frame
of every pair fits, the second tests; ``--split halves``: the first half of the frames fits, the second, of longer
exposures and some drift, tests.  A profile is calibrated from the flats and the fitting darks; each mode makes as many
darks as there are test frames.  All figures are distances of a set from the test frames; the first row is what the
*fitting* frames themselves reach, the floor.

python benchmarks/realism.py DATA [--split pairs] [--seeds 3] [--page realism.html]

DATA is the folder of the set (or its descriptor).
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import subprocess
from pathlib import Path

import numpy as np

from rawkit.noise.frame_statistics import StackStatistics
from rawkit.noise.real_darks import RealDarks
from rawkit.noise.realism import distances, realism
from rawkit.noise.synthesis import NoiseSynthesizer, stated_black
from rawkit.noise.two_sample import accuracy, patch_features
from rawkit.raw.image import CFA
from rawkit.report.realism import save_realism_page
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.frames import FrameSet
from rawkit.sensor.profile import CameraProfile

MONO = CFA.mono()
CLASSIFIERS = 4  # accuracies are means over so many starts
SHOWN = ("kl", "wasserstein", "row variance ratio", "row_quantiles", "row_autocorrelation", "autocorrelation", "radial",
         "along_x", "along_y", "line share ratio", "fixed column ratio", "classifier")  # fmt: skip
# Limits of the requirement, beside the floor's own value: KL 1.5 times, row variance 3 %, radial 0.08 dB,
# accuracy 0.08.
KL_FACTOR, ROW_MARGIN, RADIAL, ACCURACY_MARGIN = 1.5, 0.03, 0.08, 0.08


def load(data: Path, split: str = "pairs") -> tuple[FrameSet, list, list]:
    """The set with its fitting darks as one series, and both halves of the darks as images."""
    frames = FrameSet.open(data)
    darks = [f for f in frames.frames if f.kind != "flat" and "_s_" not in f.path.name]
    middle = len(darks) // 2
    fit, test = (darks[0::2], darks[1::2]) if split == "pairs" else (darks[:middle], darks[middle:])
    # Of one series whatever their exposure: this sensor's dark current is below 0.01 DN per frame.
    series = [dataclasses.replace(frame, exposure_time=darks[0].exposure_time) for frame in fit]
    flats = [f for f in frames.frames if f.kind == "flat"]
    return dataclasses.replace(frames, frames=(*flats, *series)), [f.read() for f in fit], [f.read() for f in test]


def profile_of(frames: FrameSet) -> CameraProfile:
    return calibrate(frames, make="Basler", model="EMVA set 001", spatial=True).profile


def measures(test: StackStatistics, other: StackStatistics) -> dict[str, float]:
    found = distances(test, other)
    found["row variance ratio"] = other.temporal.row / test.temporal.row
    found["line share ratio"] = other.line_share(test.lines) / test.line_share(test.lines)
    if other.fixed is not None and test.fixed is not None:
        found["fixed column ratio"] = other.fixed.column / test.fixed.column
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=("pairs", "halves"), default="pairs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", type=Path, help="also write the report page of mode 'measured'")
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(
        f"{platform.processor() or platform.machine()}, commit {commit.stdout.strip()}, {arguments.seeds} seeds a mode"
    )
    frames, fit_images, test_images = load(arguments.data, arguments.split)
    profile = profile_of(frames)
    iso = profile.noise.isos[0]
    fit, test = (np.stack([image.mosaic for image in images]) for images in (fit_images, test_images))
    black = 0.0 if profile.black_level is None else float(np.mean(profile.black_level))
    sources = {mode: NoiseSynthesizer(profile, mode=mode) for mode in ("pg", "eld", "measured")}
    # pg knows no offset of its own; the others bring what darks have above the black level that the files state.
    sources["resample"] = NoiseSynthesizer(profile, dark=RealDarks.from_images(fit_images))
    blacks = dict.fromkeys(sources, stated_black(profile)) | {"pg": black}
    reference, features = StackStatistics.of(test, MONO), patch_features(test)
    print(f"{len(fit)} darks fit, {len(test)} test, {test.shape[2]} x {test.shape[1]} pixels, black {black:.3f} DN\n")

    def row(stack: np.ndarray) -> dict[str, float]:
        found = measures(reference, StackStatistics.of(stack, MONO))
        own = patch_features(stack)
        found["classifier"] = float(np.mean([accuracy(features, own, seed=seed) for seed in range(CLASSIFIERS)]))
        return found

    print(f"{'':12s}" + "".join(f"{name.replace(' ratio', ' /').replace('_', ' '):>20s}" for name in SHOWN))
    floor = row(fit)
    show("real (floor)", floor)
    table: dict[str, dict[str, float]] = {}
    for mode, synthesizer in sources.items():
        runs = []
        for seed in range(arguments.seeds):
            stack = np.stack(
                [
                    synthesizer.stored(np.zeros(test.shape[1:], np.float32), iso, cfa=MONO, black=blacks[mode],
                                       white_level=profile.white_level, seed=seed, frame=t)
                    for t in range(len(test))
                ]
            )  # fmt: skip
            runs.append(row(stack))
            if mode == "measured" and arguments.page is not None and seed == 0:
                result = realism(test, stack, cfa=MONO)
                save_realism_page(result, arguments.page, real="held-out darks", synthetic="measured", overwrite=True)
                print(result.verdict)
        table[mode] = {name: float(np.mean([run[name] for run in runs])) for name in SHOWN}
        show(mode, table[mode])
    ours = table["measured"]
    checks = (
        ("KL over floor", ours["kl"] / floor["kl"], ours["kl"] <= KL_FACTOR * floor["kl"]),
        ("row variance ratio", ours["row variance ratio"], abs(ours["row variance ratio"] - 1) <= ROW_MARGIN),
        ("radial spectrum [dB]", ours["radial"], ours["radial"] <= RADIAL),
        ("classifier - floor", ours["classifier"] - floor["classifier"],
         ours["classifier"] <= floor["classifier"] + ACCURACY_MARGIN),
    )  # fmt: skip
    print("\nmeasured, as required: " + ", ".join(f"{n} {v:.3f} {'yes' if ok else 'NO'}" for n, v, ok in checks))


def show(name: str, found: dict[str, float]) -> None:
    print(f"{name:12s}" + "".join(f"{found[key]:20.4g}" for key in SHOWN), flush=True)


if __name__ == "__main__":
    main()
