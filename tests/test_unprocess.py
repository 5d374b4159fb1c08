"""Photograph to raw and back."""

import numpy as np
import pytest

from rawkit.noise.unprocess import linear_from_srgb, photograph_to_raw
from rawkit.raw.develop import develop, srgb_curve
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


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="no color"):
        photograph_to_raw(np.zeros((4, 4, 3)), cfa=CFA.mono(), **CAMERA)
    with pytest.raises(TypeError, match="uint8"):
        photograph_to_raw(np.zeros((4, 4, 3), np.uint16), cfa=CFA.bayer("RGGB"), **CAMERA)
    with pytest.raises(ValueError, match="positive"):
        photograph_to_raw(np.zeros((4, 4, 3)), cfa=CFA.bayer("RGGB"), **(CAMERA | {"as_shot_neutral": (0, 1, 1)}))
