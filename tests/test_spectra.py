"""Spectra and lines of known noise and known sinusoids."""

import numpy as np
import pytest
from stacks import SIGMAS

from rawkit.sensor.spectra import pattern_lines, spectrogram


def test_white_noise_has_a_flat_spectrogram_of_its_variance():
    rng = np.random.default_rng(9)
    image = rng.normal(0, 2.0, (300, 200))
    for direction, lines in (("horizontal", 300), ("vertical", 200)):
        found = spectrogram(image, direction=direction)
        assert found.power[1:].mean() == pytest.approx(4.0, rel=0.03)  # 60000 pixels: 0.6 %
        assert found.power[1:].std() == pytest.approx(4.0 / np.sqrt(lines), rel=0.5)
        assert found.frequency[1] == pytest.approx(lines / 60000)


def test_patterns_of_any_direction_are_found_with_their_amplitude():
    rng = np.random.default_rng(10)
    y, x = np.mgrid[0:480, 0:640]
    truth = [(0.1037, 0.2211, 0.12), (0.2503, -0.0741, 0.1), (0.0, 0.3333, 0.08), (0.125, 0.0, 0.08)]
    image = rng.normal(0, 1.0, (480, 640)) + 1e-3 * x
    for fx, fy, amplitude in truth:
        image += amplitude * np.cos(2 * np.pi * (fx * x + fy * y) + 1.0)
    image[100, 100] = 500.0
    found = pattern_lines(image)
    assert len(found) == len(truth)
    for fx, fy, amplitude in truth:
        line = min(found, key=lambda line: np.hypot(line.fx - fx, line.fy - fy))
        assert line.fx == pytest.approx(fx, abs=0.1 / 640)
        assert line.fy == pytest.approx(fy, abs=0.1 / 480)
        assert abs(line.amplitude - amplitude) < SIGMAS * line.amplitude_se
        assert line.amplitude_se < 0.005


def test_alternating_rows_and_a_checkerboard_have_their_amplitude():
    """At frequency 1/2 the two halves of a cosine's spectrum coincide."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:240, 0:320]
    image = rng.normal(0, 1.0, (240, 320)) + 0.1 * (-1.0) ** y + 0.15 * (-1.0) ** (x + y)
    rows, checkers = sorted(pattern_lines(image), key=lambda line: line.fx)
    assert (rows.fx, rows.fy) == (0.0, 0.5)
    assert (checkers.fx, abs(checkers.fy)) == (0.5, 0.5)
    assert abs(rows.amplitude - 0.1) < SIGMAS * rows.amplitude_se
    assert abs(checkers.amplitude - 0.15) < SIGMAS * checkers.amplitude_se


def test_noise_has_no_lines_not_even_with_random_rows():
    """0.01 invented lines per image are stated: 30 images may show two at most."""
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image = rng.normal(0, 1.0, (200, 300)) + rng.normal(0, 0.3, (200, 1))
        found += len(pattern_lines(image))
    assert found <= 2


def test_lines_are_invented_as_rarely_as_stated():
    """3 false lines an image: 1 each among rows, columns, and the rest; a peak's neighbors do not count again."""
    axes = rest = 0
    for seed in range(100):
        for line in pattern_lines(np.random.default_rng(seed).normal(0, 1.0, (64, 64)), false_alarms=3.0):
            if line.fx == 0 or line.fy == 0:
                axes += 1
            else:
                rest += 1
    assert abs(rest - 100) < 4 * np.sqrt(100)
    assert axes < 200
