"""The ELD noise model: Tukey-lambda law, rows, color bias, joint draws of its parameters."""

import numpy as np
import pytest
from scipy import stats

from rawkit.errors import ProfileError
from rawkit.noise.eld import EldLaw, EldParams, measured_isos
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, pack
from rawkit.resources import bundled_profiles
from rawkit.sensor.iso_details import IsoDetails
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel
from rawkit.sensor.quantized import tukey_quantile

BAYER = CFA.bayer("RGGB")
P_MIN = 1e-6

# K. Wei et al., CVPR 2020; published parameters of Sony A7S2 (github.com/Vandermode/ELD, camera_params/release).
SONY = {
    "Kmin": 0.0939,
    "Kmax": 6.011,
    "G_shape": [-0.143, 0.0, 0.129],
    "Profile-1": {
        "G_scale": {"slope": 0.462, "bias": 0.566, "sigma": 0.263},
        "R_scale": {"slope": 0.528, "bias": -0.592, "sigma": 0.294},
    },
}
# PMN's table of the same camera around its gain switch (Apache-2.0): ISO: K, lambda, sigma_TL, sigma_row.
SWITCH = {
    400: (0.3825, 0.0, 0.9, 0.35),
    800: (0.765, -0.02, 1.6, 0.55),
    1600: (1.530, -0.044, 3.228, 0.989),
    2000: (1.913, -0.013, 1.436, 0.331),
    6400: (6.120, -0.075, 3.450, 0.722),
    25600: (24.48, -0.091, 12.18, 2.276),
}


def profile():
    table = [(float(iso), EldParams(k, shape, scale, row).params) for iso, (k, shape, scale, row) in SWITCH.items()]
    details = {
        float(iso): IsoDetails(tukey_lambda=shape, tukey_scale=scale, row_noise=row)
        for iso, (_, shape, scale, row) in SWITCH.items()
    }
    return CameraProfile("", "A7S2", NoiseModel(table, (2000.0,)), details=details)


@pytest.mark.parametrize("shape", [-0.25, -0.05, 0.0, 1e-7, 0.14, 0.5])
def test_pixels_follow_the_tukey_lambda_law(shape):
    eld = NoiseSynthesizer(EldParams(1.0, shape, 2.0))
    noise = eld.mosaic(np.zeros((500, 800)), None, cfa=CFA.mono(), seed=1, quantize=False).ravel()
    p = np.concatenate([[1e-5, 1e-4, 1e-3], np.linspace(0.01, 0.99, 99), [0.999, 0.9999, 0.99999]])
    edges = 2.0 * stats.tukeylambda.ppf(p, shape)
    expected = noise.size * np.diff(np.concatenate([[0.0], p, [1.0]]))
    observed = np.bincount(np.searchsorted(edges, noise), minlength=expected.size)
    keep = expected > 2
    assert stats.chi2.sf(((observed - expected)[keep] ** 2 / expected[keep]).sum(), keep.sum()) > P_MIN


@pytest.mark.parametrize("shape", [-0.3, 0.0, 1e-9, 0.14, 2.0])
def test_quantiles_agree_with_scipy(shape):
    p = np.array([1e-9, 1e-3, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(tukey_quantile(p, 1 - p, shape), stats.tukeylambda.ppf(p, shape), rtol=1e-6, atol=1e-12)


def test_rows_are_offset_as_a_whole_and_colors_biased():
    params = EldParams((1.0, 1.1, 1.2, 1.3), 0.1, 0.5, 4.0, (0.6, 0.0, -0.2, 1.0))
    noise = NoiseSynthesizer(params).mosaic(np.zeros((1000, 400)), None, cfa=BAYER, seed=3, quantize=False)
    noise = noise.astype(np.float64)
    sigma = np.sqrt(params.params.read_var - 16 - 1 / 12)
    red, green = noise[::2, ::2].mean(axis=1) - 0.6, noise[::2, 1::2].mean(axis=1)
    assert np.std(red - green) == pytest.approx(sigma * np.sqrt(2 / 200), rel=5 / np.sqrt(2 * 500))
    assert red.std() == pytest.approx(np.sqrt(16 + sigma**2 / 200), rel=5 / np.sqrt(2 * 500))
    rows = noise.mean(axis=1)
    assert abs(np.corrcoef(rows[1:], rows[:-1])[0, 1]) < 5 / np.sqrt(1000)
    for plane, bias in zip(pack(noise, BAYER), (0.6, 0.0, -0.2, 1.0), strict=True):
        assert plane.mean() == pytest.approx(bias, abs=5 * 4 / np.sqrt(500))
    # Column means hold a bias and 1000 pixels each, no more.
    assert noise[:, ::2].mean(axis=0).std() == pytest.approx(sigma / np.sqrt(1000), rel=5 / np.sqrt(2 * 200))


def test_variance_of_the_stored_values_is_that_of_the_parameters():
    params = EldParams(2.0, -0.1, 1.2, 0.9)
    noise = NoiseSynthesizer(params).mosaic(np.full((1000, 1000), 40.0), None, cfa=BAYER, seed=3).astype(np.float64)
    expected = float(params.params.variance(40.0))
    # Kurtosis of the whole is below 4; 1000 row offsets make up 0.81 of the variance.
    error = np.sqrt(3 * expected**2 / noise.size + 2 * 0.81**2 / 1000)
    assert noise.var() == pytest.approx(expected, abs=5 * error)


def test_draws_follow_the_published_law():
    law = EldLaw.from_eld(SONY)
    draws = [law.draw(seed=5, frame=i) for i in range(2000)]
    log_gain = np.log([d.system_gain for d in draws])
    low, high = np.log(0.0939), np.log(6.011)
    assert stats.kstest((log_gain - low) / (high - low), "uniform").pvalue > P_MIN
    scale = (np.log([d.tukey_scale for d in draws]) - 0.462 * log_gain - 0.566) / 0.263
    row = (np.log([d.row_noise for d in draws]) - 0.528 * log_gain + 0.592) / 0.294
    assert stats.kstest(scale, "norm").pvalue > P_MIN
    assert stats.kstest(row, "norm").pvalue > P_MIN
    assert abs(np.corrcoef(scale, row)[0, 1]) < 5 / np.sqrt(2000)
    counts = [sum(d.tukey_lambda == shape for d in draws) for shape in SONY["G_shape"]]
    assert stats.chisquare(counts).pvalue > P_MIN
    again = law.draw(seed=5, frame=3)
    assert (again.system_gain, again.tukey_scale) == (draws[3].system_gain, draws[3].tukey_scale)


def test_a_gain_switch_splits_the_law():
    """One line over the switch scatters by 0.3 and more; each segment's own by less than 0.1 (PMN's table)."""
    law = EldLaw.from_profile(profile())
    assert [s.gains for s in law.segments] == [(0.3825, 1.53), (1.913, 24.48)]
    assert all(s.tukey_scale.scatter < 0.1 for s in law.segments)
    draws = [law.draw(seed=1, frame=i) for i in range(500)]
    gains = np.array([d.system_gain for d in draws])
    assert not np.any((gains > 1.53) & (gains < 1.913))
    share = np.log(1.53 / 0.3825) / (np.log(1.53 / 0.3825) + np.log(24.48 / 1.913))
    assert (gains < 1.7).mean() == pytest.approx(share, abs=5 * 0.5 / np.sqrt(500))


def test_parameters_of_a_profile():
    params = EldParams.from_profile(profile(), 6400)
    assert (params.system_gain, params.row_noise) == (6.12, 0.722)
    assert float(params.tukey_scale) == pytest.approx(3.45, rel=1e-9)  # the table's variance was made of this scale
    assert float(params.params.read_var) == pytest.approx(float(profile().noise.at(6400).read_var))
    between = EldParams.from_profile(profile(), 1200)
    assert 1.6 < float(between.tukey_scale) < 3.228  # between its neighbors of the segment, not those above the switch
    assert NoiseSynthesizer(profile(), mode="eld").mosaic(np.zeros((4, 4)), 1600, cfa=BAYER, seed=1).shape == (4, 4)


@pytest.mark.parametrize("path", bundled_profiles(), ids=lambda path: path.stem)
def test_bundled_profiles_with_a_law_make_darks(path):
    """Those of ELD have one at every ISO; the darks have the variance that the profile states."""
    bundled = CameraProfile.load(path)
    isos = measured_isos(bundled)
    assert isos == list(bundled.noise.isos) or not path.stem.endswith("_eld")
    for iso in isos[:: max(len(isos) // 3, 1)]:
        law = EldParams.from_profile(bundled, iso)
        np.testing.assert_allclose(law.params.read_var, bundled.noise.at(iso).read_var, rtol=1e-9)
        dark = NoiseSynthesizer(bundled, mode="eld").mosaic(np.zeros((512, 256), np.float32), iso, cfa=BAYER, seed=1)
        # 131072 pixels of a kurtosis below 30, and 512 rows: 1.6 % of the pixels' variance, 6 % of the rows'.
        error = np.hypot(np.sqrt(30 / dark.size), np.sqrt(2 / 512) * law.row_noise**2 / np.mean(law.params.read_var))
        assert dark.var() == pytest.approx(float(np.mean(law.params.read_var)), rel=4 * error)


def test_missing_parameters_are_named():
    with pytest.raises(ProfileError, match="Kmin"):
        EldLaw.from_eld({key: value for key, value in SONY.items() if key != "Kmin"})
    bare = CameraProfile("", "bare", NoiseModel([(100.0, NoiseParams(1.0, 4.0))]))
    with pytest.raises(ProfileError, match="Tukey-lambda"):
        EldParams.from_profile(bare, 100)
    with pytest.raises(ProfileError, match="calibrate more"):
        EldLaw.from_profile(bare)
    with pytest.raises(ProfileError, match="above 0 DN"):
        EldParams(1.0, 0.1, 0.0)
