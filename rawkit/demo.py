"""The demonstration: a simulated camera is calibrated, its pictures are denoised, and one page shows both.

The camera is a published noise profile; its flats and darks are written as DNG files and calibrated from those
files as anybody's would be.  Nothing is downloaded: the photographs come with scikit-image.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.noise.unprocess import photograph_to_raw
from rawkit.raw.develop import develop
from rawkit.raw.dng import is_dng, write_dng
from rawkit.raw.image import CFA, AnyRaw, BlackLevel, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.report import html
from rawkit.report.figures import noise_over_iso_figure, photon_transfer_figure
from rawkit.resources import data_folder, replacing
from rawkit.restore.denoise import Denoiser
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.database import FoundNoise, noise_for
from rawkit.sensor.frames import FrameSet
from rawkit.sensor.profile import CameraProfile

CAMERA = "sonya7s2_pmn.json"
ISOS = (800.0, 3200.0, 25600.0)
PICTURES = ("astronaut", "coffee", "chelsea")
FRAME = 512  # pixels on a side of a simulated calibration frame
FLAT_LEVELS = (0.01, 0.03, 0.08, 0.16, 0.28, 0.42, 0.56, 0.68, 0.97)  # of saturation; the last one clips
DARKS = 6
VIGNETTING, PRNU = 0.2, 0.005
EXPOSURE = 0.25  # the pictures are two stops under, as high ISO pictures are, and brightened for the page
CROP = 384  # pixels on a side of the crop shown of a user's own picture

Progress = Callable[[int, int], None]


def demo_on_simulation(folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Simulate, calibrate, denoise; writes files and ``index.html`` into ``folder``.

    Returns
    -------
    dict with ``page``, ``calibration`` (true and measured numbers) and ``pictures`` (PSNR before and after)
    """
    truth = CameraProfile.load(data_folder("calibration_data") / "profiles" / CAMERA)
    steps = Steps(progress, len(ISOS) * (2 * len(FLAT_LEVELS) + DARKS) * 2 + len(ISOS) * len(PICTURES))
    frames = folder / "frames"
    if frames.exists():
        shutil.rmtree(frames)
    frames.mkdir(parents=True)
    _shoot_frames(truth, frames, steps)
    result = calibrate(FrameSet.open(frames), progress=lambda done, total: steps.at_least(total + done))
    result.profile.save(folder / "profile.json", overwrite=True)

    rows = _true_and_measured(truth, result.profile)
    pictures, comparisons = [], []
    for name in PICTURES:
        for number, iso in enumerate(ISOS):
            row, block = _denoise_picture(name, iso, number, truth, result.profile, folder)
            pictures.append(row)
            comparisons.append(block)
            steps.advance()
    middle = ISOS[len(ISOS) // 2]
    phases = result.profile.phases
    blocks = [
        html.paragraph(
            f"A camera with the published noise of a {truth.name} was simulated: "
            f"{len(result.profile.provenance['files'])} flats and darks were written as DNG files, measured from those "
            "files alone, and the result was used to denoise pictures taken with the same camera."
        ),
        html.heading("Photon-transfer curve"),
        html.figure_block(
            photon_transfer_figure(result.curves[middle], result.darks[middle], phases, title=f"ISO {middle:g}"),
            "Every point is a pair of flats; the slope of the line is the system gain. Below: distance from the line "
            "in standard errors, 95 % of which should lie in the band.",
        ),
        html.heading("Noise over ISO"),
        html.figure_block(
            noise_over_iso_figure(result.profile.noise, phases, truth=truth.noise),
            "Points: measured, with two standard errors. Gray: the truth that was simulated. Read noise falls at "
            "ISO 2000, where this sensor switches its conversion gain.",
        ),
        html.table(
            (
                "ISO, phase",
                "K true [DN/e-]",
                "K measured",
                "error / s.e.",
                "read noise true [DN]",
                "measured",
                "error / s.e.",
            ),
            [_table_row(row) for row in rows],
        ),
        html.heading("Pictures"),
        html.paragraph("Drag across a picture: noisy on the left, denoised on the right.", note=True),
        *comparisons,
    ]
    page = folder / "index.html"
    with replacing(page, overwrite=True) as temporary:
        temporary.write_text(html.page("rawkit demo", blocks), encoding="utf-8")
    return {"page": str(page), "calibration": rows, "pictures": pictures}


def demo_on_file(image: AnyRaw, found: FoundNoise, folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Denoise the user's own picture and show its middle at 100 %."""
    denoiser = Denoiser.load()
    clean = denoiser(image, found.params, progress=progress)
    source = image.metadata.source
    stem = source.stem if source is not None else "picture"
    folder.mkdir(parents=True, exist_ok=True)
    written = write_dng(
        clean,
        folder / f"{stem}_denoised.dng",
        source=source if source is not None and is_dng(source) else None,
        noise=found.params.attenuated(denoiser.remaining_variance(planes=len(image.plane_phases))),
        noise_reduction_applied=1.0,
        overwrite=True,
    )
    before, after = develop(image), develop(clean)
    top, left = (max((size - CROP) // 2, 0) for size in before.shape[:2])
    crop = (slice(top, top + CROP), slice(left, left + CROP))
    blocks = [
        html.paragraph(f"{image.metadata.camera()}, ISO {image.iso:g}. Noise: {found.description}."),
        html.comparison(before[crop], after[crop], f"The middle of {stem} at 100 %: noisy left, denoised right."),
    ]
    page = folder / "index.html"
    with replacing(page, overwrite=True) as temporary:
        temporary.write_text(html.page(f"rawkit demo: {stem}", blocks), encoding="utf-8")
    return {
        "page": str(page),
        "pictures": [{"picture": stem, "noise": found.description, "output": str(written.path)}],
    }


class Steps:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def advance(self) -> None:
        self.at_least(self.done + 1)

    def at_least(self, done: int) -> None:
        self.done = max(self.done, done)
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


def _sensor(truth: CameraProfile, iso: float, exposure_time: float, shape: tuple[int, int]) -> RawImage:
    """An unexposed image of the simulated camera."""
    assert truth.cfa is not None
    assert truth.black_level is not None
    assert truth.white_level is not None
    metadata = Metadata(
        make=truth.make, model=truth.model, iso=iso, exposure_time=exposure_time, software="rawkit demo"
    )
    return RawImage(
        raster=np.full(shape, truth.black_level[0], np.float32),
        cfa=CFA.parse(truth.cfa),
        black=BlackLevel.constant(truth.black_level[0]),
        white_level=truth.white_level,
        metadata=metadata,
    )


def _shoot_frames(truth: CameraProfile, folder: Path, steps: Steps) -> None:
    """Write flats (vignetting and PRNU included) and darks of every ISO as DNG files."""
    synthesizer = NoiseSynthesizer(truth.noise)
    y, x = np.mgrid[-1 : 1 : FRAME * 1j, -1 : 1 : FRAME * 1j]
    light = 1 - VIGNETTING * (x**2 + y**2) / 2
    light = light * (1 + PRNU * np.random.default_rng(1).standard_normal(light.shape))
    for iso in ISOS:
        shots = [("dark", 0.0, i) for i in range(DARKS)] + [
            ("flat", level, i) for level in FLAT_LEVELS for i in range(2)
        ]
        for frame, (kind, level, repeat) in enumerate(shots):
            blank = _sensor(truth, iso, round(max(level, FLAT_LEVELS[0]) / 50, 6), light.shape)
            clean = blank.with_signal((level * truth.span * light).astype(np.float32))
            noisy = synthesizer.image(clean, seed=int(iso), frame=frame)
            write_dng(noisy, folder / f"iso{iso:g}_{kind}_{level * 100:g}_{repeat}.dng")
            steps.advance()


def _true_and_measured(truth: CameraProfile, measured: CameraProfile) -> list[dict[str, Any]]:
    rows = []
    for iso, params in measured.noise.table:
        true = truth.noise.at(iso)
        for p, phase in enumerate(measured.phases):
            read = float(params.read_var[p]) ** 0.5
            rows.append(
                {
                    "iso": iso,
                    "phase": phase,
                    "gain_true": float(np.mean(true.system_gain)),
                    "gain": float(params.system_gain[p]),
                    "gain_se": float(params.system_gain_se[p]),
                    "read_true": float(np.mean(true.read_var)) ** 0.5,
                    "read": read,
                    "read_se": float(params.read_var_se[p]) / (2 * read),
                }
            )
    return rows


def _table_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['iso']:g} {row['phase']}",
        f"{row['gain_true']:.4f}",
        f"{row['gain']:.4f} ± {row['gain_se']:.4f}",
        f"{(row['gain'] - row['gain_true']) / row['gain_se']:+.1f}",
        f"{row['read_true']:.3f}",
        f"{row['read']:.3f} ± {row['read_se']:.3f}",
        f"{(row['read'] - row['read_true']) / row['read_se']:+.1f}",
    )


def _denoise_picture(
    name: str, iso: float, number: int, truth: CameraProfile, measured: CameraProfile, folder: Path
) -> tuple[dict[str, Any], str]:
    """Take a picture with the simulated camera, denoise it with the measured profile, compare with the clean one."""
    from skimage import data

    blank = _sensor(truth, iso, 1 / 50, (2, 2))
    rgb = getattr(data, name)()
    rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    clean = photograph_to_raw(
        rgb, cfa=blank.cfa, black=blank.black_level[0], white_level=blank.white_level, exposure=EXPOSURE
    )
    clean = replace(clean, metadata=replace(clean.metadata, make=truth.make, model=truth.model, iso=iso))
    noisy = NoiseSynthesizer(truth.noise).image(clean, seed=100 + number)
    before_path = folder / f"{name}_iso{iso:g}.dng"
    write_dng(noisy, before_path, noise=truth.noise.at(iso), overwrite=True)

    noisy = read_raw(before_path)
    denoiser = Denoiser.load()
    params = noise_for(measured, noisy)
    denoised = denoiser(noisy, params)
    after_path = folder / f"{name}_iso{iso:g}_denoised.dng"
    write_dng(
        denoised,
        after_path,
        source=before_path,
        noise=params.attenuated(denoiser.remaining_variance()),
        noise_reduction_applied=1.0,
        overwrite=True,
    )

    def psnr(image: AnyRaw) -> float:
        return float(10 * np.log10(truth.span**2 / np.mean((image.signal() - clean.signal()) ** 2)))

    row = {"picture": f"{name} ISO {iso:g}", "psnr_before": psnr(noisy), "psnr_after": psnr(denoised)}
    block = html.comparison(
        develop(noisy, exposure=1 / EXPOSURE),
        develop(denoised, exposure=1 / EXPOSURE),
        f"{name}, ISO {iso:g}, two stops underexposed: linear PSNR {row['psnr_before']:.1f} dB before, "
        f"{row['psnr_after']:.1f} dB after.",
    )
    return row, block
