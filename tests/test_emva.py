"""EMVA 1288 figures of simulated cameras with known truth, and of the reference data set."""

import json
import math

import numpy as np
import pytest
from synthetic import bayer_map, expose

from benchmarks.emva_reference import ALLOWED, SET, compare
from rawkit.errors import CalibrationError
from rawkit.sensor.emva import emva_report, emva_reports
from rawkit.sensor.frames import Frame, FrameSet

SHAPE = (120, 160)
GAIN, EFFICIENCY, READ_NOISE, BLACK, WHITE = 0.4, 0.6, 4.0, 64.0, 4095.0  # DN/e-, 1, DN, DN, DN
FULL_WELL = (WHITE - BLACK) / GAIN  # e-
DARK_CURRENT = 3000.0  # e-/s
EXPOSURE = 0.05  # s at the brightest level
SIGMAS = 4.0


def camera_set(
    folder,
    *,
    levels=20,
    stack=12,
    gain=GAIN,
    prnu=0.0,
    dsnu=0.0,
    bend=0.0,
    offset=0.0,
    photons=True,
    cfa="MONO",
    one_dark=False,
    dark_current=DARK_CURRENT,
    seed=1,
):
    """A FrameSet as the standard wants it: pairs over exposure, and stacks of flats and darks at half saturation.

    Response: electrons lose ``bend`` (relative) at full well; ``offset`` is added to every exposure [photons].
    """
    rng = np.random.default_rng(seed)
    sensitivity = np.ones(SHAPE) + prnu
    frames = []

    def shoot(kind, number, light, seconds):
        electrons = EFFICIENCY * (light + offset) * sensitivity if kind == "flat" else np.zeros(SHAPE)
        electrons = electrons + dark_current * seconds
        counts = rng.poisson(electrons)  # shot noise comes from the electrons, the bend from the circuit behind
        analog = gain * counts * (1.0 - bend * counts / FULL_WELL)
        frame = expose(np.zeros(SHAPE), system_gain=1.0, read_noise=READ_NOISE, black=BLACK, white=WHITE, rng=rng,
                       dsnu=analog + dsnu)  # fmt: skip
        path = folder / f"{kind}_{number}_{len(frames)}.npy"
        np.save(path, frame)
        frames.append(
            Frame(path=path, kind=kind, iso=100.0, exposure_time=seconds, black_level=0.0, white_level=WHITE, cfa=cfa,
                  photons=light if kind == "flat" and photons else None)
        )  # fmt: skip

    top = 1.1 * FULL_WELL / EFFICIENCY
    for i in range(levels):
        light = top * (i + 1) / levels
        seconds = EXPOSURE * (i + 1) / levels
        for _ in range(2):
            shoot("flat", i, light, seconds)
            if not one_dark or i == 0:
                shoot("dark", i, 0.0, seconds)
    for _ in range(stack):
        shoot("flat", "stack", 0.5 * FULL_WELL / EFFICIENCY, 0.0233)
        if not one_dark:
            shoot("dark", "stack", 0.0, 0.0233)
    return FrameSet(tuple(frames))


def unit_pattern(rng, *, row=0.0, column=0.0, pixel=0.0):
    def unit(values):
        return (values - values.mean()) / values.std()

    return (
        row * unit(rng.standard_normal((SHAPE[0], 1)))
        + column * unit(rng.standard_normal((1, SHAPE[1])))
        + pixel * unit(rng.standard_normal(SHAPE))
    )


def within(report, name, truth, slack=0.0):
    figure = report.figures[name]
    assert math.isfinite(figure.se), name
    return abs(figure.value - truth) < SIGMAS * figure.se + slack


@pytest.fixture(scope="module")
def linear_camera(tmp_path_factory):
    rng = np.random.default_rng(99)
    return camera_set(
        tmp_path_factory.mktemp("linear"),
        prnu=unit_pattern(rng, row=0.003, column=0.004, pixel=0.012),
        dsnu=unit_pattern(rng, row=0.8, column=1.2, pixel=2.0),
    )


@pytest.mark.parametrize("convention", ["emva1288", "default"])
def test_a_linear_camera_is_measured_as_it_is(linear_camera, convention):
    report = emva_report(linear_camera, convention=convention)
    noise = np.hypot(READ_NOISE, 1 / np.sqrt(12))
    truth = {
        "system_gain": GAIN,
        "inverse_gain": 1 / GAIN,
        "responsivity": GAIN * EFFICIENCY,
        "quantum_efficiency": 100 * EFFICIENCY,
        "temporal_dark_noise_dn": noise,
        "temporal_dark_noise": READ_NOISE / GAIN,
        "sensitivity_threshold": noise / GAIN + 0.5,
        "sensitivity_threshold_photons": (noise / GAIN + 0.5) / EFFICIENCY,
        "dark_current_mean": DARK_CURRENT,
        "dark_current_mean_dn": GAIN * DARK_CURRENT,
        "dark_current_var": DARK_CURRENT,
        "dsnu_row": 0.8 / GAIN,
        "dsnu_column": 1.2 / GAIN,
        "dsnu_pixel": 2.0 / GAIN,
        "dsnu": np.sqrt(0.8**2 + 1.2**2 + 2.0**2) / GAIN,
        "prnu_row": 0.3,
        "prnu_column": 0.4,
        "prnu_pixel": 1.2,
        "prnu": 1.3,
    }
    for name, expected in truth.items():
        slack = 0.01 if convention == "default" and name.startswith("sensitivity") else 0.0  # exact solution, +0.01 e-
        assert within(report, name, expected, slack), (name, report[name], expected, report.figures[name].se)
    # Errors are small enough to mean something.
    assert report.figures["system_gain"].se < 0.005 * GAIN
    assert report.figures["quantum_efficiency"].se < 0.5


def test_saturation_and_what_follows_from_it(linear_camera):
    """Levels are 5.5 % of full well apart: the standard's own figure is that coarse, the default's is not."""
    standard, default = (emva_report(linear_camera, convention=c) for c in ("emva1288", "default"))
    step = 1.1 * FULL_WELL / 20
    well = FULL_WELL - DARK_CURRENT * EXPOSURE  # dark current takes its part
    assert 0 <= well - standard["saturation_capacity"] < 1.5 * step
    assert default["saturation_capacity"] == pytest.approx(well, rel=0.01)
    for report in (standard, default):
        snr = report["snr_max"]
        assert snr == pytest.approx(math.sqrt(report["saturation_capacity"]))
        assert report["snr_max_db"] == pytest.approx(20 * math.log10(snr))
        assert report["snr_max_bit"] == pytest.approx(math.log2(snr))
        assert report["inverse_snr_max"] == pytest.approx(100 / snr)
        span = report["saturation_photons"] / report["sensitivity_threshold_photons"]
        assert report["dynamic_range"] == pytest.approx(span)
        assert report["dynamic_range_db"] == pytest.approx(20 * math.log10(span))
    # 19200 pixels, 2 frames: the mean of a level is known to 0.05 %.
    assert -0.2 < standard["linearity_error_min"] < 0 < standard["linearity_error_max"] < 0.2


def test_a_bent_response(tmp_path):
    """4 % lost at full well: the unweighted slope is 4 % low, the corrected one right; the bend is the error."""
    frames = camera_set(tmp_path, bend=0.04, stack=3)
    standard, default = (emva_report(frames, convention=c) for c in ("emva1288", "default"))
    assert standard["system_gain"] < 0.98 * GAIN
    assert within(default, "system_gain", GAIN)
    assert default.figures["system_gain"].se < 0.01 * GAIN
    assert within(default, "quantum_efficiency", 100 * EFFICIENCY)
    assert "the response bends" in default.remarks[0]
    # y = a x (1 - 0.04 x / w): the chord deviates by up to 0.04 (0.45 / 2)^2 ... of w, either side of the line.
    assert 0.3 < standard["linearity_error_max"] < 1.5


def test_an_exposure_offset_is_no_response_but_it_is_light(tmp_path):
    """1500 photons of stray light in every flat change neither the default's responsivity nor its gain."""
    frames = camera_set(tmp_path, offset=1500.0, stack=3, dark_current=0.0)
    standard, default = (emva_report(frames, convention=c) for c in ("emva1288", "default"))
    assert within(default, "responsivity", GAIN * EFFICIENCY)
    assert within(default, "system_gain", GAIN)
    assert default.figures["system_gain"].se < 0.005 * GAIN
    assert default["linear_offset"] == pytest.approx(1500 * GAIN * EFFICIENCY, rel=0.01)
    assert standard["responsivity"] > 1.1 * GAIN * EFFICIENCY


def test_dark_noise_below_the_standard_s_floor(tmp_path):
    """0.35 DN at a black level between two codes: the standard says 0.49 DN, the default finds it."""
    frames = camera_set(tmp_path, stack=3, dark_current=0.0, levels=12)
    rng = np.random.default_rng(5)
    for frame in frames.frames:
        if frame.kind == "dark":
            np.save(frame.path, np.round(rng.normal(64.3, 0.35, SHAPE)).astype(np.uint16))
    standard, default = (emva_report(frames, convention=c) for c in ("emva1288", "default"))
    assert standard["temporal_dark_noise_dn"] == pytest.approx(math.sqrt(0.24))
    truth = math.hypot(0.35, 1 / math.sqrt(12))
    assert within(default, "temporal_dark_noise_dn", truth)
    assert default["temporal_dark_noise"] * default["system_gain"] == pytest.approx(0.35, rel=0.05)


def test_what_cannot_be_known_is_nan_and_says_why(tmp_path):
    report = emva_report(camera_set(tmp_path, photons=False, one_dark=True, stack=3, dark_current=0.0))
    for name in ("quantum_efficiency", "saturation_photons", "sensitivity_threshold_photons"):
        assert math.isnan(report[name])
        assert "photon" in report.figures[name].note
    assert math.isnan(report["dark_current_mean"])
    assert "three exposure times" in report.figures["dark_current_mean"].note
    # What needs no photons is there all the same.
    assert within(report, "system_gain", GAIN)
    assert report["dynamic_range"] == pytest.approx(report["saturation_capacity"] / report["sensitivity_threshold"])
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["figures"]["quantum_efficiency"]["value"] is None
    assert document["figures"]["system_gain"]["unit"] == "DN/e-"
    assert len(report.rows()) == len(document["figures"])


def test_default_says_where_it_differs(linear_camera):
    report = emva_report(linear_camera)
    assert report.figures["system_gain"].note
    assert report.figures["prnu"].note
    assert not emva_report(linear_camera, convention="emva1288").figures["system_gain"].note


def test_phases_have_their_own_figures(tmp_path):
    gains = np.array([0.2, 0.3, 0.35, 0.4])  # R, Gr, Gb, B
    frames = camera_set(tmp_path, gain=bayer_map("GRBG", gains, SHAPE), cfa="GRBG", levels=14, stack=4)
    reports = emva_reports(frames)
    assert list(reports) == ["R", "Gr", "Gb", "B"]
    for report, gain in zip(reports.values(), gains, strict=True):
        assert within(report, "system_gain", gain)
    with pytest.raises(CalibrationError, match="name one with phase="):
        emva_report(frames)
    assert emva_report(frames, phase="B")["system_gain"] == reports["B"]["system_gain"]


def test_spectrograms_and_histograms_come_with_it(linear_camera):
    report = emva_report(linear_camera, convention="emva1288")
    power = report.spectrograms["dark", "horizontal"].power
    assert power[1:].mean() == pytest.approx(
        1.2**2 + 2.0**2 + (READ_NOISE**2 + GAIN**2 * DARK_CURRENT * 0.0233) / 12, rel=0.1
    )
    assert report.histograms["dsnu"].count.sum() == SHAPE[0] * SHAPE[1]
    assert report.histograms["prnu"].count.sum() == (SHAPE[0] - 4) * (SHAPE[1] - 4)


def test_what_is_missing_is_named(tmp_path):
    frames = camera_set(tmp_path, levels=20, stack=3)
    with pytest.raises(CalibrationError, match="needs 3"):
        emva_report(FrameSet(tuple(f for f in frames.frames if f.kind == "dark" or (f.photons or 0) > 14000)))
    with pytest.raises(CalibrationError, match="pairs of both"):
        emva_report(FrameSet(tuple(f for f in frames.frames if f.kind == "flat")))


@pytest.mark.data
def test_every_scalar_of_the_reference_set(data_dir):
    folder = data_dir / SET
    reference = json.loads((folder / "reference_outputs.json").read_text())["results"]
    rows = compare(reference, emva_report(FrameSet.open(folder), convention="emva1288"))
    assert len(rows) >= 55
    assert not [row for row in rows if row[3] > ALLOWED]


@pytest.mark.data
def test_default_estimates_of_the_reference_set(data_dir):
    """Near the standard's where it is sound; without its temporal rows in DSNU and its lamp in PRNU."""
    report = emva_report(FrameSet.open(data_dir / SET))
    assert report["system_gain"] == pytest.approx(0.2803508, rel=0.03)  # its response bends by 2.5 %
    assert report["temporal_dark_noise_dn"] == pytest.approx(3.0732, rel=0.005)
    assert abs(report.dsnu.variance.row) < SIGMAS * report.dsnu.variance.row_se
    assert report["prnu_pixel"] == pytest.approx(0.2646, rel=0.02)
    assert report["prnu_row"] < 0.1
