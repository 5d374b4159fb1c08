"""Synthetic frames with one known fault each, made in bare NumPy: the report must name that fault and no other."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rawkit.errors import CalibrationError, MetadataError
from rawkit.noise.frame_statistics import StackStatistics
from rawkit.noise.realism import FrameStack, compare_frames, distances, kl_divergence, read_stack, realism
from rawkit.noise.two_sample import accuracy, patch_features
from rawkit.raw.image import CFA

SHAPE = (160, 192)
PIXEL, ROW, COLUMN, FIXED = 3.0, 1.0, 0.5, 0.8  # DN
MONO = CFA.mono()


def darks(n, seed, *, pixel=PIXEL, row=ROW, column=COLUMN, fixed=FIXED, black=64.0, camera=99, blur=0.0, shape=SHAPE,
          two_rows=False, line=0.0, codes=None, heavy=0.0):  # fmt: skip
    """n dark frames of one camera: its fixed pattern belongs to ``camera``, everything else to ``seed``."""
    rng, own = np.random.default_rng(seed), np.random.default_rng(camera)
    pattern = fixed * own.standard_normal(shape)
    frames = []
    for _ in range(n):
        white = rng.standard_normal(shape)
        if heavy:
            white[rng.random(shape) < heavy] *= 4.0
            white /= np.sqrt(1.0 + 15.0 * heavy)
        if blur:
            white = (white + blur * np.roll(white, 1, axis=1)) / np.sqrt(1.0 + blur**2)
        rows = rng.choice((-1.0, 1.0), shape[0]) if two_rows else rng.standard_normal(shape[0])
        x, y = np.arange(shape[1]), np.arange(shape[0])[:, None]
        wave = line * np.sin(2 * np.pi * (24 * x / shape[1]) + 2 * np.pi * (40 * y / shape[0])
                             + rng.uniform(0, 2 * np.pi))  # fmt: skip
        y = black + pattern + pixel * white + row * rows[:, None] + column * rng.standard_normal(shape[1]) + wave
        frames.append(np.rint(y) if codes is None else codes(y))
    return np.clip(frames, 0, 4095).astype(np.uint16)


@pytest.fixture(scope="module")
def real():
    return darks(16, 1)


def off(result):
    return {f.measure.part for f in result.findings if f.verdict == "off"}


def test_parts_of_the_noise_are_recovered():
    """Each variance within four standard errors of what was put in; the fixed pattern apart from the temporal noise."""
    s = StackStatistics.of(darks(16, 3), MONO)
    truth = {"pixel": PIXEL**2 + 1 / 12, "row": ROW**2, "column": COLUMN**2}
    for name, value in truth.items():
        error = getattr(s.temporal, name + "_se")
        assert abs(getattr(s.temporal, name) - value) < 4 * error
        assert error < 0.12 * value
    pixels = SHAPE[0] * SHAPE[1]
    assert abs(s.fixed.pixel - FIXED**2) < 4 * (FIXED**2 + PIXEL**2 / 16) * np.sqrt(2 / pixels)
    assert abs(s.fixed.row) < 4 * s.fixed.row_se
    # A constant spectrum of the pixel variance, whatever the rows do: white noise has power v at every frequency.
    assert 10 * np.log10(s.radial / truth["pixel"]) == pytest.approx(np.zeros(32), abs=0.5)
    assert np.abs(s.autocorrelation).max() < 4.5 / np.sqrt(15 * pixels)


def test_a_single_frame_holds_fixed_and_temporal_together():
    s = StackStatistics.of(darks(1, 3), MONO)
    assert s.fixed is None
    assert abs(s.temporal.pixel - (PIXEL**2 + FIXED**2 + 1 / 12)) < 4 * s.temporal.pixel_se


def test_the_same_noise_is_like_real(real):
    result = realism(real, darks(16, 2))
    assert not off(result), result.verdict
    assert result["classifier"].value < 0.56
    assert abs(result["row_variance"].ratio - 1) < 4 * np.sqrt(2 / (7 * SHAPE[0])) * np.sqrt(2)
    assert "Not like" not in result.verdict


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ({"row": 0.0}, "rows"),
        ({"two_rows": True}, "rows"),
        ({"column": 0.0}, "columns"),
        ({"pixel": 3.3}, "pixels"),
        ({"blur": 0.15}, "spectrum"),
        ({"line": 0.5}, "spectrum"),
        ({"fixed": 0.0}, "fixed pattern"),
        ({"heavy": 0.02}, "tails"),
        ({"black": 65.0}, "histogram"),
        ({"codes": lambda y: np.rint(y / 4) * 4}, "histogram"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v,
)
def test_one_fault_is_named(real, fault, part):
    result = realism(real, darks(16, 2, **fault), classifier=False, splits=4)
    assert part in off(result), result.verdict
    assert part in result.verdict


def test_banding_is_seen_where_the_divergence_is_blind():
    """Without its rows the noise keeps its marginal distribution: KL stays at its floor, the verdict names the rows."""
    real = darks(16, 1, row=0.5)
    total = np.sqrt(PIXEL**2 + 0.5**2)
    result = realism(real, darks(16, 2, row=0.0, pixel=total), splits=4)
    assert result["kl"].value < 2 * result["kl"].floor + 1e-4
    assert result["kl"].verdict != "off"
    assert result["row_variance"].verdict == "off"
    assert "row noise is all but missing" in result.verdict
    assert result["classifier"].value > result["classifier"].limit


def test_spectral_lines_are_listed_by_frequency():
    """A wave of 24 periods per row and 40 per column, in the real frames only."""
    lines = realism(darks(8, 1, line=1.0), darks(8, 2), classifier=False, splits=1).lines
    assert (lines[0].fx, abs(lines[0].fy)) == pytest.approx((24 / 192, 40 / 160))
    # Amplitude 1 over 160 x 192 pixels: power 1/4 of the pixels, over a variance of 9.
    assert lines[0].real == pytest.approx(160 * 192 / 4 / (PIXEL**2 + 1 / 12), rel=0.1)
    assert lines[0].synthetic < 4


def test_known_distances():
    assert kl_divergence([3, 1], [1, 3]) == pytest.approx(3.5 / 5 * np.log(3.5 / 1.5) + 1.5 / 5 * np.log(1.5 / 3.5))
    a = StackStatistics.of(np.tile(np.arange(4), (2, 40, 10)).astype(np.uint16) + 100, MONO)
    moved = StackStatistics.of(np.tile(np.arange(4), (2, 40, 10)).astype(np.uint16) + 101, MONO)
    found = distances(a, moved)
    assert found["ks"] == pytest.approx(0.25)  # a quarter of the pixels lies below the other's lowest code
    real = StackStatistics.of(darks(4, 1), MONO)
    shifted = StackStatistics.of(darks(4, 1) + np.uint16(2), MONO)
    assert distances(real, shifted)["wasserstein"] == pytest.approx(2 / np.sqrt(real.temporal.pixel))
    assert distances(real, shifted)["radial"] == pytest.approx(0, abs=1e-9)
    louder = StackStatistics.of(darks(4, 1).astype(np.float64) * 2, MONO)
    assert distances(real, louder)["radial"] == pytest.approx(20 * np.log10(2))


def test_phases_have_histograms_of_their_own():
    """Two colors that swap their levels have the same pooled histogram, and are told apart."""
    rng = np.random.default_rng(0)
    levels = np.tile([[10.0, 30.0], [30.0, 50.0]], (32, 32))
    swapped = np.tile([[50.0, 30.0], [30.0, 10.0]], (32, 32))
    a, b = (np.rint(level + rng.normal(0, 2, (4, 64, 64))) for level in (levels, swapped))
    array = CFA.bayer("RGGB")
    assert distances(StackStatistics.of(a, array), StackStatistics.of(b, array))["kl"] > 1
    assert distances(StackStatistics.of(a, MONO), StackStatistics.of(b, MONO))["kl"] < 0.1


def test_the_classifier_is_blind_to_noise_and_repeatable():
    """On equal noise its accuracy is a half within four binomial errors; a 10 % change of the noise is found."""
    features = [patch_features(darks(12, seed)) for seed in (1, 2)]
    patches = sum(f.shape[0] * f.shape[1] for f in features) / 4  # a quarter is tested
    first = accuracy(*features, seed=5)
    assert abs(first - 0.5) < 4 * 0.5 / np.sqrt(patches)
    assert accuracy(*features, seed=5) == first
    assert accuracy(features[0], patch_features(darks(12, 2, pixel=3.3)), seed=5) > 0.65


def test_two_real_frames_are_the_least(real):
    with pytest.raises(CalibrationError, match="two real"):
        realism(real[:1], real)
    result = realism(real[:2], darks(4, 2), classifier=False)
    assert "fixed_row" in result.not_measured
    assert "four real" in result.not_measured["fixed_row"]
    banded = darks(2, 1, row=2 * ROW)
    assert realism(banded, darks(4, 2, row=0.0), classifier=False)["row_variance"].verdict == "off"


def test_frames_are_read_and_cropped(tmp_path):
    frames = darks(3, 1)
    for number, frame in enumerate(frames):
        np.save(tmp_path / f"dark_{number}.npy", frame)
    (tmp_path / "dark_9.npy").write_bytes(b"nothing")
    stack = read_stack(tmp_path)
    assert np.array_equal(stack.stack, frames)
    assert [p.name for p, _ in stack.left_out] == ["dark_9.npy"]
    with pytest.raises(MetadataError, match="RGGB"):
        compare_frames(stack, read_stack(tmp_path, cfa="RGGB"))
    large = FrameStack(darks(2, 1, shape=(96, 128)), MONO, (96, 128), (), ())
    assert compare_frames(stack, large, classifier=False).real.shape == (96, 128)


def test_the_command_writes_a_page_that_names_the_rows(tmp_path):
    for folder, frames in (("real", darks(6, 1)), ("synthetic", darks(6, 2, row=0.0))):
        (tmp_path / folder).mkdir()
        for number, frame in enumerate(frames):
            np.save(tmp_path / folder / f"{number}.npy", frame)
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "rawkit.cli", "realism", tmp_path / "real", tmp_path / "synthetic"]
    run = subprocess.run(
        [*map(str, command), "--report", str(page), "--json"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert "rows" in document["verdict"]
    assert document["real_frames"] == 6
    text = page.read_text()
    assert "row noise is all but missing" in text
    assert text.count("<svg") == 3
    assert "default-src 'none'" in text
