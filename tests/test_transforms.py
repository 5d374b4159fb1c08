"""k-sigma removes camera and ISO; the Anscombe transform gives unit variance; both can be undone."""

import numpy as np
import pytest

from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import (
    anscombe,
    anscombe_variance,
    expected_anscombe,
    from_ksigma,
    inverse_anscombe,
    inverse_anscombe_algebraic,
    to_anchor,
    to_ksigma,
)

N = 400_000
CAMERAS = [(0.09, 1.0), (0.97, 2.98), (3.85, 33.4), (7.68, 125.0)]  # K [DN/e-], read variance [DN^2]
ELECTRONS = [0.0, 1.0, 10.0, 300.0]


def shoot(electrons, gain, read_var, seed=1):
    rng = np.random.default_rng(seed)
    return gain * rng.poisson(electrons, N) + np.sqrt(read_var) * rng.standard_normal(N)


@pytest.mark.parametrize(("gain", "read_var"), CAMERAS)
@pytest.mark.parametrize("electrons", ELECTRONS)
def test_after_ksigma_variance_equals_mean(gain, read_var, electrons):
    y = to_ksigma(shoot(electrons, gain, read_var), NoiseParams(gain, read_var))
    mean, variance = y.mean(), y.var()
    kurtosis = ((y - mean) ** 4).mean() / variance**2
    error = variance * np.sqrt((kurtosis - 1) / N) + np.sqrt(variance / N)
    assert abs(variance - mean) < 4 * error


@pytest.mark.parametrize(("gain", "read_var"), CAMERAS)
@pytest.mark.parametrize("electrons", [10.0, 30.0, 1000.0])
def test_after_anscombe_variance_is_one_above_ten_electrons(gain, read_var, electrons):
    d = anscombe(shoot(electrons, gain, read_var), NoiseParams(gain, read_var))
    assert abs(d.var() - 1.0) < 0.015 + 4 * np.sqrt(2 / N)


@pytest.mark.parametrize("read_var_e", [0.0, 0.5, 3.0, 25.0])
@pytest.mark.parametrize("electrons", [0.0, 0.5, 3.0])
def test_deep_shadow_deviation_is_the_stated_one(read_var_e, electrons):
    d = anscombe(shoot(electrons, 1.0, read_var_e), NoiseParams(1.0, read_var_e))
    stated = anscombe_variance([electrons], read_var_e)[0]
    assert abs(d.var() - stated) < 6 * np.sqrt(2 / N) * max(stated, 0.1)
    assert abs(d.mean() - expected_anscombe([electrons], read_var_e)[0]) < 5 * np.sqrt(max(stated, 1e-9) / N) + 1e-9


def test_worst_shadow_deviation_is_as_documented():
    worst = max(anscombe_variance([0.0, 0.5, 1.0, 3.0], r).max() for r in np.linspace(0.5, 9.0, 35))
    assert 1.19 < worst < 1.21
    assert abs(anscombe_variance(np.linspace(10, 60, 11), 9.0) - 1).max() < 0.0155


@pytest.mark.parametrize("read_var_e", [0.0, 1.0, 16.0, 1e4])
def test_inverse_is_unbiased_at_every_light_level(read_var_e):
    electrons = np.concatenate([[0.0, 0.01], np.geomspace(0.1, 2000.0, 60)])
    d = expected_anscombe(electrons, read_var_e)
    for gain in (0.2, 5.0):
        x = inverse_anscombe(d, NoiseParams(gain, read_var_e * gain**2))
        assert np.allclose(x, gain * electrons, rtol=2e-5, atol=1e-3 * gain)


@pytest.mark.parametrize("read_var_e", [0.0, 1e-4, 2.0, 900.0])
def test_inverse_is_continuous_and_increasing_from_zero(read_var_e):
    d = np.linspace(0.0, 80.0, 200_001)
    x = inverse_anscombe(d, NoiseParams(1.0, read_var_e))
    steps = np.diff(x)
    assert (steps > 0).all()
    assert steps.max() < 0.05  # slope at most 40 + 1 over a step of 4e-4


def test_ksigma_round_trip_keeps_negatives():
    x = np.linspace(-50, 5000, 1001)
    p = NoiseParams(2.5, 30.0)
    assert np.allclose(from_ksigma(to_ksigma(x, p), p), x, atol=1e-9)
    inside = x > p.system_gain * -3 / 8 - p.read_var / p.system_gain
    assert np.allclose(inverse_anscombe_algebraic(anscombe(x, p), p)[inside], x[inside], atol=1e-9)


def test_anchor_gives_the_anchors_noise():
    here, anchor = NoiseParams(7.68, 125.0), NoiseParams(0.968, 2.98)
    for electrons in (0.0, 50.0):
        y = to_anchor(shoot(electrons, 7.68, 125.0), here, anchor)
        assert y.var() == pytest.approx(0.968 * y.mean() + 2.98, rel=5 * np.sqrt(2 / N))


def test_each_plane_uses_its_own_phase():
    p = NoiseParams(np.array([1.0, 2.0, 2.5, 4.0]), np.array([4.0, 9.0, 9.5, 16.0]))
    x = np.random.default_rng(0).uniform(-5, 300, (4, 6, 7)).astype(np.float32)
    planes = p.for_planes((0, 1, 2, 3))
    d = anscombe(x, planes)
    back = inverse_anscombe(d, planes)
    for i in range(4):
        alone = NoiseParams(p.system_gain[i], p.read_var[i])
        assert np.array_equal(d[i], anscombe(x[i], alone))
        assert np.array_equal(back[i], inverse_anscombe(d[i], alone))
    assert back.dtype == np.float32


def test_torch_tensors_give_what_numpy_gives():
    torch = pytest.importorskip("torch")
    p = NoiseParams(np.array([1.0, 2.0, 2.5, 4.0]), np.array([4.0, 9.0, 9.5, 16.0])).for_planes((0, 1, 2, 3))
    x = np.random.default_rng(0).uniform(-5, 3000, (4, 32, 32)).astype(np.float32)
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        t = torch.tensor(x, device=device)
        for function in (to_ksigma, from_ksigma, anscombe, inverse_anscombe, inverse_anscombe_algebraic):
            argument = (x, t) if function in (to_ksigma, anscombe) else (anscombe(x, p), anscombe(t, p))
            result = function(argument[1], p)
            assert result.device == t.device
            assert result.dtype == t.dtype
            expected = function(argument[0], p)
            assert np.allclose(result.cpu().numpy(), expected, rtol=1e-5, atol=2e-3)


def test_parameters_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="one value or one per plane"):
        inverse_anscombe(np.ones((4, 3, 3)), NoiseParams(np.ones(3), np.ones(3)))
