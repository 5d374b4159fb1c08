"""The torch engine gives the codes of the numba kernel."""

import numpy as np
import pytest
from test_measured import simulated_profile

from rawkit.noise import rng
from rawkit.noise.eld import EldParams
from rawkit.noise.synthesis import NoiseSynthesizer
from rawkit.raw.image import CFA, BlackLevel
from rawkit.sensor.params import NoiseParams

torch = pytest.importorskip("torch")
from rawkit.noise import device  # noqa: E402

SHAPE = (260, 300)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SYNTHESIZERS = {
    "pg": NoiseSynthesizer(NoiseParams([2.5, 2.0, 2.1, 3.0], [9.0, 8.0, 7.0, 0.3])),
    "eld": NoiseSynthesizer(EldParams(1.7, (-0.2, 0.0, 0.14, 0.1), (2.0, 1.8, 2.1, 1.9), 0.7, (0.3, 0.0, 0.0, -0.2))),
    "measured": NoiseSynthesizer(simulated_profile(SHAPE)),
}


def on(name):
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


def scene(shape=SHAPE):
    """From deep shadow (a little below black in places) to 4000 electrons."""
    light = 2.0 * 10 ** np.random.default_rng(1).uniform(-2, 3.6, shape)
    return np.where(np.random.default_rng(2).random(shape) < 0.05, -1.5, light).astype(np.float32)


def options(**changes):
    black = BlackLevel(np.array([[511.75, 512.0], [512.25, 512.5]]), delta_v=np.linspace(0, 1, SHAPE[0]))
    return {"cfa": CFA.bayer("GBRG"), "black": black, "white_level": 8191.0, "seed": 7, "frame": 3} | changes


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("mode", SYNTHESIZERS)
def test_codes_are_those_of_the_kernel(mode, name):
    """At most 1 DN apart in under 1e-6 of the pixels; on 78 000 pixels that is none."""
    clean = scene()
    expected = SYNTHESIZERS[mode].stored(clean, 800, **options())
    engine = device.DeviceSynthesizer(SYNTHESIZERS[mode], on(name), kernel=False)
    found = engine.stored(torch.from_numpy(clean).to(name), 800, **options())
    assert found.dtype == torch.uint16
    assert found.device.type == name
    assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("mode", SYNTHESIZERS)
def test_a_tile_is_cut_from_the_whole(mode):
    black = BlackLevel.constant(64)
    clean, cfa = scene(), CFA.bayer("GBRG")
    engine = device.DeviceSynthesizer(SYNTHESIZERS[mode], "cpu", kernel=False)
    whole = engine.stored(torch.from_numpy(clean), 800, **options(black=black)).numpy()
    inner = torch.from_numpy(clean[101:180, 30:97].copy())
    tile = engine.stored(inner, 800, **options(black=black, cfa=cfa.rolled(101, 30)), origin=(101, 30)).numpy()
    assert np.array_equal(whole[101:180, 30:97], tile)


@pytest.mark.parametrize("mode", SYNTHESIZERS)
def test_analog_values_are_those_of_the_kernel(mode):
    clean = scene()
    expected = SYNTHESIZERS[mode].mosaic(clean, 800, cfa=CFA.bayer("RGGB"), seed=1, quantize=False)
    engine = device.DeviceSynthesizer(SYNTHESIZERS[mode], "cpu", kernel=False)
    found = engine.mosaic(torch.from_numpy(clean), 800, cfa=CFA.bayer("RGGB"), seed=1).numpy()
    # The FFT of measured may differ in the last bit of a float32.
    np.testing.assert_allclose(found, expected, rtol=1e-6 if mode == "measured" else 0)


def test_on_a_cpu_the_kernel_stands_in():
    clean = torch.from_numpy(scene())
    fast, slow = (device.DeviceSynthesizer(SYNTHESIZERS["pg"], "cpu", kernel=kernel) for kernel in (True, False))
    assert torch.equal(fast.stored(clean, 800, **options()), slow.stored(clean, 800, **options()))
    cfa = CFA.bayer("RGGB")
    assert torch.equal(fast.mosaic(clean, 800, cfa=cfa, seed=1), slow.mosaic(clean, 800, cfa=cfa, seed=1))


def test_words_are_those_of_the_kernel():
    words = np.empty((4, 50), np.uint32)
    rng.row_words(words, 50, 2**31 + 5, 2**32 - 20, 3, 2**32 - 1, 17)
    rows = torch.full((1, 1), 2**31 + 5, dtype=torch.int64)
    columns = torch.arange(2**32 - 20, 2**32 + 30)[None]
    found = torch.cat(torch.broadcast_tensors(*device.philox_words(rows, columns, 3, 2**32 - 1, 17)))
    assert np.array_equal(found.numpy(), words)


def test_impossible_input_is_refused():
    engine = device.DeviceSynthesizer(SYNTHESIZERS["pg"], "cpu", kernel=False)
    with pytest.raises(ValueError, match="finite"):
        engine.stored(torch.full((2, 2), torch.nan), 800, **options())
    with pytest.raises(ValueError, match="mosaic"):
        engine.stored(torch.ones(1, 2, 2), 800, **options())
