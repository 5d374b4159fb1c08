"""Networks in the pipeline: levels, tiles, arrangements, strength; with random weights, as it must always hold."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rawkit.errors import WeightsError  # noqa: E402
from rawkit.nn.raw_planes import LEVELS, electrons, network_input, stabilized  # noqa: E402
from rawkit.nn.restormer import MDTA, RawRestormer, RestormerConfig  # noqa: E402
from rawkit.nn.weights import save_network  # noqa: E402
from rawkit.raw.image import CFA, BlackLevel, RawImage, pack  # noqa: E402
from rawkit.resources import bundled_weights  # noqa: E402
from rawkit.restore.denoise import Denoiser  # noqa: E402
from rawkit.restore.network import NetworkFilter  # noqa: E402
from rawkit.restore.phases import TURNS, turn, turn_back  # noqa: E402
from rawkit.sensor.params import NoiseParams  # noqa: E402
from rawkit.sensor.transforms import anscombe, inverse_anscombe_algebraic, to_ksigma  # noqa: E402

CONFIG = RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), attention_from=2, head_width=8)
PARAMS = NoiseParams(2.0, 30.0)


def network(scale):
    torch.manual_seed(3)
    net = RawRestormer(CONFIG)
    torch.nn.init.normal_(net.output.weight, std=scale)
    return net


@pytest.fixture
def random_denoiser():
    return Denoiser("random", NetworkFilter(network(0.05), torch.device("cpu")))


@pytest.fixture
def identity():
    """An untrained network gives back what it was given."""
    return Denoiser("identity", NetworkFilter(network(0.0), torch.device("cpu")))


def noisy_planes(height=40, width=56, level=300.0):
    rng = np.random.default_rng(1)
    light = np.full((4, height, width), level) * np.array([0.5, 1.0, 1.0, 0.6])[:, None, None]
    return (2 * rng.poisson(light / 2) + rng.normal(0, 30**0.5, light.shape)).astype(np.float32)


def image_of(cfa, shape=(50, 62)):
    rng = np.random.default_rng(2)
    mosaic = (500 + 2 * rng.poisson(100, shape)).astype(np.float32)
    return RawImage(raster=mosaic, cfa=cfa, black=BlackLevel.constant(500.0), white_level=4000.0)


def test_stabilized_agrees_with_the_sensor_modules_transform():
    x = noisy_planes()
    y = to_ksigma(torch.from_numpy(x), PARAMS)
    torch.testing.assert_close(stabilized(y), anscombe(torch.from_numpy(x), PARAMS))
    d = stabilized(y)
    torch.testing.assert_close(2 * (electrons(d) - 30 / 4), inverse_anscombe_algebraic(d, PARAMS), rtol=1e-5, atol=1e-3)


def test_input_puts_noise_at_one_and_adds_up():
    y = torch.from_numpy(noisy_planes() / 2 + 30 / 4)
    given, mean = network_input(y[None], torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(given[:, :4] + mean, stabilized(y)[None])
    # a mean of 81 takes 1/81 of the variance; 9,000 samples know a deviation to 0.75 %
    assert float(given[:, :4].std()) == pytest.approx(1.0, abs=0.03)


def test_untrained_network_changes_nothing(identity):
    planes = noisy_planes()
    np.testing.assert_allclose(identity.denoise_planes(planes, PARAMS), planes, atol=2e-3)


@pytest.mark.parametrize("shape", [(33, 47), (8, 8), (5, 300)])
def test_any_size(random_denoiser, shape):
    planes = noisy_planes(*shape)
    out = random_denoiser.denoise_planes(planes, PARAMS)
    assert out.shape == planes.shape
    assert np.isfinite(out).all()


def test_small_strengths_go_to_the_input(random_denoiser):
    planes = noisy_planes()
    least = random_denoiser.denoise_planes(planes, PARAMS, strength=LEVELS[0])
    half = random_denoiser.denoise_planes(planes, PARAMS, strength=LEVELS[0] / 2)
    np.testing.assert_allclose(half, (planes + least) / 2, atol=1e-3)
    assert np.array_equal(random_denoiser.denoise_planes(planes, PARAMS, strength=0), planes)


def test_workers_do_not_matter(random_denoiser):
    planes = noisy_planes(520, 200)
    run = random_denoiser.bayer_filter
    one, two = (run(planes, PARAMS, strength=1.0, workers=n, tile=128) for n in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("model", ["random", *bundled_weights()])
def test_tiles_agree_with_the_whole_frame(random_denoiser, model):
    """Attention is the frame's, whatever the tiles; with that of the tiles ``fast`` differs by 0.8 deviations here."""
    planes = noisy_planes(560, 320)
    planes[:, :280] *= np.float32(0.1)  # two halves that attention would tell apart
    run = (random_denoiser if model == "random" else Denoiser.load(model, "cpu")).bayer_filter
    whole = run(planes, PARAMS, strength=1.0, workers=1, tile=1024)
    tiled = run(planes, PARAMS, strength=1.0, workers=1, tile=384)  # the smallest that is chosen
    noise = np.sqrt(PARAMS.variance(np.maximum(planes, 0)))
    assert np.max(np.abs(whole - tiled) / noise) < 0.1
    assert all(layer.fixed is None and layer.seen is None for layer in run.network.modules() if isinstance(layer, MDTA))


def test_bayer_arrangements_of_one_scene_agree(random_denoiser):
    rggb = image_of(CFA.bayer("RGGB"), (52, 64))
    whole = random_denoiser(rggb, PARAMS).signal()
    for name, top, left in (("GRBG", 0, 1), ("GBRG", 1, 0), ("BGGR", 1, 1)):
        part = RawImage(
            raster=rggb.raster[top:, left:], cfa=CFA.bayer(name), black=BlackLevel.constant(500.0), white_level=4000.0
        )
        inside = random_denoiser(part, PARAMS).signal()[22:-22, 22:-22]
        # equal but for the border that one of them does not see
        np.testing.assert_allclose(inside, whole[top:, left:][22:-22, 22:-22], atol=0.5)


@pytest.mark.parametrize("model", bundled_weights())
@pytest.mark.parametrize("electrons", [1.0, 60.0, 1000.0, 10000.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nothing_is_made_up_where_there_is_less_noise_than_the_profile_says(model, electrons, share):
    """A flat field keeps its mean and stays flat; a network that saw no quiet pictures moved it by 0.3 deviations."""
    sd = (electrons + 4.0) ** 0.5
    noise = np.random.default_rng(1).normal(0, share * sd, (4, 128, 128))
    clean = Denoiser.load(model, "cpu").denoise_planes((electrons + noise).astype(np.float32), NoiseParams(1.0, 4.0))
    # of 65,536 values of noise: the mean is known to 0.004 deviations
    assert abs(clean.mean() - electrons) < 0.1 * sd
    assert clean.std() < 0.15 * sd


@pytest.mark.parametrize("turned", TURNS)
def test_turns_keep_the_arrangement_and_come_back(turned):
    names = dict(zip(("transpose", "rows", "columns"), turned, strict=True))
    red = pack(np.tile(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), (6, 8)), CFA.bayer("RGGB"))
    constant = turn(red, **names)
    swapped = [1.0, 3.0, 2.0, 4.0] if turned[0] else [1.0, 2.0, 3.0, 4.0]
    assert [float(p.min()) for p in constant] == swapped
    assert [float(p.max()) for p in constant] == swapped
    planes = np.random.default_rng(1).normal(size=(4, 6, 9)).astype(np.float32)
    assert np.array_equal(turn_back(turn(planes, **names), **names), planes)


def test_self_ensemble_of_the_identity_is_the_identity(identity):
    image = image_of(CFA.bayer("GBRG"))
    out = identity(image, PARAMS, self_ensemble=True)
    np.testing.assert_allclose(out.signal(), image.signal(), atol=5e-3)


def test_self_ensemble_does_not_prefer_a_direction(random_denoiser):
    """Of a transposed mosaic, whose greens have changed places, it gives the transposed result."""
    planes = noisy_planes(32, 48) * np.array([1, 1, 1.5, 1], np.float32)[:, None, None]
    gain = np.array([2.0, 2.0, 3.0, 2.0])
    across, swapped = turn(planes, transpose=True, rows=False, columns=False), NoiseParams(gain[[0, 2, 1, 3]], 30.0)

    def transposed(**options):
        straight = random_denoiser.denoise_planes(planes, NoiseParams(gain, 30.0), **options)
        back = random_denoiser.denoise_planes(across, swapped, **options)
        return straight, turn(back, transpose=True, rows=False, columns=False)

    np.testing.assert_allclose(*transposed(self_ensemble=True), rtol=1e-4)
    assert not np.allclose(*transposed(), rtol=1e-4)


def test_chroma_apart_from_luma(random_denoiser):
    image = image_of(CFA.bayer("RGGB"), (48, 48))
    cells = pack(random_denoiser(image, PARAMS, strength=1.0).signal(), image.cfa).mean(axis=0)
    mixed = pack(random_denoiser(image, PARAMS, strength=1.0, chroma_strength=0.0).signal(), image.cfa)
    np.testing.assert_allclose(mixed.mean(axis=0), cells, atol=1e-2)  # luma of strength 1
    change = mixed - pack(image.signal(), image.cfa)
    np.testing.assert_allclose(change, np.broadcast_to(change.mean(axis=0), change.shape), atol=1e-2)  # no chroma
    same = random_denoiser(image, PARAMS, strength=0.7, chroma_strength=0.7)
    assert np.array_equal(same.signal(), random_denoiser(image, PARAMS, strength=0.7).signal())


def test_other_arrays_take_the_classical_path(random_denoiser):
    image = image_of(CFA.mono())
    ours, classical = random_denoiser(image, PARAMS), Denoiser.load("classical")(image, PARAMS)
    assert np.array_equal(ours.signal(), classical.signal())
    with pytest.raises(ValueError, match="self_ensemble"):
        random_denoiser(image, PARAMS, self_ensemble=True)
    with pytest.raises(ValueError, match="self_ensemble"):
        random_denoiser.denoise_planes(np.ones((3, 8, 8)), PARAMS, self_ensemble=True)
    with pytest.raises(ValueError, match="chroma_strength"):
        random_denoiser(image, PARAMS, chroma_strength=0.5)


def test_weights_file_by_path(tmp_path):
    save_network(tmp_path / "own.safetensors", network(0.05), about={"name": "own"})
    loaded = Denoiser.load(str(tmp_path / "own.safetensors"), "cpu")
    assert loaded.device == "cpu"
    assert loaded.denoise_planes(noisy_planes(), PARAMS).shape == (4, 40, 56)
    (tmp_path / "fake.safetensors").write_bytes(b"\x80\x04not weights at all")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        Denoiser.load(str(tmp_path / "fake.safetensors"))
    with pytest.raises(ValueError, match="no device 'tpu'"):
        Denoiser.load(str(tmp_path / "own.safetensors"), "tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_gpu_agrees_with_the_cpu(random_denoiser):
    planes = noisy_planes(256, 256)
    on_gpu = NetworkFilter(network(0.05), torch.device("cuda"))(planes, PARAMS, strength=1.0, workers=1)
    on_cpu = random_denoiser.denoise_planes(planes, PARAMS)
    noise = np.sqrt(PARAMS.variance(planes))
    assert np.max(np.abs(on_gpu - on_cpu) / noise) < 0.1  # bfloat16 inside the network
