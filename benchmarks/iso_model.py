"""Are gain switches and pushed ISOs found, and left-out ISOs predicted, over a camera's ISO range?

Twelve cameras are simulated in bare NumPy: the laws of each gain segment are fitted to the camera's entries in
darktable's noise database, the structure (switches, pushed and extended ISOs) is imposed as in the hardware, and each
table entry gets the errors of a calibration.  Then the structure is searched, once in the whole table and once with
every ISO left out in turn, and the left-out ISO is predicted where it lies inside a segment (native neighbors on both
sides) or inside a range of pushed ISOs.

Variants: "stated": K 0.3 %, read noise 1 % (a million pixels, with what a lamp adds), standard errors given;
"unstated": the same errors, not given; "rough": K 1 %, read noise 3 %, given; "bent": as stated, and the truth departs
from every fitted law by a smooth 2 % ripple of three octaves' period in K and in read noise.

    python benchmarks/iso_model.py noiseprofiles.json [--repeats 20] [--profile ANOTHER.json ...]

Prints the table of the simulations, then what is found in darktable's own tables and in the profiles given.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rawkit.resources import bundled_profiles
from rawkit.sensor.iso_structure import find_structure
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

SEED = 20261101
GREEN = 1


@dataclass(frozen=True)
class Camera:
    """What the hardware does, in ISOs of the table: the truth that the simulation imposes.

    Parameters
    ----------
    model : str
        As in the database.
    native : (lowest, highest) native ISO
    switches : first ISO of every upper gain segment
    thirds : True where only full stops are native amplifications: +1/3 stop is 1.25 of the one below (K as
        nominal), -1/3 stop is 0.8 of the one above, white level too, so normalized K/ISO is 1.25 times nominal
    thirds_up_to : highest ISO made so
    """

    model: str
    native: tuple[float, float]
    switches: tuple[float, ...] = ()
    thirds: bool = False
    thirds_up_to: float = 0.0


CAMERAS = (
    Camera("ILCE-7SM3", (80, 102400), (1600,)),
    Camera("EOS 5D Mark IV", (100, 32000), thirds=True, thirds_up_to=20000),
    Camera("EOS 80D", (100, 16000), thirds=True, thirds_up_to=5000),
    Camera("ILCE-7M3", (100, 51200), (640,)),
    Camera("ILCE-7RM3", (100, 25600), (640,)),
    Camera("ILCE-6400", (100, 25600), (400,)),
    Camera("X-H1", (200, 12800), (800,)),
    Camera("X-T3", (160, 12800), (800,)),
    Camera("D850", (100, 25600), (400,)),
    Camera("EOS R5", (100, 51200), (400,)),
    Camera("E-M1MarkII", (200, 12800)),
    Camera("EOS 6D", (100, 25600)),
)
VARIANTS = {  # relative errors of K and of read noise, stated?, ripple of the truth
    "stated": (0.003, 0.01, True, 0.0),
    "unstated": (0.003, 0.01, False, 0.0),
    "rough": (0.01, 0.03, True, 0.0),
    "bent": (0.003, 0.01, True, 0.02),
}


def entries_of(database: dict, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ISO, a and b of green of one camera."""
    for maker in database["noiseprofiles"]:
        for candidate in maker["models"]:
            if candidate["model"] == model or candidate["model"].endswith(" " + model):
                rows = {
                    float(p["iso"]): (p["a"][GREEN], p["b"][GREEN])
                    for p in candidate["profiles"]
                    if not p.get("skip") and p["a"][GREEN] > 0
                }
                isos = np.array(sorted(rows))
                return isos, *np.array([rows[i] for i in isos]).T
    raise SystemExit(f"{model} is not in the database")


def read_truth(isos: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ln sigma as a parabola in ln ISO, of the entries of one segment; sigma in DN may not fall, sigma/K not rise.

    A straight line of the median slope where the parabola would; the root of ISO, 20 e- at the bottom, where most
    entries of the database have no usable read noise.
    """
    good = b > 0
    u = np.log(isos)
    if good.mean() < 0.6 or good.sum() < 2:
        return np.array([0.0, 0.5, np.log(20 * a[0]) - 0.5 * u[0]])
    read = 0.5 * np.log(b[good])
    parabola = np.polyfit(u[good], read, 2) if good.sum() >= 6 else np.zeros(3)
    slopes = np.polyval(np.polyder(parabola), u)
    if good.sum() >= 6 and slopes.min() >= 0 and slopes.max() <= 1:
        return parabola
    pairs = [
        (y2 - y1) / (u2 - u1)
        for i, (u1, y1) in enumerate(zip(u[good], read, strict=True))
        for u2, y2 in list(zip(u[good], read, strict=True))[i + 1 :]
    ]
    slope = float(np.clip(np.median(pairs), 0.0, 1.0))
    return np.array([0.0, slope, np.median(read - slope * u[good])])


def truth_of(camera: Camera, isos: np.ndarray, a: np.ndarray, b: np.ndarray, ripple: float, phase: float):
    """K and sigma [0, 1] scale of every ISO, which ISOs are pushed, and the segment of each native one (-1: pushed)."""
    native = (isos >= camera.native[0]) & (isos <= camera.native[1])
    octave = np.log2(isos / 100)
    place = np.round(3 * (octave - np.round(octave))).astype(int)  # -1, 0, 1 third
    by_thirds = camera.thirds & native & (isos <= camera.thirds_up_to) & (place != 0)
    segment = np.where(native & ~by_thirds, np.sum([isos >= s for s in (0, *camera.switches)], axis=0) - 1, -1)

    laws = []
    # Smooth laws of no family that rawkit fits: K a power of ISO, ln sigma a parabola in ln ISO.
    for number in range(len(camera.switches) + 1):
        use = segment == number
        line = np.polyfit(np.log(isos[use]), np.log(a[use] / isos[use]), 1)
        laws.append((line, read_truth(isos[use], a[use], b[use])))

    def native_values(iso: float, number: int) -> tuple[float, float]:
        line, read = laws[number]
        wave = ripple * np.sin(2 * np.pi * np.log2(iso / 100) / 3 + phase)
        wave_read = ripple * np.sin(2 * np.pi * np.log2(iso / 100) / 3 + 2 * phase)
        gain = np.exp(np.polyval(line, np.log(iso))) * iso * (1 + wave)
        return gain, np.exp(np.polyval(read, np.log(iso))) * (1 + wave_read)

    gain, sigma = np.empty_like(isos), np.empty_like(isos)
    for i, iso in enumerate(isos):
        number = int(np.sum([iso >= s for s in camera.switches]))
        if segment[i] >= 0:
            gain[i], sigma[i] = native_values(iso, number)
            continue
        if by_thirds[i]:
            source = 100 * 2.0 ** np.round(octave[i])
            digital = 1.25 if place[i] > 0 else 1.0  # 0.8 of the value, and of the white level
        elif iso < camera.native[0]:
            source = iso * max(2.0, camera.native[0] / iso)  # the native ISO's values, another number on them
            digital = 1.0
        else:
            source = camera.native[1]
            digital = iso / source * 0.6  # as the database shows it for extended high ISOs
        gain[i], sigma[i] = (
            digital * v for v in native_values(source, int(np.sum([source >= s for s in camera.switches])))
        )
    return gain, sigma, segment < 0, segment


def table_of(isos, gain, sigma, errors, stated, rng) -> list[tuple[float, NoiseParams]]:
    """A calibration of the truth: three phases that share it, each with its own error."""
    table = []
    for iso, k, s in zip(isos, gain, sigma, strict=True):
        measured = k * np.exp(errors[0] * rng.standard_normal(3))
        var = (s * np.exp(errors[1] * rng.standard_normal(3))) ** 2
        se = (errors[0] * measured, 2 * errors[1] * var) if stated else (None, None)
        table.append((float(iso), NoiseParams(measured, var, *se)))
    return table


def inside(isos: np.ndarray, pushed: np.ndarray, segment: np.ndarray, camera: Camera) -> Iterator[int]:
    """Entries with neighbors of their kind on both sides: native ones of the segment, or pushed ones."""
    for i, iso in enumerate(isos):
        if not pushed[i]:
            like = (segment == segment[i]) & (np.abs(np.log2(isos / iso)) <= 1.01)
        elif camera.native[0] <= iso <= camera.native[1]:
            octaves = np.log2(isos / iso)
            like = pushed & (np.abs(octaves - np.round(octaves)) < 0.06)
        else:
            like = pushed & ((iso < camera.native[0]) == (isos < camera.native[0]))
            like &= (isos < camera.native[0]) | (isos > camera.native[1])
        if like[:i].any() and like[i + 1 :].any():
            yield i


@dataclass
class Score:
    """Counts and errors of one camera and variant."""

    found: int = 0
    true: int = 0
    invented: int = 0
    tables: int = 0
    pushed_found: int = 0
    pushed_true: int = 0
    pushed_wrong: int = 0
    gain: list[float] = None  # type: ignore[assignment]
    read: list[float] = None  # type: ignore[assignment]
    gain_z: list[float] = None  # type: ignore[assignment]
    read_z: list[float] = None  # type: ignore[assignment]
    not_interpolated: int = 0

    def __post_init__(self) -> None:
        self.gain, self.read, self.gain_z, self.read_z = [], [], [], []


def judge(score: Score, structure, isos: np.ndarray, camera: Camera) -> None:
    """Switches of one table: a true one counts as found at the first ISO that is left of the upper segment."""
    low, _ = camera.native
    expected = {min(i for i in isos if i >= s) for s in camera.switches if ((isos >= low) & (isos < s)).any()}
    # Steps of K where a native range ends count as invented, too, unless they are the gain switch.
    score.found += len(expected & set(structure.boundaries))
    score.true += len(expected)
    score.invented += len(set(structure.boundaries) - expected)
    score.tables += 1


def simulate(camera: Camera, data, variant: str, repeats: int, seed: int) -> Score:
    """All tables of one camera and variant."""
    k_error, read_error, stated, ripple = VARIANTS[variant]
    rng, score = np.random.default_rng(seed), Score()
    for _ in range(repeats):
        isos, a, b = data
        gain, sigma, pushed, segment = truth_of(camera, isos, a, b, ripple, rng.uniform(0, 2 * np.pi))
        table = table_of(isos, gain, sigma, (k_error, read_error), stated, rng)
        structure = find_structure(table)
        judge(score, structure, isos, camera)
        truly = set(isos[pushed])
        score.pushed_found += len(truly & set(structure.pushed))
        score.pushed_true += len(truly)
        score.pushed_wrong += len(set(structure.pushed) - truly)
        for i in inside(isos, pushed, segment, camera):
            rest = table[:i] + table[i + 1 :]
            structure = find_structure(rest)
            judge(score, structure, np.delete(isos, i), camera)
            model = NoiseModel(rest, structure.boundaries, structure.pushed)
            guess = model.at(float(isos[i]))
            score.not_interpolated += guess.origin != "interpolated"
            guessed, noise = np.asarray(guess.system_gain), np.sqrt(np.asarray(guess.read_var))
            score.gain += list(guessed / gain[i] - 1)
            score.read += list(noise / sigma[i] - 1)
            if guess.system_gain_se is not None and guess.read_var_se is not None:
                score.gain_z += list((guessed - gain[i]) / np.asarray(guess.system_gain_se))
                score.read_z += list((noise - sigma[i]) / (np.asarray(guess.read_var_se) / (2 * noise)))
    return score


def row(score: Score) -> str:
    """One line of the table."""
    gain, read = 100 * np.abs(score.gain), 100 * np.abs(score.read)
    covered = [100 * np.mean(np.abs(z) < 1.96) if z else np.nan for z in (score.gain_z, score.read_z)]
    return (
        f"{score.found:5d}/{score.true:<5d} {score.invented:5d}/{score.tables:<6d}"
        f"{score.pushed_found:4d}/{score.pushed_true:<5d}{score.pushed_wrong:4d}   "
        f"{np.median(gain):5.2f} {np.max(gain):6.2f}  {np.median(read):5.2f} {np.max(read):6.2f}   "
        f"{np.mean(gain <= 3) * 100:6.1f} {np.mean(read <= 10) * 100:6.1f}   {covered[0]:4.0f} {covered[1]:4.0f}"
        f"{score.not_interpolated:6d}"
    )


def unseen(database: dict, variant: str, seed: int) -> str:
    """Every other model of the database with eight ISOs or more, on which nothing was tuned: one segment, then two.

    All its ISOs are taken as native.  The switch lies anywhere with two entries on either side and lowers read noise
    by 20 to 70 %.
    """
    k_error, read_error, stated, ripple = VARIANTS[variant]
    rng = np.random.default_rng(seed)
    seen = tuple(camera.model for camera in CAMERAS)
    smooth = [0, 0, 0]  # tables, with an invented boundary, with an invented pushed ISO
    split = [0, 0, 0, 0]  # tables, found, with another boundary, with an invented pushed ISO
    for maker in database["noiseprofiles"]:
        for model in maker["models"]:
            if model["model"].endswith(seen):
                continue
            rows = {float(p["iso"]): p["a"][GREEN] for p in model["profiles"] if not p.get("skip")}
            isos = np.array(sorted(iso for iso, a in rows.items() if a > 0))
            if isos.size < 8:
                continue
            a = np.array([rows[i] for i in isos])
            slope = float(np.clip(np.polyfit(np.log(isos), np.log(a / isos), 1)[0], -0.2, 0.05))
            octave = np.log2(isos / isos[0])
            wave = 1 + ripple * np.sin(2 * np.pi * octave / 3 + rng.uniform(0, 2 * np.pi))
            gain = np.median(a / isos ** (1 + slope)) * isos ** (1 + slope) * wave
            # Quadrature or a power, read noise 3 to 30 e- at the bottom.
            sigma = gain[0] * rng.uniform(3, 30)
            if rng.random() < 0.5:
                sigma = sigma * np.hypot(1.0, isos / isos[0] * rng.uniform(0.02, 1.0))
            else:
                sigma = sigma * (isos / isos[0]) ** rng.uniform(0.4, 0.95)
            sigma = sigma * wave
            found = find_structure(table_of(isos, gain, sigma, (k_error, read_error), stated, rng))
            smooth = [n + new for n, new in zip(smooth, (1, bool(found.boundaries), bool(found.pushed)), strict=True)]
            at = int(rng.integers(2, isos.size - 1))
            drop = np.where(np.arange(isos.size) >= at, 1 - rng.uniform(0.2, 0.7), 1.0)
            found = find_structure(table_of(isos, gain, sigma * drop, (k_error, read_error), stated, rng))
            hit = isos[at] in found.gain_switches
            new = (1, hit, len(found.boundaries) > hit, bool(found.pushed))
            split = [n + m for n, m in zip(split, new, strict=True)]
    return (
        f"{variant:8s} one segment: {smooth[0]} tables, boundary invented in {smooth[1]}, pushed in {smooth[2]};  "
        f"one switch: found {split[1]}/{split[0]}, another boundary in {split[2]}, pushed in {split[3]}"
    )


def commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("database", type=Path, help="darktable's noiseprofiles.json")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--profile", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    database = json.loads(options.database.read_text(encoding="utf-8"))
    print(f"{platform.processor() or platform.machine()}, commit {commit()}, {options.repeats} tables per camera")
    print(
        "variant  camera           switches   invented    pushed  wrong    K: median, max %  sigma: median, max %"
        "  within 3 %, 10 %  covered %  not interpolated"
    )
    for variant in VARIANTS:
        for number, camera in enumerate(CAMERAS):
            score = simulate(camera, entries_of(database, camera.model), variant, options.repeats, SEED + number)
            print(f"{variant:8s} {camera.model:16s}{row(score)}", flush=True)
    print("\nevery other model of the database, with and without a switch imposed:")
    for variant in VARIANTS:
        print(unseen(database, variant, SEED), flush=True)
    print("\nfound in the tables as published:")
    for camera in CAMERAS:
        isos, a, b = entries_of(database, camera.model)
        table = [(float(i), NoiseParams(k, max(v, 0.0))) for i, k, v in zip(isos, a, b, strict=True)]
        report(camera.model, table)
    for path in [*bundled_profiles(), *options.profile]:
        report(path.stem, CameraProfile.load(path).noise.table)


def report(name: str, table) -> None:
    """What is found in one table, in words."""
    structure = find_structure(table)
    print(f"{name}: scatter K {100 * structure.gain_scatter:.1f} %, read noise {100 * structure.read_scatter:.1f} %")
    for finding in structure.findings:
        print(f"    {finding}")


if __name__ == "__main__":
    main()
