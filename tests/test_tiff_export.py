"""The linear TIFF and its profile, judged by Little CMS and closed forms."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from rawkit.raw import icc
from rawkit.raw.develop import XYZ_FROM_SRGB
from rawkit.raw.image import BlackLevel, LinearImage, Metadata
from rawkit.raw.tiff_export import write_linear_tiff


def test_matrices_are_those_of_the_standards():
    np.testing.assert_allclose(icc.xyz_from_rgb(icc.SRGB), XYZ_FROM_SRGB, atol=3e-4)  # D65 is given to 4 digits
    # ITU-R BT.2020-2, table 4: luminance coefficients
    np.testing.assert_allclose(icc.xyz_from_rgb(icc.REC2020)[1], (0.2627, 0.6780, 0.0593), atol=5e-5)
    # the sRGB v4 profile's own colorants (ICC, sRGB_v4_ICC_preference), to four digits
    columns = icc.adaptation() @ icc.xyz_from_rgb(icc.SRGB)
    np.testing.assert_allclose(columns[0], (0.4361, 0.3851, 0.1431), atol=2e-4)


@pytest.mark.parametrize("primaries", [icc.REC2020, icc.SRGB])
def test_little_cms_reads_the_profile_and_converts_with_it(primaries):
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc.linear_profile("Linear test", primaries)))
    assert "Linear test" in ImageCms.getProfileDescription(profile)
    assert profile.profile.xcolor_space.strip() == "RGB"
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=1)
    light = np.array([[0, 5, 55, 128, 255]], np.uint8)
    out = np.asarray(ImageCms.applyTransform(Image.fromarray(np.repeat(light[:, :, None], 3, 2)), transform))
    v = light[0] / 255
    expected = 255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * np.maximum(v, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(out[0] - expected[:, None]).max() <= 1  # gray stays gray and gets the sRGB curve


@pytest.mark.parametrize("primaries", ["rec2020", "srgb"])
def test_the_file_holds_linear_light_in_its_primaries_upright(tmp_path, primaries):
    srgb = np.array([0.1, 0.4, 0.2])
    pixels = np.zeros((300, 20, 3), np.float32)
    pixels[:200] = srgb * 1000
    image = LinearImage(
        pixels=pixels, black=BlackLevel.constant(0), white_level=1000.0,
        metadata=Metadata(orientation=6, color_matrices=((21, np.linalg.inv(XYZ_FROM_SRGB)),)),
    )  # fmt: skip
    write_linear_tiff(image, tmp_path / "a.tif", primaries=primaries)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        stored = file.asarray()
        profile = file.pages[0].tags[34675].value
    points = {"rec2020": icc.REC2020, "srgb": icc.SRGB}[primaries]
    assert profile == icc.linear_profile({"rec2020": "Linear Rec. 2020", "srgb": "Linear sRGB"}[primaries], points)
    assert stored.shape == (20, 300, 3)
    assert (stored[:, :100] == 0).all()  # orientation 6: the bottom is on the left
    expected = np.linalg.inv(icc.xyz_from_rgb(points)) @ XYZ_FROM_SRGB @ srgb
    np.testing.assert_allclose(stored[5, 200] / 65535, expected, atol=3e-4)
