"""Frames that do not belong: light in a dark, a wrong ISO; and none found among good ones."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import expose, field

from rawkit.raw.image import CFA, BlackLevel, RawImage
from rawkit.sensor.frames import pair_statistics
from rawkit.sensor.misfits import light_leaks, mislabelled_darks, mislabelled_flats

GAIN, READ_NOISE, BLACK, WHITE = 2.0, 4.0, 512.0, 16383.0
READ_VAR = np.array([READ_NOISE**2 + 1 / 12])
SHAPE = (120, 160)  # 19,200 pixels: relative standard error of a pair's variance 1.0 %
LEVELS = (30.0, 100.0, 300.0, 800.0, 1500.0, 2500.0)  # e-


def pair(
    rng,
    electrons,
    *,
    exposure=0.01,
    gain=GAIN,
    read_noise=READ_NOISE,
    drift=0.0,
    light: float | np.ndarray = 1.0,
    bend=0.0,
):
    """Statistics of two frames; ``bend`` is the relative loss of signal at white."""

    def frame():
        signal = expose(
            electrons * light * np.ones(SHAPE), system_gain=gain, read_noise=0.0, black=0.0, white=1e9, rng=rng
        )
        bent = signal * (1 - bend * signal / (WHITE - BLACK))
        stored = BLACK + drift + bent + read_noise * rng.standard_normal(SHAPE)
        pixels = np.clip(np.rint(stored), 0, WHITE).astype(np.uint16)
        return RawImage(raster=pixels, cfa=CFA.mono(), black=BlackLevel.constant(BLACK), white_level=WHITE)

    return replace(pair_statistics(frame(), frame(), dark=electrons < 10), exposure_time=exposure)


def test_a_dark_with_light_in_it_is_found():
    # 10 e- of leak: mean + 20 DN (5 read noises), variance 16 -> 56 DN^2.
    rng = np.random.default_rng(1)
    darks = [pair(rng, 0.0) for _ in range(4)]
    assert light_leaks(darks) == [False] * 4
    assert light_leaks([*darks, pair(rng, 10.0 * 0.999)]) == [False] * 4 + [True]
    # A leak on one side of the frame is as much a leak.
    assert light_leaks([pair(rng, 5.0, light=np.linspace(0, 4, SHAPE[1])), *darks]) == [True] + [False] * 4


def test_black_level_drift_is_no_leak():
    # The mean moves by two read noises; no light, so no shot noise.
    rng = np.random.default_rng(2)
    assert not any(light_leaks([*(pair(rng, 0.0) for _ in range(4)), pair(rng, 0.0, drift=8.0)]))


def test_dark_current_is_no_leak_but_light_in_a_short_exposure_is():
    # 2 e-/s: the 4 s darks are as bright as a leak; a 1 s dark as bright as that is wrong.
    rng = np.random.default_rng(3)
    for times in ((0.5, 1.0, 2.0, 3.0, 4.0), (0.01, 0.02, 0.05, 4.0), (0.01, 1.0, 2.0, 4.0, 4.0, 4.0)):
        darks = [pair(rng, 2.0 * t, exposure=t) for t in times]
        assert not any(light_leaks(darks))
        assert not any(mislabelled_darks(darks))
    darks = [pair(rng, 2.0 * t, exposure=t) for t in (0.5, 1.0, 2.0, 3.0, 4.0)]
    assert light_leaks([*darks, pair(rng, 9.9, exposure=1.0)]) == [False] * 5 + [True]


def test_two_pairs_of_darks_cannot_tell_which_is_wrong():
    rng = np.random.default_rng(4)
    assert light_leaks([pair(rng, 0.0), pair(rng, 9.9)]) == [False, False]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_darks_of_another_iso_are_found(factor):
    rng = np.random.default_rng(5)
    darks = [pair(rng, 0.0) for _ in range(4)] + [pair(rng, 0.0, read_noise=factor * READ_NOISE)]
    found = mislabelled_darks(darks)
    assert found[:4] == [None] * 4
    assert found[4] == pytest.approx(factor**2, rel=0.1)  # 1/12 of rounding, sampling error 1.4 %


@pytest.mark.parametrize("factor", [0.5, 1 / 1.26, 1.26, 4.0])
def test_flats_of_another_iso_are_found(factor):
    """From a third of a stop on, at every level where shot noise counts; the others stay."""
    for seed, level in enumerate((300.0, 1200.0, 2300.0)):
        rng = np.random.default_rng(seed)
        flats = [pair(rng, e) for e in LEVELS]
        wrong = pair(rng, level / factor, gain=GAIN * factor, read_noise=READ_NOISE * factor)
        found = mislabelled_flats([*flats, wrong], np.zeros(1), READ_VAR, highest=0.7 * (WHITE - BLACK))
        assert found[:-1] == [None] * len(LEVELS), (factor, level)
        assert found[-1] == pytest.approx(factor, rel=0.15), level  # read noise weighs with factor^2 at 300 e-: 12 %


def test_good_flats_raise_no_alarm():
    """Vignetting, PRNU, flicker and a response that bends by 5 % at white: 60 sets, no alarm."""
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        light = field(SHAPE, prnu=0.01, vignetting=0.3, rng=rng) * (1 + 0.01 * rng.standard_normal())
        flats = [pair(rng, e, light=light, bend=0.05) for e in (*LEVELS, 4500.0)]
        assert mislabelled_flats(flats, np.zeros(1), READ_VAR, highest=0.7 * (WHITE - BLACK)) == [None] * len(flats)


def test_where_half_of_the_flats_differ_none_is_accused():
    rng = np.random.default_rng(6)
    flats = [pair(rng, e, gain=k) for e in LEVELS for k in (GAIN, 2 * GAIN)]
    assert not any(mislabelled_flats(flats, np.zeros(1), READ_VAR, highest=0.7 * (WHITE - BLACK)))
