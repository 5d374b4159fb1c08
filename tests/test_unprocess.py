"""Photograph to raw and back."""

import numpy as np
import pytest

from rawkit.errors import MetadataError, ProfileError
from rawkit.noise.export import SimulatedCamera
from rawkit.noise.unprocess import (
    BROOKS_2019,
    inverse_smoothstep,
    linear_from_srgb,
    photograph_to_raw,
    reduce_raw,
    smoothstep,
)
from rawkit.raw.develop import develop, srgb_curve
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA

# XYZ to camera, a plausible sensor: rows red, green, blue.
MATRIX = np.array([[0.75, -0.25, -0.08], [-0.45, 1.25, 0.22], [-0.08, 0.18, 0.65]])
CAMERA = {"white_level": 16383.0, "black": 512.0, "as_shot_neutral": (0.48, 1.0, 0.66), "color_matrix": MATRIX}


def smooth_photograph(height=96, width=144):
    """A picture without detail finer than demosaicing resolves, inside the camera's gamut."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    colors = [0.45 + 0.2 * x, 0.5 + 0.15 * y, 0.55 - 0.15 * x * y]
    return np.rint(255 * np.stack(colors, axis=2)).astype(np.uint8)


def test_the_curve_inverts_srgb():
    linear = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_from_srgb(srgb_curve(linear)), linear, atol=1e-6)


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_developing_gives_the_photograph_back(pattern):
    photograph = smooth_photograph()
    back = develop(photograph_to_raw(photograph, cfa=CFA.bayer(pattern), **CAMERA))
    # 8-bit rounding twice, and the picture's steps of one code, which interpolation smears.
    assert np.abs(back.astype(int) - photograph)[4:-4, 4:-4].max() <= 2
    assert np.abs(back.astype(int) - photograph)[4:-4, 4:-4].mean() < 0.5


def test_gray_is_the_neutral_color_of_the_camera():
    raw = photograph_to_raw(np.full((6, 6, 3), 0.5), cfa=CFA.bayer("RGGB"), **CAMERA)
    red, green_r, green_b, blue = raw.planes().mean(axis=(1, 2))
    assert green_r == pytest.approx(green_b, rel=1e-6)
    assert (red / green_r, blue / green_r) == pytest.approx((0.48, 0.66), rel=1e-5)
    assert green_r == pytest.approx(linear_from_srgb(0.5) * (16383 - 512), rel=1e-5)


def test_exposure_is_a_factor_of_light_and_saturates():
    gray = np.full((4, 4, 3), 0.5)
    one = photograph_to_raw(gray, cfa=CFA.bayer("RGGB"), **CAMERA).signal()
    np.testing.assert_allclose(
        photograph_to_raw(gray, cfa=CFA.bayer("RGGB"), exposure=0.25, **CAMERA).signal(), one / 4, rtol=1e-4
    )
    bright = photograph_to_raw(gray, cfa=CFA.bayer("RGGB"), exposure=100.0, **CAMERA)
    assert bright.raster.max() == 16383


def test_the_tone_curve_inverts():
    x = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(inverse_smoothstep(smoothstep(x)), x, atol=1e-7)
    np.testing.assert_allclose(smoothstep(x), 3 * x**2 - 2 * x**3, atol=1e-15)


def test_brooks_pipeline_has_an_exact_inverse():
    """Gains, matrix, gamma and tone curve of Brooks et al. forward, in bare NumPy: the photograph comes back."""
    color = BROOKS_2019.draw(np.random.default_rng(7))
    red, green, blue = color.as_shot_neutral
    assert 1.9 <= 1 / red <= 2.4
    assert 1.5 <= 1 / blue <= 1.9
    assert green == 1
    photograph = np.random.default_rng(1).uniform(0.1, 0.6, (1, 8, 3)).repeat(6, axis=1).repeat(6, axis=0)
    raw = photograph_to_raw(
        photograph, cfa=CFA.bayer("RGGB"), black=512.0, white_level=16383.0, color_matrix=color.color_matrix,
        as_shot_neutral=color.as_shot_neutral, exposure=color.exposure, **(BROOKS_2019.curves | {"highlights": False}),
    )  # fmt: skip
    planes = raw.planes() / (16383 - 512)
    camera = np.stack([planes[0], planes[1], planes[3]], axis=2) / color.exposure / color.as_shot_neutral
    xyz_from_srgb = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    camera_from_srgb = color.color_matrix @ xyz_from_srgb
    camera_from_srgb /= camera_from_srgb.sum(axis=1, keepdims=True)
    linear = np.maximum(camera @ np.linalg.inv(camera_from_srgb).T, 1e-8)
    encoded = linear ** (1 / 2.2)
    back = 3 * encoded**2 - 2 * encoded**3
    np.testing.assert_allclose(back, photograph[::2, ::2], atol=2e-4)


def test_draws_stay_in_the_published_ranges():
    draws = [BROOKS_2019.draw(np.random.default_rng(seed)) for seed in range(400)]
    exposures = np.array([d.exposure for d in draws])
    assert abs(exposures.mean() - 0.8) < 4 * 0.1 / 20
    assert abs(exposures.std() - 0.1) < 4 * 0.1 / np.sqrt(800)
    matrices, given = np.array([d.color_matrix for d in draws]), np.array(BROOKS_2019.matrices)
    assert (matrices >= given.min(axis=0) - 1e-12).all()
    assert (matrices <= given.max(axis=0) + 1e-12).all()


def test_clipped_highlights_stay_clipped():
    """White saturates all colors though the exposure is below 1; up to 0.9 nothing is changed."""
    options = CAMERA | {"exposure": 0.5}
    white = photograph_to_raw(np.ones((4, 4, 3)), cfa=CFA.bayer("RGGB"), highlights=True, **options)
    assert white.raster.min() == white.white_level
    gray = np.full((4, 4, 3), 0.9)
    plain, safe = (photograph_to_raw(gray, cfa=CFA.bayer("RGGB"), highlights=h, **options) for h in (False, True))
    np.testing.assert_allclose(safe.raster, plain.raster, rtol=1e-6)
    bright = np.full((4, 4, 3), 0.98)
    plain, safe = (photograph_to_raw(bright, cfa=CFA.bayer("RGGB"), highlights=h, **options) for h in (False, True))
    assert (safe.raster > plain.raster).all()


def test_a_monochrome_sensor_records_luminance():
    rgb = np.array([[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]]])
    raw = photograph_to_raw(rgb, cfa=CFA.mono(), white_level=1000.0, black=0.0, exposure=0.5)
    assert raw.signal()[0] == pytest.approx(500 * np.array([0.2126729, 0.7151522, 0.0721750, 1.0]), rel=1e-5)


def test_xtrans_sites_see_their_color():
    cfa = CFA.xtrans("GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG")
    raw = photograph_to_raw(np.tile([0.2, 0.5, 0.8], (12, 12, 1)), cfa=cfa, **CAMERA)
    for letter in "RGB":
        sites = np.tile(np.array(list(cfa.pattern)).reshape(6, 6) == letter, (2, 2))
        assert np.ptp(raw.raster[sites]) == 0
    assert len(np.unique(raw.raster)) == 3


def test_reducing_averages_light_and_removes_the_pictures_own_noise():
    rng = np.random.default_rng(3)
    noisy = np.clip(0.5 + 0.02 * rng.standard_normal((240, 240, 3)), 0, 1)
    signal = [photograph_to_raw(noisy, cfa=CFA.mono(), reduce=k, white_level=1.0, black=0.0).signal() for k in (1, 3)]
    assert signal[1].shape == (80, 80)
    assert signal[1].mean() == pytest.approx(signal[0].mean(), rel=1e-5)
    assert signal[0].std() / signal[1].std() == pytest.approx(3, rel=4 / np.sqrt(2 * 80 * 80))
    raw = photograph_to_raw(smooth_photograph(), cfa=CFA.bayer("GBRG"), **CAMERA)
    small = reduce_raw(raw, 2)
    assert small.mosaic.shape == (48, 72)
    for before, after in zip(raw.planes(), small.planes(), strict=True):
        blocks = before.reshape(24, 2, 36, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(after, blocks, rtol=1e-5)


def test_a_photograph_takes_levels_and_color_from_an_example(tmp_path):
    from imagecodecs import imwrite

    example = photograph_to_raw(smooth_photograph(), cfa=CFA.bayer("GBRG"), **CAMERA)
    write_dng(example, tmp_path / "example.dng")
    imwrite(tmp_path / "gray.png", np.full((8, 8, 3), 128, np.uint8))
    raw = SimulatedCamera(like=tmp_path / "example.dng").clean(tmp_path / "gray.png")
    assert str(raw.cfa) == "GBRG"
    planes = raw.planes().mean(axis=(1, 2))
    assert (planes[0] / planes[1], planes[3] / planes[1]) == pytest.approx((0.48, 0.66), rel=1e-3)
    with pytest.raises(MetadataError, match="--cfa"):
        SimulatedCamera().clean(tmp_path / "gray.png")
    drawn = SimulatedCamera(like=tmp_path / "example.dng", ranges=BROOKS_2019)
    first, second = drawn.clean(tmp_path / "gray.png"), drawn.clean(tmp_path / "gray.png")
    assert np.array_equal(first.raster, second.raster)
    assert first.metadata.as_shot_neutral != raw.metadata.as_shot_neutral


def test_a_mode_without_its_profile_is_refused(tmp_path):
    from imagecodecs import imwrite

    imwrite(tmp_path / "gray.png", np.full((8, 8, 3), 128, np.uint8))
    camera = SimulatedCamera(mode="measured", cfa="RGGB", black_level=512, white_level=16383, camera="Sony ILCE-7SM2")
    with pytest.raises(ProfileError, match="dark model"):
        camera.noisy(camera.clean(tmp_path / "gray.png"), iso=3200, seed=1)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="reduce"):
        photograph_to_raw(np.zeros((4, 4, 3)), cfa=CFA.mono(), reduce=5, **CAMERA)
    with pytest.raises(TypeError, match="uint8"):
        photograph_to_raw(np.zeros((4, 4, 3), np.uint16), cfa=CFA.bayer("RGGB"), **CAMERA)
    with pytest.raises(ValueError, match="positive"):
        photograph_to_raw(np.zeros((4, 4, 3)), cfa=CFA.bayer("RGGB"), **(CAMERA | {"as_shot_neutral": (0, 1, 1)}))
