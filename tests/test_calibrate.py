"""calibrate() measured against the bare-NumPy mock sensor and against a published measurement."""

import csv
import json

import numpy as np
import pytest
from synthetic import bayer_map, expose, field

from rawkit.errors import CalibrationError
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.dark_model import DarkModel
from rawkit.sensor.frames import FrameSet
from rawkit.sensor.profile import CameraProfile

SHAPE = (64, 64)
BLACK, WHITE = 512.0, 16383.0
LEVELS_E = (40, 150, 500, 1200, 2500, 4000)  # electrons: up to half of the white level at K = 2


def shoot_set(
    folder,
    *,
    gain,
    read_noise,
    seed,
    iso=100,
    shape=SHAPE,
    levels=LEVELS_E,
    flicker=0.0,
    prnu=0.0,
    vignetting=0.0,
    dsnu=0.0,
    hot_share=0.0,
    cfa="RGGB",
    darks=6,
):
    """Write a manifest and its .npy frames; gain and read_noise are (R, Gr, Gb, B) or one number."""
    rng = np.random.default_rng(seed)
    k = bayer_map(cfa, np.broadcast_to(gain, 4), shape)
    sigma = bayer_map(cfa, np.broadcast_to(read_noise, 4), shape)
    light = field(shape, prnu=prnu, vignetting=vignetting, rng=rng)
    offsets = dsnu * rng.standard_normal(shape)
    hot = np.where(rng.random(shape) < hot_share, 500.0, 0.0)
    rows = []

    def save(kind, number, electrons, exposure):
        name = f"{kind}_{iso}_{number:03d}.npy"
        np.save(
            folder / name,
            expose(
                electrons, system_gain=k, read_noise=sigma, black=BLACK, white=WHITE, rng=rng, dsnu=offsets, hot=hot
            ),
        )
        rows.append({"file": name, "kind": kind, "iso": iso, "exposure_time": exposure, "black_level": BLACK,
                     "white_level": WHITE, "cfa": cfa})  # fmt: skip

    for i in range(darks):
        save("dark", i, np.zeros(shape), 0.01)
    for i, level in enumerate(levels):
        for j in range(2):
            save("flat", 2 * i + j, level * light * (1 + flicker * rng.standard_normal()), 0.01 * (i + 1))
    path = folder / "manifest.csv"
    new = not path.exists()
    with open(path, "a", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.slow
def test_95_percent_intervals_cover_the_truth(tmp_path):
    """At least 93 of 100 seeds, for K and for read variance, at one phase each time."""
    gain, read_noise, hits = 2.0, 4.0, np.zeros(2)
    true = np.array([gain, read_noise**2 + 1 / 12])
    scores = []
    for seed in range(100):
        folder = tmp_path / str(seed)
        folder.mkdir()
        params = calibrate(
            FrameSet.open(shoot_set(folder, gain=gain, read_noise=read_noise, seed=1000 + seed, levels=LEVELS_E[::2]))
        ).profile.noise.at(100)
        phase = seed % 4
        found = np.array([params.system_gain[phase], params.read_var[phase]])
        error = np.array([params.system_gain_se[phase], params.read_var_se[phase]])
        scores.append((found - true) / error)
        hits += np.abs(found - true) < 1.96 * error
    assert (hits >= 93).all(), hits
    # The stated errors are not inflated either: standardized scores have standard deviation 1 (sampling error 0.07).
    assert (np.std(scores, axis=0) > 0.75).all()
    assert (np.abs(np.mean(scores, axis=0)) < 0.4).all()


def test_flicker_vignetting_prnu_dsnu_and_hot_pixels_do_not_bias(tmp_path):
    shape = (256, 256)
    shoot_set(
        tmp_path, gain=2.0, read_noise=4.0, seed=3, shape=shape,
        flicker=0.01, vignetting=0.3, prnu=0.01, dsnu=1.5, hot_share=1e-3,
    )  # fmt: skip
    p = calibrate(FrameSet.open(tmp_path)).profile.noise.at(100)
    assert np.all(np.abs(p.system_gain / 2.0 - 1) < 4 * p.system_gain_se / 2.0)
    assert np.all(p.system_gain_se / 2.0 < 0.01)
    assert np.all(np.abs(p.read_var - (16 + 1 / 12)) < 4 * p.read_var_se)


@pytest.mark.parametrize("cfa", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_every_phase_gets_its_own_numbers_in_canonical_order(tmp_path, cfa):
    gain, noise = np.array([1.0, 2.0, 2.5, 4.0]), np.array([2.0, 3.0, 4.0, 6.0])
    shoot_set(tmp_path, gain=gain, read_noise=noise, seed=5, shape=(128, 128), cfa=cfa, levels=(100, 500, 1500, 2500))
    profile = calibrate(FrameSet.open(tmp_path)).profile
    p = profile.noise.at(100)
    assert profile.phases == ("R", "Gr", "Gb", "B")
    assert np.all(np.abs(p.system_gain - gain) < 5 * p.system_gain_se)
    assert np.all(np.abs(p.read_var - noise**2 - 1 / 12) < 5 * p.read_var_se)
    assert np.all(p.system_gain_se / gain < 0.03)


def test_clipped_levels_are_found_and_left_out(tmp_path):
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=6, levels=(*LEVELS_E, 7700, 9000, 20000))
    result = calibrate(FrameSet.open(tmp_path))
    curve = result.curves[100]
    assert curve.used.tolist() == [True] * len(LEVELS_E) + [False] * 3
    assert curve.saturation == pytest.approx(WHITE - BLACK, abs=2)


def test_saturation_below_the_nominal_white_is_seen(tmp_path):
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=6, levels=(*LEVELS_E, 9000))
    for path in tmp_path.glob("flat*.npy"):
        np.save(path, np.minimum(np.load(path), 15000))
    curve = calibrate(FrameSet.open(tmp_path)).curves[100]
    assert curve.saturation == pytest.approx(15000 - BLACK, abs=2)
    assert not curve.used[-1]


def test_two_isos_make_two_entries_with_provenance(tmp_path):
    shoot_set(tmp_path, gain=0.5, read_noise=1.5, seed=7, iso=100)
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=8, iso=400)
    profile = calibrate(FrameSet.open(tmp_path), make="ACME", model="One").profile
    assert profile.noise.isos == (100.0, 400.0)
    between = profile.noise.at(200)
    assert between.origin == "interpolated"
    assert np.allclose(between.system_gain, 1.0, rtol=0.1)
    files = profile.provenance["files"]
    assert len(files) == 36
    assert all(len(f["sha256"]) == 64 for f in files)


def test_an_odd_frame_is_left_out_with_its_reason(tmp_path):
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=9)
    odd = tmp_path / "flat_100_005.npy"
    np.save(odd, np.load(odd)[:32])
    (tmp_path / "flat_100_008.npy").write_bytes(b"not an array")
    result = calibrate(FrameSet.open(tmp_path))
    reasons = {path.name: why for path, why in result.left_out}
    assert "size" in reasons["flat_100_005.npy"]
    assert "no second frame" in reasons["flat_100_004.npy"]
    assert "flat_100_008.npy" in reasons
    assert (np.abs(result.profile.noise.at(100).system_gain / 2 - 1) < 0.1).all()


def test_what_cannot_be_calibrated_says_why(tmp_path):
    with pytest.raises(CalibrationError, match="holds no files"):
        FrameSet.open(tmp_path)
    with pytest.raises(CalibrationError, match="neither a folder nor a file"):
        FrameSet.open(tmp_path / "nowhere")
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=1, darks=0)
    with pytest.raises(CalibrationError, match="no pair of darks"):
        calibrate(FrameSet.open(tmp_path))
    two = tmp_path / "two"
    two.mkdir()
    shoot_set(two, gain=2.0, read_noise=4.0, seed=1, levels=(100, 1000))
    with pytest.raises(CalibrationError, match="at least 3"):
        calibrate(FrameSet.open(two))
    (two / "manifest.csv").write_text("file,sort\na,flat\n")
    with pytest.raises(CalibrationError, match="lacks the column kind"):
        FrameSet.open(two)


def test_darks_clipped_at_black_are_refused(tmp_path):
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=1)
    for path in tmp_path.glob("*.npy"):
        np.save(path, np.maximum(np.load(path), int(BLACK)))
    with pytest.raises(CalibrationError, match="clipped at their lowest code"):
        calibrate(FrameSet.open(tmp_path))


@pytest.mark.data
def test_emva_reference_set(data_dir):
    """K within 0.5 %, temporal dark noise within 1 % of the reference implementation on the same frames."""
    folder = data_dir / "flatdark" / "EMVA1288_ReferenceSet_001_CCD_12Bit"
    reference = json.loads((folder / "reference_outputs.json").read_text())["results"]
    params = calibrate(FrameSet.open(folder)).profile.noise.at(100)
    assert float(params.system_gain[0]) == pytest.approx(reference["K"], rel=0.005)
    assert float(params.read_var[0] ** 0.5) == pytest.approx(reference["sigma_y_dark"], rel=0.01)


def test_places_on_the_sensor_are_measured_at_every_iso(tmp_path):
    """DSNU of 1.5 DN and 3 DN, PRNU of 1 %: in the details; dark model, lines and shading: in the saved maps."""
    shape = (128, 160)
    for iso, offsets in ((100, 1.5), (400, 3.0)):
        shoot_set(tmp_path, gain=iso / 100, read_noise=4.0, seed=11, iso=iso, shape=shape, prnu=0.01, dsnu=offsets,
                  levels=(400, 800, 1200, 1600, 2000, 2400), darks=8)  # fmt: skip
    result = calibrate(FrameSet.open(tmp_path))
    result.profile.save(tmp_path / "p.json")
    profile = CameraProfile.load(tmp_path / "p.json")
    for iso, offsets in ((100.0, 1.5), (400.0, 3.0)):
        details = profile.details[iso]
        for phase in range(4):
            assert abs(details.dsnu_pixel[phase] - offsets) < 4 * details.dsnu_pixel_se[phase] + 0.01
            assert abs(details.prnu_pixel[phase] - 0.01) < 4 * details.prnu_pixel_se[phase]
            assert details.dsnu_row[phase] < 4 * details.dsnu_row_se[phase] + 0.1
        model = DarkModel.from_profile(profile, iso)
        assert model.fixed_pattern.shape == shape
        assert model.frames == 8
        spread = np.hypot(model.fixed_pattern.std(), model.fixed_residue)
        assert spread == pytest.approx(offsets, rel=0.05)  # 20480 pixels and their temporal noise: 1.5 %
        assert model.pixel_quantiles.std(axis=1) == pytest.approx(4.0, rel=0.02)  # half a percent of sampling
        assert model.row_series.shape == (8, shape[0])
    assert result.shading is not None
    assert [s.isos for s in result.shading.segments] == [(100.0, 400.0)]
    assert profile.maps["shading_isos_segment0"].tolist() == [100.0, 400.0]
    # The pattern is the same at both ISOs but for its size: slope x ISO makes up the difference.
    small = {iso: result.spatial[iso].mean_dark for iso in (100.0, 400.0)}
    np.testing.assert_allclose(result.shading.at(400.0), small[400.0], atol=1e-6)


def test_without_places_the_noise_is_the_same(tmp_path):
    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=12)
    with_places, without = (calibrate(FrameSet.open(tmp_path), spatial=spatial) for spatial in (True, False))
    assert without.spatial == {}
    assert without.profile.maps == {}
    assert np.array_equal(with_places.profile.noise.at(100).system_gain, without.profile.noise.at(100).system_gain)
