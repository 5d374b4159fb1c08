"""The before-and-after page: figures against known truths, and a page that asks nobody for anything."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from synthetic import expose

from rawkit.errors import UnsupportedRawError
from rawkit.raw.develop import demosaic
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.report.compare import compare_images, comparison_page, edge_slope, figures
from rawkit.sensor.database import FoundNoise
from rawkit.sensor.params import NoiseParams

GAIN, READ = 2.0, 6.0
NOISE = FoundNoise(NoiseParams(GAIN, READ**2), "profile", "made up")


def scene(pattern="RGGB", *, height=192, width=256):
    """Expected electrons: a flat half and one of bars, four pixels wide."""
    electrons = np.full((height, width), 400.0)
    electrons[:, width // 2 :] += 300 * (np.arange(width // 2) // 8 % 2)
    return electrons


def raw(raster, *, orientation=1, scale=1):
    return RawImage(
        raster=raster, cfa=CFA.bayer("GRBG"), black=BlackLevel.constant(512.0 * scale), white_level=16383.0 * scale,
        metadata=Metadata(as_shot_neutral=(0.5, 1.0, 0.7), orientation=orientation, iso=800.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    electrons = scene()
    noisy = expose(electrons, system_gain=GAIN, read_noise=READ, rng=np.random.default_rng(3))
    return raw(noisy), raw((512 + GAIN * electrons).astype(np.float32))


def test_figures_of_a_perfect_result(pair):
    """All noise taken: z has unit spread, edges keep their slope, the parameters fit."""
    result = compare_images(*pair, NOISE)
    # the median of n absolute normal values has the relative error 1.17 / sqrt(n); rounding adds 1/12 DN^2 of 836
    assert result.taken == pytest.approx(1.0, abs=4 * 1.17 / pair[0].mosaic.size ** 0.5 + 1e-3)
    assert result.check is not None
    assert result.check.warning is None
    assert result.sharpness == pytest.approx(1.0, abs=0.02)
    assert result.left == pytest.approx(0.0, abs=1e-6)
    z = (result.residual.astype(float) - 128) / 24
    assert z.std() == pytest.approx(1.0, abs=0.02)


def test_without_read_noise_equal_black_pixels_differ_by_nothing():
    """0 over 0 is no number; z is 0 there, and the figures are those of the other pixels."""
    electrons = scene()
    noisy = expose(electrons, system_gain=GAIN, read_noise=0.0, rng=np.random.default_rng(3))
    clean = (512 + GAIN * electrons).astype(np.float32)
    noisy[:8] = clean[:8] = 512
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_images(raw(noisy), raw(clean), FoundNoise(NoiseParams(GAIN, 0.0), "profile", "made up"))
    assert np.all(result.residual[:8] == 128)
    assert result.taken == pytest.approx(1.0, abs=0.1)
    assert {name: value for name, value, _ in figures(replace(result, left=1.0))}["Noise removed"] == "0.0 dB"


def test_a_blurred_result_is_less_sharp_and_takes_detail(pair):
    noisy, clean = pair
    soft = gaussian_filter(clean.mosaic, 3.0)
    result = compare_images(noisy, raw(soft.astype(np.float32)), NOISE)
    assert result.sharpness < 0.8
    assert result.taken > 1.1


def test_edge_slope_does_not_mind_noise_before():
    """A step of 100 under noise 20, kept at half its height: 1/2 within the error of a mean over the step's pixels."""
    step = np.repeat((np.arange(64) >= 32) * 100.0, 400).reshape(1, 64, 400)
    noisy = step + 20 * np.random.default_rng(1).standard_normal(step.shape)
    slope = edge_slope(noisy.astype(np.float32), (step / 2).astype(np.float32))
    assert slope == pytest.approx(0.5, abs=4 * 0.5 * 20 * 2**0.5 / 100 / 400**0.5)
    assert edge_slope(np.ones((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)) is None


def test_levels_on_another_scale_are_the_same_picture(pair):
    noisy, clean = pair
    result = compare_images(noisy, raw(clean.mosaic * 4, scale=4), NOISE)
    assert result.taken == pytest.approx(compare_images(noisy, clean, NOISE).taken, rel=1e-4)


def test_orientation_and_kinds(pair):
    noisy, clean = pair
    turned = [replace(i, metadata=replace(i.metadata, orientation=6)) for i in pair]
    result = compare_images(*turned, NOISE)
    assert result.before.shape == (256, 192, 3)
    assert result.residual.shape == (256, 192)
    linear = compare_images(noisy, demosaic(clean), NOISE)
    assert linear.taken is None
    assert "two kinds" in linear.remarks[0]
    unknown = compare_images(noisy, clean, None)
    assert unknown.taken is None
    assert unknown.sharpness is not None
    with pytest.raises(UnsupportedRawError, match="192"):
        compare_images(noisy, raw(clean.mosaic[:128]), NOISE)


def test_page_is_self_contained_and_shows_the_part_asked_for(pair):
    page = comparison_page(
        compare_images(*pair, NOISE), before="<a>.dng", after="b.dng", noise="made up", crop=(10, 20, 64, 48)
    )
    assert 'data-width="64" data-height="48"' in page
    assert "default-src 'none'" in page
    assert "<a>" not in page.replace("&lt;a&gt;", "")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.count("data:image/") == 3
    with pytest.raises(ValueError, match="not inside"):
        comparison_page(compare_images(*pair, NOISE), before="a", after="b", noise="", crop=(250, 0, 64, 48))


def test_command(pair, tmp_path, capsys):
    from rawkit import cli

    for name, image in zip(("a.dng", "b.dng"), pair, strict=True):
        write_dng(image, tmp_path / name)
    page = tmp_path / "page.html"
    arguments = ["compare", str(tmp_path / "a.dng"), str(tmp_path / "b.dng"), "-o", str(page)]
    cli.app([*arguments, "--camera", "Sony ILCE-7SM2"], standalone_mode=False)
    assert re.match(r"sharpness kept: (0\.99|1\.0)", capsys.readouterr().out)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(SystemExit) as left:
        cli.app(arguments, standalone_mode=False)
    assert left.value.code == 2
