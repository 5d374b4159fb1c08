"""Training pairs: the same batches whatever the workers, restarts and ranks; noise of the stated camera."""

from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rawkit.noise import NoisyCrops  # noqa: E402
from rawkit.noise.export import SimulatedCamera  # noqa: E402
from rawkit.noise.synthesis import NoiseSynthesizer  # noqa: E402
from rawkit.sensor.params import NoiseParams  # noqa: E402

CAMERA = SimulatedCamera(cfa="RGGB", black_level=64, white_level=4095)
GAIN, READ_VAR = 0.5, 4.0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from imagecodecs import imwrite

    folder = tmp_path_factory.mktemp("clean")
    rng = np.random.default_rng(0)
    for number in range(3):
        imwrite(folder / f"{number}.png", rng.integers(40, 200, (80, 96, 3), np.uint8))
    return sorted(folder.iterdir())


def crops(pictures, **options):
    options = {"isos": (100.0, 400.0), "ratios": (1.0, 4.0), "size": 32, "batch": 6, "seed": 3} | options
    return NoisyCrops(pictures, NoiseSynthesizer(NoiseParams(GAIN, READ_VAR)), CAMERA, **options)


def test_batches_do_not_depend_on_workers_restarts_or_ranks(pictures):
    whole = list(islice(crops(pictures), 6))
    assert [b.number for b in whole] == list(range(6))
    for other in (islice(crops(pictures, workers=2), 6), islice(crops(pictures, start=2), 4)):
        batches = list(other)
        for batch in batches:
            assert torch.equal(batch.noisy, whole[batch.number].noisy)
            assert torch.equal(batch.clean, whole[batch.number].clean)
    for rank in (0, 1):
        for batch in islice(crops(pictures, rank=rank, ranks=2), 3):
            assert torch.equal(batch.noisy, whole[2 * batch.number + rank].noisy)
    assert not torch.equal(next(iter(crops(pictures, seed=4))).noisy, whole[0].noisy)


def test_noise_is_that_of_the_camera_and_differs_between_samples(pictures):
    batches = list(islice(crops(pictures, batch=16), 12))
    noisy, clean = (torch.cat([getattr(b, name) for b in batches]).double() for name in ("noisy", "clean"))
    residual = noisy - clean
    expected = GAIN * clean.mean() + READ_VAR + 1 / 12  # a moving mean spreads rounding over the code
    assert residual.var().item() == pytest.approx(expected.item(), rel=4 * np.sqrt(2.5 / residual.numel()) + 0.005)
    assert abs(residual.mean().item()) < 4 * np.sqrt(expected.item() / residual.numel())
    flat = residual.reshape(len(residual), -1).numpy()
    others = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(others).max() < 6 / np.sqrt(flat.shape[1])


def test_ratios_dim_the_light(pictures):
    bright, dim = (next(iter(crops(pictures, ratios=(r,)))) for r in (1.0, 8.0))
    assert torch.allclose(dim.clean * 8, bright.clean, rtol=1e-5)
    assert set(dim.ratio) == {8.0}


def test_misuse_is_explained(pictures):
    with pytest.raises(ValueError, match="at least one"):
        crops([])
    with pytest.raises(ValueError, match="whole periods"):
        crops(pictures, size=31)
    with pytest.raises(ValueError, match="holds no crop"):
        next(iter(crops(pictures, size=96)))
