"""What does a denoiser do with a wrong profile, at tile seams, and to the mean level?

    python benchmarks/denoiser_robustness.py --model NAME_OR_FILE [folder of pictures] [--count N]

1. Wrong profile: PSNR lost when K, read variance or both are off, and what the noise check says.
2. Tiles: largest change of a pixel between small tiles and the whole picture, in deviations of the local noise.
3. Level: |mean of the result - mean of the input| over 64 x 64 pixels of a phase, in noise deviations of one pixel;
   on pictures (all blocks) and on flat fields from 1 to 5,000 electrons.
4. Cameras (networks only): what the network gains over the classical denoiser at the same number of electrons, on the
   bundled cameras, whose tables it was trained with, and on cameras of darktable's database, which it never saw.  At
   equal electrons cameras differ in their read noise.

Noise of 1 to 3: the Reno 10x coefficients of ``denoise_quality.py`` at ISO 6400; one thread.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from rawkit.noise.standard_scene import SPAN, clean_planes, noisy_planes, pictures_in, psnr, reno10x
from rawkit.resources import bundled_profiles
from rawkit.restore.denoise import CLASSICAL, Denoiser
from rawkit.restore.evaluate import scaled_noise
from rawkit.restore.noise_check import noise_check
from rawkit.sensor.database import darktable_database
from rawkit.sensor.exchange import darktable_cameras, darktable_table
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

ISO = 6400
BLOCK = 64
FULL_SCALES = (8000, 3000, 1000)  # electrons at white
UNSEEN = 12  # cameras of darktable's database
WRONG = {
    "right": (1.0, 1.0),
    "K -20 %": (0.8, 1.0),
    "K +20 %": (1.2, 1.0),
    "v -20 %": (1.0, 0.8),
    "v +20 %": (1.0, 1.2),
    "K and v halved": (0.5, 0.5),
    "K and v doubled": (2.0, 2.0),
}


def wrong_profiles(denoiser: Denoiser, files: list[Path]) -> None:
    true = reno10x(ISO)
    print(f"{'profile':18s} {'raw dB':>7s} {'lost':>6s} {'check: dark':>12s} {'bright':>7s}  warned")
    best = 0.0
    for name, (gain, var) in WRONG.items():
        assumed = NoiseParams(gain * true.system_gain, var * true.read_var)
        db, checks = [], []
        for path in files:
            clean = clean_planes(path)
            noisy = noisy_planes(clean, true, name=path.name, iso=ISO)
            estimate = denoiser.denoise_planes(noisy, assumed)
            db.append(psnr(clean / SPAN, estimate / SPAN))
            checks.append(noise_check(noisy, estimate, assumed, white=SPAN))
        mean = float(np.mean(db))
        best = best or mean
        told = [(c.dark, c.bright) for c in checks if c.dark is not None]
        dark, bright = np.median(told, axis=0) if told else (np.nan, np.nan)
        warned = sum(c.warning is not None for c in checks)
        print(
            f"{name:18s} {mean:7.2f} {best - mean:6.2f} {dark:12.2f} {bright:7.2f}  {warned} of {len(files)}",
            flush=True,
        )


def seams(denoiser: Denoiser, files: list[Path]) -> None:
    from rawkit.restore.network import NetworkFilter

    if not isinstance(denoiser.bayer_filter, NetworkFilter):
        return
    params = reno10x(ISO)
    for tile in (192, 384, 512):
        worst, typical = [], []
        for path in files:
            noisy = noisy_planes(clean_planes(path), params, name=path.name, iso=ISO)
            beyond = [(0, 0)] + [(0, 2 * n) for n in noisy.shape[1:]]  # mirrored: large enough for tiles
            noisy = np.pad(noisy, beyond, mode="symmetric")
            whole, tiled = (
                denoiser.bayer_filter(noisy, params, strength=1.0, workers=1, tile=edge) for edge in (4096, tile)
            )
            change = np.abs(whole - tiled) / np.sqrt(params.variance(np.maximum(whole, 0)))
            worst.append(change.max())
            typical.append(np.sqrt(np.mean(change**2)))
        print(
            f"tiles of {tile}: largest change {max(worst):.3f}, rms {np.mean(typical):.4f} noise deviations", flush=True
        )


def levels(denoiser: Denoiser, files: list[Path]) -> None:
    params = reno10x(ISO)

    def shift(noisy: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        height, width = (n // BLOCK * BLOCK for n in noisy.shape[1:])
        cut = [
            x[:, :height, :width].reshape(4, height // BLOCK, BLOCK, -1, BLOCK).mean((2, 4)) for x in (noisy, estimate)
        ]
        return np.abs(cut[1] - cut[0]) / np.sqrt(params.variance(np.maximum(cut[0], 0)))

    found = []
    for path in files:
        noisy = noisy_planes(clean_planes(path), params, name=path.name, iso=ISO)
        found.append(shift(noisy, denoiser.denoise_planes(noisy, params)).ravel())
    every = np.concatenate(found)
    print(
        f"pictures: shift of a block's mean, median {np.median(every):.4f}, largest {every.max():.4f} noise deviations"
    )
    for electrons in (0, 1, 10, 100, 1000, 5000):
        flat = np.full((4, 4 * BLOCK, 4 * BLOCK), electrons * params.system_gain, np.float32)
        noisy = noisy_planes(flat, params, name="flat", iso=electrons)
        estimate = denoiser.denoise_planes(noisy, params)
        left = estimate.std() / np.sqrt(params.variance(flat.mean()))
        mean = (estimate.mean() - flat.mean()) / np.sqrt(params.variance(flat.mean()))
        print(
            f"flat, {electrons} e-: largest {shift(noisy, estimate).max():.4f}, of the whole field {mean:+.4f}; "
            f"deviation left {left:.4f}"
        )


def at_full_scale(profile: CameraProfile, electrons: float) -> NoiseParams | None:
    """Noise at the ISO with so many electrons at white; None if the camera has none, or its read noise is not known."""
    isos = np.geomspace(min(profile.noise.isos), max(profile.noise.isos), 100)
    found = [scaled_noise(profile, iso) for iso in isos]
    nearest = min(found, key=lambda params: abs(np.log(SPAN / params.system_gain / electrons)))
    near = abs(np.log(SPAN / nearest.system_gain / electrons)) < 0.05
    return nearest if near and nearest.read_var > 0 else None


def noise_of(profiles: dict[str, CameraProfile]) -> dict[str, dict[int, NoiseParams]]:
    """Parameters at the full scales that each camera has."""
    found = {name: {e: at_full_scale(profile, e) for e in FULL_SCALES} for name, profile in profiles.items()}
    return {name: {e: p for e, p in noise.items() if p is not None} for name, noise in found.items()}


def unseen_cameras(database: Path) -> dict[str, CameraProfile]:
    """Cameras of darktable's database, evenly spread."""
    every = [(name, table) for name, entries in darktable_cameras(database) if (table := darktable_table(entries))]
    return {
        name: CameraProfile("", name, NoiseModel(table), black_level=(0.0,), white_level=1.0)
        for name, table in every[:: len(every) // UNSEEN]
    }


def cameras(denoiser: Denoiser, files: list[Path], database: Path | None) -> None:
    if denoiser.name == CLASSICAL or database is None:
        return
    seen = noise_of({path.stem: CameraProfile.load(path) for path in bundled_profiles()})
    unseen = noise_of(unseen_cameras(database))
    classical = Denoiser.load(CLASSICAL)
    for electrons in FULL_SCALES:
        print(f"{electrons} electrons at white; gain over the classical denoiser [dB]")
        for kind, group in (("seen", seen), ("unseen", unseen)):
            gains = []
            for name, noise in group.items():
                if electrons not in noise:
                    continue
                params = noise[electrons]
                one = []
                for path in files:
                    clean = clean_planes(path)
                    noisy = noisy_planes(clean, params, name=path.name, iso=electrons)
                    ours, theirs = (
                        psnr(clean / SPAN, d.denoise_planes(noisy, params) / SPAN) for d in (denoiser, classical)
                    )
                    one.append(ours - theirs)
                gains.append(float(np.mean(one)))
                read = np.sqrt(params.read_var) / params.system_gain
                print(f"  {kind:7s} {name:32s} read noise {read:5.2f} e-  {gains[-1]:+.3f}", flush=True)
            print(f"  {kind:7s} mean {np.mean(gains):+.3f}, least {min(gains):+.3f}")


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("RAWKIT_TEST_DATA", beside)) / "eval" / "Kodak24"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--model", default="classical")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--darktable", type=Path, help="noiseprofiles.json, if it is not where darktable puts it")
    parser.add_argument("--only", choices=("profiles", "seams", "levels", "cameras"), nargs="+")
    options = parser.parse_args()
    files = pictures_in(options.folder)
    files = files[:: max(1, len(files) // options.count)][: options.count]
    denoiser = Denoiser.load(options.model, "cpu")
    parts = {
        "profiles": wrong_profiles,
        "seams": seams,
        "levels": levels,
        "cameras": lambda *given: cameras(*given, darktable_database(options.darktable)),
    }
    for name in options.only or parts:
        parts[name](denoiser, files)


if __name__ == "__main__":
    main()
