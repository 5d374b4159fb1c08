"""The dark model: kept by a profile, and recovered from frames of bare NumPy with known laws."""

import numpy as np

from rawkit.sensor.dark_model import QUANTILES, DarkModel
from rawkit.sensor.defects import DEFECT_DTYPE
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel


def model(seed=0, edges=True):
    rng = np.random.default_rng(seed)
    return DarkModel(
        fixed_pattern=rng.normal(0, 1, (12, 16)).astype(np.float32),
        fixed_residue=0.25,
        row_series=rng.normal(0, 1, (3, 12)).astype(np.float32),
        column_noise=0.5,
        pixel_quantiles=np.sort(rng.normal(0, 2, (4, QUANTILES)).astype(np.float32), axis=1),
        log_spectrum=rng.normal(0, 1, (12, 16)).astype(np.float32),
        code_edges=(60, np.arange(59.5, 70.5) + 0.1) if edges else None,
        defects=np.array([(1, 2, "hot", 40.0)], DEFECT_DTYPE),
        frames=3,
        tail_shape=-0.1 if edges else None,
    )


def test_a_saved_profile_gives_the_model_back(tmp_path):
    noise = NoiseModel([(100, NoiseParams(0.5, 2.0)), (1600, NoiseParams(8.0, 30.0))], gain_switches=(800.0,))
    first, second = model(1), model(2, edges=False)
    maps = first.to_maps(100) | second.to_maps(1600)
    CameraProfile("A", "B", noise, maps=maps).save(tmp_path / "p.json")
    profile = CameraProfile.load(tmp_path / "p.json")
    for iso, expected, measured_at in ((100, first, 100), (400, first, 100), (800, second, 1600)):
        found = DarkModel.from_profile(profile, iso)
        assert found.iso == measured_at
        # Sixteen bits keep 11 digits: a rounding of at most 2^-11 of the value.
        np.testing.assert_allclose(found.fixed_pattern, expected.fixed_pattern, rtol=2**-11)
        for name in ("row_series", "pixel_quantiles", "log_spectrum", "defects"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert (found.fixed_residue, found.column_noise, found.frames) == (0.25, 0.5, 3)
        assert found.tail_shape == expected.tail_shape
        assert (found.code_edges is None) == (expected.code_edges is None)
    np.testing.assert_array_equal(DarkModel.from_profile(profile, 100).code_edges[1], first.code_edges[1])
    without = CameraProfile("A", "B", noise, maps=first.to_maps(100))
    assert DarkModel.from_profile(without, 1600) is None


def test_a_pattern_beyond_half_precision_stays_whole():
    from dataclasses import replace

    bright = replace(model(), fixed_pattern=np.full((12, 16), 65535.0, np.float32))
    assert bright.to_maps(100)["fixed_pattern_iso100"].dtype == np.float32
