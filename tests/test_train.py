"""Training: noise as stated, data a function of the step, resumed runs equal uninterrupted ones."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from rawkit.errors import WeightsError  # noqa: E402
from rawkit.nn.restormer import SIZES, RestormerConfig  # noqa: E402
from rawkit.nn.weights import load_network, load_tensors  # noqa: E402
from rawkit.resources import bundled_profiles, find_recipe  # noqa: E402
from rawkit.restore.denoise import Denoiser  # noqa: E402
from rawkit.sensor.params import NoiseParams  # noqa: E402
from rawkit.train.data import NoiseRange, Pictures, camera_table, draw_batch, tukey_unit  # noqa: E402
from rawkit.train.denoiser import Recipe, train  # noqa: E402
from rawkit.train.procedural import procedural_picture  # noqa: E402

TINY = RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), head_width=8)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (80 + i, 90, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def recipe(photographs):
    return Recipe(
        "tiny",
        TINY,
        str(photographs),
        procedural=0.3,
        procedural_size=64,
        patch=8,
        batch=2,
        steps=8,
        warmup=2,
        save_every=1e9,
        decay=0.5,
    )


def test_tukey_law_has_unit_variance_and_its_own_tails():
    p = torch.from_numpy((np.arange(400_000) + 0.5) / 400_000).float()
    for law in (-0.2, 0.0, 0.14, 0.5):
        x = tukey_unit(p, torch.full_like(p, law))
        # the midpoint rule misses the tails beyond 1e-6: 1 % of the variance at law -0.2, nothing at the others
        assert float(x.var()) == pytest.approx(1.0, abs=0.02 if law < 0 else 1e-3), law
        expected = ((0.9**law - 0.1**law) / law) if law else np.log(9)
        ratio = float(x[359_999] / x[300_000 - 1])
        median = ((0.75**law - 0.25**law) / law) if law else np.log(3)
        assert ratio == pytest.approx(expected / median, rel=1e-3), law


def test_noise_of_a_batch_has_the_level_that_the_network_is_told():
    """Gaussian read noise, no mismatch, bright gray: D - clean has deviation s, to sampling error."""
    noise = NoiseRange(
        full_scale=(5e3, 2e4), calibrated=0.0, row=0, shading=0, offset=0, tukey_lambda=(0.13, 0.14), mismatch=(0, 0),
        varied_level=1.0, quieter=0.0,
    )  # fmt: skip
    crops = torch.full((16, 128, 128, 3), 120, dtype=torch.uint8)
    cameras = torch.ones(1, 3)
    sample = draw_batch(crops, cameras, noise, torch.Generator().manual_seed(1), np.random.default_rng(1))
    error = sample.given[:, :4] + sample.mean - sample.target
    measured = error.std(dim=(1, 2, 3))
    level = sample.level.flatten()
    # 16,384 samples: 0.55 % of itself, three of them; 1 % for the transform at a few hundred electrons
    assert torch.all((measured / level - 1).abs() < 0.03), (measured, level)
    assert level.max() > 1.2
    assert level.min() < 0.5

    quiet = replace(noise, varied_level=0.0, quieter=1.0)
    sample = draw_batch(crops, cameras, quiet, torch.Generator().manual_seed(1), np.random.default_rng(1))
    share = (sample.given[:, :4] + sample.mean - sample.target).std(dim=(1, 2, 3))
    assert torch.all(share < 1.03)  # uniform from 0 to 1: of 16 the least is above 0.4 once in 3,500 times
    assert share.min() < 0.4
    assert share.max() > 0.6


def test_batches_are_functions_of_the_step(photographs):
    first, again = (Pictures(photographs, procedural=0.5, seed=4, pool=2, pool_size=64) for _ in range(2))
    later = first.crops(130, 4, 32)
    assert np.array_equal(later, again.crops(130, 4, 32))  # whatever was drawn before
    assert not np.array_equal(later, first.crops(131, 4, 32))
    assert not np.array_equal(later, first.crops(130, 4, 32, rank=1))


def test_small_photographs_are_mirrored(photographs):
    assert Pictures(photographs, procedural=0.0, seed=1).crops(0, 2, 120).shape == (2, 120, 120, 3)


def test_procedural_pictures_are_keyed_and_fill_the_range():
    picture = procedural_picture(1, 6, 64)
    assert np.array_equal(picture, procedural_picture(1, 6, 64))
    assert not np.array_equal(picture, procedural_picture(1, 7, 64))
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0.02


def test_camera_table_leaves_cameras_out():
    everything = camera_table(bundled_profiles())
    fewer = camera_table(bundled_profiles(), leave_out=("nikond850_eld",))
    assert len(fewer) < len(everything)
    assert np.all(everything > 0)
    with pytest.raises(ValueError, match="no camera profiles"):
        camera_table([])


def test_resumed_run_equals_an_uninterrupted_one(recipe, tmp_path):
    train(recipe, tmp_path / "whole", device="cpu")
    train(replace(recipe, steps=3, decay=0.0, warmup=2), tmp_path / "parts", device="cpu")
    weights = train(recipe, tmp_path / "parts", resume=True, device="cpu")
    whole, header = load_tensors(tmp_path / "whole" / "state.safetensors")
    parts, _ = load_tensors(tmp_path / "parts" / "state.safetensors")
    assert header["step"] == "8"
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    network, about = load_network(weights)
    assert network.config == TINY
    assert Recipe.from_dict(about["recipe"]) == recipe
    assert any(bool(p.any()) for p in [network.output.weight])


def test_a_run_is_not_begun_over(recipe, tmp_path):
    train(replace(recipe, steps=1), tmp_path / "run", device="cpu")
    with pytest.raises(WeightsError, match="already begun"):
        train(recipe, tmp_path / "run", device="cpu")
    with pytest.raises(WeightsError, match="No such file"):
        train(recipe, tmp_path / "other", resume=True, device="cpu")
    larger = replace(recipe, network=replace(TINY, widths=(8, 24), head_width=8))
    with pytest.raises(WeightsError, match="another network"):
        train(larger, tmp_path / "run", resume=True, device="cpu")


def test_training_removes_noise(recipe, tmp_path, photographs):
    """Gray pictures, a few hundred steps of a tiny network: the loss falls well below where it began."""
    for path in photographs.iterdir():
        Image.fromarray(np.full((96, 96, 3), 90 + len(path.stem), np.uint8)).save(path)
    losses = []
    longer = replace(recipe, procedural=0.0, steps=150, warmup=10, patch=16, peak_rate=4e-3)
    train(longer, tmp_path / "run", device="cpu", progress=lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < 0.87 * losses[0]


def test_predicted_deviations_are_those_of_the_errors(recipe, tmp_path, photographs):
    """Gray pictures and random ones: errors differ several times, and what is expected goes along."""
    for path in list(photographs.iterdir())[:2]:
        Image.fromarray(np.full((96, 96, 3), 120, np.uint8)).save(path)
    noise = NoiseRange(full_scale=(2e3, 4e3), calibrated=0.0)
    recipe = replace(
        recipe, network=replace(TINY, uncertainty=True), procedural=0.0, steps=250, warmup=10, patch=16, batch=4,
        peak_rate=4e-3, likelihood=0.2, noise=noise, validation=str(photographs), validation_count=1,
        validate_every=250,
    )  # fmt: skip
    weights = train(recipe, tmp_path / "run", device="cpu")
    denoiser = Denoiser.load(str(weights), "cpu")
    rng = np.random.default_rng(3)
    spread = []
    for clean in (np.full((4, 64, 64), 100.0), rng.uniform(50, 1500, (4, 64, 64))):
        noisy = (2 * rng.poisson(clean) + rng.normal(0, 4, clean.shape)).astype(np.float32)
        params = NoiseParams(2.0, 16.0)
        error = (denoiser.denoise_planes(noisy, params) - 2 * clean)[:, 8:-8, 8:-8]
        expected = denoiser.deviation_planes(noisy, params)[:, 8:-8, 8:-8]
        # the law of 250 steps, not sampling, is what limits this: 9,216 errors tell their deviation to 0.7 %
        assert np.sqrt(np.mean(error**2)) == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.15)
        spread.append(np.median(expected))
    assert spread[1] > 2 * spread[0]
    with pytest.raises(ValueError, match="does not predict"):
        Denoiser.load("classical").deviation_planes(np.zeros((4, 8, 8)), NoiseParams(1.0, 4.0))


def test_a_run_begins_with_the_weights_it_names(recipe, tmp_path):
    small = train(replace(recipe, steps=4), tmp_path / "small", device="cpu")
    larger = replace(recipe, network=replace(TINY, bottom=2), begin=str(small), steps=1, peak_rate=0.0)
    grown, _ = load_network(train(larger, tmp_path / "large", device="cpu"))
    x = torch.randn(1, TINY.inputs, 16, 16)
    torch.testing.assert_close(grown(x), load_network(small)[0](x), rtol=1e-2, atol=1e-3)  # half precision
    with pytest.raises(ValueError, match="cannot begin with"):
        train(replace(larger, network=replace(TINY, widths=(8, 24))), tmp_path / "other", device="cpu")


def test_a_recipe_may_change_a_size():
    changed = Recipe.from_dict({"name": "x", "network": {"size": "fast", "uncertainty": True}}).network
    assert changed == replace(SIZES["fast"], uncertainty=True)


def test_recipes_are_read_and_wrong_ones_named(tmp_path):
    recipe = Recipe.read(find_recipe("fast"))
    with pytest.raises(ValueError, match="base, best, fast"):
        find_recipe("slow")
    assert recipe.name == "rawkit-fast"
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for text, message in (
        ("network = 'huge'", "'huge'"),
        ("nonsense = 1\nname = 'x'\nphotographs = 'y'", "nonsense"),
        ("= 3", "Invalid"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            Recipe.read(tmp_path / "bad.toml")
        assert "\n" not in str(caught.value)


def test_folders_are_looked_at_before_the_training(recipe, tmp_path):
    for change, message in (
        ({"validation": str(tmp_path / "none")}, "no photographs in"),
        ({"photographs": ""}, "names no"),
        ({"cameras": str(tmp_path)}, "no camera profiles"),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(recipe, **change), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
