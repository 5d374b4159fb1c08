"""ISO, multiple, dB and stops are one quantity."""

import numpy as np
import pytest

from rawkit.sensor.gain import Gain


def test_iso_6400_is_64_times_36_db_6_stops():
    gain = Gain.from_iso(6400)
    assert gain.multiple == 64
    assert gain.stops == 6
    assert gain.db == pytest.approx(36.1235994797)


def test_every_way_round_on_arrays_and_other_base():
    iso = np.array([50.0, 160.0, 320.0, 51200.0])
    gain = Gain.from_iso(iso, base_iso=160)
    for again in (
        Gain.from_db(gain.db, base_iso=160),
        Gain.from_stops(gain.stops, base_iso=160),
        Gain(gain.multiple, 160),
    ):
        assert np.allclose(again.iso, iso, rtol=1e-14)
    assert gain.stops[1] == 0


def test_one_stop_is_six_decibels():
    assert Gain.from_stops(1).db == pytest.approx(20 * np.log10(2))


def test_analog_and_digital_parts_multiply_to_the_whole():
    iso = np.array([50.0, 100.0, 400.0, 6400.0])
    analog, digital = Gain.from_iso(iso).split(400)
    assert np.allclose(analog.multiple * digital.multiple, iso / 100)
    assert analog.iso.tolist() == [50, 100, 400, 400]
    assert digital.multiple.tolist() == [1, 1, 1, 16]


@pytest.mark.parametrize("bad", [0, -100, float("nan"), float("inf")])
def test_impossible_values_are_refused(bad):
    with pytest.raises(ValueError, match="positive"):
        Gain.from_iso(bad)
    with pytest.raises(ValueError, match="base ISO"):
        Gain.from_iso(100, base_iso=bad)
