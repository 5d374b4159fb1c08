"""estimate() measured against the bare-NumPy mock sensor: smooth scenes, texture, clipping, and what cannot be seen.

Tolerances: the smooth scene has about 19/36 of 360,000 pixels as samples, so sd(K)/K ~ 1.5 sqrt(2 / 190,000) = 0.5 %
(1.5 is the lever of fitting v and c as well), and sd(v)/v ~ 1 % with a tenth of the picture dark.
"""

import contextlib

import numpy as np
import pytest
from synthetic import bayer_map, expose

from rawkit.errors import CalibrationError
from rawkit.raw.image import CFA, BlackLevel, LinearImage, RawImage
from rawkit.sensor.clipped_noise import clipped_moments
from rawkit.sensor.single_image import estimate

SHAPE = (600, 600)
BLACK, WHITE = 512.0, 16383.0
BAYER = CFA.bayer("RGGB")


def scene(shape=SHAPE, *, darkest=0.5, lightest=3000.0):
    """(H, W) smooth light [e-], logarithmically even from ``darkest`` to ``lightest``."""
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    share = 0.5 + 0.25 * (np.sin(5.0 * x + 1.0) + np.cos(4.0 * y))
    return darkest * (lightest / darkest) ** np.clip(share, 0, 1)


def shoot(light, *, gain=2.0, read_noise=5.0, black=BLACK, cfa=BAYER, seed=0):
    rng = np.random.default_rng(seed)
    stored = expose(light, system_gain=gain, read_noise=read_noise, black=black, white=WHITE, rng=rng)
    return RawImage(raster=stored, cfa=cfa, black=BlackLevel.constant(black), white_level=WHITE)


def stored_var(read_noise):
    return read_noise**2 + 1 / 12


@pytest.mark.parametrize(("gain", "read_noise"), [(0.5, 2.0), (2.0, 5.0), (8.0, 14.0)])
def test_smooth_scene_gives_gain_and_read_noise(gain, read_noise):
    found = estimate(shoot(scene(), gain=gain, read_noise=read_noise))
    assert found.phases == ("R", "Gr", "Gb", "B")
    assert found.pooled
    assert found.identifiable.all()
    assert np.allclose(found.system_gain, gain, rtol=0.02)  # 4 standard errors
    assert np.allclose(found.read_var, stored_var(read_noise), rtol=0.08)
    low, high = found.system_gain_interval.T
    assert np.all((low < gain) & (gain < high))
    assert np.all(high - low < 0.06 * gain)


def test_intervals_cover_and_there_is_no_bias():
    runs = [estimate(shoot(scene((360, 360)), seed=seed), workers=1) for seed in range(24)]
    gains = np.array([run.system_gain[0] for run in runs])
    noises = np.array([run.read_noise[0] for run in runs])
    scatter = gains.std(ddof=1) / np.sqrt(len(runs))
    assert abs(gains.mean() - 2.0) < 3.5 * scatter
    assert abs(noises.mean() - np.sqrt(stored_var(5.0))) < 3.5 * noises.std(ddof=1) / np.sqrt(len(runs))
    covered = [low <= 2.0 <= high for low, high in (run.system_gain_interval[0] for run in runs)]
    assert sum(covered) >= 20  # at 95 %, fewer happens once in 200


def test_without_dark_area_the_read_noise_is_not_claimed():
    found = estimate(shoot(scene(darkest=400.0)))
    assert not found.identifiable.any()
    low, high = found.read_var_interval[0]
    assert low < stored_var(5.0) < high
    assert high > 4 * low
    assert abs(found.system_gain[0] / 2.0 - 1) < 0.03


def test_texture_is_masked():
    rng = np.random.default_rng(3)
    light = scene(darkest=30.0)
    light[:, 300:] *= np.exp(0.3 * rng.standard_normal((600, 300)))  # 30 % contrast, pixel by pixel
    found = estimate(shoot(light))
    assert found.tile_share < 0.55
    assert abs(found.system_gain[0] / 2.0 - 1) < 0.03


def test_response_nonuniformity_is_not_taken_for_gain():
    rng = np.random.default_rng(4)
    light = scene(darkest=20.0, lightest=20000.0) * (1 + 0.005 * rng.standard_normal(SHAPE))
    found = estimate(shoot(light, gain=0.5, read_noise=2.0))
    # at the bright end, 10,000 DN, it has half the variance of the shot noise
    assert abs(found.system_gain[0] / 0.5 - 1) < 0.03
    assert abs(found.nonuniformity - 0.005) < 0.001


def test_dark_picture_is_not_attenuated():
    """The range of signal, 0 to 20 DN, is a few times the noise of tile means, which would flatten the line."""
    light = scene((1200, 1200), darkest=0.02, lightest=10.0)
    runs = [estimate(shoot(light, seed=seed)).system_gain[0] for seed in range(4)]
    assert abs(np.mean(runs) / 2.0 - 1) < 0.05


def test_clipped_moments_are_those_of_samples():
    rng = np.random.default_rng(5)
    n = 400_000
    for signal in (0.0, 4.0, 30.0):
        x = np.maximum(3.0 * rng.poisson(signal / 3.0, n) + 6.0 * rng.standard_normal(n), -2.0)
        mean, var, third = (float(m[0]) for m in clipped_moments(np.array([signal]), 3.0, 36.0, -2.0))
        assert abs(mean - x.mean()) < 5 * x.std() / np.sqrt(n)
        assert abs(var / x.var() - 1) < 5 * np.sqrt(3.0 / n)
        assert abs(third - ((x - x.mean()) ** 3).mean()) < 5 * x.std() ** 3 * np.sqrt(60.0 / n)


@pytest.mark.parametrize(("gain", "read_noise"), [(0.5, 2.0), (8.0, 14.0)])
def test_file_without_negative_values(gain, read_noise):
    found = estimate(shoot(scene(darkest=0.02), gain=gain, read_noise=read_noise, black=0.0))
    assert abs(found.system_gain[0] / gain - 1) < 0.03
    low, high = found.read_var_interval[0]
    assert low < stored_var(read_noise) < high
    assert abs(found.read_noise[0] / read_noise - 1) < 0.1


def test_clipped_highlights_do_not_count():
    light = scene(lightest=20000.0)
    found = estimate(shoot(light))
    assert found.mean_range.max() < WHITE - BLACK
    assert abs(found.system_gain[0] / 2.0 - 1) < 0.02


def test_phases_that_differ_are_reported_apart():
    gains, noises = (2.6, 2.0, 2.0, 3.2), (6.0, 5.0, 5.0, 7.0)
    picture = shoot(scene(), gain=bayer_map("RGGB", gains, SHAPE), read_noise=bayer_map("RGGB", noises, SHAPE), seed=6)
    found = estimate(picture)
    assert not found.pooled
    assert np.allclose(found.system_gain, gains, rtol=0.04)  # a quarter of the samples each
    assert np.allclose(found.read_noise, noises, rtol=0.08)


@pytest.mark.parametrize("cfa", [CFA.mono(), CFA.bayer("GBRG"), CFA.xtrans("GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG")])
def test_every_color_filter_array(cfa):
    found = estimate(shoot(scene((720, 720)), cfa=cfa))
    assert found.phases == cfa.phases
    assert np.allclose(found.system_gain, 2.0, rtol=0.04)
    assert np.allclose(found.read_noise, 5.0, rtol=0.1)


def test_demosaiced_image_gives_the_variance_of_its_pixels():
    """Averaging (1 2 1)/4 both ways leaves (6/16)^2 of the variance and mixes neighbors."""
    planes = []
    for seed in range(3):
        x = shoot(scene((900, 900)), seed=seed).raster.astype(np.float32)
        for axis in (0, 1):
            x = 0.5 * x + 0.25 * (np.roll(x, 1, axis) + np.roll(x, -1, axis))
        planes.append(x)
    picture = LinearImage(
        pixels=np.stack(planes, axis=-1), black=BlackLevel(np.full((1, 1, 3), BLACK)), white_level=WHITE
    )
    found = estimate(picture)
    assert np.allclose(found.system_gain, 2.0 * (6 / 16) ** 2, rtol=0.04)
    assert np.allclose(found.read_var, stored_var(5.0) * (6 / 16) ** 2, rtol=0.1)


def test_black_pattern_and_deltas_follow_the_strips():
    plain = shoot(scene((1300, 400)))
    pattern = np.array([[0.0, 3.0], [7.0, 1.0]])
    rows = np.arange(1300) // 7 % 50
    shifted = plain.raster + np.tile(pattern, (650, 200)).astype(int) + rows[:, None]
    black = BlackLevel(BLACK + pattern, delta_v=rows.astype(float))
    moved = RawImage(raster=shifted.astype(np.uint16), cfa=BAYER, black=black, white_level=WHITE)
    assert np.allclose(estimate(moved).system_gain, estimate(plain).system_gain, rtol=1e-4)


def test_threads_change_nothing():
    picture = shoot(scene((1100, 700)))
    one, two = estimate(picture, workers=1), estimate(picture, workers=2)
    assert np.array_equal(one.system_gain, two.system_gain)
    assert np.array_equal(one.covariance, two.covariance)


def test_row_noise_is_left_out():
    rows = np.random.default_rng(7).normal(0, 10.0, (600, 1)).round()
    picture = shoot(scene())
    striped = RawImage(
        raster=(picture.raster + rows).astype(np.uint16), cfa=BAYER, black=picture.black, white_level=WHITE
    )
    found = estimate(striped)
    assert abs(found.read_noise[0] / 5.0 - 1) < 0.1


def test_parameters_carry_errors_and_origin():
    found = estimate(shoot(scene()))
    params = found.to_params()
    assert params.origin == "estimated"
    assert np.array_equal(params.system_gain, found.system_gain)
    half = (found.system_gain_interval[:, 1] - found.system_gain_interval[:, 0]) / 2
    assert np.allclose(half, 1.96 * params.system_gain_se, rtol=0.05)


@pytest.mark.parametrize(
    ("light", "message"),
    [
        (np.full((40, 40), 100.0), "too small"),
        (np.full((300, 300), 1e6), "below white"),
        (np.full((300, 300), 500.0), "no range of signal"),
    ],
)
def test_hopeless_pictures_are_refused(light, message):
    with pytest.raises(CalibrationError, match=message):
        estimate(shoot(light))


def test_a_picture_below_its_black_level_is_refused():
    raster = np.zeros((300, 300), np.uint16)
    with pytest.raises(CalibrationError, match="nowhere above"):
        estimate(RawImage(raster=raster, cfa=BAYER, black=BlackLevel.constant(BLACK), white_level=WHITE))


def test_file_without_negatives_and_without_light_is_refused():
    with pytest.raises(CalibrationError, match=r"told apart|no range"):
        estimate(shoot(scene(darkest=0.02, lightest=3.0), gain=8.0, read_noise=14.0, black=0.0))


@pytest.mark.data
def test_photographs_are_covered(data_dir):
    """Real scenes, averaged 2 x 2, so that their own grain stays below this noise."""
    from PIL import Image

    names = ("ukui-wallpapers__bluebird", "elementary_wallpapers__Tj_Holowaychuk", "mate-backgrounds__Aqua")
    covered = []
    for seed, name in enumerate(names):
        v = np.asarray(Image.open(data_dir / "photos" / f"{name}.jpg").convert("L"), np.float64) / 255
        v = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
        rows, cols = v.shape[0] // 2 * 2, v.shape[1] // 2 * 2
        v = v[:rows, :cols].reshape(rows // 2, 2, cols // 2, 2).mean((1, 3))
        found = estimate(shoot(v * 8000.0 / 16.0, gain=16.0, read_noise=30.0, seed=seed))
        assert abs(found.system_gain[0] / 16.0 - 1) < 0.1
        covered.append(found.system_gain_interval[0, 0] <= 16.0 <= found.system_gain_interval[0, 1])
    assert sum(covered) >= 2


@pytest.mark.parametrize("shape", [(48, 64), (32, 32), (16, 200)])
def test_a_tiny_picture_is_estimated_or_refused(shape):
    rng = np.random.default_rng(1)
    raster = np.clip(rng.normal(np.linspace(50, 9000, shape[1]), 40, shape), 0, 16383).astype(np.uint16)
    image = RawImage(raster=raster, cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(32), white_level=16383.0)
    with contextlib.suppress(CalibrationError):
        assert estimate(image).system_gain[0] > 0


def test_a_picture_with_values_that_are_not_numbers_is_refused():
    raster = np.full((64, 64), 0.3, np.float32)
    raster[5, 7] = np.nan
    image = RawImage(raster=raster, cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(0.0), white_level=1.0)
    with pytest.raises(CalibrationError, match="not numbers"):
        estimate(image)
