"""Code widths of converters with known edges."""

import numpy as np
import pytest

from rawkit.errors import CalibrationError
from rawkit.sensor.code_widths import code_widths


def test_code_widths_of_a_converter_with_known_edges():
    rng = np.random.default_rng(16)
    width = 1 + 0.07 * rng.standard_normal(64)
    edges = np.concatenate([[0.0], np.cumsum(width)])
    analog = rng.normal(30.0, 3.5, 4_000_000)
    counts = np.bincount(np.searchsorted(edges, analog) - 1, minlength=64)
    found = code_widths(counts)
    truth = width[found.code]
    error = found.width - truth
    # A slow trend of the widths cannot be told from the shape of the distribution; all else is seen.
    x = np.linspace(-1, 1, len(error))
    weights = 1 / np.hypot(found.width_se, 0.005)
    trend = np.polynomial.Polynomial.fit(x, error, found.order, w=weights)(x)
    well = found.width_se < 0.01
    scores = ((error - trend) / found.width_se)[well]
    assert (scores**2).mean() < 1 + 4 * np.sqrt(2 / well.sum())
    assert found.rms == pytest.approx(truth.std(), abs=4 * found.rms_se)
    # Where codes lie matters: with the code number for the position, errors are five times as large.
    assert (error - trend)[well].std() < 0.006


def test_a_perfect_converter_shows_no_dnl():
    rng = np.random.default_rng(17)
    counts = np.bincount(np.round(rng.normal(300.3, 4.0, 1_000_000)).astype(int))
    found = code_widths(counts)
    assert found.order == 2
    scores = (found.width - 1) / found.width_se
    assert (scores**2).mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / len(scores)))
    assert not found.rms > 0.01


def test_too_few_codes_are_refused():
    with pytest.raises(CalibrationError, match="neighboring codes"):
        code_widths(np.array([0, 10, 5000, 9000, 5000, 10]))
