"""Figures of denoisers against values known by hand; the two commands about networks."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rawkit.noise.standard_scene import SPAN, clean_planes, noisy_planes, pictures_in, psnr
from rawkit.restore.evaluate import evaluate, scaled_noise
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

PARAMS = NoiseParams(2.0, 30.0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.integers(40, 200, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    for i in range(2):
        Image.fromarray(np.roll(smooth, i, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_psnr_of_a_known_error():
    assert psnr(np.zeros(8), np.full(8, 0.01)) == pytest.approx(40.0)


def test_noise_has_the_stated_variance_and_a_name_of_its_own(folder):
    clean = np.full((4, 200, 200), 300.0, np.float32)
    noisy = noisy_planes(clean, PARAMS, name="a", iso=100)
    # 160,000 samples know a variance to 0.35 %
    assert noisy.var() == pytest.approx(2 * 300 + 30, rel=0.015)
    assert np.array_equal(noisy, noisy_planes(clean, PARAMS, name="a", iso=100))
    assert not np.array_equal(noisy, noisy_planes(clean, PARAMS, name="b", iso=100))


def test_scores_of_the_truth_the_input_and_half_way(folder):
    """Halving the noise is worth 6.02 dB; removing all of it shows noise of ratio 1 and no correlation."""
    files = pictures_in(folder)
    truth = {str(p): clean_planes(p) for p in files}
    queue = [truth[str(p)] for p in files]

    def half(planes, params):
        return (planes + queue[0]) / 2

    def whole(planes, params):
        return queue.pop(0)

    scores = {
        s.method: s for s in evaluate({"noisy": lambda x, p: x, "half": half, "whole": whole}, files, {100: PARAMS})
    }
    assert scores["half"].raw_db - scores["noisy"].raw_db == pytest.approx(20 * np.log10(2), abs=0.01)
    assert scores["whole"].raw_db == np.inf
    # 2 x 49,000 samples of the noise
    assert scores["whole"].ratio == pytest.approx(1.0, abs=0.02)
    assert scores["half"].ratio == pytest.approx(0.25, abs=0.01)
    assert abs(scores["whole"].lag) < 0.02
    assert scores["noisy"].ratio == 0.0
    assert scores["whole"].pictures == 2


def test_noise_of_a_camera_keeps_its_electrons():
    noise = NoiseModel.from_table([(100.0, NoiseParams(4.0, 64.0)), (200.0, NoiseParams(8.0, 200.0))])
    camera = CameraProfile(make="", model="x", noise=noise, bit_depth=14, black_level=(512.0,), white_level=16383.0)
    params = scaled_noise(camera, 100.0)
    assert SPAN / params.system_gain == pytest.approx((16383 - 512) / 4.0)
    assert params.read_var / params.system_gain**2 == pytest.approx(64 / 16)


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "rawkit.cli", *map(str, arguments)], capture_output=True, text=True)


def test_evaluate_command(folder):
    done = run("evaluate", "--clean", folder, "--iso", "3200", "--count", "1", "--model", "classical", "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)["scores"]
    noisy, classical = scores
    assert (noisy["method"], classical["method"]) == ("noisy", "classical")
    assert classical["raw_db"] > noisy["raw_db"] + 3  # flat patches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--clean", "nowhere"), "no photographs"),
        (("evaluate", "--clean", "{folder}", "--iso", "fast"), "takes numbers"),
        (("evaluate", "--clean", "{folder}", "--model", "nobody"), "no denoiser named"),
        (("train", "nowhere.toml", "-o", "{folder}/run"), "nowhere.toml"),
        (("train", "models/recipes/fast.toml", "-o", "{folder}/run", "--photographs", "{folder}/none"), "none"),
    ],
)
def test_mistakes_get_one_line(folder, arguments, message):
    pytest.importorskip("torch")
    done = run(*(a.format(folder=folder) for a in arguments))
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (folder / "run" / "state.safetensors").exists()


def test_train_command_stops_and_goes_on(folder):
    pytest.importorskip("torch")
    recipe = folder / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\nphotographs = "{folder}"\nprocedural = 0.0\npatch = 8\nbatch = 1\nsteps = 3\nwarmup = 1\n'
        "[network]\nwidths = [8, 16]\nencoder = [1]\nbottom = 1\ndecoder = [1]\nhead_width = 8\n"
    )
    done = run("train", recipe, "-o", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"].endswith("tiny.safetensors")
    again = run("train", recipe, "-o", folder / "run")
    assert again.returncode == 1
    assert "already begun" in again.stderr
    assert run("train", recipe, "-o", folder / "run", "--resume").returncode == 0
