"""Over ISO: laws, gain switches, pushed ISOs, held-out ISOs."""

import math

import numpy as np
import pytest

from rawkit.sensor.iso_laws import fit_law, gain_law, read_law
from rawkit.sensor.iso_structure import find_structure
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import NoiseModel

THIRDS = (100, 125, 160, 200, 250, 320, 400, 500, 640, 800, 1000, 1250, 1600, 2000, 2500, 3200, 4000, 5000, 6400)
GAIN_ERROR, READ_ERROR = 0.003, 0.01  # relative, of a careful calibration


def quadrature(iso, downstream, upstream):
    """(K, sigma) of one gain segment: K slightly less than proportional, noise before and after the amplifier."""
    return 0.01 * iso**0.97, math.hypot(downstream, upstream * iso)


def measured(isos, truth, rng, *, stated=True):
    """A calibration of ``truth(iso)`` = (K, sigma), with its sampling errors."""
    table = []
    for iso in isos:
        gain, sigma = truth(iso)
        gain *= math.exp(GAIN_ERROR * rng.standard_normal())
        var = (sigma * math.exp(READ_ERROR * rng.standard_normal())) ** 2
        errors = (GAIN_ERROR * gain, 2 * READ_ERROR * var) if stated else (None, None)
        table.append((float(iso), NoiseParams(gain, var, *errors)))
    return table


def smooth(iso):
    return quadrature(iso, 2.0, 0.008)


def switched(iso):
    """Read noise in electrons drops by a quarter at ISO 800: the smallest switch of a real camera."""
    gain, sigma = smooth(iso)
    return gain, sigma * (0.75 if iso >= 800 else 1.0)


def third_stops(iso):
    """Native full stops; +1/3 is 1.25 of the one below, -1/3 is 0.8 of the one above with white level 0.8, too."""
    octave = math.log2(iso / 100)
    place = round(3 * (octave - round(octave)))
    gain, sigma = quadrature(100 * 2.0 ** round(octave), 10.0, 0.008)
    factor = 1.25 if place > 0 else 1.0
    return gain * factor, sigma * factor


def extended(iso):
    """ISO 50 and 64 are 100 and 125 with another number on them."""
    return smooth(2 * iso if iso < 100 else iso)


def test_law_coverage_is_what_it_states():
    # 400 fits of K = c0 + c1 ISO: the 95 % interval at ISO 150 covers the truth in 95 +- 2.2 % (binomial, 2 sigma).
    rng = np.random.default_rng(7)
    isos = np.array([100.0, 200, 400, 800, 1600])
    true = 0.3 + 0.01 * isos
    hits = 0
    for _ in range(400):
        law = fit_law(isos, true * (1 + GAIN_ERROR * rng.standard_normal(5)), np.full(5, GAIN_ERROR), family="affine")
        low, high = law.interval(150.0)
        hits += low < 0.3 + 1.5 < high
    assert 0.92 < hits / 400 < 0.99  # chi2 below 1 does not narrow it


def test_the_better_family_is_chosen():
    isos = np.array([100.0, 200, 400, 800, 1600])
    assert read_law(isos, 3.0 + 2e-5 * isos**2).family == "quadratic"
    assert read_law(isos, 0.1 * isos**1.3).family == "power"
    assert gain_law(isos, 0.2 + 0.01 * isos).family == "affine"
    assert gain_law(isos, 0.01 * isos**0.9).family == "power"
    assert read_law(isos, 3.0 + 2e-5 * isos**2).coefficients == pytest.approx([3.0, 2e-5], rel=1e-9)


@pytest.mark.parametrize("stated", [True, False])
def test_smooth_cameras_have_no_switch_and_no_pushed_iso(stated):
    for seed in range(15):
        found = find_structure(measured(THIRDS, smooth, np.random.default_rng(seed), stated=stated))
        assert found.boundaries == ()
        assert found.pushed == ()
        assert found.segments == (tuple(float(iso) for iso in THIRDS),)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("isos", [THIRDS, (100, 200, 400, 800, 1600, 3200, 6400)])
def test_a_gain_switch_is_found_at_its_iso(isos, stated):
    for seed in range(10):
        found = find_structure(measured(isos, switched, np.random.default_rng(seed), stated=stated))
        assert found.gain_switches == (800.0,)
        assert found.gain_steps == ()
        finding = found.findings[0]
        # ln 0.75 = -0.29; two laws of 1 % entries carried half a step: 0.04 at the very most
        assert finding.step == pytest.approx(math.log(0.75), abs=0.08)
        assert finding.standard_errors > 5


def test_two_switches_and_a_step_of_gain_alone():
    def truth(iso):
        gain, sigma = smooth(iso)
        return gain, sigma * 0.6 ** ((iso >= 400) + (iso >= 2500))

    found = find_structure(measured(THIRDS, truth, np.random.default_rng(1)))
    assert found.gain_switches == (400.0, 2500.0)

    def step(iso):
        gain, sigma = smooth(iso)
        factor = 1.3 if iso >= 800 else 1.0
        return gain * factor, sigma * factor

    found = find_structure(measured(THIRDS, step, np.random.default_rng(1)))
    assert found.gain_switches == ()
    assert found.gain_steps == (800.0,)


def test_pushed_third_stops_are_found_and_their_native_isos():
    pushed = [iso for iso in THIRDS if iso not in (100, 200, 400, 800, 1600, 3200, 6400)]
    for seed in range(5):
        found = find_structure(measured(THIRDS, third_stops, np.random.default_rng(seed)))
        assert found.boundaries == ()
        assert set(found.pushed) >= {float(i) for i in pushed if i < 3000}
        assert not set(found.pushed) & {100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0}
        source = {f.iso: f.native_iso for f in found.findings}
        assert source[125.0] == 100.0
        assert source[320.0] == 400.0


def test_extended_low_isos_are_found_not_taken_for_a_switch():
    found = find_structure(measured((50, 64, *THIRDS), extended, np.random.default_rng(3)))
    assert found.pushed == (50.0, 64.0)
    assert found.boundaries == ()
    assert {f.iso: f.native_iso for f in found.findings} == {50.0: 100.0, 64.0: 125.0}


def test_held_out_isos_are_predicted_with_their_error():
    # Within a segment, and pushed ones from their octaves: K within 3 %, read noise within 10 %, z like a normal's.
    z_gain, z_read = [], []
    for truth in (smooth, switched, third_stops):
        for seed in range(2):
            table = measured(THIRDS, truth, np.random.default_rng(seed))
            for i, iso in enumerate(THIRDS):
                if not 160 < iso < 4000 or (truth is switched and iso in (640, 800)):
                    continue
                guess = NoiseModel.from_table(table[:i] + table[i + 1 :]).at(iso)
                gain, sigma = truth(iso)
                assert guess.origin == "interpolated"
                assert float(guess.system_gain) == pytest.approx(gain, rel=0.03)
                assert math.sqrt(guess.read_var) == pytest.approx(sigma, rel=0.10)
                z_gain.append((float(guess.system_gain) - gain) / float(guess.system_gain_se))
                z_read.append((float(guess.read_var) - sigma**2) / float(guess.read_var_se))
    # The error may be stated too large (left-out entries are missed over twice the distance), not too small.
    for z in (z_gain, z_read):
        assert np.mean(np.abs(z) < 1.96) > 0.88
        assert 0.3 < np.std(z) < 1.4


def test_an_interpolation_states_its_own_error():
    # Entries known to 1e-6 on a law of no family: what neighbors miss left-out entries by is all the error there is.
    def wavy(iso):
        gain, sigma = smooth(iso)
        wave = 0.02 * math.sin(2 * math.pi * math.log2(iso))
        return gain * (1 + wave), sigma * (1 + wave)

    isos = 100 * 2 ** np.arange(0, 6, 0.3)
    rng = np.random.default_rng(1)
    table = []
    for iso in isos:
        gain, sigma = wavy(iso)
        gain *= 1 + 1e-6 * rng.standard_normal()
        table.append((float(iso), NoiseParams(gain, sigma**2, 1e-6 * gain, 1e-6 * sigma**2)))
    model = NoiseModel(table)
    z = []
    for iso in np.sqrt(isos[:-1] * isos[1:]):
        guess = model.at(float(iso))
        z.append((float(guess.system_gain) - wavy(iso)[0]) / float(guess.system_gain_se))
    assert 0.1 < np.sqrt(np.mean(np.square(z))) < 1.2
    # A table without standard errors has that one, too; two entries have none.
    bare = [(iso, NoiseParams(p.system_gain, p.read_var)) for iso, p in table]
    assert float(NoiseModel(bare).at(150.0).read_var_se) > 0
    assert NoiseModel(bare[:2]).at(110.0).system_gain_se is None


def test_nothing_crosses_a_switch():
    table = measured(
        THIRDS, lambda iso: (0.01 * iso, 0.02 * iso * (0.3 if iso >= 800 else 1)), np.random.default_rng(2)
    )
    model = NoiseModel.from_table(table)
    assert model.gain_switches == (800.0,)
    between = model.at(720)
    assert between.origin == "extrapolated"
    assert math.sqrt(between.read_var) == pytest.approx(0.02 * 720, rel=0.05)
    assert between.read_var_se > 0


def test_an_extended_range_is_scaled_digitally_beyond_its_end():
    def truth(iso):
        gain, sigma = smooth(min(iso, 3200))
        factor = max(iso / 3200, 1.0) * (0.6 if iso > 3200 else 1.0)
        return gain * factor, sigma * factor

    model = NoiseModel.from_table(measured((*THIRDS[:-3], 6400, 12800), truth, np.random.default_rng(4)))
    assert model.pushed == (6400.0, 12800.0)
    far = model.at(25600)
    assert far.origin == "extrapolated"
    assert float(far.system_gain) == pytest.approx(2 * float(model.at(12800).system_gain), rel=1e-12)
    assert float(far.read_var) == pytest.approx(4 * float(model.at(12800).read_var), rel=1e-12)


def test_the_bundled_a7s2_table_switches_at_iso_2000():
    from rawkit.resources import bundled_profiles
    from rawkit.sensor.profile import CameraProfile

    profile = CameraProfile.load(next(p for p in bundled_profiles() if "pmn" in p.name))
    found = find_structure(profile.noise.table)
    assert found.gain_switches == (2000.0,)
    assert found.pushed == (50.0, 64.0, 80.0)


@pytest.mark.data
def test_switches_of_published_tables(data_dir):
    from rawkit.sensor.exchange import from_darktable

    database = data_dir / "profiles" / "darktable_noiseprofiles.json"
    for camera, switch in {"ILCE-7SM3": 1600.0, "ILCE-7M3": 640.0, "X-T3": 800.0, "ILCE-6400": 400.0}.items():
        assert switch in from_darktable(database, camera).noise.gain_switches, camera
    assert {320.0, 640.0, 1250.0, 2500.0} <= set(from_darktable(database, "EOS 5D Mark IV").noise.pushed)
