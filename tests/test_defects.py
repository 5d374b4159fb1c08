"""Defects planted in stacks of bare NumPy."""

import numpy as np
import pytest
from stacks import darks
from synthetic import expose

from rawkit.raw.image import CFA
from rawkit.sensor.defects import defect_histogram, find_defects
from rawkit.sensor.pixel_moments import PixelMoments


def test_defects_are_found_and_named():
    rng = np.random.default_rng(13)
    shape, count = (120, 160), 20
    hot, dead, telegraph, glowing = (10, 20), (51, 61), (33, 90), (100, 7)
    dark_level, response = np.zeros(shape), 1 + 0.01 * rng.standard_normal(shape)
    dark_level[hot], response[dead] = 40.0, 0.1

    def stack(level, seconds):
        for _ in range(count):
            frame = 100 + dark_level + level * response + rng.normal(0, 2.0, shape)
            frame[glowing] += rng.poisson(400 * seconds)
            frame[telegraph] += 20.0 * rng.integers(0, 2)
            yield np.round(frame).astype(np.uint16)

    short, long, flat = (
        PixelMoments.of(stack(level, seconds), period=(2, 2)) for level, seconds in ((0, 0), (0, 1), (900, 0))
    )
    found = find_defects(
        short, cfa=CFA.bayer("RGGB"), flat=flat, long_dark=long, exposure_difference=1.0, false_alarms=1e-3
    )
    places = {(int(d["row"]), int(d["column"]), str(d["kind"])): float(d["value"]) for d in found}
    assert places.pop((*hot, "hot")) == pytest.approx(40.0, abs=4 * 2 / np.sqrt(count) + 0.5)
    assert places.pop((*glowing, "growing")) == pytest.approx(400.0, abs=4 * 5)
    assert places.pop((*dead, "dead")) == pytest.approx(0.1, abs=0.02)
    assert places.pop((*telegraph, "telegraph")) == pytest.approx(10.0, rel=0.4)
    places.pop((*telegraph, "hot"), None)  # its mean is 10 DN up: it is both
    assert not places


def test_telegraph_false_alarms_are_as_stated():
    """20 expected in 4 maps of 5 each: within four Poisson standard deviations."""
    found = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        stack = PixelMoments.of(darks(rng, np.zeros((300, 400)), count=10))
        found += int((find_defects(stack, false_alarms=5.0)["kind"] == "telegraph").sum())
    assert abs(found - 20) < 4 * np.sqrt(20)


@pytest.mark.parametrize("law", [-0.2, -0.05])
def test_heavy_tails_raise_no_more_false_alarms_than_stated(law):
    """5 stated in each of 4 maps; taken for Gaussian the same noise gives hundreds."""
    found, gaussian, count = 0, 0, 25
    for seed in range(4):
        rng = np.random.default_rng(seed)
        p = rng.random((count, 200, 200))
        frames = np.round(5000 + 4 * (p**law - (1 - p) ** law) / law).astype(np.uint16)
        stack = PixelMoments.of(iter(frames))
        found += int((find_defects(stack, false_alarms=5.0, tukey_lambda=(law,))["kind"] == "telegraph").sum())
        gaussian += int((find_defects(stack, false_alarms=5.0)["kind"] == "telegraph").sum())
    assert abs(found - 20) < 4 * np.sqrt(20)
    assert gaussian > 400


def test_a_steady_hot_pixel_is_no_telegraph_pixel_once_the_gain_is_known():
    rng = np.random.default_rng(14)
    gain, hot = 2.0, (5, 6)
    electrons = np.zeros((60, 60))
    electrons[hot] = 400.0
    stack = PixelMoments.of(expose(electrons, system_gain=gain, read_noise=3.0, rng=rng) for _ in range(30))
    kinds = [str(d["kind"]) for d in find_defects(stack, system_gain=gain, false_alarms=0.01)]
    assert kinds == ["hot"]
    assert "telegraph" in [str(d["kind"]) for d in find_defects(stack, false_alarms=0.01)]


def test_the_histogram_of_a_gaussian_follows_its_model():
    rng = np.random.default_rng(15)
    found = defect_histogram(rng.normal(10, 2, (400, 500)))
    assert found.count.sum() == 200_000
    chi2 = ((found.count - found.model)[found.model > 20] ** 2 / found.model[found.model > 20]).mean()
    assert chi2 == pytest.approx(1.0, abs=0.5)
    assert found.beyond[0] == 100.0
    assert np.all(np.diff(found.beyond) <= 0)
    at_two_sigma = np.interp(4.0, found.distance, found.beyond)
    assert at_two_sigma == pytest.approx(4.55, abs=0.3)
