"""Synthesize, calibrate: what comes out is what went in.  The long version is benchmarks/closed_loop.py."""

import sys
import warnings
from pathlib import Path

import pytest

from rawkit.errors import CalibrationWarning

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from closed_loop import one_run

MODES = ("numpy", "eld", "measured")
SHAPE = (160, 240)


@pytest.fixture(scope="module")
def run():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return one_run(3, SHAPE, MODES)


@pytest.mark.parametrize("mode", MODES)
def test_calibration_finds_what_synthesis_was_told(run, mode):
    """Within 4.5 standard errors: 20 numbers, of which a fair test fails one in 7000 times."""
    quantities, _ = run[mode]
    assert "K [DN/e-]" in quantities
    assert "read variance [DN2]" in quantities
    for name, (told, found, error) in quantities.items():
        assert abs(found - told) < 4.5 * error, f"{name}: told {told}, found {found} +- {error}"


@pytest.mark.parametrize("mode", ["numpy", "measured"])
def test_dark_shading_comes_back(run, mode):
    """Blocks of 32 x 32 pixels keep 0.7/32 DN of DSNU, 3/32/sqrt(24) of 24 frames' noise, 0.8/sqrt(24 * 32) of rows."""
    assert run[mode][1] < 2 * (0.7**2 / 1024 + 9 / 24 / 1024 + 0.8**2 / 24 / 32) ** 0.5
